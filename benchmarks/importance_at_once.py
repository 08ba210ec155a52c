"""Which importance ranks the weights of a trained network best: cut at once by each, not retrained, and scored.

    python benchmarks/importance_at_once.py --cfg yolov4-tiny.cfg --weights FILE --data coco.yaml --name X
    python benchmarks/importance_at_once.py --model resnet20 --weights trained.pt --data cifar10 --name X

Gradients are those of the first batches of training, in training mode. Batch-norm statistics stay, and are then
measured again; the better score of the two is shown, both are in the records.
"""

import argparse
from collections.abc import Sequence

from recording import circumstances, write_results

from detect_prune import classification_task, detection_task
from detect_prune.cli.choices import IMPORTANCES
from detect_prune.cli.command import run_command
from detect_prune.cli.options import positive, removal_ratio
from detect_prune.engine.batchnorm import can_reestimate, reestimate
from detect_prune.engine.task import Task
from detect_prune.pruning import DEFAULT_FLOOR, magnitude_masks, prunable_weights
from detect_prune.pruning.importance import Importance, make_importance
from detect_prune.report.tables import Table


def measured(task: Task, batches: int) -> dict[str, Importance]:
    """The importances, those that want gradients after as many batches. The network's statistics have moved then."""
    importances = {name: make_importance(name) for name in IMPORTANCES}
    weights = prunable_weights(task.model)
    task.model.train()
    read = (batch for batch in task.batches(0, 0) if batch is not None)
    for _, batch in zip(range(batches), read):
        loss, _ = task.loss(task.model, batch)
        loss.backward()
        for importance in importances.values():
            if importance.observes:
                importance.observe({name: weight.grad for name, weight in weights.items()})
        task.model.zero_grad(set_to_none=True)
    return importances


def scores_after(task: Task, ratio: float, importance: Importance) -> dict[str, float | int]:
    """The network cut by that importance and scored, as cut and with statistics measured again."""
    masks = magnitude_masks(task.model, ratio, importance=importance, floor=DEFAULT_FLOOR)
    masks.apply()
    scores: dict[str, float | int] = {"n_kept": masks.n_kept, **task.evaluate(task.model).values}
    if can_reestimate(task.model):
        reestimate(task.model, task.inputs())
        scores |= {f"reestimated_{name}": value for name, value in task.evaluate(task.model).values.items()}
    return scores


def _compare(args: argparse.Namespace, argv: Sequence[str]) -> None:
    place = {"data": args.data, "data_root": args.data_root}
    if args.cfg:
        task = detection_task(args.cfg, args.weights, **place)
    else:
        task = classification_task(args.model, args.weights, **place)
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    dense = task.evaluate(task.model)
    importances = measured(task, args.batches)
    common = {"network": task.name, "data": task.settings()["data"], "stage": "cut at once", **circumstances()}
    records = [common | {"ratio": 0.0, "importance": "-", "stage": "dense", **dense.values}]
    for ratio in args.ratios:
        for name, importance in importances.items():
            task.model.load_state_dict(before)
            scores = scores_after(task, ratio, importance)
            records.append(common | {"ratio": ratio, "importance": name, **scores})
            print(ratio, name, scores, flush=True)

    primary = dense.primary
    table = Table(["importance", *(f"{ratio:.0%} removed" for ratio in args.ratios)], left=1)
    table.row("- (dense)", *[f"{dense.score:.4f}"] * len(args.ratios))
    for name in IMPORTANCES:
        rows = [record for record in records if record["importance"] == name]
        table.row(name, *(f"{max(row[primary], row.get(f'reestimated_{primary}', 0.0)):.4f}" for row in rows))
    remark = f"{task.name}, {primary}, cut at once and not retrained"
    if can_reestimate(task.model):
        remark += ": the better score of two, with the batch-norm statistics of the dense network and with new ones"
    write_results(args.name, records, table, f"{remark}.")
    print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--cfg")
    network.add_argument("--model")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-root")
    parser.add_argument(
        "--ratios", type=lambda text: [removal_ratio(part) for part in text.split(",")], default=[0.4, 0.5, 0.6]
    )
    parser.add_argument("--batches", type=positive(int), default=20, help="how many are differentiated")
    parser.add_argument("--name", required=True, help="results/NAME.json and .md")
    raise SystemExit(run_command(_compare, parser, None))


if __name__ == "__main__":
    main()
