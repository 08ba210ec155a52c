"""From a network's heads to the boxes that it finds: decoding and suppression for a whole batch."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detect_prune.boxes import cxcywh_to_xyxy
from detect_prune.detection.decode import activate_box, anchor_fractions, head_values, place_box, probabilities
from detect_prune.detection.nms import suppress
from detect_prune.structures import Detections, HeadSpec


class Candidates(NamedTuple):
    """What scores above the threshold in a batch, one row a class of a box, in the order of Darknet's lists: picture by
    picture, there head by head, row by row of the grid, cell by cell, anchor by anchor, class by class."""

    picture: Tensor
    """(n,) int64."""
    box: Tensor
    """(n,) int64: number of the predicted box within its picture; the classes of a box share it."""
    boxes: Tensor
    """(n, 4) xyxy as fractions of the network's input."""
    scores: Tensor
    """(n,)."""
    labels: Tensor
    """(n,) int64."""

    def take(self, rows: Tensor) -> "Candidates":
        return Candidates(*(column[rows] for column in self))


def detect(
    raws: Sequence[Tensor],
    heads: Sequence[HeadSpec],
    input_size: tuple[int, int],
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    nms: str = "cfg",
    max_candidates: int = 3000,
    frames: Tensor | None = None,
    darknet_order: bool = False,
) -> list[Detections]:
    """Decoding and suppression for a batch.

    Every class of a box that scores (objectness times class probability) above the threshold is a detection.

    Args:
        raws: one tensor a head, (B, A * (5 + C), h, w), as the network returns them.
        heads: the [yolo] sections, in the same order.
        input_size: (width, height) of the network's input in pixels.
        nms: `cfg` takes the kind (and beta) that the cfg asks for; where its heads disagree the last one decides, as in
            Darknet. `plain` is IoU whatever the cfg says.
        max_candidates: only so many a picture, the best, enter the suppression. The official yolov4-tiny has fewer on
            every COCO picture tried, at a threshold of 0.001; an untrained network has every class of every cell
            above it, and pairs of boxes grow with the square.
        frames: (B, 2) width and height of the network's input in the unit in which the suppression measures distances
            in each picture; where None they are measured in fractions of it. IoU is the same in every unit, but
            `greedynms` and `diounms` see a distance along x and one along y, and `detector valid` sees them in pixels
            of the stored picture.
        darknet_order: list the detections as Darknet's sort leaves them, see `_as_darknet_lists`.

    Returns:
        One Detections a picture, on the device of `raws`: boxes xyxy in pixels of the network's input, not clipped;
        best first, unless `darknet_order`.
    """
    if nms not in ("cfg", "plain"):
        raise ValueError(f"nms is 'cfg' or 'plain', not {nms!r}")
    batch, classes = raws[0].shape[0], heads[0].classes
    found = _candidates(raws, heads, input_size, score_threshold)
    found = found.take(_best_of_each(found.picture, found.scores, max_candidates))
    kind = "default" if nms == "plain" else heads[-1].nms_kind
    boxes = found.boxes if frames is None else found.boxes * frames.to(found.boxes).repeat(1, 2)[found.picture]
    groups = found.picture * classes + found.labels
    kept = suppress(boxes, found.scores, groups, iou_threshold, kind, heads[-1].beta_nms)
    if darknet_order:
        kept = _as_darknet_lists(found, kept, classes)
    kept = kept[found.picture[kept].argsort(stable=True)]
    found = found.take(kept)
    boxes = found.boxes * found.boxes.new_tensor([*input_size, *input_size])
    counts = found.picture.bincount(minlength=batch).tolist()
    columns = (column.split(counts) for column in (boxes, found.scores, found.labels))
    return [Detections(*parts) for parts in zip(*columns)]


def _candidates(
    raws: Sequence[Tensor], heads: Sequence[HeadSpec], input_size: tuple[int, int], threshold: float
) -> Candidates:
    parts, before = [], 0
    for raw, head in zip(raws, heads, strict=True):
        part = _candidates_of_head(raw, head, input_size, threshold)
        parts.append(part._replace(box=part.box + before))
        before += len(head.anchors) * raw.shape[2] * raw.shape[3]
    found = Candidates(*(torch.cat(columns) for columns in zip(*parts)))
    return found.take(found.picture.argsort(stable=True))


def _candidates_of_head(raw: Tensor, head: HeadSpec, input_size: tuple[int, int], threshold: float) -> Candidates:
    values = head_values(raw, head)
    objectness = probabilities(values[..., 4], head)
    # A class probability is at most 1, so a low objectness settles all classes, and few cells are left to look at.
    picture, row, column, anchor = (objectness > threshold).permute(0, 2, 3, 1).nonzero(as_tuple=True)
    rows = values[picture, anchor, row, column]
    scores = objectness[picture, anchor, row, column, None] * probabilities(rows[:, 5:], head)
    cell, label = (scores > threshold).nonzero(as_tuple=True)
    boxes = place_box(
        activate_box(rows[:, :4], head),
        torch.stack([column, row], -1),
        anchor_fractions(head, input_size, raw.device)[anchor],
        rows.new_tensor([raw.shape[3], raw.shape[2]]),
        head,
    )
    number = (row * raw.shape[3] + column) * len(head.anchors) + anchor
    return Candidates(picture[cell], number[cell], cxcywh_to_xyxy(boxes)[cell], scores[cell, label], label)


def _best_of_each(picture: Tensor, scores: Tensor, most: int) -> Tensor:
    """Indices of the `most` best of each picture, in their old order; `picture` is sorted."""
    counts = picture.bincount()
    if len(picture) == 0 or int(counts.max()) <= most:
        return torch.arange(len(picture), device=picture.device)
    order = scores.argsort(descending=True, stable=True)
    order = order[picture[order].argsort(stable=True)]
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=order.device) - torch.repeat_interleave(starts, counts)
    return order[rank < most].sort().values


def _as_darknet_lists(found: Candidates, kept: Tensor, classes: int) -> Tensor:
    """`kept` in the order in which Darknet's lists hold it once they are suppressed.

    do_nms_sort and diounms_sort (src/box.c) sort a picture's boxes by their probability of class 0, then of class 1 and
    so on, each time with a stable sort (glibc's), and leave them so: sorted by the last class, ties by the class before
    it, and in the end by the grid. The probabilities that count are those before suppression.
    """
    rank = torch.zeros(len(found.picture), dtype=torch.int64)
    picture, box, scores, labels = (
        column.cpu().numpy() for column in (found.picture, found.box, found.scores, found.labels)
    )
    for rows in np.split(np.arange(len(picture)), np.flatnonzero(np.diff(picture)) + 1):
        own, number = np.unique(box[rows], return_inverse=True)
        table = np.zeros((classes, len(own)), np.float32)
        table[labels[rows], number] = scores[rows]
        place = np.empty(len(own), np.int64)
        place[np.lexsort(-table)] = np.arange(len(own))  # lexsort's last key decides first
        rank[rows] = torch.from_numpy(place[number])
    kept = kept.cpu()
    kept = kept[found.labels.cpu()[kept].argsort(stable=True)]
    return kept[rank[kept].argsort(stable=True)].to(found.picture.device)
