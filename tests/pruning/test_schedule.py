"""How rho grows, on paper."""

import pytest

from detect_prune.pruning import RhoSchedule, is_due


@pytest.mark.parametrize("updates, stages", [(40, 20), (30, 20), (36, 7), (5, 20), (1, 20)])
def test_stages_divide_the_updates_evenly(updates, stages):
    schedule = RhoSchedule(stages=stages)
    ends = [done for done in range(1, updates + 1) if schedule.ends_stage(done, updates)]
    lengths = [b - a for a, b in zip([0, *ends], [*ends, updates])]
    assert len(lengths) == min(stages, updates) and max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("total, times", [(469, 40), (40, 40), (82, 40), (7, 3), (5, 1)])
def test_what_is_due_so_often_is_due_just_so_often(total, times):
    steps = [step for step in range(1, total + 1) if is_due(step, total, times)]
    apart = [b - a for a, b in zip([0, *steps], steps)]
    assert len(steps) == times and steps[-1] == total and max(apart) - min(apart) <= 1


def test_growth_answers_to_the_residual():
    """The line falls from 0.92 at the start over 0.47 in the middle to 0.02 at nine tenths of the way."""
    schedule = RhoSchedule(least=1.0, most=3.0, goal=0.02)
    assert schedule.growth(18, 40, 0, first=0.92, now=0.94) == pytest.approx(2)
    assert schedule.growth(18, 40, 0, first=0.92, now=0.4) == 1
    assert schedule.growth(36, 40, 0, first=0.92, now=0.03) == pytest.approx(1.5)
    assert schedule.growth(40, 40, 0, first=0.92, now=0.92) == 3


def test_the_line_of_a_ratio_that_grows_starts_where_it_has_grown():
    """From 0.3 after 30 of 40 updates over 0.16 in the middle to 0.02 at nine tenths of the way. Before, W may lag."""
    schedule = RhoSchedule(most=3.0, goal=0.02, lag=0.4)
    assert schedule.growth(29, 40, 30, first=0.0, now=0.39) == 1
    assert schedule.growth(29, 40, 30, first=0.0, now=0.6) == pytest.approx(1.5)
    assert schedule.growth(30, 40, 30, first=0.3, now=0.3) == 1
    assert schedule.growth(33, 40, 30, first=0.3, now=0.32) == pytest.approx(2)
    assert schedule.growth(36, 40, 30, first=0.3, now=0.04) == pytest.approx(2)


def test_bad_schedules_are_refused():
    for name, value in (
        ("start", 0.0),
        ("goal", 0.0),
        ("stages", 0),
        ("least", 0.5),
        ("most", 0.9),
        ("dual_step", 0.0),
        ("dual_step", 1.7),
        ("lag", 0.0),
        ("relative_start", float("nan")),
        ("relative_start", float("inf")),
        ("effective", float("inf")),
        ("stages", 2.5),
    ):
        with pytest.raises(ValueError):
            RhoSchedule(**{name: value})
