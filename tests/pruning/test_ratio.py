"""A count that is exact, whatever the ratio."""

from fractions import Fraction

import pytest

from detect_prune.pruning import keep_count


@pytest.mark.parametrize("ratio", ["0.29", "0.57", "0.58", "0.8", "0.988", "0.992", "0.9967", "1e-3"])
@pytest.mark.parametrize("n", [430500, 100, 7, 64429405])
def test_keep_count_is_decimal_arithmetic(ratio, n):
    removed = Fraction(ratio) * n
    assert keep_count(n, float(ratio)) == keep_count(n, ratio) == n - removed.numerator // removed.denominator


def test_a_ratio_next_to_one_leaves_a_weight():
    assert keep_count(10, "0." + "9" * 31) == 1


def test_a_float_floor_would_be_wrong():
    assert 100 - int(0.29 * 100) != keep_count(100, 0.29) == 71
    assert keep_count(430500, 0.58) == 180810


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan"), float("inf"), "many"])
def test_bad_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        keep_count(10, ratio)
