"""The distance between two detectors' heads: zero for a copy, its slope by hand, and what it counts."""

import dataclasses

import pytest
import torch
from heads import make_heads, make_raws

from detect_prune.detection import head_distance


def slices(raw):
    """(B, A, h, w, 8): the four box numbers, objectness, three classes."""
    return raw.unflatten(1, (2, 8)).permute(0, 1, 3, 4, 2)


@pytest.mark.parametrize("new_coords", [False, True])
def test_a_copy_is_at_no_distance_and_has_nowhere_to_go(new_coords):
    raws = make_raws(2, new_coords)
    distance = head_distance(raws, [raw.detach().clone() for raw in raws], make_heads(new_coords=new_coords))
    assert distance.item() == 0
    distance.backward()
    assert all(raw.grad.abs().max() < 1e-6 for raw in raws)


def test_its_slope_is_what_logistic_outputs_differ_by():
    raws, goals = make_raws(3), [goal.detach() for goal in make_raws(3, seed=1)]
    distance = head_distance(raws, goals, make_heads())
    assert distance.item() > 0
    distance.backward()
    for raw, goal in zip(raws, goals):
        slope, ours, theirs = (slices(tensor) for tensor in (raw.grad * 3, raw.detach(), goal))
        believed = theirs[..., 4:5].sigmoid()
        apart = ours.sigmoid() - theirs.sigmoid()
        torch.testing.assert_close(slope[..., 4:5], apart[..., 4:5])
        torch.testing.assert_close(slope[..., 5:], apart[..., 5:] * believed)
        torch.testing.assert_close(slope[..., :4], 2 * (ours - theirs)[..., :4] * believed)


def test_a_batch_is_the_mean_of_its_pictures():
    raws, goals, heads = make_raws(3), make_raws(3, seed=1), make_heads()
    singles = [
        head_distance([raw[i : i + 1] for raw in raws], [goal[i : i + 1] for goal in goals], heads) for i in range(3)
    ]
    torch.testing.assert_close(head_distance(raws, goals, heads), torch.stack(singles).mean())


def test_probabilities_are_compared_as_their_logits_are():
    raws, goals = ([raw.detach() for raw in make_raws(2, seed=seed)] for seed in (0, 1))
    for raw, goal in zip(raws, goals):
        slices(raw)[..., :4] = slices(goal)[..., :4]
    plain = head_distance(raws, goals, make_heads())
    activated = ([values.sigmoid() for values in side] for side in (raws, goals))
    torch.testing.assert_close(head_distance(*activated, make_heads(new_coords=True)), plain)


@pytest.mark.parametrize("new_coords, unsure, sure, times", [(False, -100.0, 100.0, 1), (True, 0.0, 1.0, 16)])
def test_boxes_count_where_the_teacher_sees_an_object(new_coords, unsure, sure, times):
    heads = make_heads(new_coords=new_coords)[:1]
    goal = torch.zeros(1, 16, 3, 4)
    slices(goal)[..., 4] = unsure
    slices(goal)[0, 1, 2, 3, 4] = sure
    raw = goal.clone()
    slices(raw)[..., :4] += torch.tensor([0.1, 0.2, 0.3, 0.4])
    expected = times * (0.01 + 0.04 + 0.09 + 0.16)
    assert head_distance([raw], [goal], heads).item() == pytest.approx(expected, rel=1e-4)


def test_half_precision_is_compared_in_float32():
    raws, goals = ([raw.detach().bfloat16() for raw in make_raws(2, seed=seed)] for seed in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = head_distance(raws, goals, make_heads())
    expected = head_distance([raw.float() for raw in raws], [goal.float() for goal in goals], make_heads())
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_the_normalizers_of_a_section_are_in_it():
    raws, goals = make_raws(1), make_raws(1, seed=1)

    def of(**settings):
        return head_distance(raws, goals, [dataclasses.replace(head, **settings) for head in make_heads()]).item()

    none = of(obj_normalizer=0.0)
    assert of() > none > 0, "classes and boxes count as well"
    assert of(obj_normalizer=2.0) - none == pytest.approx(2 * (of() - none), rel=1e-3)
    assert of(delta_normalizer=0.5) == pytest.approx(of() / 2)


def test_heads_that_are_not_those_of_the_sections_are_refused():
    raws = make_raws(1)
    with pytest.raises(ValueError):
        head_distance(raws[:1], raws[:1], make_heads())
    with pytest.raises(ValueError, match="is \\(B, 16, h, w\\)"):
        head_distance([raw[:, :8] for raw in raws], raws, make_heads())
