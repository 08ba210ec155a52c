"""Bars and lines, with a clock that the test turns."""

import io
import os
import re

import pytest

from detect_prune.report.progress import Progress, Timeline, duration


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run_piped(total, seconds_a_step, initial=0, known=True, **options):
    clock, stream = Clock(), io.StringIO()
    shown = total if known else None
    with Progress(shown, "dense", initial=initial, stream=stream, clock=clock, **options) as progress:
        for step in range(initial, total):
            clock.now += seconds_a_step
            progress.step(loss=1 / (step + 1))
    return stream.getvalue()


def test_piped_output_is_plain_lines_with_percentages():
    text = run_piped(200, 1.0)
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert all(re.match(r"dense: +\d+ % \(\d+/200\), loss \S+, ", line) for line in lines)
    assert "(1/200)" in lines[0] and "100 % (200/200)" in lines[-1]
    percents = [int(re.search(r"(\d+) %", line)[1]) for line in lines]
    assert percents == sorted(set(percents)), "each line tells of progress, none is printed twice"
    assert 10 <= len(lines) <= 13


def test_time_left_is_right_at_an_even_pace():
    line = next(line for line in run_piped(1000, 0.5).splitlines() if "(61/1000)" in line)
    assert "30 s gone, about 8 min left" in line  # 939 steps of half a second


def test_a_slow_loop_reports_every_half_minute_and_a_fast_one_stays_short():
    slow = run_piped(10_000, 10.0).splitlines()
    assert "(4/10000)" in slow[1], "30 s after the first line"
    assert len(run_piped(1000, 0.001).splitlines()) == 2


def test_resume_starts_where_it_was_and_does_not_count_old_steps_as_speed():
    first = run_piped(100, 2.0, initial=50).splitlines()[0]
    assert "51 % (51/100)" in first
    assert "about 98 s left" in first  # 49 steps of 2 s


def test_an_interrupted_loop_leaves_a_last_line_without_claiming_the_end():
    clock, stream = Clock(), io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(1000, "admm", stream=stream, clock=clock) as progress:
        for _ in range(999):
            progress.step()
        raise KeyboardInterrupt
    assert " 99 % (999/1000)" in stream.getvalue().splitlines()[-1]


def test_terminal_gets_a_bar_with_the_latest_figures():
    stream = Terminal()
    timeline = Timeline({"dense": 3})
    timeline.begin("dense")
    with Progress(3, "dense", stream=stream, timeline=timeline) as progress:
        for _ in range(3):
            progress.step(loss=0.125, note="bf16")
        progress.write("a line of its own")
    text = stream.getvalue()
    assert "\r" in text and "100%" in text and "loss 0.125, whole job about 0 s left, note bf16" in text
    assert "a line of its own\n" in text


def test_a_narrow_terminal_shows_the_loss_and_the_time_left_of_the_whole_job():
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (25, 80))
    clock = Clock()
    timeline = Timeline({"dense": 3910, "retrain": 3910}, clock)
    timeline.begin("dense")
    with os.fdopen(slave, "w") as stream:
        with Progress(3910, "dense", initial=1200, stream=stream, timeline=timeline, clock=clock) as progress:
            clock.now += 1.0
            progress.step(loss=0.12345, lr=0.0125, residual=0.0217)
        shown = b""
        while not shown.endswith(b"\n"):  # the line's end, which closes the bar
            shown += os.read(master, 10_000)
    os.close(master)
    last = shown.decode().rstrip().split("\r")[-1]
    assert "loss 0.1235, whole job about 2 h" in last and "residual" not in last


def test_empty_loop_is_no_division_by_zero():
    assert "100 % (0/0)" in run_piped(0, 1.0)


@pytest.mark.parametrize(
    "seconds, text",
    [
        (-3, "0 s"),
        (0, "0 s"),
        (59.6, "60 s"),
        (240, "4 min"),
        (4800, "80 min"),
        (7260, "2 h 1 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_timeline_takes_the_mean_step_until_a_phase_is_measured():
    clock = Clock()
    timeline = Timeline({"dense": 10, "admm": 20, "retrain": 4}, clock)
    assert timeline.text() == "time left not known yet"
    timeline.begin("dense")
    for _ in range(5):
        clock.now += 3
        timeline.advance()
    assert timeline.seconds_left() == pytest.approx((5 + 20 + 4) * 3)
    clock.now += 15
    timeline.advance(5)
    timeline.begin("admm")
    clock.now += 10
    timeline.advance()
    # ADMM goes at its own speed now; retraining still at the mean one: 40 s over 11 steps.
    assert timeline.seconds_left() == pytest.approx(19 * 10 + 4 * 40 / 11)
    assert timeline.text() == "about 3 min left"


def test_timeline_of_a_resumed_job_counts_what_is_done_but_not_as_speed():
    clock = Clock()
    timeline = Timeline({"dense": 1000, "admm": 100}, clock)
    timeline.begin("admm", done=50)
    assert timeline.seconds_left() is None
    clock.now += 4
    timeline.advance()
    assert timeline.seconds_left() == pytest.approx(49 * 4)
    timeline.advance(49)
    assert timeline.finished and timeline.seconds_left() == 0


def test_progress_advances_the_whole_job():
    timeline = Timeline({"dense": 4, "admm": 4})
    timeline.begin("dense")
    text = run_piped(4, 1.0, timeline=timeline)
    assert "whole job about" in text.splitlines()[0]
    timeline.begin("admm", done=4)
    assert timeline.finished


def test_timeline_refuses_what_it_was_not_told():
    with pytest.raises(ValueError, match="no phase 'b'"):
        Timeline({"a": 1}).begin("b")
    with pytest.raises(ValueError, match="begin"):
        Timeline({"a": 1}).advance()


def test_a_loop_of_unknown_length_counts_without_a_share():
    text = run_piped(100, 1.0, known=False)
    assert "%" not in text and "left" not in text
    assert "dense: 31 done, loss" in text, "a line every half a minute"
    assert text.splitlines()[-1].startswith("dense: 100 done") and "2 min gone" in text


@pytest.mark.parametrize("promised", [None, 2])
def test_a_bar_of_unknown_length_says_nothing_of_the_time_left(promised):
    stream = Terminal()
    with Progress(promised, "a.mpg", stream=stream) as progress:
        for _ in range(5):
            progress.step(objects=3)
    last = stream.getvalue().split("\r")[-1]
    assert last.startswith("a.mpg: 5step [") and "<" not in last and "objects 3" in last


def test_bytes_are_shown_as_megabytes_and_advance_by_blocks():
    clock, stream = Clock(), io.StringIO()
    with Progress(5_000_000, "x.weights", initial=1_000_000, of_bytes=True, stream=stream, clock=clock) as progress:
        for _ in range(4):
            clock.now += 2.0
            progress.advance(1_000_000)
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("x.weights:  40 % (2.0/5.0 MB), 2 s gone, about 6 s left")
    assert lines[-1].startswith("x.weights: 100 % (5.0/5.0 MB), took 8 s")


def test_a_loop_that_is_longer_than_promised_is_one_of_unknown_length():
    clock, stream = Clock(), io.StringIO()
    with Progress(2, "a.mpg", stream=stream, clock=clock) as progress:
        for _ in range(5):
            clock.now += 40
            progress.step()
    lines = stream.getvalue().splitlines()
    assert "100 % (2/2)" in lines[1] and lines[-1].startswith("a.mpg: 5 done") and "%" not in "".join(lines[2:])
