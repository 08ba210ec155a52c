"""`detect-prune detect`: finds objects in pictures and draws them."""

import argparse
import glob
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

from detect_prune.cli import common
from detect_prune.errors import DetectPruneError


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=prog or "detect-prune detect",
        description="Finds objects in pictures and draws them.",
        epilog="Beside each drawn NAME.jpg a NAME.txt lists what was found, best first, in columns parted by tabs: "
        "class name, score, left, top, right, bottom, the last four in pixels of the picture. Of pictures that share a "
        "name, all but the first keep their ending too (NAME.png.jpg), or get a number.",
    )
    common.add_network_options(made, "the file of the cfg's name beside it, else in ./weights")
    made.add_argument("source", help="a picture, a folder, or a pattern such as 'photos/*.jpg'")
    made.add_argument(
        "--names", metavar="FILE", help="class names, one a line (default: those of COCO or VOC, if their number fits)"
    )
    common.add_use_options(made)
    made.add_argument(
        "--score", type=common.positive(float), default=0.25, help="lowest score that is shown (default 0.25)"
    )
    made.add_argument(
        "--nms-iou", type=common.positive(float), default=0.45, help="IoU threshold of the suppression (default 0.45)"
    )
    made.add_argument(
        "--out", default="runs/detect", metavar="DIR", help="where the drawn pictures go (default runs/detect)"
    )
    return made


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Runs the command; returns its exit status."""
    return common.run_command(_detect, parser(prog), argv)


def _detect(args: argparse.Namespace, argv: list[str]) -> None:
    # Imported here: --help and a typing error should answer at once.
    from detect_prune.cli.build import detector_for_use
    from detect_prune.datasets import read_picture
    from detect_prune.files import require_writable, write_text
    from detect_prune.report.figures import draw_boxes, save_picture
    from detect_prune.report.progress import Progress

    files = find_pictures(args.source)
    out = Path(args.out)
    names = output_names(files)
    drawn = {(out / f"{name}.jpg").resolve() for name in names}
    if drawn & {path.resolve() for path in files}:
        raise DetectPruneError("the drawn pictures would overwrite their originals; give another --out", file=out)
    require_writable(out / f"{names[0]}.jpg")
    model = detector_for_use(args)
    start, counts = time.perf_counter(), 0
    skipped = []
    with Progress(len(files), "detect") as progress:
        for path, name in zip(files, names):
            try:
                picture = read_picture(path)
            except DetectPruneError as error:
                skipped.append(str(error))
            else:
                found = model.predict(picture, score_threshold=args.score, iou_threshold=args.nms_iou)
                counts += len(found)
                save_picture(out / f"{name}.jpg", draw_boxes(picture, found, model.names))
                rows = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist())
                lines = [
                    f"{model.names[label]}\t{score:.4f}\t" + "\t".join(f"{side:.1f}" for side in box)
                    for label, score, box in rows
                ]
                write_text(out / f"{name}.txt", "".join(f"{line}\n" for line in lines))
            progress.step(objects=counts)
    seconds = time.perf_counter() - start
    for reason in skipped:
        print(f"skipped: {reason}")
    print(
        f"{counts} objects in {len(files) - len(skipped)} pictures, {len(files) / seconds:.1f} pictures a second; "
        f"drawn in {out}"
    )
    if len(skipped) == len(files):
        raise DetectPruneError("none of the pictures could be read", file=args.source)


def output_names(files: Sequence[Path]) -> list[str]:
    """A name for what is made of each picture, no two alike, also where the disk does not tell A from a."""
    names: list[str] = []
    taken: set[str] = set()
    for path in files:
        numbered = (f"{path.name}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain((path.stem, path.name), numbered) if name.casefold() not in taken)
        taken.add(name.casefold())
        names.append(name)
    return names


def find_pictures(source: str) -> list[Path]:
    """The pictures that a path, a folder or a pattern stands for, in order.

    Raises:
        DetectPruneError: there are none.
    """
    from detect_prune.datasets.picture import PICTURE_SUFFIXES  # here, as it brings OpenCV and torch

    path = Path(source)
    if path.is_file():
        return [path]
    found = path.iterdir() if path.is_dir() else (Path(name) for name in glob.glob(source, recursive=True))
    files = sorted(file for file in found if file.is_file() and file.suffix.lower() in PICTURE_SUFFIXES)
    if not files:
        raise DetectPruneError(
            f"no pictures here; files ending in {', '.join(PICTURE_SUFFIXES)} were expected", file=source
        )
    return files
