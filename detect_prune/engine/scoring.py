"""Rows of the closing table: what a network scores, and what it takes to store and to run it."""

import tempfile
from pathlib import Path

from torch import nn

from detect_prune.engine.names import PRUNED
from detect_prune.engine.run import Run
from detect_prune.engine.task import Metrics
from detect_prune.errors import DetectPruneError
from detect_prune.export.sizes import zip_size
from detect_prune.files import UNFINISHED
from detect_prune.pruning import Masks, count_macs
from detect_prune.report.summary import Stage


def score(run: Run, stage: str, keep_as: str | None = None) -> None:
    """Evaluates the model as it stands and measures the files that it would be stored in."""
    run.world.on_main(lambda: _score(run, stage, keep_as))


def _score(run: Run, stage: str, keep_as: str | None) -> None:
    metrics = run.task.evaluate(run.model)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=run.folder) as scratch:
        folder = run.folder if keep_as else Path(scratch)
        weights_file = run.task.save(run.model, folder, keep_as or PRUNED)[-1]
        row = _row(run, run.model, stage, metrics, weights_file)
    run.add_stage(row, metrics)
    print(f"{stage}: {metrics}", flush=True)


def score_files(run: Run, stage: str, stem: str) -> None:
    """The last weights, written, read back, and only then evaluated: the figure belongs to the file."""
    run.world.on_main(lambda: _score_files(run, stage, stem))


def _score_files(run: Run, stage: str, stem: str) -> None:
    weights_file = run.task.save(run.model, run.folder, stem)[-1]
    run.state.delivered = weights_file.name
    delivered = run.task.load(run.folder, stem)
    if run.masks is not None:
        _require_support(run.masks, run.weights(delivered))
    metrics = run.task.evaluate(delivered)
    run.keep_if_best(metrics)
    run.add_stage(_row(run, delivered, stage, metrics, weights_file), metrics)
    print(f"{stage}: {metrics}", flush=True)


def _require_support(masks: Masks, weights: dict[str, nn.Parameter]) -> None:
    """A promise, checked on the file itself: no weight outside the mask is anything but zero."""
    missing = [name for name in masks if name not in weights]
    if missing:
        raise AssertionError(f"the network that was read back has no {', '.join(missing)}: a bug in its files")
    for name, mask in masks.items():
        if bool(weights[name].detach()[~mask].any()):
            raise AssertionError(f"{name} has non-zero weights outside its mask: a bug in the retraining")


def _row(run: Run, model: nn.Module, stage: str, metrics: Metrics, weights_file: Path) -> Stage:
    weights = run.weights(model)
    example = next(iter(run.task.inputs()), None)
    if example is None:
        raise DetectPruneError(f"the inputs() of the task '{run.task.name}' give nothing to count multiplications with")
    macs = count_macs(model, example[:1]).values()
    return Stage(
        stage,
        metrics.values,
        kept=sum(int(weight.count_nonzero()) for weight in weights.values()),
        total=sum(weight.numel() for weight in weights.values()),
        macs_dense=sum(layer.dense for layer in macs),
        macs_nonzero=sum(layer.nonzero for layer in macs),
        bytes_stored=weights_file.stat().st_size,
        bytes_zip=zip_size(weights_file),
    )
