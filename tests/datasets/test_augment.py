import numpy as np
import pytest

from detect_prune.datasets.augment import Augmentation, augment_sample, clip_targets
from detect_prune.datasets.letterbox import Fit

COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255], [255, 0, 255]])
PLAIN = {"hue": 0.0, "saturation": 1.0, "exposure": 1.0}
"""Colours stay, so that an object can be found again by its colour."""


def load(index):
    """A grey picture with one coloured rectangle; the label is its colour."""
    rng = np.random.default_rng(index)
    width, height = int(rng.integers(90, 140)), int(rng.integers(80, 120))
    picture = np.full((height, width, 3), 127, np.uint8)
    x, y = int(rng.integers(5, width - 50)), int(rng.integers(5, height - 50))
    w, h = (int(v) for v in rng.integers(25, 45, 2))
    picture[y : y + h, x : x + w] = COLOURS[index % 6]
    return picture, np.array([[x, y, x + w, y + h]], np.float32), np.array([index % 6])


def augmented(index, augmentation, size=(128, 96), letterbox=False, key=(0, 0)):
    return augment_sample(load, index, 6, Fit(size, letterbox), augmentation, key)


@pytest.mark.parametrize("letterbox", [False, True])
@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_boxes_stay_on_their_objects(mosaic, letterbox):
    seen = 0
    for index in range(6):
        for epoch in range(6):
            picture, boxes, labels = augmented(
                index, Augmentation(mosaic=mosaic, **PLAIN), (128, 96), letterbox, (3, epoch)
            )
            assert picture.shape == (96, 128, 3) and picture.dtype == np.uint8
            assert boxes.dtype == np.float32 and labels.dtype == np.int64 and len(boxes) == len(labels)
            for label in set(labels.tolist()):
                own = boxes[labels == label]
                rows, columns = np.nonzero((np.abs(picture.astype(int) - COLOURS[label]) < 60).all(-1))
                around = [own[:, 0].min(), own[:, 1].min(), own[:, 2].max(), own[:, 3].max()]
                found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                # Slivers that are no targets any more may reach beyond the boxes only in a mosaic with partners twice.
                if len(own) == 1 and mosaic == 0:
                    assert np.allclose(around, found, atol=2.5)
                else:
                    assert (np.array(found[:2]) <= np.array(around[:2]) + 2.5).all()
                    assert (np.array(found[2:]) >= np.array(around[2:]) - 2.5).all()
                seen += len(own)
    assert seen > 30


def test_boxes_are_inside_and_not_tiny():
    for epoch in range(30):
        _, boxes, _ = augmented(epoch % 6, Augmentation(scale=0.6, translate=0.6), key=(1, epoch))
        assert (boxes >= 0).all() and (boxes[:, 2:] <= (128, 96)).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 2).all()


def test_every_draw_comes_from_seed_epoch_and_index():
    augmentation = Augmentation(mosaic=0.0)
    first = augmented(2, augmentation, key=(5, 7))
    augmented(4, augmentation, key=(1, 1))  # other pictures in between change nothing
    np.random.seed(0)
    again = augmented(2, augmentation, key=(5, 7))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    for index, key in ((3, (5, 7)), (2, (6, 7)), (2, (5, 8))):
        # The same picture under another number, seed or epoch is changed in another way.
        other = augment_sample(lambda _: load(2), index, 6, Fit((128, 96)), augmentation, key)
        assert not np.array_equal(first[0], other[0])


def test_nothing_changes_when_everything_is_off():
    off = Augmentation(**PLAIN, scale=0.0, translate=0.0, flip=False, mosaic=0.0)
    source, boxes, labels = load(1)
    size = source.shape[1], source.shape[0]
    picture, new_boxes, new_labels = augmented(1, off, size)
    assert np.abs(picture.astype(int) - source).max() <= 1
    assert np.allclose(new_boxes, boxes, atol=1e-3) and (new_labels == labels).all()


def test_strengths_are_obeyed():
    """Zoom and mirror alone: the object's size over the old one is the zoom, and about half are mirrored."""
    source, boxes, _ = load(0)
    size = source.shape[1], source.shape[0]
    zooms, mirrored = [], []
    for epoch in range(60):
        _, new, _ = augmented(0, Augmentation(**PLAIN, scale=0.2, translate=0.0, mosaic=0.0), size, key=(0, epoch))
        zooms.append((new[0, 2] - new[0, 0]) / (boxes[0, 2] - boxes[0, 0]))
        was_left, is_left = boxes[0, [0, 2]].mean() < size[0] / 2, new[0, [0, 2]].mean() < size[0] / 2
        mirrored.append(was_left != is_left)
    assert 0.79 < min(zooms) < 0.88 and 1.12 < max(zooms) < 1.21
    assert 15 < sum(mirrored) < 45


@pytest.mark.parametrize("letterbox, proportion", [(True, 1.0), (False, 16 / 9)])
def test_a_mosaic_keeps_proportions_with_letterbox_alone(letterbox, proportion):
    """Squares in pictures of 16:9, put together for a square input."""
    tall = []
    picture = np.full((360, 640, 3), 127, np.uint8)
    square = np.array([[300, 160, 340, 200]], np.float32)
    augmentation = Augmentation(mosaic=1.0, **PLAIN, flip=False)
    for epoch in range(30):
        _, boxes, _ = augment_sample(
            lambda _: (picture, square, np.array([0])), 0, 9, Fit((512, 512), letterbox), augmentation, (0, epoch)
        )
        inside = boxes[(boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < 512).all(1)]
        tall += ((inside[:, 3] - inside[:, 1]) / (inside[:, 2] - inside[:, 0])).tolist()
    assert len(tall) > 20 and np.median(tall) == pytest.approx(proportion, rel=0.02)


def test_mosaic_shows_partners_and_the_picture_itself():
    shown = [set(augmented(4, Augmentation(mosaic=1.0, **PLAIN), key=(0, epoch))[2].tolist()) for epoch in range(60)]
    assert set().union(*shown) == set(range(6))
    counts = [sum(label in labels for labels in shown) for label in range(6)]
    # Its object may be cut away, but it is more often there than any partner's, which is drawn in 42 % of the cases.
    assert counts[4] > 1.3 * max(counts[:4] + counts[5:])


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 64)])
def test_a_mosaic_of_a_few_pixels(size):
    for epoch in range(20):
        picture, boxes, _ = augmented(0, Augmentation(mosaic=1.0), size, key=(0, epoch))
        assert picture.shape == (*size[::-1], 3) and len(boxes) == 0


def test_pictures_without_boxes():
    def empty(index):
        return load(index)[0], np.zeros((0, 4), np.float32), np.zeros(0, np.int64)

    for mosaic in (0.0, 1.0):
        _, boxes, labels = augment_sample(empty, 0, 6, Fit((64, 64)), Augmentation(mosaic=mosaic), (0, 0))
        assert boxes.shape == (0, 4) and labels.shape == (0,)


def test_clip_targets_keeps_what_is_mostly_there():
    boxes = np.array([[0, 0, 10, 10], [-9, 0, 1, 10], [-7, 0, 3, 10], [5, 5, 6, 9], [20, 20, 30, 30]], np.float32)
    clipped, labels = clip_targets(boxes, np.arange(5), (0, 0, 15, 15))
    assert labels.tolist() == [0, 2] and clipped.tolist() == [[0, 0, 10, 10], [0, 0, 3, 10]]


def test_colours_and_places_change_both_ways_and_each_by_its_own_strength():
    still = {"scale": 0.0, "flip": False, "mosaic": 0.0}
    box, label = np.array([[40, 40, 60, 60]], np.float32), np.array([0])

    def changed(colour, **strengths):
        picture = np.full((100, 100, 3), colour, np.uint8)
        augmentation = Augmentation(**PLAIN | still | {"translate": 0.0} | strengths)
        for epoch in range(30):
            yield augment_sample(lambda _: (picture, box, label), 0, 1, Fit((100, 100)), augmentation, (0, epoch))

    bright = [picture.mean() / 100 for picture, _, _ in changed(100, exposure=2.0)]
    assert 0.49 < min(bright) < 0.7 and 1.6 < max(bright) < 2.01
    greens, blues = np.array([picture[0, 0, 1:] for picture, _, _ in changed((200, 100, 100), hue=0.1)], int).T
    assert (greens - blues).min() < -15 and (greens - blues).max() > 15, "towards yellow and towards violet"
    moved = np.array([boxes[0, :2] - box[0, :2] for _, boxes, _ in changed(100, translate=0.2)])
    assert (moved.min(0) < -8).all() and (moved.max(0) > 8).all() and (np.abs(moved) < 21).all()


def test_clip_targets_drops_what_is_mostly_cut_away():
    boxes = np.array([[-81, 0, 19, 100], [-79, 0, 21, 100]], np.float32)
    assert clip_targets(boxes, np.arange(2), (0, 0, 150, 150))[1].tolist() == [1]
