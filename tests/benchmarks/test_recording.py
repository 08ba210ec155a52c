"""What benchmarks write down is the same on every machine."""

import json
import shlex

import pytest
import recording

from detect_prune.errors import DetectPruneError
from detect_prune.report.tables import Table


@pytest.mark.parametrize(
    ("command", "portable"),
    [
        ("python prune.py --model lenet5 --ratio 0.9", "python prune.py --model lenet5 --ratio 0.9"),
        ("x --data-root /home/me/sets --seed 1", "x --data-root DIR --seed 1"),
        ("x --data-root=/home/me/sets --ratio=0.9", "x --data-root DIR --ratio 0.9"),
        ("x --weights runs/a/dense-s0/trained.pt --cfg ../b/net.cfg", "x --weights trained.pt --cfg net.cfg"),
        ("x --project /scratch/me --name a --device cpu", "x --name a --device cpu"),
        ("x --project=/scratch/me", "x"),
        ("x --exclude 'layers.0.*' --data '/a b/my set.yaml'", "x --exclude 'layers.0.*' --data 'my set.yaml'"),
        ("x /tmp/run runs/sweep/lenet5 ../else/run", "x run runs/sweep/lenet5 run"),
    ],
)
def test_commands_name_no_folder_of_this_machine(command, portable):
    assert recording.portable_command(command) == portable
    assert recording.portable(shlex.split(portable)) == shlex.split(portable), "what is clean stays as it is"


def test_the_words_of_the_script_itself_are_cleaned(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/me/benchmarks/record.py", "/home/me/run", "--name", "x"])
    assert recording.circumstances()["command"] == "python benchmarks/record.py run --name x"


def test_the_page_names_every_machine_and_every_command_once(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "RESULTS", tmp_path)
    records = [{"machine": name, "date": str(n), "command": name} for n, name in enumerate(("one", "two", "one"))]
    recording.write_results("x", records, Table(["head"]), "A remark.")
    text = (tmp_path / "x.md").read_text()
    assert "A remark." in text and "1, two." in text and "0, one." in text
    assert text.count("    one\n") == 1
    assert json.loads((tmp_path / "x.json").read_text()) == records


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(DetectPruneError, match=r"plan\.json"):
        recording.records_in(tmp_path)
