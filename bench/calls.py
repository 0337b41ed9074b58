"""Single calls of the estimators, with as little work as a service has in a request: fcgpu and scikit-learn in turn."""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

import fcgpu
from bench.measure import interleave, measured, ratios

ROUNDS = 21
LIBRARIES = {"fcgpu": fcgpu.MLPClassifier, "scikit-learn": MLPClassifier}

Calls = dict[str, Callable[[], Any]]  # by library


def measure(rounds: int | None) -> Iterator[str]:
    """The lines of a Markdown table: for each call the medians in microseconds, and that of their ratios."""
    yield "| call | fcgpu, us | scikit-learn, us | ratio |"
    yield "| --- | --- | --- | --- |"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for title, calls in _all_calls():
            times = interleave({name: _timed(call) for name, call in calls.items()}, rounds or ROUNDS)
            ours, theirs = (measured(times[name]) for name in LIBRARIES)
            medians = " | ".join(f"{1e6 * statistics.median(seconds):,.0f}" for seconds in (ours, theirs))
            yield f"| {title} | {medians} | {statistics.median(ratios(ours, theirs)):.2f} |"


def _all_calls() -> Iterator[tuple[str, Calls]]:
    random = np.random.default_rng(0)
    for n_features, hidden, partial_fits in (
        (20, (64, 64), (10, 200)), (784, (128, 64), (10, 200)), (784, (2048, 2048), ()),
    ):  # fmt: skip
        X, y = random.normal(size=(1000, n_features)), random.integers(3, size=1000)
        network = "-".join(map(str, (n_features, *hidden, 3)))
        fitted = {name: library(hidden, max_iter=1).fit(X[:200], y[:200]) for name, library in LIBRARIES.items()}
        for n in (1, 10, 100, 1000):
            yield f"`predict`, {network}, samples: {n:,}", _each(fitted, "predict", X[:n])
        for n in partial_fits:
            yield f"`partial_fit`, {network}, samples: {n}", _each(fitted, "partial_fit", X[:n], y[:n])
    yield from _of_texts(random)
    yield from _of_small_tables()


def _of_texts(random: np.random.Generator) -> Iterator[tuple[str, Calls]]:
    """5,000 texts of some 50 words out of 20,000, as a sparse matrix."""
    from scipy import sparse

    X = sparse.random(5000, 20_000, density=50 / 20_000, format="csr", random_state=random)
    y, title = random.integers(5, size=5000), "20000-100-5, sparse samples: {:,}"
    fitted = {name: library((100,), max_iter=1).fit(X, y) for name, library in LIBRARIES.items()}
    for n in (1, 5000):
        yield f"`predict`, {title.format(n)}", _each(fitted, "predict", X[:n])
    models = {name: library((100,), max_iter=1) for name, library in LIBRARIES.items()}
    yield f"`fit`, one epoch, {title.format(5000)}", _each(models, "fit", X, y)


def _of_small_tables() -> Iterator[tuple[str, Calls]]:
    """Whole fits of scikit-learn's own data sets, standardised: steps that cost more than their work."""
    for load in (load_iris, load_breast_cancer, load_digits):
        X, y = load(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        for options in (
            {}, {"early_stopping": True}, {"solver": "lbfgs"}, {"solver": "lbfgs", "hidden_layer_sizes": (5,)},
        ):  # fmt: skip
            models = {name: library(random_state=0, **options) for name, library in LIBRARIES.items()}
            given = ", ".join(f"{key}={value!r}" for key, value in options.items())
            yield f"`MLPClassifier({given}).fit`, {len(X):,} x {X.shape[1]}", _each(models, "fit", X, y)


def _each(models: dict[str, Any], method: str, *arrays: Any) -> Calls:
    return {name: partial(getattr(model, method), *arrays) for name, model in models.items()}


def _timed(call: Callable[[], Any]) -> Callable[[], float]:
    def seconds() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    call()  # warm-up
    return seconds
