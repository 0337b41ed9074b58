"""Every solver with early stopping, warm start and partial_fit, on every kind of target: it works or says why not."""

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import CLASSIFY, ours, problem
from sklearn.exceptions import ConvergenceWarning

STOCHASTIC = ["sgd", "adam", "nesterov", "momentum", "gradient_descent", "rmsprop", "adamw"]
WHOLE = ["lbfgs", "rprop"]
KINDS = [*CLASSIFY, "regression"]
RATES = {"sgd": 0.07, "nesterov": 0.07, "momentum": 0.07, "gradient_descent": 0.3}


def estimator(kind, solver, **given):
    if solver in STOCHASTIC:
        given["batch_size"] = 30
    rate = RATES.get(solver, 0.04)
    return ours(kind, solver=solver, learning_rate_init=rate, validation_fraction=0.25, max_iter=15, **given)


def untrained_score(kind, X, y):
    """The score of always predicting the most frequent label, or the mean."""
    if kind == "regression":
        return 0.0
    counts = np.unique(y, axis=0, return_counts=True)[1]
    return counts.max() / len(y)


def fitted(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


SHORT = ("sgd", "adam", *WHOLE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warm_start", [False, True], ids=["anew", "warm"])
@pytest.mark.parametrize("early_stopping", [False, True], ids=["to the end", "early"])
@pytest.mark.parametrize(
    "solver", [*SHORT, *(pytest.param(s, marks=pytest.mark.slow) for s in STOCHASTIC if s not in SHORT)]
)
def test_fit_twice(kind, solver, early_stopping, warm_start):
    X, y = problem(kind, n=120)
    model = estimator(kind, solver, early_stopping=early_stopping, warm_start=warm_start)
    fitted(model, X, y)
    first = [W.copy() for W in model.coefs_]
    curve, seen, score = list(model.loss_curve_), model.t_, model.score(X, y)
    assert score > untrained_score(kind, X, y) + 0.05
    fitted(model, X, y)
    assert model.score(X, y) > untrained_score(kind, X, y) + 0.05
    if warm_start:
        # Early stopping may find nothing better than the weights kept from the first fit.
        assert early_stopping or any((before != after).any() for before, after in zip(first, model.coefs_, strict=True))
        if solver in STOCHASTIC:
            assert model.loss_curve_[: len(curve)] == curve
            assert model.t_ > seen
    else:
        for before, after in zip(first, model.coefs_, strict=True):
            np.testing.assert_array_equal(before, after)
        assert list(model.loss_curve_) == curve


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", STOCHASTIC)
def test_partial_fit(kind, solver):
    X, y = problem(kind, n=120)
    model = estimator(kind, solver, warm_start=solver in RATES)  # which changes nothing
    first = {"classes": np.arange(3) if kind == "multilabel" else np.unique(y)} if kind in CLASSIFY else {}
    with pytest.raises(ValueError, match="early_stopping"):
        estimator(kind, solver, early_stopping=True).partial_fit(X, y, **first)
    for passes in range(1, 11):
        model.partial_fit(X, y, **first)
        first = {}
        assert model.t_ == 120 * passes
        assert model.n_iter_ == 1
    assert len(model.loss_curve_) == 10
    assert model.loss_curve_[-1] < model.loss_curve_[0]
    assert model.score(X, y) > untrained_score(kind, X, y) + 0.05


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@pytest.mark.parametrize("solver", WHOLE)
def test_no_partial_fit_where_the_solver_wants_every_sample(kind, solver):
    model = estimator(kind, solver)
    assert not hasattr(model, "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        model.partial_fit(*problem(kind))
