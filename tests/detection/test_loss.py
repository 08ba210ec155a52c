"""The loss against a loop that is written from Darknet's source, and as something that is minimised."""

import dataclasses
import math

import pytest
import torch
import torchvision
from heads import ANCHORS, CLASSES, SIZE, make_heads, make_raws
from scenes import overlap as iou

from detect_prune.detection import YoloLoss, detect
from detect_prune.detection import loss as loss_module

# A large one, a small one, two that share a cell and an anchor, one at the border, and a picture without any.
TARGETS = torch.tensor(
    [
        [0, 0, 10, 12, 95, 90],
        [0, 1, 30, 30, 41, 43],
        [0, 2, 31, 31, 42, 46],
        [2, 1, 100, 70, 128, 96],
        [2, 2, 0, 0, 20, 30],
        [2, 0, 127, 95, 128, 96],
    ],
    dtype=torch.float32,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(p: float, y: float) -> float:
    return -y * math.log(p) - (1 - y) * math.log(1 - p)


def corners(box: list[float]) -> list[float]:
    return [box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2]


def similarity_loss(box: list[float], truth: list[float], kind: str) -> tuple[float, list[float]]:
    """One minus the similarity of two cxcywh boxes and its derivative by the first, by torchvision."""
    centre = torch.tensor(box, dtype=torch.float64, requires_grad=True)
    low, high = centre[:2] - centre[2:] / 2, centre[:2] + centre[2:] / 2
    a, b = torch.cat([low, high])[None], torch.tensor([corners(truth)], dtype=torch.float64)
    if kind == "iou":
        value = 1 - torchvision.ops.box_iou(a, b).sum()
    else:
        name = {"giou": "generalized", "diou": "distance", "ciou": "complete"}[kind]
        value = getattr(torchvision.ops, f"{name}_box_iou_loss")(a, b, reduction="sum")
    value.backward()
    return value.item(), centre.grad.tolist()


def loop_loss(raws, targets, heads):
    """Parts of the loss and its gradient by the raw tensors: one prediction, one truth, one number at a time."""
    batch = raws[0].shape[0]
    parts = dict.fromkeys(("box", "objectness", "class"), 0.0)
    gradients = [torch.zeros(raw.shape) for raw in raws]
    for raw, head, gradient in zip(raws, heads, gradients):
        height, width = raw.shape[2:]
        k = head.delta_normalizer / batch
        for picture in range(batch):
            truths = []
            for row in targets.tolist():
                if row[0] == picture:
                    x1, y1, x2, y2 = row[2] / SIZE[0], row[3] / SIZE[1], row[4] / SIZE[0], row[5] / SIZE[1]
                    truths.append(([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], int(row[1])))
            for a, anchor in enumerate(head.anchors):
                aw, ah = anchor[0] / SIZE[0], anchor[1] / SIZE[1]
                for j in range(height):
                    for i in range(width):
                        out = raw[picture, a * 8 : a * 8 + 8, j, i].tolist()
                        grad = gradient[picture, a * 8 : a * 8 + 8, j, i]
                        p = out[4:] if head.new_coords else [sigmoid(v) for v in out[4:]]
                        # By the logit the derivative of the entropy is p - y; by the probability there is a divisor.
                        divisor = [v * (1 - v) if head.new_coords else 1 for v in p]
                        offset = out[:2] if head.new_coords else [sigmoid(v) for v in out[:2]]
                        x, y = (v * head.scale_x_y - (head.scale_x_y - 1) / 2 for v in offset)
                        if head.new_coords:
                            w, h = 4 * out[2] ** 2 * aw, 4 * out[3] ** 2 * ah
                        else:
                            w, h = math.exp(out[2]) * aw, math.exp(out[3]) * ah
                        box = [(x + i) / width, (y + j) / height, w, h]
                        overlaps = [iou(corners(box), corners(truth)) for truth, _ in truths]
                        best = max(overlaps, default=0)
                        mine = []
                        for truth, label in truths:
                            if (int(truth[0] * width), int(truth[1] * height)) != (i, j):
                                continue
                            shapes = [
                                iou(corners([0, 0, bw / SIZE[0], bh / SIZE[1]]), corners([0, 0, *truth[2:]]))
                                for bw, bh in ANCHORS
                            ]
                            n = head.mask[a]
                            if shapes.index(max(shapes)) == n or (head.iou_thresh < 1 and shapes[n] > head.iou_thresh):
                                mine.append((truth, label))
                        if best > head.truth_thresh:
                            mine.append(truths[overlaps.index(best)])
                        goal, counts = (1.0, True) if mine else (0.0, True)
                        if best > head.ignore_thresh and max(p[1:]) > 0.25:
                            if head.objectness_smooth:
                                goal = best
                            else:
                                counts = bool(mine)
                        if counts:
                            parts["objectness"] += k * head.obj_normalizer * entropy(p[0], goal)
                            grad[4] = k * head.obj_normalizer * (p[0] - goal) / divisor[0]
                        for truth, _ in mine:
                            share = k * head.iou_normalizer / len(mine)
                            if head.iou_loss == "mse":
                                tw, th = truth[2] / aw, truth[3] / ah
                                shape = [math.sqrt(v / 4) if head.new_coords else math.log(v) for v in (tw, th)]
                                goals = [truth[0] * width - i, truth[1] * height - j, *shape]
                                weight = 2 - truth[2] * truth[3]
                                delta = [weight * (v - g) for v, g in zip([x, y, out[2], out[3]], goals)]
                                value = sum(weight * (v - g) ** 2 / 2 for v, g in zip([x, y, out[2], out[3]], goals))
                            else:
                                value, delta = similarity_loss(box, truth, head.iou_loss)
                                if not head.new_coords:
                                    delta[2], delta[3] = delta[2] * math.exp(out[2]), delta[3] * math.exp(out[3])
                                if head.max_delta:
                                    most = head.max_delta / head.iou_normalizer
                                    delta = [min(max(v, -most), most) for v in delta]
                            parts["box"] += share * value
                            grad[:4] += share * torch.tensor(delta)
                        if mine:
                            labels = {label for _, label in mine}
                            for c in range(CLASSES):
                                hard = float(c in labels)
                                soft = hard * (1 - head.label_smooth_eps) + head.label_smooth_eps / 2
                                weight = k
                                if head.focal_loss:
                                    pt = min(p[1 + label] for label in labels)
                                    soft = hard
                                    weight *= -0.5 * (1 - pt) * (2 * pt * math.log(pt) + pt - 1)
                                parts["class"] += weight * entropy(p[1 + c], soft)
                                grad[5 + c] = weight * (p[1 + c] - soft) / divisor[1 + c]
    return parts, gradients


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"iou_loss": "mse"},
        {"iou_loss": "mse", "new_coords": True, "scale_x_y": 2.0},
        {"iou_loss": "iou", "iou_thresh": 0.3},
        {"iou_loss": "giou", "iou_thresh": 0.2, "label_smooth_eps": 0.1},
        {"iou_loss": "diou", "max_delta": 0.2, "delta_normalizer": 0.5},
        {"new_coords": True, "scale_x_y": 2.0, "iou_thresh": 0.2, "max_delta": 0.3},
        {"ignore_thresh": 0.1, "obj_normalizer": 4.0},
        {"ignore_thresh": 0.1, "objectness_smooth": True},
        {"truth_thresh": 0.3, "focal_loss": True, "label_smooth_eps": 0.1},
    ],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_terms_and_gradients_equal_the_loop(settings):
    heads = make_heads(**settings)
    raws = make_raws(3, heads[0].new_coords)
    loss, parts = YoloLoss(heads)(raws, TARGETS, SIZE)
    loss.backward()
    expected, gradients = loop_loss([raw.detach() for raw in raws], TARGETS, heads)
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value, rel=1e-4), name
    assert loss.item() == pytest.approx(sum(expected.values()), rel=1e-4)
    for raw, gradient in zip(raws, gradients):
        torch.testing.assert_close(raw.grad, gradient, rtol=2e-3, atol=2e-6)


def test_parts_are_detached_and_add_up():
    loss, parts = YoloLoss(make_heads())(make_raws(3), TARGETS, SIZE)
    assert loss.requires_grad and not any(part.requires_grad for part in parts.values())
    torch.testing.assert_close(sum(parts.values()), loss.detach())


def test_a_batch_is_the_mean_of_its_pictures():
    heads = make_heads(iou_thresh=0.2, ignore_thresh=0.3)
    raws = make_raws(3)
    whole, _ = YoloLoss(heads)(raws, TARGETS, SIZE)
    singles = []
    for picture in range(3):
        targets = TARGETS[TARGETS[:, 0] == picture].clone()
        targets[:, 0] = 0
        singles.append(YoloLoss(heads)([raw[picture : picture + 1] for raw in raws], targets, SIZE)[0])
    torch.testing.assert_close(whole, sum(singles) / 3)


def test_the_order_of_targets_does_not_matter():
    heads = make_heads(iou_thresh=0.2, truth_thresh=0.3)
    raws = make_raws(3)
    loss = YoloLoss(heads)
    torch.testing.assert_close(loss(raws, TARGETS, SIZE)[0], loss(raws, TARGETS.flip(0), SIZE)[0])


def test_without_targets_every_objectness_is_pushed_down():
    raws = make_raws(2)
    loss, parts = YoloLoss(make_heads())(raws, torch.zeros(0, 6), SIZE)
    loss.backward()
    assert parts["box"] == parts["class"] == 0
    for raw in raws:
        gradient = raw.grad.unflatten(1, (2, 8))
        assert (gradient[:, :, 4] > 0).all()
        assert gradient[:, :, :4].count_nonzero() == gradient[:, :, 5:].count_nonzero() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [-1e4, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("kind", ["ciou", "giou", "iou", "mse"])
def test_extreme_logits_stay_finite(value, dtype, kind):
    raws = [torch.full(raw.shape, value, dtype=dtype, requires_grad=True) for raw in make_raws(3)]
    loss, _ = YoloLoss(make_heads(iou_loss=kind, iou_thresh=0.2))(raws, TARGETS, SIZE)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(raw.grad.dtype == dtype and raw.grad.isfinite().all() for raw in raws)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_saturated_probabilities_stay_finite(value):
    raws = [torch.full(raw.shape, value, requires_grad=True) for raw in make_raws(3)]
    loss, _ = YoloLoss(make_heads(new_coords=True))(raws, TARGETS, SIZE)
    loss.backward()
    assert loss.isfinite() and all(raw.grad.isfinite().all() for raw in raws)


@pytest.mark.parametrize(
    "settings",
    [{}, {"iou_loss": "mse"}, {"iou_loss": "giou", "iou_thresh": 0.3}, {"new_coords": True, "scale_x_y": 2.0}],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_descent_finds_the_truth(settings):
    """Gradient descent on the heads of one picture ends at (nearly) no loss, and what is decoded then is the truth."""
    heads = make_heads(**settings)
    logits = [torch.zeros(1, *raw.shape[1:], requires_grad=True) for raw in make_raws(1)]
    targets = torch.tensor([[0, 0, 10.0, 12, 95, 90], [0, 1, 30, 30, 41, 43], [0, 2, 100, 60, 128, 96]])
    optimizer = torch.optim.Adam(logits, lr=0.8)
    steps = 100
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.8 * (1 - step / steps)
        raws = [logit.sigmoid() for logit in logits] if heads[0].new_coords else logits
        loss, parts = YoloLoss(heads)(raws, targets, SIZE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert parts["box"] < 0.01 and loss < 0.5
    (found,) = detect(raws, heads, SIZE, score_threshold=0.5)
    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1, 2]
    torch.testing.assert_close(found.boxes[order].detach(), targets[:, 2:], rtol=0, atol=1.5)


def test_a_truth_on_the_far_border_trains_the_last_cell():
    heads = make_heads()
    raws = make_raws(1)
    targets = torch.tensor([[0, 1, 128.0, 96.0, 128.0, 96.0], [0, 1, 127.9, 95.9, 128.0, 96.0]])
    loss, _ = YoloLoss(heads)(raws, targets, SIZE)
    loss.backward()
    touched = raws[1].grad.unflatten(1, (2, 8))[0, :, 5].nonzero()
    assert touched.tolist() == [[0, 5, 7]]


def test_an_unknown_iou_loss_is_refused():
    with pytest.raises(ValueError, match="siou"):
        YoloLoss([dataclasses.replace(make_heads()[0], iou_loss="siou")])


def test_many_truths_are_compared_in_parts(monkeypatch):
    """As in any large batch: at 416 x 416 and 64 pictures six truths of a picture are as many as fit at a time."""
    heads, results = make_heads(ignore_thresh=0.1, truth_thresh=0.3), []
    for pairs in (loss_module._PAIRS_AT_ONCE, 1):
        monkeypatch.setattr(loss_module, "_PAIRS_AT_ONCE", pairs)
        raws = make_raws(3)
        loss, _ = YoloLoss(heads)(raws, TARGETS, SIZE)
        loss.backward()
        results.append([loss.detach(), *(raw.grad for raw in raws)])
    torch.testing.assert_close(*results)
