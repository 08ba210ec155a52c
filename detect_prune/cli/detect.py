"""`detect-prune detect`: finds objects in pictures and videos and draws them."""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from detect_prune.cli.command import run_command
from detect_prune.cli.options import Parser, add_network_options, add_use_options, path_name, share
from detect_prune.cli.plan import fresh_folder
from detect_prune.errors import DetectPruneError
from detect_prune.numbers import counted

OUT = Path("runs/detect")


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog or "detect-prune detect",
        description="Finds objects in pictures and videos and draws them, upright: NAME.jpg or NAME.mp4 for each.",
        epilog="--save-txt: a line an object, 'class cx cy w h score', the class's number from 0, centre and size as "
        "shares of the picture (Darknet's labels, with the score behind). --save-json: a list of objects, "
        '{"class": 16, "name": "dog", "score": 0.87, "box": [left, top, right, bottom]}, in pixels; of a video, a list '
        "of such lists, one a frame. Best come first. The text of a video's frames is in NAME/000001.txt and so on. "
        "Where two sources share a name, the second keeps its ending too (NAME.png.jpg), or gets a number.",
    )
    add_network_options(parser, "the file of the cfg's name beside it, else in ./weights")
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="a picture, a video, a folder, or a pattern such as 'photos/*.jpg'"
    )
    parser.add_argument(
        "--names",
        type=path_name,
        metavar="FILE",
        help="class names, one a line (default: the cfg's name with .names, beside it, else those of COCO or VOC, if "
        "their number fits)",
    )
    add_use_options(parser)
    parser.add_argument(
        "--score", type=share, default=0.25, metavar="SHARE", help="lowest score that is shown (default 0.25)"
    )
    parser.add_argument(
        "--nms-iou",
        type=share,
        default=0.45,
        metavar="SHARE",
        help="IoU threshold of the suppression (default 0.45)",
    )
    parser.add_argument("--save-txt", action="store_true", help="write what was found as text, too")
    parser.add_argument("--save-json", action="store_true", help="write what was found as JSON, too")
    parser.add_argument(
        "--out",
        type=path_name,
        metavar="DIR",
        help=f"where everything goes (default {OUT}, or {OUT}-2 and so on where that is taken)",
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return run_command(_detect, build_parser(prog), argv)


def _detect(args: argparse.Namespace, argv: list[str]) -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import detector_for_use
    from detect_prune.files import make_folder, require_writable
    from detect_prune.tasks.finder import Finder, find_sources
    from detect_prune.tasks.inference import inference_copy

    files = find_sources(args.sources)
    out = None if args.out is None else Path(args.out)
    # Asked of the disk: one folder may have two names, where A is a, for example.
    folders = {folder for path in files for folder in (path.parent, path.resolve().parent)}
    if out is not None and os.path.isdir(out) and any(os.path.samefile(out, folder) for folder in folders):
        raise DetectPruneError("the results would lie among their originals; give another --out", file=out)
    network = inference_copy(detector_for_use(args))
    was_there = out is not None and os.path.lexists(out)
    if out is None:
        out = fresh_folder(OUT.parent, OUT.name, sample=False)
    else:
        make_folder(out)
    require_writable(out / "x")
    finder = Finder(
        lambda picture: network.predict(picture, score_threshold=args.score, iou_threshold=args.nms_iou),
        save_txt=args.save_txt,
        save_json=args.save_json,
    )
    start = time.perf_counter()
    finder.go_through(files, out)
    seconds = time.perf_counter() - start
    if not finder.seen:
        if not was_there:
            out.rmdir()
        others = len(finder.skipped) - 1
        raise DetectPruneError(finder.skipped[0] + (f" (and {others} more)" if others else ""))
    for reason in finder.skipped:
        print(f"skipped: {reason}")
    print(
        f"{counted(finder.objects, 'object')} in {counted(finder.seen, 'picture')}, "
        f"{finder.seen / seconds:.1f} pictures a second, reading and drawing included; drawn in {out}"
    )
