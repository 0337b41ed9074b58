"""Tables as they are, by the recipe `own`; and by scikit-learn's defaults, behind its StandardScaler, in turn.

It is how the recipe's settings were chosen, and says what they are worth.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fcgpu

SPLITS = 5  # into 70 % for the training and 30 % for the test

Score = Callable[[], float]  # accuracy or R² on the test samples


def measure(splits: int | None) -> Iterator[str]:
    """The lines of a Markdown table: for each data set, medians over the splits of the test score and the seconds."""
    yield "| table | score | own | scikit-learn | own, s | scikit-learn, s |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, X, y, is_regression in _tables():
        scores, seconds = [], []
        for seed in range(splits or SPLITS):
            X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=seed)
            for way in (_own, _scikit_learn):
                began = time.perf_counter()
                score = way(X_train, y_train, X_test, y_test, is_regression=is_regression, seed=seed)
                seconds.append(time.perf_counter() - began)
                scores.append(score())
        figures = [f"{statistics.median(scores[i::2]):.3f}" for i in (0, 1)]
        figures += [f"{statistics.median(seconds[i::2]):.2f}" for i in (0, 1)]
        what = "R²" if is_regression else "accuracy"
        yield f"| {name}, {len(X):,} x {X.shape[1]} | {what} | {' | '.join(figures)} |"


def _own(X: Any, y: Any, X_test: Any, y_test: Any, *, is_regression: bool, seed: int) -> Score:
    changes: dict[str, Any] = {"output": "identity"} if is_regression else {}
    *_, done = fcgpu.train((X, y, X_test, y_test), fcgpu.load_recipe("own"), seed=seed, device="cpu", **changes)
    return lambda: done.test.r2 if is_regression else done.test.accuracy


def _scikit_learn(X: Any, y: Any, X_test: Any, y_test: Any, *, is_regression: bool, seed: int) -> Score:
    network = MLPRegressor(random_state=seed) if is_regression else MLPClassifier(random_state=seed)
    model = make_pipeline(StandardScaler(), network)
    if is_regression:
        model = TransformedTargetRegressor(model, transformer=StandardScaler())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    return partial(model.score, X_test, y_test)


def _tables() -> Iterator[tuple[str, Any, Any, bool]]:
    """Name, features, labels or targets, and whether these are a regression's."""
    for name in ("iris", "wine", "breast_cancer", "digits"):
        yield name, *getattr(datasets, f"load_{name}")(return_X_y=True), False
    yield "moons", *datasets.make_moons(2000, noise=0.25, random_state=0), False
    made = partial(datasets.make_classification, n_informative=12, n_classes=4, random_state=0)
    yield "classification, 4 classes", *made(20_000, 20), False
    yield "classification, 10 classes", *made(5000, 40, n_informative=25, n_classes=10, class_sep=1.2), False
    yield "diabetes", *datasets.load_diabetes(return_X_y=True, scaled=False), True
    yield "friedman1", *datasets.make_friedman1(3000, noise=1, random_state=0), True
    yield "friedman2", *datasets.make_friedman2(3000, noise=20, random_state=0), True
