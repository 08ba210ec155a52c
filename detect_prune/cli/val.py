"""`detect-prune val`: scores a network on a data set."""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detect_prune.cli.choices import AP_RULES, DIFFICULT_RULES, PROTOCOLS, RESIZES
from detect_prune.cli.command import run_command
from detect_prune.cli.options import (
    Parser,
    add_data_options,
    add_network_options,
    add_use_options,
    default_workers,
    path_name,
    share,
)

if TYPE_CHECKING:
    from detect_prune.datasets import DetectionData
    from detect_prune.structures import Detections, Truth
    from detect_prune.tasks.scoring import ScoringProtocol

LARGEST_BATCH = 4096
"""Pictures; thousands at once are no faster, and a typing error fills the memory."""

_PROTOCOLS = """\
protocols:
  coco           AP as it is published for PyTorch networks: scores above .001, suppression at IoU .6, pictures resized
                 by OpenCV, scored by pycocotools. On VOC's pictures VOC's own mAP is printed beside it; a network with
                 duplicate boxes reads several points better there with --nms-iou .45, which is usual for VOC.
  darknet-map    what `darknet detector map` prints: scores above .005, suppression at .45, boxes not clipped, mAP at
                 IoU .5 over all classes; TP, FP, FN, precision, recall, F1, average IoU at confidence .25. Difficult
                 objects are left out of the truth, so that a detection on one is wrong.
  darknet-valid  what `darknet detector valid` finds: scores above .001, suppression at .6 measured in pixels, scored by
                 pycocotools.
The last two resize pictures with Darknet's own function (--resize darknet), and cut the sides of letterboxed ones to
whole pixels. --resize opencv is for a Darknet that was built to resize with OpenCV.
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog or "detect-prune val",
        description="Scores a network on the validation pictures of a data set.",
        epilog=_PROTOCOLS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_network_options(parser, "the file of the cfg's name beside it, else in ./weights")
    add_data_options(parser, "8")
    add_use_options(parser)
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="coco",
        help="what is counted, and how (default coco); see below",
    )
    parser.add_argument(
        "--resize",
        choices=RESIZES,
        help="how pictures are resized (default: opencv for coco, darknet for the other protocols)",
    )
    parser.add_argument(
        "--letterbox",
        action=argparse.BooleanOptionalAction,
        help="keep the proportions of pictures (default: the cfg's)",
    )
    parser.add_argument(
        "--score", type=share, metavar="SHARE", help="lowest score of a detection (default: the protocol's)"
    )
    parser.add_argument(
        "--nms-iou",
        type=share,
        metavar="SHARE",
        help="IoU threshold of the suppression (default: the protocol's)",
    )
    parser.add_argument(
        "--nms", choices=("cfg", "plain"), default="cfg", help="the suppression that the cfg names, or plain IoU"
    )
    parser.add_argument(
        "--difficult",
        choices=DIFFICULT_RULES,
        help="VOC's difficult objects: a detection on one counts neither way (VOC's rule, the default), is wrong "
        "(Darknet's, the default of darknet-map), or they are objects like any other; pycocotools' AP always ignores",
    )
    parser.add_argument(
        "--ap",
        choices=AP_RULES,
        help="VOC's and Darknet's AP: area under the curve, or mean precision at 11 or 101 recalls (default: area, and "
        "on VOC's pictures 11-point as well; Darknet's -points 0, 11 and 101)",
    )
    parser.add_argument("--json", type=path_name, metavar="FILE", help="write the scores here as well")
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(_val, build_parser(prog), argv)


def _val(args: argparse.Namespace, argv: list[str]) -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import detector_for_use
    from detect_prune.datasets import load_data
    from detect_prune.errors import DetectPruneError
    from detect_prune.files import require_writable, write_json
    from detect_prune.tasks.detector import compare_names
    from detect_prune.tasks.scoring import find_all, require_same_classes

    if args.json is not None:
        require_writable(args.json)
    if args.batch is not None and args.batch > LARGEST_BATCH:
        raise DetectPruneError(f"--batch {args.batch} is more pictures at once than the {LARGEST_BATCH} that val takes")
    if args.data is None:
        args.data = "coco.yaml"
        print("data coco.yaml", flush=True)
    protocol = _chosen_protocol(args)
    model = detector_for_use(args)
    data = load_data(args.data, args.data_root, splits=("val",))
    _refuse_what_has_no_use(args, data)
    require_same_classes(model, data)
    for remark in [*compare_names(model.cfg.path, data.names), *data.warnings]:
        print(remark, flush=True)
    letterbox = model.cfg.letter_box if args.letterbox is None else args.letterbox
    truths, found, skipped = find_all(
        model,
        data.val,
        protocol,
        batch=args.batch or 8,
        workers=default_workers() if args.workers is None else args.workers,
        letterbox=letterbox,
        nms=args.nms,
    )
    for reason in skipped:
        print(f"left out: {reason}")
    if skipped and not truths:
        raise DetectPruneError(f"none of the {len(skipped)} pictures could be read: {skipped[0]}")
    score = _as_darknet_map if protocol.name == "darknet-map" else _as_coco
    values = score(args, data, truths, found)
    if args.json is not None:
        used = {**dataclasses.asdict(protocol), "letterbox": letterbox, "nms": args.nms}
        of = {"cfg": args.cfg, "weights": args.weights, "data": args.data}
        write_json(args.json, {**values, **of, "pictures": len(truths), "skipped": skipped, "protocol": used})


def _refuse_what_has_no_use(args: argparse.Namespace, data: "DetectionData") -> None:
    """Raises DetectPruneError for an option that would change nothing: whoever gives it expects that it does."""
    from detect_prune.errors import DetectPruneError

    if data.format == "voc":
        return
    if args.difficult is not None:
        raise DetectPruneError(f"--difficult is for VOC's data; '{data.name}' is of the format {data.format}")
    if args.ap is not None and args.protocol != "darknet-map":
        raise DetectPruneError(
            f"--ap is for VOC's data and for --protocol darknet-map; '{data.name}' is of the format {data.format}, "
            f"and {args.protocol} takes AP as pycocotools does"
        )


def _chosen_protocol(args: argparse.Namespace) -> "ScoringProtocol":
    """The protocol, with what the options say otherwise."""
    from detect_prune.tasks.scoring import PROTOCOLS

    given = {"resize": args.resize, "score_threshold": args.score, "iou_threshold": args.nms_iou}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(PROTOCOLS[args.protocol], **changes)


def _as_darknet_map(
    args: argparse.Namespace, data: "DetectionData", truths: "list[Truth]", found: "list[Detections]"
) -> dict[str, Any]:
    from detect_prune.detection import darknet_map

    result = darknet_map(truths, found, data.names, ap=args.ap or "area", difficult=args.difficult or "drop")
    print(result)
    return result.as_dict()


def _as_coco(
    args: argparse.Namespace, data: "DetectionData", truths: "list[Truth]", found: "list[Detections]"
) -> dict[str, Any]:
    from detect_prune.detection import coco_metrics, voc_metrics

    result = coco_metrics(truths, found, data.names)
    print(result)
    values = result.as_dict()
    if data.format == "voc":
        for ap in [args.ap] if args.ap else ["area", "11-point"]:
            voc = voc_metrics(truths, found, data.names, ap=ap, difficult=args.difficult or "ignore")
            print(f"\n{voc}")
            values["voc" if ap == "area" else f"voc {ap}"] = voc.as_dict()
    return values
