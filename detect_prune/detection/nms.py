"""Non-maximum suppression per class, of the three kinds Darknet has, for a whole batch at once."""

from collections.abc import Iterator

import torch
from torch import Tensor

from detect_prune.boxes import centre_distance, pairwise_iou
from detect_prune.structures import NMS_KINDS

# Pairs whose overlap is computed at a time: few enough for the processor's cache, many enough to be worth a call.
_PAIRS_AT_ONCE = 1 << 17


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float, kind: str = "default", beta: float = 0.6
) -> Tensor:
    """Greedy non-maximum suppression inside each group (a class of a picture).

    From the best score down, a box that is kept removes those of its group that overlap it by more than the threshold
    (Darknet's do_nms_sort and diounms_sort in src/box.c). The overlap is IoU for `default`, IoU - (d^2/c^2)^0.6 for
    `greedynms` and IoU - (d^2/c^2)^beta for `diounms`; d is the distance of the centres, c the diagonal of the
    enclosing box.

    Args:
        boxes: (n, 4) xyxy; for the kinds with a distance as fractions of the network's input, as Darknet measures it.
        scores: (n,).
        groups: (n,) int64; boxes of different groups never meet.

    Returns:
        Indices (k,) of what is kept, best score first; among equal scores the earlier index goes first.

    Raises:
        ValueError: no such kind.
    """
    if kind not in NMS_KINDS:
        raise ValueError(f"a kind of NMS is {', '.join(NMS_KINDS)}, not {kind!r}")
    exponent = {"default": None, "greedynms": 0.6, "diounms": beta}[kind]
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[groups[by_score].argsort(stable=True)]  # group by group, best first
    boxes, groups = boxes[order], groups[order]
    winner, loser = _overlapping_pairs(boxes, groups, threshold, exponent)
    kept = _greedy(len(boxes), winner, loser)
    chosen = torch.zeros_like(by_score, dtype=torch.bool)
    chosen[order[kept]] = True
    return by_score[chosen[by_score]]


def _overlapping_pairs(
    boxes: Tensor, groups: Tensor, threshold: float, exponent: float | None
) -> tuple[Tensor, Tensor]:
    """Index pairs (better, worse) of a group that overlap by more than the threshold; sorted by group, then score."""
    winners, losers = [groups.new_empty(0)], [groups.new_empty(0)]
    sides = boxes.t().contiguous()  # picking from four rows of coordinates is several times faster than picking boxes
    for first, second in _pairs(groups):
        a, b = sides.index_select(1, first).t(), sides.index_select(1, second).t()
        overlap = pairwise_iou(a, b)
        # The distance only ever lowers the overlap, so that IoU alone decides about nearly all pairs.
        close = (overlap > threshold).nonzero()[:, 0]
        if exponent is not None:
            overlap = overlap[close] - centre_distance(a[close], b[close]) ** exponent
            close = close[overlap > threshold]
        winners.append(first[close])
        losers.append(second[close])
    return torch.cat(winners), torch.cat(losers)


def _pairs(groups: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs (i, j), i < j, of equal group in a sorted vector of groups, in chunks of bounded size."""
    n = len(groups)
    index = torch.arange(n, device=groups.device)
    partners = torch.searchsorted(groups, groups, right=True) - index - 1
    ends = partners.cumsum(0)
    start = done = 0
    while start < n:
        stop = max(start + 1, int(torch.searchsorted(ends, done + _PAIRS_AT_ONCE, right=True)))
        count = partners[start:stop]
        first = torch.repeat_interleave(index[start:stop], count)
        # The k-th pair of box i is (i, i + 1 + k).
        before = ends[start:stop] - count - done
        second = first + 1 + torch.arange(len(first), device=groups.device) - torch.repeat_interleave(before, count)
        yield first, second
        start, done = stop, int(ends[stop - 1])


def _greedy(n: int, winner: Tensor, loser: Tensor) -> Tensor:
    """Which of n boxes greedy suppression keeps, given all overlapping pairs (better, worse): (n,) bool.

    A box is kept if no better box that is kept overlaps it. Repeating that sentence for all boxes at once settles in
    round t every box that depends on a chain of at most t others, and so ends at the same answer as the loop over
    boxes does (Cluster-NMS, Zheng et al. 2021), after a handful of rounds.
    """
    kept = torch.ones(n, dtype=torch.bool, device=winner.device)
    while True:
        now = torch.ones_like(kept)
        now[loser[kept[winner]]] = False
        if torch.equal(now, kept):
            return kept
        kept = now
