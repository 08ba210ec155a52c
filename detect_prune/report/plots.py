"""Plots as PNG or SVG files. Of a run: what is left of each layer, and how loss, residuals and scores went. Of many
runs: accuracy and what is left of each layer over the removal ratio, and networks of several depths side by side."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from detect_prune.files import atomic_path
from detect_prune.report.tables import count, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 110
_BAR = "#3b75af"
_REST = "#e3e8ee"
_PHASE_COLOURS = ("#f1f4f8", "#fdf1dc", "#e6f3e6")
_LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Those of Okabe and Ito, which the colour-blind can tell apart, less yellow, which is hard to see on white."""
_MARKERS = "osD^vPX"
"""As many: lines can be told apart in black and white."""
_MANY = 200
"""A curve of so many points is drawn as the mean around each, in front of the points."""


def _figure(width: float, height: float) -> "Figure":
    # Without pyplot: no global state, no display, and the Agg canvas whatever the user's settings say.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bare(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(axes: "Axes", **options: Any) -> None:
    for text in axes.legend(frameon=False, **options).get_texts():
        text.set_parse_math(False)


def _save(figure: "Figure", path: str | Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.removeprefix("."))


def kept_per_layer(kept: Mapping[str, tuple[int, int]], path: str | Path, title: str) -> None:
    """A bar for each layer, first layer on top: the share of its weights that is kept; a line marks the whole network.

    Args:
        kept: by layer (weights kept, weights), in the network's order.
        path: the PNG file to write.

    Raises:
        ValueError: no layers.
    """
    if not kept:
        raise ValueError("no layers to plot")
    shares = [100 * left / total for left, total in kept.values()]
    overall = 100 * sum(left for left, _ in kept.values()) / sum(total for _, total in kept.values())
    # Every layer gets the same height, so that names never run into each other: a long network makes a long picture.
    row = 0.3 if len(kept) <= 20 else 0.17
    font = 9 if len(kept) <= 20 else 7
    figure = _figure(8.5, 1.1 + row * len(kept))
    axes = figure.subplots()
    rows = range(len(kept))
    axes.barh(rows, [100] * len(kept), color=_REST, height=0.8)
    axes.barh(rows, shares, color=_BAR, height=0.8)
    axes.axvline(overall, color="#d1605e", linewidth=1.2)
    axes.set_yticks(rows, kept.keys(), fontsize=font)
    axes.tick_params(axis="y", length=0)
    for index, (left, total) in enumerate(kept.values()):
        axes.text(101, index, f"{share(left / total)} of {count(total)}", va="center", fontsize=font, color="#333333")
    axes.set_xlim(0, 100)
    axes.set_ylim(len(kept) - 0.4, -0.6)
    axes.set_xlabel(f"weights kept, % of the layer (red line: the whole network, {share(overall / 100)})")
    axes.set_title(title, fontsize=11, parse_math=False)
    _bare(axes)
    _save(figure, path)


def _panel_of(name: str, scores: Collection[str]) -> str | None:
    if name == "loss" or name.startswith("loss "):
        return "loss"
    if "residual" in name:
        return "residual"
    return "score" if name in scores else None


_PANEL_LABELS = {"loss": "training loss", "residual": "relative residual", "score": "score"}


def _series(
    records: Sequence[Mapping[str, Any]], scores: Collection[str]
) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """panel -> curve -> (steps, values), in the order of first appearance."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {panel: {} for panel in _PANEL_LABELS}
    for record in records:
        for name, value in record.items():
            panel = _panel_of(name, scores)
            if panel is not None and value is not None:
                steps, values = panels[panel].setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return {panel: curves for panel, curves in panels.items() if curves}


def _running_mean(values: Sequence[float], reach: int) -> np.ndarray:
    """(n,) each value's mean with its `reach` neighbours on either side, as far as there are any; what is not finite
    spoils its neighbours and no others."""
    window = np.ones(2 * reach + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _phase_spans(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """(phase, first step, last step) of each stretch; a stretch ends where the next one begins."""
    spans: list[tuple[str, float, float]] = []
    for record in records:
        if spans and spans[-1][0] == record["phase"]:
            spans[-1] = (*spans[-1][:2], record["step"])
        else:
            if spans:
                spans[-1] = (*spans[-1][:2], record["step"])
            spans.append((record["phase"], record["step"], record["step"]))
    return spans


def history(records: Sequence[Mapping[str, Any]], path: str | Path, title: str, scores: Collection[str]) -> None:
    """Curves over the steps of a run, one panel each for loss, residuals and scores, the phases shaded behind them.

    Args:
        records: in the order of time; each has `step` (counted through all phases) and `phase` (`dense`, `admm`,
            `retrain`), and any of: `loss` or `loss ...`; names with `residual` in them; scores.
        path: the PNG file to write.
        scores: names of the scores that are drawn; with those of each size and class beside them the panel would be a
            thicket.

    Raises:
        ValueError: there is nothing to draw.
    """
    panels = _series(records, scores)
    if not panels:
        raise ValueError("no loss, residual or score among the records")
    spans = _phase_spans(records)
    figure = _figure(9, 0.9 + 2.3 * len(panels))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    first, last = spans[0][1], spans[-1][2]
    # A mere evaluation between two phases takes no steps: it gets no stretch, or neighbours could share a colour.
    spans = [span for span in spans if span[2] - span[1] > 0.005 * (last - first)]
    colours = {name: _PHASE_COLOURS[i % 3] for i, name in enumerate(dict.fromkeys(span[0] for span in spans))}
    for axes, (panel, curves) in zip(all_axes, panels.items()):
        for phase, begin, end in spans:
            axes.axvspan(begin, end, color=colours[phase], linewidth=0, zorder=0)
        for (name, (steps, values)), colour in zip(curves.items(), _LINE_COLOURS * len(curves)):
            # A curve with few points (a score at the end of each phase) shows them, or it could not be seen.
            marker = "o" if len(steps) <= 40 else None
            if len(values) >= _MANY:
                # Losses of single batches jump about and would hide each other and where they are going.
                axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.25)
                values = _running_mean(values, len(values) // 50)
            axes.plot(steps, values, color=colour, linewidth=1.3, marker=marker, markersize=3.5, label=name)
        axes.set_ylabel(_PANEL_LABELS[panel])
        drawn = [value for _, values in curves.values() for value in values]
        if panel == "residual" and all(value > 0 for value in drawn):
            axes.set_yscale("log")
        # Scores that lie close together would be one line at the top of an axis from zero.
        if panel == "score" and min(drawn) < max(drawn) / 2:
            axes.set_ylim(bottom=0)
        if len(curves) > 1 or panel == "score":
            _legend(axes, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        axes.grid(axis="y", color="#d5dae0", linewidth=0.6)
        _bare(axes)
    if last > first:
        all_axes[0].set_xlim(first, last)
    _name_phases(all_axes[0], spans, last - first)
    all_axes[-1].set_xlabel("training step")
    figure.suptitle(title, fontsize=11, parse_math=False)
    _save(figure, path)


def _name_phases(axes: "Axes", spans: list[tuple[str, float, float]], length: float) -> None:
    """Writes each phase's name above its stretch; one that is too short for its name has it left out."""
    for phase, begin, end in spans:
        if end - begin >= 0.012 * len(phase) * length:
            axes.text(
                (begin + end) / 2, 1.02, phase, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                fontsize=9, color="#444444",
            )  # fmt: skip


def accuracy_over_ratio(
    curves: Mapping[str, Sequence[tuple[float | None, Sequence[float]]]],
    path: str | Path,
    title: str,
    score: str,
    of: str = "weights",
) -> None:
    """A line a method: the median over the seeds, with a band from the least to the best; dense ones are level lines.

    Where the best are near 100 % and some method is far below, what is missing to 100 % is on a logarithmic scale.

    Args:
        curves: method -> (removal ratio, values of the seeds as fractions); the ratio is None where nothing is removed.
        path: the PNG or SVG file to write.
        score: what the values are, for the axis.
        of: what the ratio is a share of.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not curves:
        raise ValueError("no curves to draw")
    figure = _figure(8, 5)
    axes = figure.subplots()
    for (method, points), colour, marker in zip(curves.items(), _LINE_COLOURS * len(curves), _MARKERS * len(curves)):
        level = [median(values) for ratio, values in points if ratio is None]
        if level:
            axes.axhline(100 * level[0], color=colour, linewidth=1.2, linestyle="--", label=method)
        pruned = [(100 * ratio, values) for ratio, values in points if ratio is not None]
        if pruned:
            ratios = [ratio for ratio, _ in pruned]
            middle = [100 * median(values) for _, values in pruned]
            axes.plot(ratios, middle, color=colour, linewidth=1.5, marker=marker, markersize=5, label=method)
            least, best = ([100 * pick(values) for _, values in pruned] for pick in (min, max))
            axes.fill_between(ratios, least, best, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel(f"{of} removed, %")
    axes.set_ylabel(f"{score}, %")
    shown = [100 * value for points in curves.values() for _, values in points for value in values]
    if max(shown) > 95 and min(shown) < max(shown) - 10:
        _spread_the_top(axes, min(shown), max(shown))
        axes.set_ylabel(f"{score}, %, logarithmic towards 100")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.grid(color="#d5dae0", linewidth=0.6)
    _legend(axes, fontsize=9)
    _bare(axes)
    _save(figure, path)


def _spread_the_top(axes: "Axes", least: float, best: float) -> None:
    """A scale for percentages on which one that fails doesn't press those that compete into one line."""
    top = max(100.0, best + 0.1)  # 100 % itself would be infinitely far up

    def forward(percent):
        return -np.log10(np.maximum(top - percent, 1e-9))  # matplotlib asks beyond the top, too

    axes.set_yscale("function", functions=(forward, lambda height: top - 10**-height))
    ticks = (0, 20, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9)
    axes.set_yticks([tick for tick in ticks if least <= tick <= best], minor=False)
    axes.yaxis.set_major_formatter("{x:g}")


def kept_over_ratio(
    kept: Mapping[float, Mapping[str, float]], path: str | Path, title: str, of: str = "weights"
) -> None:
    """A line a layer: the share of its weights that is kept at each removal ratio, from the first layer (dark) on.

    Args:
        kept: removal ratio -> layer -> share kept, the layers in the network's order.
        path: the PNG or SVG file to write.
        of: what the ratio is a share of.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not kept:
        raise ValueError("no ratios to draw")
    from matplotlib import colormaps

    layers = list(next(iter(kept.values())))
    ratios = [100 * ratio for ratio in kept]
    figure = _figure(9, 5.5)
    axes = figure.subplots()
    colours = colormaps["viridis"]
    for number, layer in enumerate(layers):
        shares = [100 * of_layer[layer] for of_layer in kept.values()]
        colour = colours(number / max(1, len(layers) - 1))
        axes.plot(ratios, shares, color=colour, linewidth=1.2, marker="o", markersize=3, label=layer)
    if of == "weights":
        whole = [100 - ratio for ratio in ratios]
        axes.plot(ratios, whole, color="#d1605e", linewidth=1.2, linestyle="--", label="all")
    axes.set_xlabel(f"{of} removed, %")
    axes.set_ylabel("weights kept, % of the layer")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.grid(color="#d5dae0", linewidth=0.6)
    columns = -(-(len(layers) + 1) // 28)
    _legend(axes, fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=columns)
    _bare(axes)
    _save(figure, path)


def kept_over_depth(networks: Mapping[str, Sequence[float]], path: str | Path, title: str) -> None:
    """A line a network from its first layer to its last: the share kept over that of the whole network.

    Args:
        networks: name -> by layer, in the network's order, share kept of the layer / share kept of all weights.
        path: the PNG or SVG file to write.

    Raises:
        ValueError: there is nothing to draw.
    """
    if not networks:
        raise ValueError("no networks to draw")
    figure = _figure(8.5, 5)
    axes = figure.subplots()
    axes.axhline(1, color="#333333", linewidth=1, linestyle="--", label="the whole network")
    for (name, shares), colour, marker in zip(networks.items(), _LINE_COLOURS * 9, _MARKERS * 9):
        depth = [100 * number / max(1, len(shares) - 1) for number in range(len(shares))]
        size = 5 if len(shares) <= 12 else 3
        axes.plot(depth, shares, color=colour, linewidth=1.3, marker=marker, markersize=size, label=name)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x" if value >= 1 else f"1/{1 / value:g}")
    axes.set_xlabel("depth: the layer's place between the first (0) and the last (100), %")
    axes.set_ylabel("share of the layer's weights kept,\nas a multiple of the whole network's")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.grid(color="#d5dae0", linewidth=0.6)
    _legend(axes, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _bare(axes)
    _save(figure, path)
