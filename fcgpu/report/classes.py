"""Sections about a classifier: confusion matrix, worst mistakes, and random samples."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fcgpu.model import confusion
from fcgpu.report import pictures
from fcgpu.report.judged import Judged
from fcgpu.report.page import Markup, element, join, table

MOST_CLASSES = 25  # no confusion matrix is shown for more classes
WORST, DRAWN, FREQUENT = 24, 60, 12
DRAWN_ROWS = 20  # random samples that are shown if they are not pictures
FEATURES = 6  # features that are shown of a sample that is not a picture


def sections(judged: Judged) -> Iterator[Markup]:
    k, y, wrong = judged.n_classes, judged.y, len(judged.wrong)
    yield element("h2", "Which classes it takes for which")
    yield element(
        "p",
        f"{wrong:,} of {len(y):,} {judged.split} samples are answered wrongly. ",
        "Each row holds the samples of one class; the diagonal counts those that were recognised."
        if k <= MOST_CLASSES
        else f"With {k:,} classes only the most frequent mistakes are listed.",
    )
    beside = [_matrix(judged)] if k <= MOST_CLASSES else []
    yield element("div", *beside, *_frequent(judged), class_="beside")
    if wrong:
        yield element("h2", "The worst mistakes")
        yield element(
            "p",
            "The samples whose own class was given the least probability. Each is shown with what was predicted, what "
            "it is, and the probability of both; the number is its place among the ",
            f"{judged.split} samples, from 0.",
        )
        yield _shown(judged, judged.wrong[:WORST], "mistakes")
    seed = judged.seed
    drawn = np.random.default_rng(seed).permutation(len(y))[: DRAWN if judged.model.image_shape else DRAWN_ROWS]
    yield element("h2", "Drawn by lot")
    yield element(
        "p", f"{len(drawn)} of the {judged.split} samples, drawn with seed {seed}: what was predicted, and how surely."
    )
    yield _shown(judged, drawn, "small")


def _matrix(judged: Judged) -> Markup:
    k = judged.n_classes
    counts = confusion(judged.y, judged.predicted, k)
    per_class = counts.sum(axis=1)
    share = counts / np.maximum(per_class, 1)[:, None]
    missed = share * (1 - np.eye(len(share)))
    strongest = missed.max() or 1.0
    labels = [judged.label(i) for i in range(k)]
    tops = (element("th", label, scope="col", title=label) for label in labels)
    above = element("tr", element("td"), element("th", "predicted", colspan=k))
    head = element("tr", element("th", "actual"), *tops, element("th", "recognised", class_="rate"))
    rows = []
    for i, label in enumerate(labels):
        cells = [
            _cell(count, share[i, j] if i == j else share[i, j] / strongest, hit=i == j)
            for j, count in enumerate(counts[i])
        ]
        rate = element("td", f"{100 * share[i, i]:.1f}\u00a0%" if per_class[i] else "none", class_="rate")
        rows.append(element("tr", element("th", label, scope="row", title=label), *cells, rate))
    inner = element("table", element("thead", above, head), element("tbody", *rows), class_="confusion")
    return element("div", inner, class_="wide", tabindex="0")


def _cell(count: Any, strength: float, *, hit: bool) -> Markup:
    if not count:
        return element("td", "0", class_="none")
    return element("td", f"{count:,}", class_="hit" if hit else "miss", style=f"--share: {10 + 50 * strength:.0f}%")


def _frequent(judged: Judged) -> Iterator[Markup]:
    """A table of the most frequent mistakes, if there are any."""
    pairs = np.column_stack([judged.y, judged.predicted])[judged.wrong]
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    rows = [
        (f"{judged.label(actual)} taken for {judged.label(said)}", f"{count:,}")
        for (actual, said), count in sorted(zip(kinds, counts, strict=True), key=lambda pair: -pair[1])[:FREQUENT]
    ]
    if rows:
        yield element("div", element("h3", "Most often"), table((), rows, "numbers"))


def _shown(judged: Judged, chosen: Any, class_: str) -> Markup:
    """The samples with these indices: as pictures if they are pictures, else as rows of a table."""
    columns = (part[chosen] for part in (judged.predicted, judged.sure, judged.y, judged.own))
    facts = [
        (int(i), judged.label(p), _percent(sure), judged.label(a), _percent(own), p == a)
        for i, p, sure, a, own in zip(chosen, *columns, strict=True)
    ]
    if judged.model.image_shape is None:
        head = ("sample", "predicted", "probability", "is", "probability", "features")
        rows = [
            (f"{i:,}", p, sure, a, own, features)
            for (i, p, sure, a, own, _), features in zip(facts, feature_words(judged.X[chosen]), strict=True)
        ]
        return table(head, rows)
    names = [f"sample {i}: predicted {p}, is {a}" for i, p, _, a, _, _ in facts]
    images = pictures.samples(judged.data, judged.model.image_shape, judged.X[chosen], names)
    cards = []
    for image, (i, p, sure, a, own, right) in zip(images, facts, strict=True):
        words = [element("b", p, title=p), f" {sure}"]
        if not right:
            words += [element("br"), f"is {a}, {own}" if class_ == "mistakes" else f"is {a}"]
        if class_ == "mistakes":
            words += [element("br"), f"number {i}"]
        cards.append(element("figure", image, element("figcaption", *words), class_=None if right else "wrong"))
    return element("div", join(cards), class_=f"sheet {class_}")


def feature_words(X: Any) -> list[str]:
    """The first features of each row, as text."""
    more = "" if X.shape[1] <= FEATURES else ", \u2026"
    return [", ".join(f"{value:.4g}" for value in row[:FEATURES]) + more for row in X]


def _percent(p: float) -> str:
    """A probability in percent, shown as 0 % or 100 % only if it is exactly that."""
    if 0.995 <= p < 1 or 0 < p <= 0.005:
        return ">99\u00a0%" if p > 0.5 else "<1\u00a0%"
    return f"{100 * p:.0f}\u00a0%"
