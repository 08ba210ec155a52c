import math

import pytest

from detect_prune.numbers import counted, parse_number, parse_whole


@pytest.mark.parametrize("text", ["0", "1", "-1", "+2.5", ".5", "5.", "1e3", "-2.5E-3", "0001", "1e400"])
def test_numbers_are_python_s(text):
    assert parse_number(text) == float(text)


@pytest.mark.parametrize("text", ["", " 1", "1_0", "nan", "inf", "0x1", "١", "1,5", "1e", "--1", "1 2", "."])
def test_what_is_no_number_is_nan(text):
    assert math.isnan(parse_number(text)) and parse_whole(text) is None


@pytest.mark.parametrize("tail", ["x", "e", ".x"])
def test_a_long_row_of_digits_takes_no_time(tail):
    # Where two parts of the pattern match the same digits, this takes an hour.
    assert math.isnan(parse_number("1" * 300_000 + tail))


def test_whole_numbers():
    assert [parse_whole(text) for text in ("12", "-3", "+4", "007", "9" * 18)] == [12, -3, 4, 7, 10**18 - 1]
    assert [parse_whole(text) for text in ("1.0", "1e3", "9" * 19)] == [None, None, None]


def test_what_is_counted_is_told_in_the_right_number():
    assert [counted(count, "float") for count in (0, 1, 1500)] == ["0 floats", "1 float", "1,500 floats"]
    assert [counted(count, "box", "boxes") for count in (1, 3)] == ["1 box", "3 boxes"]
