"""The section with the learning curves of one or several runs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fcgpu.report import plots
from fcgpu.report.page import Markup, element, figure, join
from fcgpu.report.plots import KINDS
from fcgpu.report.runs import RunFiles
from fcgpu.report.svg import COLOURS

AGAINST = {"epoch": "epochs", "seconds": "seconds of training"}
DRAWN = {"loss": plots.losses, "accuracy": plots.accuracies}


def section(runs: Sequence[RunFiles], names: Sequence[Markup]) -> Iterator[Markup]:
    """Loss and accuracy against epochs and seconds. With one run each kind of curve has a colour, else each run has."""
    drawn: list[Markup] = []
    kinds = set()
    for what, draw in DRAWN.items():
        for x, words in AGAINST.items():
            lines = []
            for number, run in enumerate(runs):
                for kind, y in _series(run, what).items():
                    shown = np.isfinite(run.history[x]) & np.isfinite(y) & (run.history[x] >= 0)
                    if shown.any():
                        colour = number if len(runs) > 1 else KINDS.index(kind)
                        dashed = len(runs) > 1 and kind == "training"
                        lines.append(plots.Line(run.history[x][shown], y[shown], colour, dashed))
                        kinds.add(kind)
            if lines:
                drawn.append(figure(draw(lines, words), f"{what} against {words}", caption=False))
    yield element("h2", "Learning curves")
    if not drawn:
        yield element("p", "There is no history to draw.")
        return
    legend = _legend([kind for kind in KINDS if kind in kinds], names)
    yield element("ul", *(element("li", item) for item in legend), class_="legend")
    yield element("div", *drawn, class_="plots")
    yield element(
        "p",
        "Training figures are measured while an epoch runs, before each update, lbfgs's after it; test and validation "
        "figures after the epoch. The loss is without the regulariser.",
        " The axis of the accuracy is stretched towards 100\u00a0%." if len(drawn) > len(AGAINST) else "",
        class_="note",
    )


def swatch(number: int) -> Markup:
    return element("span", class_="swatch", style=f"border-color: var(--c{number % len(COLOURS)})")


def _legend(kinds: Sequence[str], names: Sequence[Markup]) -> Iterator[Markup]:
    if len(names) == 1:
        yield from (join((swatch(KINDS.index(kind)), kind)) for kind in kinds)
        return
    yield from names
    if len(kinds) > 1:
        yield join(("dotted: training; solid: ", " and ".join(kinds[1:])))


def _series(run: RunFiles, what: str) -> dict[str, Any]:
    history = run.history
    if what == "accuracy":
        return {"training": history["accuracy"], "test": history["test_accuracy"]}
    found = {"training": history["loss"] - np.nan_to_num(history["penalty"]), "test": history["test_loss"]}
    return found | ({"validation": history["monitored"]} if run.recipe.early_stopping else {})
