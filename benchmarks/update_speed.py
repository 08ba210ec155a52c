"""What ADMM costs: one Z and U update against `kthvalue`, and the penalty against a training step.

Everything is a ratio of medians of one run, taken in turns, so that a busy machine disturbs both sides alike:
`python benchmarks/update_speed.py` (under a minute on two quiet cores).
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from recording import circumstances, seconds, write_results
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from detect_prune.cli.choices import IMPORTANCES
from detect_prune.darknet import Darknet, load_cfg
from detect_prune.detection import YoloLoss
from detect_prune.engine.recipe import Phase
from detect_prune.engine.trainer import build_optimizer
from detect_prune.pruning import GlobalADMM, RhoSchedule, keep_count
from detect_prune.report.tables import Table
from detect_prune.resources import find_resource

RATIO = 0.8


def peak_of_temporaries(work: Callable[[], object]) -> int:
    """How many bytes torch held at most while `work` ran, beyond what it held before.

    Counted from the allocations themselves: what the process holds says how the system's allocator had cut up its
    memory, and differs between one update and the next by the weights' own size.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    with TemporaryDirectory() as folder:
        profiled.export_chrome_trace(str(trace := Path(folder, "trace.json")))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(accumulate(size for _, size in changes))


def schedule(gradual: bool, stages: int = 20) -> RhoSchedule:
    """The default one, with a first rho that need not be measured."""
    return replace(RhoSchedule.growing() if gradual else RhoSchedule(), start=1e-3, stages=stages)


def update_figures(model: nn.Module, repeats: int, importance: str, gradual: bool) -> dict[str, float]:
    """One Z and U update of all of the model's weights, beside `kthvalue` over their magnitudes."""
    # Two updates a stage: every other one also sets rho and the worths anew, but for the very last, which is not made.
    updates, rho = 2 * repeats + 6, schedule(gradual, repeats + 3)
    admm = GlobalADMM(model, RATIO, updates=updates, rho=rho, importance=importance, gradual=gradual)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    admm.attach(optimizer)
    if admm.importance.observes:  # which an update waits for
        for parameter in model.parameters():
            parameter.grad = 1e-3 * torch.randn_like(parameter)
        for _ in range(10):
            optimizer.step()
    weights = [weight.detach() for weight in admm.weights.values()]
    n = sum(weight.numel() for weight in weights)
    times: dict[str, list[float]] = {"kthvalue": [], "update": [], "update and new stage": []}
    for _ in range(repeats + 1):
        magnitudes = torch.cat([(weight + u).abs_().flatten() for weight, u in zip(weights, admm.u.values())])
        times["kthvalue"].append(seconds(lambda m=magnitudes: m.kthvalue(n - keep_count(n, RATIO))))
        del magnitudes
        times["update"].append(seconds(admm.update))
        times["update and new stage"].append(seconds(admm.update))
    peaks = [peak_of_temporaries(admm.update) for _ in range(2)]
    # The first turn touches memory that the system had only promised.
    medians = {name: median(values[1:]) for name, values in times.items()}
    return {
        "weights": n,
        "kthvalue_seconds": medians["kthvalue"],
        "update_over_kthvalue": medians["update"] / medians["kthvalue"],
        "update_and_stage_over_kthvalue": medians["update and new stage"] / medians["kthvalue"],
        "update_temporaries_over_weights": peaks[0] / (4 * n),
        "update_and_stage_temporaries_over_weights": peaks[1] / (4 * n),
    }


def step_figures(
    model: Darknet, batch: int, repeats: int, importance: str, gradual: bool, optimizer_name: str
) -> dict[str, float]:
    """A training step with the penalty beside one without it, and the time inside the hook that adds it."""
    width, height = model.input_size
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(batch, 3, height, width, generator=generator)
    targets = random_targets(batch, width, height, generator)
    criterion = YoloLoss(model.heads)
    optimizer = build_optimizer(model, Phase(1, 1e-5, optimizer_name))
    admm = GlobalADMM(model, RATIO, rho=schedule(gradual), importance=importance, gradual=gradual)

    def step() -> None:
        optimizer.zero_grad()
        criterion(model(pictures), targets, model.input_size)[0].backward()
        optimizer.step()

    admm.attach(optimizer)
    step()
    admm.update()  # with a worth that is measured and a ratio that grows there is no penalty before it
    plain, with_penalty, hook = [], [], []
    for turn in range(repeats + 1):
        admm.detach()
        without = seconds(step)
        began = []
        before = optimizer.register_step_pre_hook(lambda *_, b=began: b.append(time.perf_counter()))
        admm.attach(optimizer)
        after = optimizer.register_step_pre_hook(lambda *_, b=began: b.append(time.perf_counter()))
        whole = seconds(step)
        before.remove()
        after.remove()
        if turn:
            plain.append(without)
            with_penalty.append(whole)
            hook.append(began[1] - began[0])
    return {
        "weights": sum(weight.numel() for weight in admm.weights.values()),
        "step_seconds": median(plain),
        "step_with_penalty_over_step": median(with_penalty) / median(plain),
        "penalty_over_step": median(hook) / median(plain),
    }


def random_targets(batch: int, width: int, height: int, generator: torch.Generator) -> Tensor:
    """Seven boxes a picture: what COCO has on average. (M, 6) image, label, x1, y1, x2, y2 in pixels."""
    size = torch.tensor([width, height])
    rows = []
    for image in range(batch):
        centres, halves = (torch.rand(7, 2, generator=generator) * size * share for share in (1.0, 0.2))
        corners = torch.cat([(centres - halves - 4).clamp(min=0), (centres + halves + 4).minimum(size)], dim=1)
        rows.append(torch.cat([torch.full((7, 1), image), torch.zeros(7, 1), corners], dim=1))
    return torch.cat(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="of which the medians are taken")
    parser.add_argument("--importance", choices=IMPORTANCES, default="lamp", help="of the weights (default lamp)")
    parser.add_argument("--gradual", action="store_true", help="time the removal that grows")
    parser.add_argument(
        "--optimizer", choices=("sgd", "adamw"), default="sgd", help="of the training step (default sgd)"
    )
    parser.add_argument("--name", default="update_speed", help="results/NAME.json and .md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    common, how = circumstances(), (args.repeats, args.importance, args.gradual)
    records = []
    for name, measure in (
        ("yolov4", lambda model: update_figures(model, *how)),
        ("yolov4-tiny", lambda model: {"input": 416, "batch": 8, **step_figures(model, 8, *how, args.optimizer)}),
    ):
        cfg = load_cfg(find_resource("cfg", f"{name}.cfg")).with_input_size(416, 416)
        records.append({"network": name, **measure(Darknet(cfg)), **common})
    table = Table(["network", "figure", "value"], left=2)
    for record in records:
        for figure, value in record.items():
            if figure != "network" and figure not in common:
                table.row(record["network"], figure.replace("_", " "), f"{value:,.3f}".removesuffix(".000"))
    write_results(args.name, records, table)
    print(table)


if __name__ == "__main__":
    main()
