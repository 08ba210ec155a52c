"""Turns finished runs into records that can be compared: `python benchmarks/record.py runs/prune/x --name x`."""

import argparse
import json
from pathlib import Path

from recording import portable_command, write_results

from detect_prune.cli.plan import PLAN
from detect_prune.engine.machine import in_words
from detect_prune.engine.names import DENSE, METRICS
from detect_prune.pruning import magnitude_masks
from detect_prune.report.tables import Table
from detect_prune.tasks.build import detection_task


def records_of(folder: Path) -> list[dict]:
    """One flat record a stage of the run in `folder`, and one for one-shot magnitude pruning of its dense network."""
    metrics = json.loads((folder / METRICS).read_text())
    plan = json.loads((folder / PLAN).read_text())["options"]
    settings, recipe = metrics["settings"], metrics["recipe"]
    common = {
        "network": settings["data"]["network"],
        "data": settings["data"]["data"],
        "ratio": settings["ratio"],
        "seed": settings["seed"],
        "dense_epochs": recipe["dense"]["epochs"] if settings["train_dense"] else 0,
        "admm_epochs": recipe["admm"]["epochs"],
        "retrain_epochs": recipe["retrain"]["epochs"],
        "distill": recipe["retrain"].get("distill", 0.0),
        "precision": metrics["precision"],
        "seconds": metrics["seconds"],
        "date": metrics["date"],
        "command": portable_command(metrics["command"]),
        "machine": in_words(metrics["machine"]),
    }
    rows = [
        {**common, "method": "dense" if stage["name"] == "dense" else settings["method"], "stage": stage["name"]}
        | {"n_kept": stage["kept"], "n_total": stage["total"], **stage["metrics"]}
        | {name: stage[name] for name in ("macs_dense", "macs_nonzero", "bytes_stored", "bytes_zip")}
        for stage in metrics["stages"]
    ]
    # Plain magnitude is the rival of a run that was asked for a share of the weights, wherever they lie.
    if plan["cfg"] is not None and settings["budget"] == "ratio" and settings["ratio"] and not settings["pattern"]:
        rows.insert(1, {**common, "method": "magnitude", "stage": "one-shot, not retrained", **one_shot(folder, plan)})
    return rows


def one_shot(folder: Path, plan: dict) -> dict:
    """Scores the run's dense network after plain global magnitude pruning at the run's ratio."""
    trained = folder / f"{DENSE}.weights"
    cfg, weights = (folder / f"{DENSE}.cfg", trained) if trained.exists() else (plan["cfg"], plan["weights"])
    task = detection_task(cfg, weights, data=plan["data"], data_root=plan["data_root"], imgsz=plan["imgsz"])
    masks = magnitude_masks(task.model, plan["ratio"], include=plan["include"] or (), exclude=plan["exclude"] or ())
    masks.apply()
    return {"n_kept": masks.n_kept, "n_total": masks.n_total, **task.evaluate(task.model).values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--name", required=True, help="results/NAME.json and .md")
    args = parser.parse_args()
    records = [record for folder in args.runs for record in records_of(folder)]
    scores = [name for name in ("AP", "AP50", "top-1") if name in records[0]]
    table = Table(["network", "data", "ratio", "stage", *scores, "weights kept"], left=4)
    for record in records:
        shown = [f"{record[name]:.4f}" for name in scores]
        table.row(record["network"], record["data"], record["ratio"], record["stage"], *shown, f"{record['n_kept']:,}")
    write_results(args.name, records, table)
    print(table)


if __name__ == "__main__":
    main()
