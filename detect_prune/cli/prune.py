"""`prune.py` and `detect-prune prune`: one network, one data set, one removal ratio."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from detect_prune.cli import common

PROJECT = Path("runs/prune")


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=prog or "python prune.py",
        description="Prunes a network by global ADMM: removes one share of all its weights, retrains the rest, measures each step.",
        epilog="Without real data the built-in sample set is used, and a dense network is trained on it first.",
    )
    common.add_network_options(made)
    made.add_argument(
        "--model",
        choices=("lenet5", "resnet20", "resnet32", "resnet44", "resnet56"),
        help="a classifier instead of --cfg",
    )
    made.add_argument("--ratio", type=common.removal_ratio, help="share of all weights to remove, such as 0.8")
    common.add_data_options(made)
    made.add_argument("--epochs", type=common.positive(int), dest="retrain_epochs", help="of masked retraining")
    made.add_argument("--admm-epochs", type=common.positive(int), help="of ADMM")
    made.add_argument(
        "--dense-epochs", type=common.positive(int), help="of dense training, where there are no weights to start from"
    )
    made.add_argument(
        "--importance", help="how weights are compared across layers: lamp (default), normalised, raw, fisher"
    )
    made.add_argument("--floor", type=float, help="share of an even cut that each layer keeps at least")
    made.add_argument(
        "--include", action="append", metavar="GLOB", help="prune only weights whose name matches; may be repeated"
    )
    made.add_argument(
        "--exclude", action="append", metavar="GLOB", help="leave weights alone whose name matches; may be repeated"
    )
    common.add_run_options(made, str(PROJECT))
    return made


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    made = parser(prog)
    return common.run_command(_prune, made, argv)


def _prune(args: argparse.Namespace) -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import build_job, chosen_precision
    from detect_prune.engine.pipeline import prune

    project = Path(args.project or PROJECT)
    resuming = args.resume is not None
    if resuming:
        folder = common.resume_plan("prune", args, project)
    elif args.ratio is None:
        raise common.DetectPruneError("--ratio is missing: the share of all weights to remove, such as 0.8")
    job = build_job(args)
    if not resuming:
        name = args.name or f"{job.task.name}-{args.ratio}"
        folder = common.fresh_folder(project, name, job.sample)
        common.save_plan(folder, "prune", args)
    print(f"{job.says}\nremoval ratio {args.ratio}; everything is kept in {folder}", flush=True)
    train_dense = args.weights is None
    if train_dense:
        print("there are no weights to start from, so a dense network is trained first", flush=True)
    chosen = {
        name: value
        for name in ("importance", "floor", "include", "exclude")
        if (value := getattr(args, name)) is not None
    }
    result = prune(
        job.task.model,
        ratio=args.ratio,
        task=job.task,
        folder=folder,
        train_dense=train_dense,
        resume=resuming,
        save_every=60 * (args.save_every or 3),
        seed=args.seed,
        precision=chosen_precision(args),
        **chosen,
    )
    print(result.text)
    if job.sample:
        print(
            "This was the built-in sample set: small pictures and few steps, to show the machinery. The same for real data:\n"
            f"python prune.py --cfg {args.cfg} --ratio {args.ratio} --weights {Path(args.cfg).stem}.weights --data coco.yaml --data-root DIR"
        )
