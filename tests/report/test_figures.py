import cv2
import numpy as np
import pytest
import torch
from scenes import make_found

from detect_prune.errors import DetectPruneError
from detect_prune.report.figures import (
    JPEG_SIDE,
    class_colour,
    contact_sheet,
    draw_boxes,
    save_picture,
)
from detect_prune.structures import Detections


def found(*boxes, labels=None):
    n = len(boxes)
    labels = torch.zeros(n, dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Detections(torch.tensor(boxes, dtype=torch.float32).reshape(n, 4), torch.linspace(0.9, 0.5, n), labels)


def grey(height=120, width=200):
    return np.full((height, width, 3), 127, np.uint8)


def test_boxes_are_drawn_and_the_input_is_left_alone():
    picture = grey()
    drawn = draw_boxes(picture, found([50, 40, 150, 100]), ("cat",))
    assert (picture == 127).all()
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8
    for y, x in ((100, 100), (70, 50), (70, 150)):  # bottom, left and right edge
        assert tuple(drawn[y, x]) == class_colour(0)
    assert (drawn[60:95, 60:140] == 127).all(), "inside stays visible"
    far = (drawn[:20], drawn[:, :40], drawn[:, 160:])
    assert all((part == 127).all() for part in far), "nothing far from the box"


@pytest.mark.parametrize(
    "box", [[-50, -50, 60, 60], [150, 80, 400, 300], [-10, -10, 500, 500], [0, 0, 0, 0], [199.6, 119.6, 210, 130]]
)
def test_boxes_partly_outside_are_clipped(box):
    drawn = draw_boxes(grey(), found(box), ("a very long name of a class",))
    assert drawn.shape == (120, 200, 3) and (drawn != 127).any()


@pytest.mark.parametrize(
    "box", [[-50, -50, -10, -10], [300, 10, 320, 20], [float("nan"), 0, 10, 10], [0, 0, float("inf"), 10]]
)
def test_boxes_outside_or_not_finite_are_left_out(box):
    assert (draw_boxes(grey(), found(box)) == 127).all()


def test_no_boxes_gives_a_copy():
    picture = grey()
    drawn = draw_boxes(picture, make_found([], [], []))
    assert (drawn == picture).all() and not np.shares_memory(drawn, picture)


def test_the_best_box_lies_on_top():
    drawn = draw_boxes(grey(), found([50, 40, 150, 100], [50, 40, 150, 100], labels=[3, 4]))
    assert tuple(drawn[100, 100]) == class_colour(3)


def test_names_of_boxes_on_each_other_stand_side_by_side():
    boxes = [[30, 40, 150, 110]] * 3
    alone = [
        (draw_boxes(grey(), found(box, labels=[label])) == class_colour(label)).all(-1).sum()
        for label, box in enumerate(boxes)
    ]
    together = draw_boxes(grey(), found(*boxes, labels=[0, 1, 2]))
    edges = 2 * (120 + 70)
    for label in range(3):
        tag = (together == class_colour(label)).all(-1).sum()
        assert tag > 0.9 * (alone[label] - edges), "no name is covered by another"


def test_where_no_place_is_left_the_best_name_is_on_top():
    drawn = draw_boxes(grey(16, 40), found(*[[0, 0, 39, 15]] * 4, labels=[0, 1, 2, 3]), "abcd")
    assert (drawn == class_colour(0)).all(-1).sum() > 2 * (drawn == class_colour(3)).all(-1).sum()


def test_colours_of_eighty_classes_differ():
    colours = [class_colour(label) for label in range(80)]
    assert len(set(colours)) == 80 and colours == [class_colour(label) for label in range(80)]
    distance = np.linalg.norm(np.diff(np.array(colours, float), axis=0), axis=1)
    assert distance.min() > 100, "neighbours are far apart"


def test_accents_are_dropped():
    accented, plain, strange = (
        draw_boxes(grey(), found([30, 40, 150, 110]), (name,)) for name in ("naïve café", "naive cafe", "na?ve caf?")
    )
    assert (accented == plain).all() and not (accented == strange).all()


def test_names_beyond_ascii_and_strange_layouts_draw():
    turned = np.rot90(np.zeros((30, 40, 3), np.uint8))  # not contiguous
    assert draw_boxes(turned, found([1, 1, 20, 20]), ("Fußgänger",)).shape == turned.shape


def test_contact_sheet_holds_every_picture_on_white():
    pictures = [np.full((20, 30, 3), 10 * index, np.uint8) for index in range(1, 6)]
    sheet = contact_sheet(pictures, columns=2)
    values, counts = np.unique(sheet, return_counts=True)
    assert values.tolist() == [10, 20, 30, 40, 50, 255]
    assert counts.tolist()[:5] == [20 * 30 * 3] * 5
    assert sheet.shape[0] == 3 * 26 + 6 and sheet.shape[1] == 2 * 36 + 6


def test_contact_sheet_scales_down_large_pictures_and_keeps_proportions():
    sheet = contact_sheet([np.zeros((2000, 1000, 3), np.uint8), np.zeros((100, 3000, 3), np.uint8)], columns=4)
    assert sheet.shape == (480 + 12, 240 + 480 + 18, 3), "cells as large as they must be"
    first, second = sheet[:, : 6 + 240 + 3, 0] < 128, sheet[:, 6 + 240 + 3 :, 0] < 128
    assert (first.any(0).sum(), first.any(1).sum()) == (240, 480)
    assert (second.any(0).sum(), second.any(1).sum()) == (480, 16)


def test_contact_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError):
        contact_sheet([])


def test_save_picture_keeps_channels_in_order(tmp_path):
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[..., 0] = 200
    save_picture(tmp_path / "new" / "red.png", picture)
    assert (cv2.imread(str(tmp_path / "new" / "red.png"))[..., ::-1] == picture).all()
    with pytest.raises(DetectPruneError, match="xyz"):
        save_picture(tmp_path / "red.xyz", picture)


def test_a_picture_that_its_format_has_no_room_for_is_refused(tmp_path):
    save_picture(tmp_path / "a.jpg", np.zeros((1, JPEG_SIDE, 3), np.uint8))
    with pytest.raises(DetectPruneError, match=r"65501 x 1 pixels can't be written as \.jpg"):
        save_picture(tmp_path / "a.jpg", np.zeros((1, JPEG_SIDE + 1, 3), np.uint8))


def test_boxes_bring_their_own_names():
    picture = np.full((120, 200, 3), 127, np.uint8)
    one = torch.tensor([[30.0, 40, 150, 110]]), torch.tensor([0.9]), torch.tensor([0])
    named = draw_boxes(picture, Detections(*one, names=("cat",)))
    given = draw_boxes(picture, Detections(*one), ("cat",))
    assert (named == given).all() and (named != draw_boxes(picture, Detections(*one))).any()


def test_a_column_is_as_wide_as_its_widest_picture():
    wide, tall = np.zeros((50, 100, 3), np.uint8), np.zeros((100, 50, 3), np.uint8)
    assert contact_sheet([tall, wide, tall, tall], columns=2).shape == (2 * 106 + 6, 56 + 106 + 6, 3)
