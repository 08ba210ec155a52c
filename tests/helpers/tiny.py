"""A detector and a data set so small that a whole run takes seconds."""

import json

import cv2
import numpy as np

TINY_CFG = """[net]
width=32
height=32
channels=3
batch=4
learning_rate=0.001
hue=.1
saturation=1.5
exposure=1.5

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=mish

[convolutional]
size=1
stride=1
pad=1
filters=14
activation=linear

[yolo]
mask=0,1
anchors=8,8, 16,16
classes=2
num=2
iou_loss=ciou
iou_normalizer=0.07
ignore_thresh=.7
jitter=.2
nms_kind=greedynms
beta_nms=0.6
"""


def write_coco(folder, pictures=8, classes=3, seed=0):
    """Coloured squares on grey noise in COCO's format, with holes in the category ids; returns the descriptor."""
    rng = np.random.default_rng(seed)
    names = ["red", "green", "blue"][:classes]
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for index in range(pictures):
            picture = rng.integers(96, 160, (40, 48, 3), dtype=np.uint8)
            label = int(rng.integers(classes))
            left, top = int(rng.integers(24)), int(rng.integers(16))
            picture[top : top + 20, left : left + 20] = np.eye(3, dtype=np.uint8)[label] * 255
            cv2.imwrite(str(folder / split / f"{index}.png"), picture[..., ::-1])
            images.append({"id": index + 1, "file_name": f"{index}.png", "width": 48, "height": 40})
            annotations.append(
                {
                    "id": index + 1,
                    "image_id": index + 1,
                    "category_id": 7 * label + 2,
                    "bbox": [left, top, 20, 20],
                    "area": 400,
                    "iscrowd": 0,
                }
            )
        categories = [{"id": 7 * label + 2, "name": name} for label, name in enumerate(names)]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (folder / f"{split}.json").write_text(text)
    descriptor = folder / "tiny.yaml"
    descriptor.write_text(
        "format: coco\npath: .\n"
        "train: {images: train, annotations: train.json}\nval: {images: val, annotations: val.json}\n"
    )
    return descriptor
