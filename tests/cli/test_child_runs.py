"""The runs of a sweep: none is made twice, one that was begun goes on, and a stop reaches them all."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from held import held_elsewhere

from detect_prune.cli import child_runs
from detect_prune.cli.child_runs import ChildRun, Runs, RunsFailed
from detect_prune.cli.command import INTERRUPTED
from detect_prune.cli.plan import PLAN
from detect_prune.datasets.batches import RUNS_TOGETHER
from detect_prune.engine.stop import Stopped
from detect_prune.errors import DetectPruneError
from detect_prune.files import UNFINISHED


def test_a_run_that_outlived_its_sweep_is_told_as_at_work_and_not_as_failed(tmp_path):
    pytest.importorskip("fcntl")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / PLAN).write_text("{}")
    with held_elsewhere(tmp_path / "a"), pytest.raises(DetectPruneError) as caught:
        Runs(tmp_path, ["cpu"]).finish([ChildRun("a", "prune", [])])
    assert "another process is at work" in str(caught.value) and "failed" not in str(caught.value)


class TestRuns:
    RUNS = tuple(ChildRun(name, "prune", ["--ratio", "0.5"]) for name in "abc")

    @pytest.fixture
    def calls(self, monkeypatch):
        """What would be run; each call finishes its run, unless `outcome` comes to another exit status for it."""
        seen = []
        outcome = {}

        class Process:
            def __init__(self, command, **options):
                words = command[3:]
                if "--resume" in words:
                    self.folder = Path(words[words.index("--resume") + 1])
                else:
                    self.folder = Path(words[words.index("--project") + 1]) / words[words.index("--name") + 1]
                    self.folder.mkdir()
                seen.append((self.folder.name, words))
                (self.folder / PLAN).write_text("{}")

            def wait(self):
                status = outcome.get(self.folder.name, lambda: 0)()
                if not status:
                    (self.folder / "metrics.json").write_text("{}")
                return status

        monkeypatch.setattr(subprocess, "Popen", Process)
        return seen, outcome

    def test_what_failed_goes_on_and_what_is_finished_stays(self, tmp_path, calls):
        seen, outcome = calls
        outcome["b"] = lambda: 2
        with pytest.raises(RunsFailed, match="run b has failed with exit status 2; --resume tries again") as caught:
            Runs(tmp_path, ["cpu"]).finish(self.RUNS)
        assert [name for name, _ in seen] == ["a", "b", "c"]
        assert caught.value.finished == [tmp_path / "a", tmp_path / "c"]
        (tmp_path / "c" / "metrics.json").unlink()
        outcome["c"] = lambda: 2
        with pytest.raises(RunsFailed, match=r"run b has failed with exit status 2 \(1 other run has failed, too\)"):
            Runs(tmp_path, ["cpu"]).finish(self.RUNS)
        outcome.clear()
        shutil.rmtree(tmp_path / "c")
        del seen[:]
        folders = Runs(tmp_path, ["cpu"], ["--workers", "3"]).finish(self.RUNS)
        assert [folder.name for folder in folders] == ["a", "b", "c"]
        assert [name for name, _ in seen] == ["b", "c"]
        assert seen[0][1] == ["prune", "--resume", str(tmp_path / "b"), "--workers", "3", "--device", "cpu"]
        assert seen[1][1] == [
            *["prune", "--ratio", "0.5", "--project", str(tmp_path), "--name", "c", "--device", "cpu"]
        ]

    def test_a_bug_says_more_than_that_others_have_stopped_for_it(self, tmp_path, calls, monkeypatch):
        seen, outcome = calls
        begun, broken = threading.Event(), threading.Event()
        outcome["a"] = lambda: begun.set() or broken.wait(timeout=30) * 0
        call = Runs._call

        def called(self, words, name, environment):
            if name == "b":
                begun.wait(timeout=30)
                self._stopping = True  # as it is once the error has been seen
                broken.set()
                raise OSError("cannot allocate memory")
            return call(self, words, name, environment)

        monkeypatch.setattr(Runs, "_call", called)
        with pytest.raises(OSError, match="cannot allocate"):
            Runs(tmp_path, ["cuda:0", "cuda:1"]).finish(self.RUNS)
        assert [name for name, _ in seen] == ["a"]

    @pytest.mark.parametrize("status", [INTERRUPTED, -signal.SIGINT])
    def test_a_stop_is_no_failure(self, tmp_path, calls, status):
        _, outcome = calls
        outcome["a"] = lambda: status
        with pytest.raises(Stopped):
            Runs(tmp_path, ["cpu"]).finish(self.RUNS)

    def test_devices_share_the_runs(self, tmp_path, calls):
        seen, outcome = calls
        both = threading.Barrier(2)
        # Two that wait for each other end only if both are under way at once, which must be on one device each.
        outcome |= {name: lambda: both.wait(timeout=30) * 0 for name in "ab"}
        folders = Runs(tmp_path, ["cuda:0", "cuda:1"]).finish(self.RUNS)
        assert [folder.name for folder in folders] == ["a", "b", "c"]
        assert {words[-1] for _, words in seen[:2]} == {"cuda:0", "cuda:1"} and len(seen) == 3

    @pytest.mark.parametrize(("runs", "threads"), [(1, None), (2, "3"), (3, "2")])
    def test_jobs_share_a_device_and_the_threads(self, tmp_path, monkeypatch, runs, threads):
        all_of_them, given = threading.Barrier(runs), []

        class Process:
            def __init__(self, command, **options):
                folder = Path(command[command.index("--project") + 1]) / command[command.index("--name") + 1]
                folder.mkdir()
                (folder / "metrics.json").write_text("{}")
                given.append((command[-1], options["env"].get("OMP_NUM_THREADS")))

            def wait(self):
                return all_of_them.wait(timeout=30) * 0

        monkeypatch.setattr(subprocess, "Popen", Process)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
        Runs(tmp_path, ["cpu"] * 4).finish(self.RUNS[:runs])
        assert given == [("cpu", threads)] * runs

    def test_a_folder_from_a_kill_before_the_plan_is_used(self, tmp_path, calls):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / f"{UNFINISHED}plan-x1y2.json").touch()
        assert Runs(tmp_path, ["cpu"]).finish(self.RUNS[:1]) == [tmp_path / "a"]

    def test_a_folder_of_something_else_is_in_the_way(self, tmp_path, calls):
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "thesis.txt").write_text("")
        with pytest.raises(DetectPruneError, match="b: is in the way of a run"):
            Runs(tmp_path, ["cpu"]).finish(self.RUNS)
        assert (tmp_path / "b" / "thesis.txt").exists() and [name for name, _ in calls[0]] == ["a", "c"]

    def test_a_stop_reaches_a_run_that_is_just_being_begun(self, tmp_path, monkeypatch):
        runs, told = Runs(tmp_path, ["cpu"]), []

        class Process:
            def __init__(self, command, **options):
                self.stop = threading.Thread(target=runs._stop, args=(signal.SIGTERM, None))
                self.stop.start()
                self.stop.join(timeout=0.2)

            send_signal = staticmethod(told.append)

            def wait(self):
                self.stop.join()
                return INTERRUPTED

        monkeypatch.setattr(subprocess, "Popen", Process)
        with pytest.raises(Stopped):
            runs.finish(self.RUNS)
        assert told == [signal.SIGTERM]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_kill_reaches_the_run(self, tmp_path, monkeypatch, terminal, number):
        closed = []
        monkeypatch.setattr(child_runs, "forget_terminal", closed.append)  # the terminal of these tests stays
        waits = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
        with Runs(tmp_path, ["cpu"]) as runs:
            monkeypatch.setattr(sys, "executable", "/bin/true")

            def wait(process):
                process = subprocess.Popen(waits, stdout=subprocess.PIPE)
                process.stdout.readline()
                runs._processes.add(process)
                os.kill(os.getpid(), number)
                assert process.wait(timeout=30) == -number
                return INTERRUPTED

            monkeypatch.setattr(runs, "_wait", wait)
            with pytest.raises(Stopped):
                runs.finish(self.RUNS[:1])
        assert closed == [number]


def test_runs_beside_each_other_are_told_how_many_share_the_memory(tmp_path, monkeypatch):
    monkeypatch.delenv(RUNS_TOGETHER, raising=False)
    runs = Runs(tmp_path, ["cpu"] * 4)
    assert [runs._environment(count).get(RUNS_TOGETHER) for count in (1, 3, 9)] == [None, "3", "4"]


def test_the_log_of_a_run_that_goes_on_keeps_what_went_before(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/echo")
    for word in ("begun", "resumed"):
        assert Runs(tmp_path, ["cpu", "cpu"])._call([word], "a", dict(os.environ)) == 0
    assert (tmp_path / "a.log").read_text() == "-m detect_prune begun\n-m detect_prune resumed\n"


def test_a_finished_run_on_the_built_in_set_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was run again"))
    (tmp_path / "a-sample").mkdir()
    (tmp_path / "a-sample" / "metrics.json").write_text("{}")
    assert Runs(tmp_path, ["cpu"]).finish([ChildRun("a", "prune", [])]) == [tmp_path / "a-sample"]
