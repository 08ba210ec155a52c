import cv2
import numpy as np
import pytest

from detect_prune.report import plots
from detect_prune.report.plots import (
    _running_mean,
    accuracy_over_ratio,
    history,
    kept_over_depth,
    kept_over_ratio,
    kept_per_layer,
)


@pytest.mark.parametrize("layers", [1, 4, 110])
def test_kept_per_layer_is_a_picture_that_grows_with_the_network(tmp_path, layers):
    kept = {f"layers.{i}.conv.weight": (1 + i * 7 % 100, 100) for i in range(layers)}
    kept_per_layer(kept, tmp_path / "kept.png", "Weights kept")
    picture = cv2.imread(str(tmp_path / "kept.png"))
    assert 800 <= picture.shape[1] <= 1200
    assert picture.shape[0] >= max(150, 15 * layers), "at least 15 pixels a layer: its name can be read"
    assert picture.shape[0] <= 400 + 40 * layers
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3


def test_bars_are_as_long_as_the_shares(tmp_path):
    kept_per_layer({"full": (10, 10), "half": (5, 10)}, tmp_path / "kept.png", "")
    picture = cv2.imread(str(tmp_path / "kept.png"))[..., ::-1].astype(int)
    blue, rest = ((np.abs(picture - colour).sum(2) < 20).sum(1) for colour in ([0x3B, 0x75, 0xAF], [0xE3, 0xE8, 0xEE]))
    full, half = blue > 0.9 * blue.max(), (blue > 0.4 * blue.max()) & (blue < 0.6 * blue.max())
    assert full.sum() > 10 and half.sum() > 10
    assert (rest[full] < 0.02 * blue.max()).all(), "a full layer fills its bar"
    np.testing.assert_allclose(rest[half][3:-3], blue[half][3:-3], rtol=0.05)


@pytest.mark.parametrize("best", [0.994, 1.0])
def test_a_method_that_fails_leaves_the_others_apart(tmp_path, best):
    curves = {name: [(0.9, [top]), (0.95, [top])] for name, top in (("a", best), ("b", 0.98), ("c", 0.2))}
    accuracy_over_ratio(curves, tmp_path / "curve.png", "", "accuracy")
    picture = cv2.imread(str(tmp_path / "curve.png"))[..., ::-1].astype(int)
    left = picture[:, : picture.shape[1] // 2]  # the legend's lines are short
    rows = []
    for colour in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00], [0x00, 0x9E, 0x73]):
        of_colour = (np.abs(left - colour).sum(2) < 20).sum(1)
        rows.append(int(of_colour.argmax()))
        assert of_colour.max() > 200
    assert rows[0] + 60 < rows[1] < rows[2] - 60


def test_near_100_percent_lines_stay_apart_and_in_the_frame(tmp_path):
    curves = {"a": [(0.9, [1.0]), (0.95, [1.0])], "b": [(0.9, [0.9996]), (0.95, [0.9996])], "c": [(0.9, [0.2])]}
    accuracy_over_ratio(curves, tmp_path / "curve.png", "", "accuracy")
    picture = cv2.imread(str(tmp_path / "curve.png"))[..., ::-1].astype(int)
    first, second = (
        np.flatnonzero((np.abs(picture - colour).sum(2) < 20).sum(1) > 200)
        for colour in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00])
    )
    assert first.max() + 5 < second.min()
    axis = np.flatnonzero((picture[:, :200] < 60).all(2).sum(0) > 300)[0]  # its line is as high as the frame
    assert np.flatnonzero((picture[:, axis] < 60).all(1))[0] + 10 < first.min()


def records(phases):
    step = 0
    for phase, steps in phases:
        for i in range(steps):
            step += 10
            record = {"step": step, "phase": phase, "loss": 1 + 5 / step, "lr": 0.1}
            if phase == "admm":
                record |= {"primal residual": 0.5 / (i + 1), "dual residual": 0.2 / (i + 1)}
            if i == steps - 1:
                record |= {"AP": 0.2, "AP50": 0.4, "AP50 of cat": 0.3}
            yield record


def test_history_has_a_panel_for_each_kind_that_occurs(tmp_path):
    dense, all_phases = (list(records(phases)) for phases in ([("dense", 50)], [("dense", 50), ("admm", 100)]))
    heights = []
    for curves, scores in ((dense, ("F1",)), (dense, ("AP", "AP50")), (all_phases, ("AP", "AP50"))):
        history(curves, tmp_path / "history.png", "run", scores)
        heights.append(cv2.imread(str(tmp_path / "history.png")).shape[0])
    assert np.diff(heights) == pytest.approx(2.3 * 110, abs=3)


def test_history_with_a_single_record_and_a_zero_residual(tmp_path):
    record = {"step": 0, "phase": "admm", "primal residual": 0.0, "loss": float("nan")}
    history([record], tmp_path / "one.png", "run", ())
    assert cv2.imread(str(tmp_path / "one.png")) is not None


def test_networks_of_any_depth_share_a_plot(tmp_path):
    kept_over_depth({"one layer": [1.0], "three": [4.0, 1.0, 0.25]}, tmp_path / "depth.png", "Kept")
    assert cv2.imread(str(tmp_path / "depth.png")).shape[1] > 800


def test_nothing_to_plot_is_refused(tmp_path):
    with pytest.raises(ValueError):
        history([{"step": 1, "phase": "dense", "lr": 0.1}], tmp_path / "no.png", "run", ("AP",))
    with pytest.raises(ValueError):
        kept_per_layer({}, tmp_path / "no.png", "")
    with pytest.raises(ValueError):
        kept_over_depth({}, tmp_path / "no.png", "")
    assert not list(tmp_path.iterdir())


def test_a_running_mean_keeps_a_line_and_its_ends_and_holes_stay_small():
    assert _running_mean([3.0] * 50, 4) == pytest.approx([3.0] * 50)
    rising = _running_mean(list(range(50)), 4)
    assert rising[4:-4] == pytest.approx(list(range(4, 46))) and rising[0] == pytest.approx(2.0)
    holed = _running_mean([1.0] * 20 + [float("nan")] + [1.0] * 29, 4)
    assert [place for place, value in enumerate(holed) if value != value] == list(range(16, 25))


def test_a_title_is_no_mathematics(tmp_path):
    kept_per_layer({"a": (1, 2)}, tmp_path / "a.svg", "net_$a_$")
    assert "<!-- net_$a_$ -->" in (tmp_path / "a.svg").read_text()


def test_what_the_lines_say(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure.axes[0]))
    curves = {"admm": [(0.5, [0.6, 0.8, 0.65]), (0.9, [0.3, 0.4, 0.38])], "dense-longer": [(None, [0.7, 0.9, 0.75])]}
    accuracy_over_ratio(curves, tmp_path / "a.png", "", "accuracy")
    kept_over_ratio({0.5: {"a": 0.6, "b": 0.4}, 0.9: {"a": 0.2, "b": 0.05}}, tmp_path / "a.png", "")
    kept_per_layer({"small": (10, 10), "large": (9, 90)}, tmp_path / "a.png", "")
    over_ratio, of_layers, of_a_network = drawn
    (line, level), band = over_ratio.lines, over_ratio.collections[0].get_paths()[0].vertices[:, 1]
    assert list(line.get_xdata()) == pytest.approx([50, 90]) and list(line.get_ydata()) == pytest.approx([65, 38])
    assert level.get_ydata()[0] == pytest.approx(75) and (band.min(), band.max()) == pytest.approx((30, 80))
    assert [list(line.get_ydata()) for line in of_layers.lines] == [[60, 20], [40, 5], pytest.approx([50, 10])]
    assert of_a_network.lines[0].get_xdata()[0] == pytest.approx(19), "of all weights, not the mean of the layers"
