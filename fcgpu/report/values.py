"""Sections about a model without classes: predictions against targets or, for multilabel targets, figures per label."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fcgpu.model import r2_of, weighted_sum
from fcgpu.report import plots
from fcgpu.report.classes import feature_words
from fcgpu.report.facts import percent
from fcgpu.report.judged import Judged
from fcgpu.report.page import Markup, element, figure, table
from fcgpu.report.runs import LARGEST

MOST_PLOTS = 4  # outputs that are plotted
MOST_ROWS = 50  # outputs that are listed
WORST = 12


def sections(judged: Judged) -> Iterator[Markup]:
    if judged.model.spec.output == "sigmoid" and np.isin(judged.y, (0, 1)).all():
        yield from _labels(judged)
    else:
        yield from _values(judged)


def _labels(judged: Judged) -> Iterator[Markup]:
    y, said = judged.y == 1, judged.predicted >= 0.5
    yield element("h2", "Label by label")
    yield element(
        "p",
        f"{percent(np.mean((y == said).all(axis=1)))} of the {len(y):,} {judged.split} samples have every label right. "
        "A label is given where its probability is at least one half.",
    )
    both, has, given = (y & said).sum(axis=0), y.sum(axis=0), said.sum(axis=0)
    rows = [
        (f"label {j}", f"{has[j]:,}", f"{given[j]:,}", _share(both[j], has[j]), _share(both[j], given[j]),
         percent(np.mean(y[:, j] == said[:, j])))
        for j in range(min(y.shape[1], MOST_ROWS))
    ]  # fmt: skip
    yield table(("", "samples that have it", "given to", "found", "rightly given", "right in all"), rows, "numbers")
    if y.shape[1] > MOST_ROWS:
        yield element("p", f"The other {y.shape[1] - MOST_ROWS} labels are left out.", class_="note")


def _values(judged: Judged) -> Iterator[Markup]:
    y, P = judged.y, judged.predicted.astype(np.float64)
    yield element("h2", "Predicted and actual")
    yield element("p", f"On the {len(y):,} {judged.split} samples.")
    errors, shares = P - y, np.full(len(y), 1 / len(y))
    r2 = r2_of(y, weighted_sum(shares, errors**2), shares)
    rows = []
    for j in range(min(y.shape[1], MOST_ROWS)):
        fit = f"{r2[j]:.4f}" if np.ptp(y[:, j]) else "targets are all equal"
        root = np.sqrt(np.mean(errors[:, j] ** 2))
        rows.append((f"output {j}", fit, f"{root:.4g}", f"{np.mean(np.abs(errors[:, j])):.4g}"))
    yield table(("", "R²", "root of the mean squared error", "mean absolute error"), rows, "numbers")
    drawn: list[Markup] = []
    small = np.flatnonzero(np.maximum(np.abs(y), np.abs(P)).max(axis=0) < LARGEST)
    for j in small[:MOST_PLOTS]:
        words = f" of output {j}" if y.shape[1] > 1 else ""
        some = f"{min(len(y), plots.SCATTERED):,} samples" if len(y) > plots.SCATTERED else "every sample"
        drawn += [
            figure(plots.scatter(y[:, j], P[:, j], judged.seed), f"Predicted against actual values{words}: {some}."),
            figure(plots.histogram(errors[:, j]), f"Errors{words}; the outermost bars have the extreme ones."),
        ]
    yield element("div", *drawn, class_="plots")
    worst = np.argsort(-np.abs(errors).max(axis=1), kind="stable")[:WORST]
    yield element("h2", "The worst mistakes")
    rows = [
        (f"{i:,}", _numbers(P[i]), _numbers(y[i]), features)
        for i, features in zip(worst, feature_words(judged.X[worst]), strict=True)
    ]
    yield table(("sample", "predicted", "actual", "features"), rows)


def _share(part: Any, whole: Any) -> str:
    return percent(part / whole) if whole else "none"


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:MOST_PLOTS]) + (", \u2026" if len(values) > MOST_PLOTS else "")
