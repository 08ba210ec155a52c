"""What `detect-prune val` takes beside the network's bare forward passes, and beside OpenCV's loop over pictures.

All in one run, in turns, on the same pictures, in float32; imports, loading and pycocotools are left out. A figure is a
median over the turns. `python benchmarks/scoring_speed.py --data-root DIR` (VOC's pictures; ten minutes on two quiet
cores, `--pictures 48` for a first look). The network's 80 classes need not be VOC's: nothing is counted.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from recording import circumstances, seconds, write_results
from torch import nn

from detect_prune.cli.options import default_workers
from detect_prune.datasets import DetectionSet, Fit, load_data, val_batches
from detect_prune.report.tables import Table
from detect_prune.resources import find_resource
from detect_prune.tasks.detector import Detector, load
from detect_prune.tasks.inference import inference_copy, to_input
from detect_prune.tasks.scoring import PROTOCOLS, find_all

PROTOCOL = PROTOCOLS["coco"]


def forward_passes(network: nn.Module, batches: list[torch.Tensor]) -> Callable[[], None]:
    """The network on inputs that are ready; its answers are thrown away."""
    inputs = [to_input(pictures, network) for pictures in batches]

    @torch.inference_mode()
    def work() -> None:
        for pictures in inputs:
            network(pictures)

    return work


def scoring(model: Detector, pictures: DetectionSet, batch: int, workers: int) -> Callable[[], object]:
    """What `val` does between loading and counting: reading, forward passes, suppression, boxes on the pictures."""
    return lambda: find_all(model, pictures, PROTOCOL, batch=batch, workers=workers, quiet=True)


def opencv_loop(cfg: Path, weights: Path, paths: list[Path], size: tuple[int, int]) -> Callable[[], None]:
    """A picture at a time, as in OpenCV's own samples: read, blob, forward, the best class of each box, NMSBoxes."""
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    outputs = net.getUnconnectedOutLayersNames()

    def work() -> None:
        for path in paths:
            net.setInput(cv2.dnn.blobFromImage(cv2.imread(str(path)), 1 / 255, size, swapRB=True))
            rows = np.concatenate(net.forward(outputs))
            labels = rows[:, 5:].argmax(1)
            scores = rows[np.arange(len(rows)), 5 + labels]
            sure = scores > PROTOCOL.score_threshold
            boxes = rows[sure, :4]
            boxes[:, :2] -= boxes[:, 2:] / 2
            cv2.dnn.NMSBoxesBatched(
                boxes.tolist(), scores[sure].tolist(), labels[sure].tolist(), PROTOCOL.score_threshold, 0.6
            )

    return work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder that holds VOCdevkit")
    parser.add_argument("--cfg", default="yolov4-tiny.cfg")
    parser.add_argument("--weights", type=Path, default=Path("weights/yolov4-tiny.weights"))
    parser.add_argument("--pictures", type=int, default=496, help="how many of VOC's val (default 496)")
    parser.add_argument("--turns", type=int, default=3, help="of which the medians are taken (default 3)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--name", default="scoring_speed", help="results/NAME.json and .md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)

    cfg = find_resource("cfg", args.cfg)
    model = load(cfg, args.weights)
    data = load_data("voc.yaml", args.data_root, splits=("val",))
    pictures = data.val.subset(range(min(args.pictures, len(data.val))))
    batches = [batch.pictures for batch in val_batches(pictures, Fit(model.input_size), args.batch)]
    works = {
        "val": scoring(model, pictures, args.batch, default_workers()),
        "forward passes, as val runs them": forward_passes(inference_copy(model), batches),
        "forward passes of the network as it is": forward_passes(model, batches),
        "OpenCV DNN's loop": opencv_loop(cfg, args.weights, [truth.path for truth in pictures], model.input_size),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(args.turns):
        for name, work in works.items():
            if turn == 0:
                work()  # first calls choose kernels and fill caches
            times[name].append(seconds(work) / len(pictures))

    facts = {
        "network": cfg.stem,
        "input": model.input_size[0],
        "pictures": len(pictures),
        "batch": args.batch,
        "turns": args.turns,
    }
    records = [
        {"what": name, "seconds": median(own), "val_over": median(v / t for v, t in zip(times["val"], own))}
        | facts
        | circumstances()
        for name, own in times.items()
    ]
    table = Table(["what", "ms a picture", "val takes, times"])
    for record in records:
        table.row(record["what"], f"{1000 * record['seconds']:.1f}", f"{record['val_over']:.2f}")
    remark = ", ".join(f"{name} {value}" for name, value in facts.items())
    write_results(args.name, records, table, f"{remark}. Medians.")
    print(table)


if __name__ == "__main__":
    main()
