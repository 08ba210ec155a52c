"""`prune.py` and `detect-prune prune`: one network, one data set, one removal ratio."""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detect_prune.cli.command import run_together
from detect_prune.cli.options import (
    Parser,
    add_model_option,
    add_network_options,
    add_pretrained_option,
    add_run_options,
    add_training_data_options,
    checked,
    command_words,
    not_negative,
    option_of,
    path_name,
    positive,
    removal_ratio,
    share,
)
from detect_prune.errors import DetectPruneError
from detect_prune.files import read_text
from detect_prune.official import WEIGHTS

if TYPE_CHECKING:
    from detect_prune.engine.distributed import World
    from detect_prune.engine.task import Task
    from detect_prune.pruning import Masks

PROJECT = Path("runs/prune")
IMPORTANCES = ("raw", "normalised", "lamp", "fisher", "fisher-layer", "taylor")
"""The names that pruning.importance knows; it takes seconds to import, and a test compares the two."""
METHODS = ("admm", "admm-layerwise", "gradual", "magnitude", "lamp", "dense-longer", "dense")
"""The keys of pruning.METHODS, likewise."""
KEEPING = ("dense-longer", "dense")
"""Methods that remove nothing."""
AFTER_DENSE = ("admm_epochs", "retrain_epochs", "distill")
"""Values of options of what comes after the dense network, which is the end of the method `dense`."""


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    made = Parser(
        prog=prog or "python prune.py",
        description="Prunes a network by global ADMM: removes one share of all its weights, retrains the rest, and "
        "measures each step.",
        epilog="Without real data the built-in sample set is used, and a dense network is trained on it first.",
    )
    add_network_options(made, "the file of the cfg's name beside it, else in ./weights, if the data is real")
    add_pretrained_option(made)
    add_model_option(made)
    made.add_argument(
        "--ratio",
        type=removal_ratio,
        help="share of all weights (of those that --include and --exclude leave) to remove, such as 0.8",
    )
    made.add_argument(
        "--layer-ratios",
        type=path_name,
        metavar="FILE",
        help="instead of --ratio, with --method admm-layerwise: JSON with the share of each layer, "
        '{"conv1.weight": 0.3, ...}',
    )
    made.add_argument(
        "--method", choices=METHODS, help="how (default admm); all methods get the same epochs, so that they compare"
    )
    add_training_data_options(made)
    add_pruning_options(made)
    add_run_options(made, str(PROJECT))
    return made


def add_pruning_options(made: argparse.ArgumentParser) -> None:
    """What says how a network is pruned, but the method and the ratio."""
    made.add_argument("--epochs", type=positive(int), dest="retrain_epochs", metavar="N", help="of masked retraining")
    made.add_argument(
        "--admm-epochs",
        type=positive(int),
        metavar="N",
        help="of ADMM, or of what stands in for it; a one-shot method retrains for them (more where the set is so "
        "small that they would not come to 30 updates)",
    )
    made.add_argument(
        "--dense-epochs",
        type=positive(int),
        metavar="N",
        help="of dense training, where there are no weights to start from, or the heads start at random",
    )
    made.add_argument(
        "--distill",
        type=not_negative(float),
        metavar="WEIGHT",
        help="of the distance from the dense network's answers, in the loss while it is pruned and retrained; 0 for "
        "none (default: 1 for ResNets, and for detectors on real data; else 0)",
    )
    made.add_argument(
        "--importance",
        choices=IMPORTANCES,
        help="how weights of different layers or filters are compared (default: the method's, for admm lamp, and "
        "for ADMM with ResNets and detectors taylor)",
    )
    made.add_argument(
        "--budget",
        choices=("ratio", "macs", "bytes"),
        help="what --ratio is a share of: the number of weights (default), the MACs, or the bytes of --bits",
    )
    made.add_argument(
        "--bits",
        type=checked(parse_bits),
        action="append",
        metavar="GLOB=N",
        help="with --budget bytes: weights whose name matches count as stored in N bits, and others as in memory (the "
        "files stay float32); may be repeated, and the first that matches counts",
    )
    made.add_argument(
        "--pattern", metavar="P", help="how the zeros lie: N:M, such as 2:4, or blocks 1xN (default: anywhere)"
    )
    made.add_argument(
        "--gradual",
        action=argparse.BooleanOptionalAction,
        help="let ADMM's removal grow over its updates, or not (default: for ResNets and for detectors, "
        "but for a pattern N:M)",
    )
    made.add_argument(
        "--floor",
        type=share,
        metavar="SHARE",
        help="share of an even cut that each layer keeps at least (default .05 where all layers share one ratio)",
    )
    made.add_argument(
        "--include", action="append", metavar="GLOB", help="prune only weights whose name matches; may be repeated"
    )
    made.add_argument(
        "--exclude", action="append", metavar="GLOB", help="leave weights alone whose name matches; may be repeated"
    )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    made = parser(prog)
    return run_together(lambda args, words, world: _prune(args, words, made, world), made, argv)


def _prune(args: argparse.Namespace, argv: list[str], made: argparse.ArgumentParser, world: "World") -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import begin
    from detect_prune.engine.pipeline import prune
    from detect_prune.pruning import Masks

    if args.resume is None:
        if args.ratio is not None and args.layer_ratios is not None:
            raise DetectPruneError(
                "--ratio is one share for all layers, --layer-ratios has one for each: give one of them"
            )
        if args.ratio is None and args.layer_ratios is None and needs_ratio(args):
            raise DetectPruneError("--ratio is missing: the share of all weights to remove, such as 0.8")
    begun = begin(
        args,
        argv,
        made,
        "prune",
        PROJECT,
        world,
        name=lambda task: _run_name(task.name, args),
        check=lambda task: _check(task, args, made),
    )
    job = begun.job
    asked = args.ratio or args.layer_ratios
    removed = f"removal ratio {asked}; " if asked else ""
    print(f"{job.says}\n{removed}everything is kept in {begun.folder}", flush=True)
    if args.resume is None:
        if not job.task.trained:
            print(f"{_untrained(args)}, so a dense network is trained first", flush=True)
        elif args.weights is not None:
            _tell_of_zeros(Masks.from_nonzero(job.task.model, args.include or (), args.exclude or ()))
    result = prune(job.task.model, ratio=_chosen_ratio(args), **begun.arguments, **chosen_options(args))
    print(result.text)
    if job.sample:
        print(
            "This was the built-in sample set: small pictures and few steps, to show the machinery. "
            f"The same for real data:\n{real_data_command(made, begun.argv)}"
        )


def _tell_of_zeros(masks: "Masks") -> None:
    """What nobody expects of a network that was pruned before."""
    total, zeros = masks.n_total, masks.n_total - masks.n_kept
    if zeros:
        print(
            f"{zeros:,} of {total:,} weights ({100 * zeros / total:.1f} %) are zero already and may grow back ('train' "
            f"holds zeros); a ratio is one of all {total:,}",
            flush=True,
        )


def _check(task: "Task", args: argparse.Namespace, made: argparse.ArgumentParser) -> None:
    """Says before anything is written what the run could not do, or would not read, and settles what is left to the
    recipe."""
    from detect_prune.engine.settings import Settings, check

    require_dense_training(task, args)
    unread = [option_of(made, dest) for dest in AFTER_DENSE if getattr(args, dest) is not None]
    if unread and args.method == "dense":
        raise DetectPruneError(
            f"dense is not trained after the dense training: there is no use for {', '.join(unread)}"
        )
    choice = check(task, Settings(ratio=_chosen_ratio(args), **chosen_options(args)))
    if args.gradual is not None and not choice.method.uses_admm:
        raise DetectPruneError(f"--no-gradual is a choice of ADMM's; {args.method} has none")
    # Kept in the plan, which has every option with the value that it came to.
    args.importance, args.gradual = choice.settings.importance, choice.settings.gradual


def require_dense_training(task: "Task", args: argparse.Namespace) -> None:
    """Raises DetectPruneError where a length of the dense training is given, and there will be none."""
    if args.dense_epochs is not None and task.trained:
        raise DetectPruneError(
            f"--dense-epochs is given, and no dense network is trained: the run begins with {args.weights}"
        )


def _untrained(args: argparse.Namespace) -> str:
    if args.weights is not None:
        return "parts of the network start at random"
    known = "only a backbone's weights" if args.pretrained is not None else "no weights"
    return f"there are {known} to start from"


def chosen_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was chosen of how to prune, as the engine's `prune` and `Settings` take it."""
    names = ("method", "importance", "budget", "pattern", "gradual", "floor", "include", "exclude")
    chosen = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    bits: dict[str, float] = {}
    for pattern, number in map(parse_bits, getattr(args, "bits", None) or []):
        bits.setdefault(pattern, number)
    return chosen | ({"bits": bits} if bits else {})


def _chosen_ratio(args: argparse.Namespace) -> float | dict[str, float] | None:
    return args.ratio if args.layer_ratios is None else read_layer_ratios(args.layer_ratios)


def read_layer_ratios(path: str | Path) -> dict[str, float]:
    """The removal ratio of each layer, from a JSON object of numbers above 0 and below 1.

    Raises:
        DetectPruneError: the file is no such object, or names a layer twice.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DetectPruneError(f"{', '.join(twice)} is there twice", file=path)
        return dict(pairs)

    text = read_text(Path(path), "file of removal ratios")
    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DetectPruneError(f"not valid JSON: {error}", file=path) from None
    if not isinstance(found, dict) or not found:
        raise DetectPruneError('an object such as {"conv1.weight": 0.3, "fc1.weight": 0.95} was expected', file=path)
    for name, ratio in found.items():
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
            raise DetectPruneError(f"a number above 0 and below 1 was expected for {name}, not {ratio!r}", file=path)
    return found


def parse_bits(text: str) -> tuple[str, float]:
    """`GLOB=N`: a glob pattern of layers, and the bits that each of their weights is stored in.

    Raises:
        ValueError: it is not that.
    """
    pattern, _, number = text.rpartition("=")
    try:
        if pattern:
            return pattern, positive(float)(number)
    except argparse.ArgumentTypeError:
        pass
    raise ValueError(f"'{text}' is not a pattern of layers and a number of bits above 0, such as 'fc*=8'")


def needs_ratio(args: argparse.Namespace) -> bool:
    """Whether these options have to come with a ratio."""
    return args.method not in KEEPING and not is_ratio(args.pattern)


def is_ratio(pattern: str | None) -> bool:
    """Whether the pattern says itself how much is removed, as N:M does."""
    return ":" in (pattern or "")


def _run_name(network: str, args: argparse.Namespace) -> str:
    """yolov4-0.8, yolov4-gradual-0.8, yolov4-2of4."""
    pattern = None if args.pattern is None else args.pattern.replace(":", "of")
    return "-".join(str(part) for part in (network, args.method, pattern, args.ratio) if part is not None)


def real_data_command(made: argparse.ArgumentParser, argv: Sequence[str]) -> str:
    """The command of a sample run for real data: everything that was typed, less what belongs to the sample."""
    given = vars(made.parse_args(argv))
    given |= {"data": "coco.yaml", "data_root": "DIR", "name": None, "project": None, "resume": None}
    official = f"{Path(given['cfg']).stem}.weights"
    if official not in WEIGHTS:
        given |= {"data": "FILE.yaml", "data_root": None}
    elif given["pretrained"] is None:
        given |= {"weights": given["weights"] or official, "dense_epochs": None}  # these weights are trained
    return f"{made.prog} {shlex.join(command_words(made, given))}"
