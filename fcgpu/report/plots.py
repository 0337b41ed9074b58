"""The plots: learning curves, and values against targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from fcgpu.report.page import Markup
from fcgpu.report.svg import COLOURS, INK, styled, svg

WIDTH = 4.6  # inches
KINDS = ("training", "test", "validation")
FEW = 40  # points of a single run's curve up to which each has a marker
SCATTERED = 800  # most points of a scatter plot
DECADES = 1000  # ratio of the largest loss to the least from which only powers of ten have a label
LEAST_TICKS = 3  # of an axis of accuracy
ERRORS = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)  # ticks, as 1 - accuracy


@dataclass(frozen=True)
class Line:
    """A curve through x (n,), y (n,), all finite. `colour` is an index into COLOURS."""

    x: Any
    y: Any
    colour: int
    dashed: bool = False


@styled
def losses(lines: Sequence[Line], x: str) -> Markup:
    figure, axes = _axes(lines, x)
    values = np.concatenate([line.y for line in lines])
    _name(axes, "loss")
    if values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
        also = "25" if values.max() < DECADES * values.min() else ""
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in also else "")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return svg(figure)


@styled
def accuracies(lines: Sequence[Line], x: str) -> Markup:
    """Curves of accuracy, on an axis logarithmic in the error: from 98 to 99 % is as far as from 80 to 90 %."""
    figure, axes = _axes(lines, x)
    errors = 1 - np.clip(np.concatenate([line.y for line in lines]), 0, 1)
    least = min(0.1, errors[errors > 0].min(initial=0.1)) / 2  # where an error of 0 is drawn
    axes.set_yscale(
        "function", functions=(lambda a: -np.log(np.clip(1 - a, 0, None) + least), lambda v: 1 + least - np.exp(-v))
    )
    lowest, highest = 1 - errors.max(), 1 - errors.min()
    axes.set_ylim(max(0, lowest - 0.05), 1 - 0.8 * errors.min())
    ticks = [1 - e for e in ERRORS if lowest - 0.05 <= 1 - e <= highest and e > least]
    if len(ticks) < LEAST_TICKS and lowest < highest < 1:
        ticks = list(MaxNLocator(LEAST_TICKS + 2, prune="both").tick_values(*axes.get_ylim()))
    ticks += [1.0] if highest == 1 else []
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")
    _name(axes, "accuracy")
    return svg(figure)


@styled
def scatter(actual: Any, predicted: Any, seed: int) -> Markup:
    """Predictions (n,) against targets (n,), of at most SCATTERED samples, and the line where both are equal."""
    chosen = np.random.default_rng(seed).permutation(len(actual))[:SCATTERED]
    figure, axes = _empty(3.8)
    low, high = min(actual.min(), predicted.min()), max(actual.max(), predicted.max())
    axes.plot((low, high), (low, high), color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(actual[chosen], predicted[chosen], "o", color=COLOURS[0], markersize=3, alpha=0.55, markeredgewidth=0)
    axes.set_xlabel("actual")
    _name(axes, "predicted")
    return svg(figure)


@styled
def histogram(errors: Any) -> Markup:
    """A histogram of the errors (n,)."""
    figure, axes = _empty(3.8)
    low, high = np.quantile(errors, [0.001, 0.999])
    room = 1e-6 * max(abs(low), abs(high), 1e-6)  # so that equal errors have bars as well
    axes.hist(np.clip(errors, low, high), bins=40, range=(low - room, high + room), color=COLOURS[0], alpha=0.85)
    axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("predicted \u2212 actual")
    _name(axes, "samples")
    return svg(figure)


def _empty(height: float) -> tuple[Figure, Any]:
    """Axes at the same place in every plot, so that plots side by side are aligned."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots()
    figure.subplots_adjust(left=0.15, right=0.96, bottom=0.46 / height, top=1 - 0.32 / height)
    return figure, axes


def _name(axes: Any, words: str) -> None:
    """Write the name of the vertical axis above it, where there is room for a long one."""
    axes.set_title(words, loc="left", x=-0.06, fontsize=10)


def _axes(lines: Sequence[Line], x: str) -> tuple[Figure, Any]:
    figure, axes = _empty(3.1)
    few = FEW if len(lines) <= len(KINDS) else 1
    for line in lines:
        axes.plot(
            line.x, line.y, color=COLOURS[line.colour % len(COLOURS)], linewidth=1.7, solid_capstyle="round",
            linestyle=(0, (1, 1.2)) if line.dashed else "-", marker="o" if len(line.x) <= few else None, markersize=3.2,
        )  # fmt: skip
    axes.set_xlabel(x)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=x == "epochs"))  # labels as 0.005 fit
    return figure, axes
