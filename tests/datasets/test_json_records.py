"""The stream against json.loads on random documents, whatever the size of the pieces that are read."""

import json
import random

import pytest

from detect_prune.datasets import json_records
from detect_prune.datasets.json_records import JsonRecords
from detect_prune.errors import DetectPruneError

LISTS = ("a", "b")


def read(path):
    return list(JsonRecords(path, LISTS, "file"))


def random_value(rng, depth):
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return rng.choice([True, False, None])
    if kind < 3:
        return rng.choice([0, -7, 10**20, 0.1, -1e-300, 12345.678])
    if kind < 6:
        return "".join(rng.choice('ab"\\/\n\t\0é漢😀') for _ in range(rng.randrange(9)))
    if kind == 6:
        return [random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return random_record(rng, depth - 1)


def random_record(rng, depth=2):
    return {f"k{rng.randrange(100)}": random_value(rng, depth) for _ in range(rng.randrange(4))}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 16, 61, 1 << 20])
def test_equals_json_whatever_the_pieces(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_records, "_CHUNK", chunk)
    rng = random.Random(chunk)
    path = tmp_path / "x.json"
    for _ in range(40):
        lists = {name: [random_record(rng) for _ in range(rng.randrange(4))] for name in LISTS}
        extra = {"c": random_value(rng, 3), "d": [random_value(rng, 2)]}
        keys = rng.sample("abcd", 4)
        data = {key: {**lists, **extra}[key] for key in keys}
        text = json.dumps(data, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        path.write_bytes(text.encode("utf-8-sig" if rng.random() < 0.3 else "utf-8"))
        expected = [(key, i, record) for key in keys if key in LISTS for i, record in enumerate(lists[key])]
        assert read(path) == expected


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
@pytest.mark.parametrize(
    "text, line, message",
    [
        ('{"a": [],\n "b": []', 2, "cut off"),
        ('{"a": [],\n "b": [{"c": "d\n', 2, r"not valid json: (Unterminated|Invalid control) .* at column \d+"),
        ('{"a": [],\n "b": [{"c": "d', 2, r"starting at column 14, the file may be cut off"),
        ('{"a": [],\n "b": [{"c": tru}]}', 2, "Expecting value at column 14"),
        ('{"a": [],\n "b": [{},]}', 2, "Expecting value at column 11"),
        ('{"a": [],\n "b": [{} {}]}', 2, "',' was expected at column 11"),
        ('{"a": [],\n "b": [{}],}', 2, "not valid json|a key in quotes"),
        ('{"a": [],\n "b": [{}]}\n x', 3, "more text after the end"),
        ('{"a": [],\n\n "a": []}', 3, 'the key "a" stands here a second time'),
        ('{"a": [],\n "b": [{},\n{"c": 1, "c": 2}]}', 3, 'the key "c" stands twice'),
        ('{"a": [],\n 3: []}', 2, "a key in quotes"),
        ('{"a": [],\n "b": {}}', 2, '"b" is no list'),
        ('{"a": [],\n "b": [{},\n 7]}', 3, r"b\[1\]: an object was expected"),
        ('{"a": [],\n "b": [' + "[" * 100_000, 2, "nested too deep"),
        ('{"a": [],\n "b": [{"c": ' + "9" * 5000 + "}]}", 2, "not valid json: .*digits"),
        ("\n[]", 2, "no object begins here"),
        ("", 1, "no object begins here"),
    ],
)
def test_errors_name_the_line(tmp_path, monkeypatch, chunk, text, line, message):
    if len(text) > 10_000 and chunk < 100:
        chunk = 1000
    monkeypatch.setattr(json_records, "_CHUNK", chunk)
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DetectPruneError, match=message) as caught:
        read(path)
    assert (caught.value.file, caught.value.line) == (path, line)


def test_a_list_that_is_missing(tmp_path):
    (tmp_path / "x.json").write_text('{"b": []}')
    with pytest.raises(DetectPruneError, match=r'x\.json: "a" is missing'):
        read(tmp_path / "x.json")


def test_bytes_that_are_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "_CHUNK", 4)
    path = tmp_path / "x.json"
    path.write_bytes('{"a": [],\n "c": "ä漢",\n "b": ["\xff"]}'.encode().replace("\xff".encode(), b"\xff"))
    with pytest.raises(DetectPruneError, match=r"x\.json:3: not a text file"):
        read(path)


def test_the_file_is_never_in_memory_as_a_whole(tmp_path):
    record = {"bbox": [1.5] * 4, "segmentation": [[float(n) for n in range(400)]]}
    path = tmp_path / "x.json"
    path.write_text('{"a": [' + ", ".join([json.dumps(record)] * 4000) + '], "b": []}')
    records = JsonRecords(path, LISTS, "file")
    tracemalloc = pytest.importorskip("tracemalloc")
    tracemalloc.start()
    try:
        assert sum("segmentation" not in record for _, _, record in records) == 4000
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 2
    finally:
        tracemalloc.stop()
