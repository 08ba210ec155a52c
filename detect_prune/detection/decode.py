"""From a head's raw tensor to boxes, exactly as Darknet's yolo layer does it (src/yolo_layer.c, get_yolo_box)."""

import torch
from torch import Tensor

from detect_prune.boxes import cxcywh_to_xyxy
from detect_prune.structures import HeadSpec

# exp() of more than 88 is infinite in float32, and infinite boxes have no IoU; e^20 anchors are wider than any picture.
_MAX_EXPONENT = 20.0


def head_values(raw: Tensor, head: HeadSpec) -> Tensor:
    """The head's tensor with one row a prediction: (B, A * (5 + C), h, w) -> float32 (B, A, h, w, 5 + C).

    A view where the tensor is float32 already. A row is tx, ty, tw, th, objectness, classes.

    Raises:
        ValueError: the tensor has another number of channels than the head says.
    """
    channels = len(head.anchors) * (5 + head.classes)
    if raw.ndim != 4 or raw.shape[1] != channels:
        raise ValueError(f"the head of layer {head.layer} is (B, {channels}, h, w); this tensor is {tuple(raw.shape)}")
    return raw.float().unflatten(1, (len(head.anchors), 5 + head.classes)).permute(0, 1, 3, 4, 2)


def activate_box(values: Tensor, head: HeadSpec) -> Tensor:
    """Darknet's activation of the four box numbers: (..., 4) -> (..., 4).

    The first two become offsets in grid cells, stretched by scale_x_y around the middle of the cell; the last two stay
    as they are. With new_coords the convolution before has applied the logistic function already.
    """
    offset = values[..., :2] if head.new_coords else values[..., :2].sigmoid()
    return torch.cat([offset * head.scale_x_y - (head.scale_x_y - 1) / 2, values[..., 2:]], -1)


def place_box(activated: Tensor, cell: Tensor, anchor: Tensor, grid: Tensor, head: HeadSpec) -> Tensor:
    """Activated numbers to boxes: (..., 4) -> (..., 4) cxcywh as fractions of the network's input.

    Args:
        activated: from `activate_box`.
        cell: (..., 2) column and row of the grid cell.
        anchor: (..., 2) width and height as fractions of the network's input.
        grid: (2,) columns and rows of the grid.
    """
    size = activated[..., 2:]
    factor = (2 * size).square() if head.new_coords else size.clamp(max=_MAX_EXPONENT).exp()
    return torch.cat([(activated[..., :2] + cell) / grid, factor * anchor], -1)


def probabilities(values: Tensor, head: HeadSpec) -> Tensor:
    """Objectness or class numbers to probabilities, any shape; with new_coords they are probabilities already."""
    return values if head.new_coords else values.sigmoid()


def grid_cells(width: int, height: int, device: torch.device) -> Tensor:
    """(h, w, 2) float: column and row of each cell."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).float()


def place_all(values: Tensor, head: HeadSpec, input_size: tuple[int, int]) -> Tensor:
    """Boxes of a whole grid: (B, A, h, w, >= 4) rows -> (B, A, h, w, 4) cxcywh fractions of the network's input."""
    height, width = values.shape[2:4]
    cells = grid_cells(width, height, values.device)
    anchors = anchor_fractions(head, input_size, values.device)[:, None, None]
    return place_box(activate_box(values[..., :4], head), cells, anchors, values.new_tensor([width, height]), head)


def anchor_fractions(head: HeadSpec, input_size: tuple[int, int], device: torch.device) -> Tensor:
    """(A, 2): the head's own anchors as fractions of the network's input (width, height)."""
    return torch.tensor(head.anchors, device=device) / torch.tensor(input_size, device=device)


def decode(raw: Tensor, head: HeadSpec, input_size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Everything a head predicts, in float32.

    Args:
        raw: (B, A * (5 + C), h, w), of any floating type.
        head: the [yolo] section it belongs to.
        input_size: (width, height) of the network's input in pixels.

    Returns:
        boxes (B, N, 4) xyxy in pixels of the network's input, not clipped; objectness (B, N); class probabilities
        (B, N, C). N = A * h * w, the anchors outermost, then rows, then columns.
    """
    values = head_values(raw, head)
    boxes = cxcywh_to_xyxy(place_all(values, head, input_size)) * values.new_tensor([*input_size, *input_size])
    return (
        boxes.flatten(1, 3),
        probabilities(values[..., 4], head).flatten(1),
        probabilities(values[..., 5:], head).flatten(1, 3),
    )
