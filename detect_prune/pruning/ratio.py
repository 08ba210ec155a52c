"""How many weights stay at a removal ratio."""

import math
from decimal import Decimal, InvalidOperation
from fractions import Fraction


def as_ratio(ratio: float | str | Decimal) -> Decimal:
    """A removal ratio as the decimal that was written: 0.29 is 29/100, not the binary fraction next to it.

    Raises:
        ValueError: it is no number strictly between 0 and 1.
    """
    try:
        value = Decimal(str(ratio))
    except InvalidOperation:
        raise ValueError(f"the removal ratio must be a number between 0 and 1, not {ratio!r}") from None
    if not value.is_finite() or not 0 < value < 1:
        raise ValueError(f"the removal ratio must lie strictly between 0 and 1, not {ratio}")
    return value


def keep_count(n: int, ratio: float | str | Decimal) -> int:
    """How many of `n` weights stay at a removal ratio: n - floor(ratio * n), the ratio read as a decimal.

    Raises:
        ValueError: the ratio is no number strictly between 0 and 1.
    """
    return n - math.floor(Fraction(as_ratio(ratio)) * n)
