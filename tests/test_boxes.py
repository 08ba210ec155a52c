"""Boxes against torchvision's functions, closed forms and properties."""

import pytest
import torch
import torchvision

from detect_prune import boxes as B


def random_boxes(n: int, seed: int = 0, size: float = 100.0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=draw, dtype=torch.float64) * size
    return torch.cat([low, low + torch.rand(n, 2, generator=draw, dtype=torch.float64) * size / 2 + 0.01], 1)


def test_conversions_round_trip():
    boxes = random_boxes(50)
    torch.testing.assert_close(B.cxcywh_to_xyxy(B.xyxy_to_cxcywh(boxes)), boxes)
    assert B.xyxy_to_cxcywh(torch.tensor([[2.0, 4.0, 6.0, 10.0]])).tolist() == [[4, 7, 4, 6]]


def test_area_of_a_box_turned_inside_out_is_zero():
    assert B.box_areas(torch.tensor([[0.0, 0.0, 2.0, 3.0], [2.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 5.0]])).tolist() == [
        6,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("iou", torchvision.ops.box_iou),
        ("giou", torchvision.ops.generalized_box_iou),
        ("diou", torchvision.ops.distance_box_iou),
        ("ciou", torchvision.ops.complete_box_iou),
    ],
)
def test_similarities_equal_torchvision(kind, oracle):
    a, b = random_boxes(40, 1), random_boxes(30, 2)
    torch.testing.assert_close(B.box_similarity(a[:, None], b[None], kind), oracle(a, b), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_similarity_is_one_for_equal_boxes_and_less_for_others(kind):
    a, b = random_boxes(20, 3), random_boxes(20, 4)
    torch.testing.assert_close(B.box_similarity(a, a, kind), torch.ones(20, dtype=torch.float64))
    assert (B.box_similarity(a, b, kind) < 1).all()


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_similarity_and_its_gradient_are_finite_for_degenerate_boxes(kind):
    boxes = torch.tensor([[0.0, 0, 0, 0], [5, 5, 5, 9], [0, 0, 1e9, 1e9], [3, 3, 1, 1], [0, 0, 1e-8, 1e-8]])
    a = boxes.repeat_interleave(5, 0).requires_grad_()
    value = B.box_similarity(a, boxes.repeat(5, 1), kind)
    value.sum().backward()
    assert value.isfinite().all() and a.grad.isfinite().all()


def test_ciou_gradient_is_that_of_the_paper_where_alpha_is_a_constant():
    a, b = random_boxes(8, 5).requires_grad_(), random_boxes(8, 6)
    torch.testing.assert_close(
        torch.autograd.grad(B.box_similarity(a, b, "ciou").sum(), a)[0],
        torch.autograd.grad(-torchvision.ops.complete_box_iou_loss(a, b, reduction="sum"), a)[0],
        rtol=1e-4,
        atol=1e-7,
    )


def test_iou_of_boxes_without_area_is_zero_and_transposed_boxes_give_the_same():
    point = torch.zeros(1, 4)
    assert B.pairwise_iou(point, point).item() == 0
    a, b = random_boxes(9, 7), random_boxes(9, 8)
    torch.testing.assert_close(B.pairwise_iou(a.t().contiguous().t(), b), B.pairwise_iou(a, b))


def test_centre_distance_by_hand():
    a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[2.0, 2.0, 4.0, 4.0]])
    assert B.centre_distance(a, b).item() == pytest.approx(8 / 32)
    assert B.enclosing_size(a, b).tolist() == [[4, 4]]


def test_unknown_similarity_is_refused():
    with pytest.raises(ValueError, match="siou"):
        B.box_similarity(torch.zeros(1, 4), torch.zeros(1, 4), "siou")
