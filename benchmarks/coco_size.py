"""What COCO's size costs: loading, memory with workers, evaluation. Makes a set of that size, and removes it after.

    python benchmarks/coco_size.py            # 118,000 + 5,000 pictures, some minutes, 1 GB of disk, 3 GB of memory

The pictures are a few small blank ones under many names. The annotations have COCO's numbers: 7.3 boxes a picture in 80
classes whose ids have holes, one crowd region in a hundred, outlines, so that the json is as large as the real one.
"""

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import torch
from pycocotools.coco import COCO
from recording import circumstances, write_results

from detect_prune.datasets import Fit, load_data, train_batches
from detect_prune.detection import coco_metrics
from detect_prune.report.tables import Table, size
from detect_prune.structures import Detections, Truth

BOXES_A_PICTURE = 7.3
CLASS_IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
WIDTH, HEIGHT = 64, 48
LINKS = 10_000
"""Names a file: file systems allow some ten thousand."""
REMARK = (
    "Where the machine has other work, the seconds of CPU count, not those of the clock. Memory is what a step adds; a "
    "worker's is all of its own, and PSS adds its share of what it has in common with the others."
)
WORKERS = 2
BATCH = 64


def make_set(folder: Path, counts: dict[str, int]) -> None:
    """Writes the descriptor, the pictures and the annotations of each split."""
    text = "format: coco\npath: .\n"
    for seed, (split, count) in enumerate(counts.items()):
        make_pictures(folder / split, count)
        with open(folder / f"{split}.json", "w") as file:
            write_annotations(file, split, count, np.random.default_rng(seed))
        text += f"{split}: {{images: {split}, annotations: {split}.json}}\n"
    (folder / "set.yaml").write_text(text)


def make_pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    blank = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 127, np.uint8))[1].tobytes()
    for number in range(count):
        path = folder / f"{number:012d}.jpg"
        if number % LINKS == 0:
            path.write_bytes(blank)
        else:
            os.link(folder / f"{number - number % LINKS:012d}.jpg", path)


def write_annotations(file: TextIO, split: str, count: int, random: np.random.Generator) -> None:
    """On one line, with the keys and spaces of COCO's own files."""
    # The outlines of the real train set take about 330 bytes each; what they say does not matter here.
    outlines = [json.dumps([random.uniform(0, 640, 46).round(2).tolist()]) for _ in range(1000)]
    file.write('{"info": {}, "licenses": [], "images": [')
    for number in range(count):
        url = f"http://images.cocodataset.org/{split}2017/{number:012d}.jpg"
        image = {"license": 3, "file_name": f"{number:012d}.jpg", "coco_url": url, "height": HEIGHT, "width": WIDTH}
        image |= {"date_captured": "2013-11-14 11:18:45", "flickr_url": url, "id": number}
        file.write(", " * (number > 0) + json.dumps(image))
    file.write('], "annotations": [')
    per_picture = random.poisson(BOXES_A_PICTURE, count)
    total = int(per_picture.sum())
    classes = random.choice(CLASS_IDS, total).tolist()
    corners = random.uniform(0, (WIDTH - 8, HEIGHT - 8), (total, 2))
    sides = random.uniform(2, (WIDTH, HEIGHT) - corners)
    boxes = np.concatenate([corners, sides], 1).round(2)
    owners = np.repeat(np.arange(count), per_picture).tolist()
    crowd = (random.random(total) < 0.01).astype(int).tolist()
    for number, (owner, box, label) in enumerate(zip(owners, boxes.tolist(), classes)):
        file.write(
            f'{", " * (number > 0)}{{"segmentation": {outlines[number % 1000]}, "area": {box[2] * box[3] / 2:.4f}, '
            f'"iscrowd": {crowd[number]}, "image_id": {owner}, "bbox": {box}, "category_id": {label}, '
            f'"id": {number + 1}}}'
        )
    categories = [{"supercategory": "thing", "id": class_id, "name": f"class {class_id}"} for class_id in CLASS_IDS]
    file.write(f'], "categories": {json.dumps(categories)}}}')


class Clock:
    """Seconds, by the clock and of the processor: on a machine that others use, too, the latter are ours."""

    def __enter__(self) -> "Clock":
        self.begin = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.times = {
            "seconds": time.perf_counter() - self.begin[0],
            "cpu_seconds": time.process_time() - self.begin[1],
        }


def memory(process: str | int = "self") -> dict[str, int]:
    """Bytes of a process: `pss` counts a page that n processes share as an n-th, `private` those that it alone has."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {"rss": found["Rss"], "pss": found["Pss"], "private": found["Private_Clean"] + found["Private_Dirty"]}


def since(before: dict[str, int]) -> dict[str, int]:
    """What this process keeps more than before, and the most that it ever had more."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"private": memory()["private"] - before["private"], "peak": peak - before["rss"]}


def load_with_pycocotools(folder: Path) -> list[dict[str, Any]]:
    """pycocotools' COCO(), which is what a data set for PyTorch usually keeps."""
    before = memory()
    with Clock() as clock, contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "train.json"))
    return [{"step": "load, pycocotools", **clock.times, **since(before), "boxes": len(coco.anns)}]


def load_and_iterate(folder: Path, batches: int) -> list[dict[str, Any]]:
    """Our loader; then workers that read pictures in random order, and what each of them has for itself."""
    torch.set_num_threads(1)
    # A process that was spawned would spawn its workers, too; a person's are forked (Linux, Python below 3.14).
    multiprocessing.set_start_method("fork", force=True)
    before = memory()
    with Clock() as clock:
        data = load_data(folder / "set.yaml", splits=("train",)).train
    rows = [{"step": "load, detect_prune", **clock.times, **since(before), "boxes": data.box_count}]
    loader = train_batches(data, Fit((32, 32)), BATCH, seed=0, epoch=0, workers=WORKERS, augment=False)
    start = time.perf_counter()
    for number, _ in enumerate(itertools.islice(loader, batches)):
        if number in (WORKERS, batches - 1):
            workers = [memory(child.pid) for child in multiprocessing.active_children()]
            rows.append(
                {
                    "step": f"each of {len(workers)} workers after {number + 1} batches of {BATCH}",
                    "seconds": time.perf_counter() - start,
                    **{kind: sum(worker[kind] for worker in workers) // len(workers) for kind in ("private", "pss")},
                }
            )
    return rows


def evaluate(folder: Path, found: int) -> list[dict[str, Any]]:
    """pycocotools' evaluation of `found` detections a picture, a part of them near the truths."""
    data = load_data(folder / "set.yaml", splits=("val",))
    truths = list(data.val)
    before = memory()
    detections = [detect(truth, found, np.random.default_rng(index)) for index, truth in enumerate(truths)]
    with Clock() as clock:
        result = coco_metrics(truths, detections, data.names)
    return [{"step": f"evaluate {len(truths):,} x {found}", **clock.times, **since(before), "AP": result.AP}]


def detect(truth: Truth, found: int, random: np.random.Generator) -> Detections:
    near = np.arange(len(truth.boxes))[:found]
    false = random.uniform(0, (WIDTH - 8, HEIGHT - 8), (found - len(near), 2))
    boxes = np.concatenate(
        [truth.boxes[near] + random.normal(0, 1, (len(near), 4)), np.concatenate([false, false + 8], 1)]
    )
    labels = np.concatenate([truth.labels[near], random.integers(len(CLASS_IDS), size=len(false))])
    scores = np.sort(random.random(found))[::-1].copy()
    return Detections(torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), torch.from_numpy(labels))


def alone(function: Any, *arguments: Any) -> list[dict[str, Any]]:
    """Runs a step in a process of its own, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=118_000, help="training pictures")
    parser.add_argument("--val", type=int, default=5000, help="pictures to score")
    parser.add_argument("--batches", type=int, default=400, help=f"of {BATCH}, read by the workers")
    parser.add_argument(
        "--folder", type=Path, help="where the set is made for the time of the run; the system's usual place"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        make_set(folder, {"train": args.train, "val": args.val})
        rows = [{"step": "make the set", "json": (folder / "train.json").stat().st_size, "pictures": args.train}]
        rows += alone(load_and_iterate, folder, args.batches)
        rows += alone(load_with_pycocotools, folder)
        rows += alone(evaluate, folder, 100)
    table = as_table(rows)
    print(table)
    write_results("coco_size", [circumstances() | row for row in rows], table, REMARK)


def as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(["step", "seconds", "of CPU", "private memory", "PSS", "peak", "boxes", "json"])
    for row in rows:
        seconds = [f"{row[key]:.1f}" if key in row else "" for key in ("seconds", "cpu_seconds")]
        shown = [size(row[key]) if key in row else "" for key in ("private", "pss", "peak")]
        boxes = f"{row['boxes']:,}" if "boxes" in row else ""
        table.row(row["step"], *seconds, *shown, boxes, size(row["json"]) if "json" in row else "")
    return table


if __name__ == "__main__":
    main()
