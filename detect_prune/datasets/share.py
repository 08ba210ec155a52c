"""Which part of a batch is made, where several processes share it."""

from typing import NamedTuple


class Share(NamedTuple):
    """The part of share `number` of `of`: parts are neighbours, and differ by one picture at most."""

    number: int = 0
    of: int = 1

    def part(self, count: int) -> slice:
        """Where the part of `count` pictures begins and ends; it is empty where there are fewer pictures than parts."""
        return slice(count * self.number // self.of, count * (self.number + 1) // self.of)


WHOLE = Share()
