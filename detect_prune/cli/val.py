"""`detect-prune val`: scores a network on a data set."""

import argparse
from collections.abc import Sequence

from detect_prune.cli import common


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=prog or "detect-prune val", description="Scores a network on the validation pictures of a data set."
    )
    common.add_network_options(made, "the file of the cfg's name beside it, else in ./weights")
    common.add_data_options(made)
    common.add_use_options(made)
    made.add_argument(
        "--score", type=common.positive(float), default=0.001, help="lowest score of a detection (default 0.001)"
    )
    made.add_argument(
        "--nms-iou", type=common.positive(float), default=0.6, help="IoU threshold of the suppression (default 0.6)"
    )
    made.add_argument(
        "--nms", choices=("cfg", "plain"), default="cfg", help="the suppression that the cfg names, or plain IoU"
    )
    made.add_argument(
        "--letterbox",
        action=argparse.BooleanOptionalAction,
        help="keep the proportions of pictures (default: the cfg's)",
    )
    made.add_argument("--json", metavar="FILE", help="write the scores here as well")
    return made


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return common.run_command(_val, parser(prog), argv)


def _val(args: argparse.Namespace, argv: list[str]) -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import detector_for_use
    from detect_prune.datasets import load_data
    from detect_prune.detection import coco_metrics, voc_metrics
    from detect_prune.files import require_writable, write_json
    from detect_prune.tasks.detection import find_all, require_same_classes

    if args.json:
        require_writable(args.json)
    if args.data is None:
        args.data = "coco.yaml"
    model = detector_for_use(args)
    data = load_data(args.data, args.data_root, splits=("val",))
    require_same_classes(model, data)
    workers = common.default_workers() if args.workers is None else args.workers
    truths, found, skipped = find_all(
        model,
        data.val,
        batch=args.batch or 8,
        workers=workers,
        letterbox=args.letterbox,
        score_threshold=args.score,
        iou_threshold=args.nms_iou,
        nms=args.nms,
    )
    for sentence in [*data.warnings, *(f"left out: {reason}" for reason in skipped)]:
        print(sentence)
    result = coco_metrics(truths, found, data.names)
    print(result)
    values = result.as_dict()
    if data.format == "voc":
        for name, eleven_point in (("voc", False), ("voc 11-point", True)):
            voc = voc_metrics(truths, found, data.names, eleven_point=eleven_point)
            print(f"\n{voc}")
            values[name] = voc.as_dict()
    if args.json:
        write_json(args.json, {**values, "pictures": len(truths), "skipped": skipped})
