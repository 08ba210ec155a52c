"""What becomes of a command: its exit status, and what a user reads instead of a traceback."""

import argparse
import io
import os
import subprocess
import sys
import warnings

import pytest

from detect_prune.cli import sweep
from detect_prune.cli.command import _show_warning, run_command, run_together
from detect_prune.darknet.cfg import CfgWarning

TALKS = """
import argparse
from detect_prune.cli.command import run_command


def talk(args, words):
    for _ in range(100_000):
        print("a line")


raise SystemExit(run_command(talk, argparse.ArgumentParser(), []))
"""


def test_a_reader_that_has_gone_ends_the_output_quietly():
    with subprocess.Popen([sys.executable, "-c", TALKS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is full")
def test_an_output_that_can_not_be_written_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", TALKS], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the output can't be written: No space left on device\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the shell's way to close an output")
def test_closed_outputs_are_no_traceback():
    shows = (
        "import argparse, sys; from detect_prune.cli.command import run_command\n"
        "from detect_prune.report.progress import Progress\n"
        "def show(args, words):\n    with Progress(2, 'steps') as progress:\n        progress.step(loss=1.0)\n"
        "raise SystemExit(run_command(show, argparse.ArgumentParser(), []))"
    )
    closed = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, shows])
    assert closed.returncode == 0


def test_our_warnings_are_sentences_and_ctrl_c_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def main(args, words):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            monkeypatch.setattr(warnings, "showwarning", _show_warning)
            warnings.warn(CfgWarning("x.cfg:3: an unknown key"), stacklevel=1)
            warnings.warn("somebody else's", stacklevel=1)
        raise KeyboardInterrupt

    assert run_command(main, argparse.ArgumentParser(), []) == 130
    said = capsys.readouterr().err
    assert said.startswith("warning: x.cfg:3: an unknown key\n") and "UserWarning: somebody else's" in said
    assert said.endswith("\nstopped\n")


def test_a_name_that_is_not_utf_8_can_be_printed(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", screen)
    assert run_command(lambda args, words: print("caf\udce9.png"), argparse.ArgumentParser(), []) == 0
    assert screen.buffer.getvalue() == b"caf\\udce9.png\n"


def test_under_torchrun_other_commands_say_that_they_work_in_one_process(monkeypatch, capsys):
    from detect_prune.engine.distributed import World

    given = {"WORLD_SIZE": 4, "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4, "MASTER_ADDR": "h", "MASTER_PORT": 7}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(World, "__enter__", lambda self: self)
    monkeypatch.setattr(World, "__exit__", lambda self, *error: None)
    assert sweep.main(["--model", "lenet5", "--ratios", "0.5"], prog="detect-prune sweep") == 2
    said = capsys.readouterr().err
    assert said == "error: detect-prune sweep works in one process, and torchrun has started 4 of it\n"
    seen = []
    made = argparse.ArgumentParser()
    assert run_together(lambda args, words, world: seen.append(world.size), made, []) == 0 and seen == [4]
    for name, value in {"LOCAL_RANK": None, "MASTER_ADDR": None, "MASTER_PORT": "http"}.items():
        with monkeypatch.context() as changed:
            changed.delenv(name) if value is None else changed.setenv(name, value)
            assert run_together(lambda args, words, world: None, made, []) == 2
        assert "torchrun starts" in (said := capsys.readouterr().err) and f"{name} is {value or 'missing'}" in said


def test_commands_take_denormal_numbers_for_zero_in_all_threads():
    """In a process of its own: the setting stays with the threads that torch starts under it."""
    script = """
import argparse, torch
from detect_prune.cli.command import run_command

def main(args, words):
    torch.set_num_threads(2)
    tiny = torch.full((10_000_000,), 1e-40)
    print(int((tiny * 0.5).count_nonzero()))

raise SystemExit(run_command(main, argparse.ArgumentParser(), []))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "0\n"
