"""Signals, and terminals that close."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from detect_prune.engine import stop as stop_module
from detect_prune.engine.stop import StopSignal


def test_a_signal_waits_for_the_end_of_a_guarded_step_and_only_once(monkeypatch, terminal):
    with StopSignal() as stop, stop.guard():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(stop_module, "forget_terminal", lambda number: None)  # the terminal of these tests stays
    for number in (signal.SIGTERM, signal.SIGHUP):
        with StopSignal(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_DFL


def test_a_terminal_that_closes_is_a_stop_and_nothing_more_is_written_there(tmp_path, terminal):
    program = """
import pathlib, sys, time
from detect_prune.engine.stop import StopSignal
with StopSignal() as stop, stop.guard():
    print("begun", flush=True)
    while not stop.requested:
        time.sleep(0.01)
    print("to nobody", flush=True)
    pathlib.Path(sys.argv[1]).write_text("saved")
"""
    master, slave = pty.openpty()
    words = [sys.executable, "-c", program, str(tmp_path / "last")]
    with subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        assert os.read(master, 100).startswith(b"begun")
        os.close(master)
        process.send_signal(signal.SIGHUP)  # as the system does where the terminal is the process's own
        try:
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
    assert (tmp_path / "last").read_text() == "saved"


def test_a_terminal_that_closes_stops_nothing_under_nohup(terminal):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop, stop.guard():
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested


def test_a_process_that_follows_waits_for_the_word_of_another_everywhere():
    with StopSignal(follows=True) as stop:
        with stop.guard():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
