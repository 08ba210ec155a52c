"""What was found in a picture, in the forms that other programs read."""

from typing import Any

from detect_prune.structures import Detections


def label_lines(found: Detections, size: tuple[int, int]) -> str:
    """Darknet's label format with the score as a sixth column, as Ultralytics writes it; best first.

    A line an object, `class cx cy w h score`: the class's number from 0, centre and size of the box as shares of the
    picture.

    Args:
        found: boxes in pixels of the picture.
        size: (width, height) of the picture.
    """
    width, height = size
    lines = []
    for label, score, (left, top, right, bottom) in _rows(found):
        cx, cy = (left + right) / 2 / width, (top + bottom) / 2 / height
        w, h = (right - left) / width, (bottom - top) / height
        lines.append(f"{label} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f} {score:.6f}\n")
    return "".join(lines)


def records(found: Detections) -> list[dict[str, Any]]:
    """One record an object, best first: class, name, score, box as [left, top, right, bottom] in pixels."""
    return [
        {
            "class": label,
            "name": found.names[label],
            "score": round(score, 6),
            "box": [round(side, 2) for side in box],
        }
        for label, score, box in _rows(found)
    ]


def _rows(found: Detections) -> zip:
    return zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist())
