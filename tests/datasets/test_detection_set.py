import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from detect_prune.datasets.detection_set import DetectionSetBuilder, require_pictures
from detect_prune.errors import DetectPruneError

NAMES = ("a", "b")


def build(*pictures):
    builder = DetectionSetBuilder(NAMES)
    for number, (size, boxes) in enumerate(pictures):
        builder.add_picture(f"/folder/{number}.jpg", number, *size)
        for box in boxes:
            builder.add_box(box, 1)
    return builder.finish(), builder.warnings


def test_a_digest_tells_what_is_in_a_set_and_not_where_it_lies():
    def digest(folder="/folder", names=NAMES, files="ab", width=10, box=(1, 2, 6, 8), label=1, owner=0, crowd=False):
        builder = DetectionSetBuilder(names)
        for number, name in enumerate(files):
            builder.add_picture(f"{folder}/{name}.jpg", number, width, 20)
        boxes = np.array([box], np.float32)
        builder.add_boxes(np.array([owner]), boxes, np.array([label]), np.array([9.0]), np.array([crowd]))
        return builder.finish().digest()

    assert digest() == digest("/elsewhere")
    others = [{"names": ("a", "c")}, {"files": "ba"}, {"files": "abc"}, {"width": 11}]
    others += [{"box": (1, 2, 6, 9)}, {"label": 0}, {"owner": 1}, {"crowd": True}]
    assert len({digest(), *(digest(**other) for other in others)}) == 1 + len(others)


def test_boxes_are_clipped_and_empty_ones_dropped():
    dataset, warnings = build(
        ((10, 20), [(-5, 2, 6, 30), (3, 3, 3, 9), (12, 1, 15, 4), (5, 5, 4, 9)]), ((8, 8), []), ((6, 6), [(0, 0, 6, 6)])
    )
    assert len(dataset) == 3 and dataset.box_count == 2
    assert dataset[0].boxes.tolist() == [[0, 2, 6, 20]] and dataset[0].areas.tolist() == [108]
    assert dataset[1].boxes.shape == (0, 4) and dataset[1].labels.shape == (0,)
    assert dataset[2].boxes.tolist() == [[0, 0, 6, 6]]
    assert (
        len(warnings) == 2
        and warnings[0].startswith("3 boxes")
        and "0.jpg" in warnings[0]
        and warnings[1].startswith("1 box ")
    )


def test_a_truth_has_the_promised_types():
    dataset, _ = build(((10, 20), [(1, 2, 6, 8)]))
    truth = dataset[-1]
    assert str(truth.path) == "/folder/0.jpg" and (truth.width, truth.height, truth.image_id) == (10, 20, 0)
    types = [array.dtype for array in (truth.boxes, truth.labels, truth.areas, truth.crowd, truth.difficult)]
    assert types == [np.float32, np.int64, np.float32, bool, bool]
    truth.boxes[:] = 0  # a copy: the set is not changed
    assert dataset[0].boxes.tolist() == [[1, 2, 6, 8]]
    with pytest.raises(IndexError):
        dataset[1]
    assert [t.image_id for t in dataset] == [0]


def test_subset_keeps_everything():
    builder = DetectionSetBuilder(NAMES)
    for number in range(5):
        builder.add_picture(os.fsdecode(b"/f/\xff%d.jpg" % number), number, 10, 10)  # not every file name is UTF-8
        for k in range(number):
            builder.add_box((k, 0, 9, 9), k % 2, 7.5 + k, crowd=k == 1, difficult=k == 2)
    dataset = builder.finish()
    part = dataset.subset([4, 1, 4])
    for mine, theirs in zip(part, (dataset[4], dataset[1], dataset[4])):
        assert mine.path == theirs.path and mine.image_id == theirs.image_id
        for field in ("boxes", "labels", "areas", "crowd", "difficult"):
            assert np.array_equal(getattr(mine, field), getattr(theirs, field))
    assert dataset.decoded_bytes == 5 * 300


def test_memory_is_flat():
    builder = DetectionSetBuilder(NAMES)
    for number in range(5000):
        builder.add_picture(f"/folder/{number:012d}.jpg", number, 640, 480)
        for _ in range(7):
            builder.add_box((1, 1, 9, 9), 0)
    dataset = builder.finish()
    size = len(pickle.dumps(dataset))  # nothing but arrays: COCO's 118,000 pictures come to 40 MB
    assert size < 5000 * (24 + 40 + 7 * 30)


def test_missing_pictures_are_counted_and_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "none" / "c.jpg"]
    require_pictures(paths[:1], tmp_path / "list.txt")
    with pytest.raises(DetectPruneError, match=r"list\.txt:20: 2 of the 3 pictures .*b\.jpg"):
        require_pictures(paths, tmp_path / "list.txt", [10, 20, 30])


def test_boxes_may_come_all_at_once_and_in_any_order():
    one, many = DetectionSetBuilder(NAMES), DetectionSetBuilder(NAMES)
    rng = np.random.default_rng(0)
    owners = np.sort(rng.integers(0, 4, 20))
    boxes = np.concatenate([rng.uniform(-5, 5, (20, 2)), rng.uniform(5, 25, (20, 2))], 1).astype(np.float32)
    labels, areas = rng.integers(0, 2, 20), rng.uniform(-1, 9, 20).astype(np.float32).round()
    crowd, difficult = rng.random(20) < 0.3, rng.random(20) < 0.3
    for number in range(4):
        for builder in (one, many):
            builder.add_picture(f"{number}.jpg", number, 20, 20)
        for i in np.flatnonzero(owners == number):
            area = None if areas[i] < 0 else areas[i]
            one.add_box(boxes[i], labels[i], area, crowd=bool(crowd[i]), difficult=bool(difficult[i]))
    order = np.argsort(rng.permutation(4)[owners], kind="stable")  # whole pictures change places
    many.add_boxes(*(column[order] for column in (owners, boxes, labels, areas, crowd, difficult)))
    for mine, theirs in zip(many.finish(), one.finish(), strict=True):
        for field in ("boxes", "labels", "areas", "crowd", "difficult"):
            assert np.array_equal(getattr(mine, field), getattr(theirs, field))


def private_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell what is shared")
def test_a_forked_worker_that_reads_everything_has_no_copy():
    count = 150_000
    builder = DetectionSetBuilder(NAMES)
    for number in range(count):
        builder.add_picture(f"/folder/{number:012d}.jpg", number, 640, 480)
    boxes = np.tile(np.array([1, 1, 9, 9], np.float32), (7 * count, 1))
    zeros = np.zeros(7 * count)
    builder.add_boxes(np.arange(7 * count) // 7, boxes, zeros, zeros, zeros.astype(bool))
    dataset = builder.finish()
    size = len(pickle.dumps(dataset))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for index in range(1000):  # what reading itself writes to is copied before
            dataset[index]
        before = private_bytes()
        for index in range(0, count, 11):  # each page of memory holds some tens of pictures
            dataset[index]
        os.write(writer, str(private_bytes() - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    grown = int(os.read(reader, 100))
    os.close(reader)
    os.close(writer)
    assert grown < size / 4, f"{grown} bytes of a set of {size}"
