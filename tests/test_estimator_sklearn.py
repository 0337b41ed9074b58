"""The estimators against scikit-learn's: the same random_state, data and parameters give the same training."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import KINDS, SOLVERS, assert_same_fit, pair, problem, weights
from sklearn.exceptions import ConvergenceWarning

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

BATCHES = {"auto": "auto", "ragged": 16, "one over": 52, "singles": 1}  # 53 samples


def fit_both(kind, weighted=False, **given):
    X, y = problem(kind)
    sample_weight = weights(len(X)) if weighted else None
    a, b = pair(kind, **({"max_iter": 20} | given))
    return a.fit(X, y, sample_weight), b.fit(X, y, sample_weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_loss_curves_agree(kind, solver, weighted):
    a, b = fit_both(kind, weighted, batch_size=16, alpha=0.3, **SOLVERS[solver])
    assert len(a.loss_curve_) == 20
    assert b.loss_curve_[-1] < 0.95 * b.loss_curve_[0]
    assert_same_fit(a, b)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("solver", ["nesterov", "adam"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regressions"])
def test_every_batch_size_agrees(kind, solver, batch):
    assert_same_fit(*fit_both(kind, batch_size=BATCHES[batch], max_iter=5, **SOLVERS[solver]))


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_a_batch_above_the_sample_size_is_clipped_with_a_warning(kind):
    X, y = problem(kind)
    a, b = pair(kind, batch_size=54, max_iter=3)
    for estimator in (a, b):  # the words that programs filter by
        with pytest.warns(UserWarning, match="^Got `batch_size`"):
            estimator.fit(X, y)
    assert_same_fit(a, b)


@pytest.mark.parametrize("alpha", [0.0, 1e-4, 5.0])
@pytest.mark.parametrize("kind", KINDS)
def test_alpha_is_divided_by_the_samples_or_weights_of_the_batch(kind, alpha):
    assert_same_fit(*fit_both(kind, True, alpha=alpha, batch_size=20))


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_every_activation_agrees(kind, activation):
    assert_same_fit(*fit_both(kind, activation=activation, batch_size=16))


@pytest.mark.parametrize("sizes", [(), 4, (4,), [4, 3], np.array([4, 3, 2]), range(4, 2, -1)], ids=str)
@pytest.mark.parametrize("kind", ["binary", "multiclass", "several counts"])
def test_every_way_to_write_the_hidden_layers_agrees(kind, sizes):
    assert_same_fit(*fit_both(kind, hidden_layer_sizes=sizes, batch_size=16))


@pytest.mark.parametrize("solver", ["nesterov", "adam"])
@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_without_shuffling_samples_come_in_order(kind, solver):
    assert_same_fit(*fit_both(kind, shuffle=False, batch_size=16, **SOLVERS[solver]))


@pytest.mark.parametrize("power_t", [0.1, 0.5])
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_invscaling_agrees(kind, power_t):
    a, b = fit_both(kind, solver="sgd", learning_rate="invscaling", power_t=power_t, batch_size=16)
    assert_same_fit(a, b)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_adaptive_agrees_from_one_drop_to_the_next_and_stops_where_the_rate_is_spent(kind, early_stopping):
    given = {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.02, "n_iter_no_change": 2, "max_iter": 200}
    a, b = fit_both(kind, batch_size=16, early_stopping=early_stopping, **given)
    assert 20 < b.n_iter_ < 200
    assert a.n_iter_ == b.n_iter_
    assert_same_fit(a, b)


def test_schedules_of_sgd_leave_adam_as_it_is():
    for learning_rate in ("invscaling", "adaptive"):
        assert_same_fit(*fit_both("binary", solver="adam", learning_rate=learning_rate, batch_size=16))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_splits_scores_and_restores_alike(kind, weighted):
    given = {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 3, "max_iter": 40}
    a, b = fit_both(kind, weighted, batch_size=16, **given)
    assert a.n_iter_ == b.n_iter_
    assert a.best_loss_ is b.best_loss_ is None
    assert a.best_validation_score_ == pytest.approx(b.best_validation_score_, abs=1e-6)
    assert_same_fit(a, b)


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_training_stops_when_the_loss_no_longer_falls(kind):
    a, b = fit_both(kind, tol=0.05, n_iter_no_change=4, max_iter=300)
    assert b.n_iter_ < 300
    assert a.n_iter_ == b.n_iter_
    assert a.best_loss_ == pytest.approx(b.best_loss_, abs=1e-6)
    assert_same_fit(a, b)


def test_no_patience_is_long_enough_to_stop_where_it_is_infinite():
    a, b = fit_both("regression", tol=1e9, n_iter_no_change=np.inf)
    assert a.n_iter_ == b.n_iter_ == 20


def test_the_adaptive_rate_stays_where_patience_has_no_end():
    assert_same_fit(*fit_both("binary", solver="sgd", learning_rate="adaptive", tol=1.0, n_iter_no_change=np.inf))


@pytest.mark.parametrize("batch", [16, "auto"])  # "auto" is all samples here
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@pytest.mark.parametrize("state", ["instance", "global"])
def test_a_random_state_is_drawn_from_in_the_same_order(kind, state, batch):
    X, y = problem(kind)
    for early_stopping in (False, True):
        fits, after = [], []
        for estimator in pair(
            kind, batch_size=batch, max_iter=5, early_stopping=early_stopping, validation_fraction=0.2
        ):
            np.random.seed(11)
            random = None if state == "global" else np.random.RandomState(11)
            fits.append(estimator.set_params(random_state=random).fit(X, y).fit(X, y))
            after.append((random or np.random).randint(2**31))
        assert_same_fit(*fits)
        assert after[0] == after[1]


@pytest.mark.parametrize("kind", KINDS)
def test_float32_agrees_to_float32(kind):
    X, y = problem(kind)
    a, b = pair(kind, batch_size=16, max_iter=20, solver="sgd")
    X = X.astype(np.float32)
    # 80 updates of parameters near 1, each with tens of rounding errors of 6e-8. Not Adam: it divides by the gradient's
    # size, which makes the rounding error of a gradient near 0 as large as its step.
    assert_same_fit(a.fit(X, y), b.fit(X, y), atol=1e-4)


@pytest.mark.parametrize("kind", ["binary", "counts"])
def test_a_run_that_reaches_max_iter_warns(kind):
    X, y = problem(kind)
    for estimator in pair(kind, max_iter=2):
        with pytest.warns(ConvergenceWarning, match=r"^Stochastic Optimizer: Maximum iterations \(2\) reached"):
            estimator.fit(X, y)
