"""solver="lbfgs": no worse than SciPy's L-BFGS-B after as many evaluations; scikit-learn's attributes and limits."""

from functools import cache

import numpy as np
import pytest

pytest.importorskip("sklearn")

import scipy.optimize
from peers import CLASSIFY, KINDS, assert_same_bits, ours, pair, problem, weights
from sklearn import datasets, metrics
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import PoissonRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

EVALUATIONS = 60
ALPHA = 0.1


@cache
def shipped(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    X = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-9)
    return (X, (y - y.mean()) / y.std()) if name == "diabetes" else (X, y)


def objective(fitted, X, y):
    """The loss with its penalty, from the predictions and not from `loss_`."""
    penalty = 0.5 * fitted.alpha * sum((W**2).sum() for W in fitted.coefs_) / len(X)
    if hasattr(fitted, "classes_"):
        return metrics.log_loss(y, fitted.predict_proba(X)) + penalty
    return 0.5 * metrics.mean_squared_error(y, fitted.predict(X)) + penalty


@pytest.fixture
def evaluations(monkeypatch):
    """The number of evaluations of each run of SciPy, in order: it checks its limit only between iterations."""
    made, minimize = [], scipy.optimize.minimize

    def counted(*args, **options):
        result = minimize(*args, **options)
        made.append(result.nfev)
        return result

    monkeypatch.setattr(scipy.optimize, "minimize", counted)
    return made


@pytest.mark.parametrize("hidden", [(), (16,)], ids=["convex", "hidden"])
@pytest.mark.parametrize("name", ["iris", "wine", "breast_cancer", "digits", "diabetes"])
def test_no_worse_than_scipy_after_as_many_evaluations(name, hidden, evaluations):
    X, y = shipped(name)
    mine, theirs = [], []
    for seed in range(3 if hidden else 1):
        given = {"solver": "lbfgs", "activation": "tanh", "alpha": ALPHA, "random_state": seed, "tol": 1e-8}
        given |= {"hidden_layer_sizes": hidden, "max_fun": EVALUATIONS, "max_iter": 10_000}
        a, b = pair("regression" if name == "diabetes" else "multiclass", **given)
        b.fit(X, y)
        a.set_params(max_fun=evaluations[-1]).fit(X, y)
        assert a.loss_ == pytest.approx(objective(a, X, y), rel=1e-6)
        mine.append(a.loss_)
        theirs.append(objective(b, X, y))
    # Two correct implementations differ by rounding, which after 60 evaluations is about 1e-7 of the loss.
    assert np.mean(mine) <= np.mean(theirs) * (1 + 1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression", "counts", "several counts"])
def test_a_convex_problem_has_scikit_learns_minimum(kind, weighted):
    X, y = problem(kind)
    sample_weight = weights(len(X)) if weighted else None
    given = {"solver": "lbfgs", "hidden_layer_sizes": (), "alpha": 0.5, "tol": 1e-7, "max_iter": 500}
    a, b = (estimator.fit(X, y, sample_weight) for estimator in pair(kind, **given))
    assert a.loss_ == pytest.approx(b.loss_, rel=1e-6)
    method = "predict_proba" if kind in CLASSIFY else "predict"
    # L-BFGS-B stops at a relative change of 2e-9; the error of the parameters near a minimum is its square root
    np.testing.assert_allclose(getattr(a, method)(X), getattr(b, method)(X), rtol=1e-3, atol=1e-3)


def test_several_targets_have_the_minimum_of_each_alone():
    # scikit-learn's L-BFGS uses the mean over targets for the loss, but the sum for the gradient
    X, y = problem("regressions")
    given = {"solver": "lbfgs", "hidden_layer_sizes": (), "alpha": 0.0, "tol": 1e-9, "max_iter": 500}
    a = ours("regressions", **given).fit(X, y)
    design = np.column_stack([X, np.ones(len(X))])
    np.testing.assert_allclose(a.predict(X), design @ np.linalg.lstsq(design, y)[0], atol=1e-4)


def test_poisson_without_hidden_layers_is_the_linear_model():
    X, y = problem("counts")
    given = {"solver": "lbfgs", "hidden_layer_sizes": (), "alpha": 0.0, "tol": 1e-8, "max_iter": 500}
    glm = PoissonRegressor(alpha=0, tol=1e-8, max_iter=500).fit(X, y)
    a = ours("counts", **given).fit(X, y)
    np.testing.assert_allclose(a.coefs_[0][:, 0], glm.coef_, atol=1e-4)
    np.testing.assert_allclose(a.predict(X), glm.predict(X), rtol=1e-4)


def test_unscaled_features_are_fitted_as_well_as_by_scikit_learn():
    """Relu's units are 0 after some steps; the loss falls by 1e-7 of it an iteration for a while, then to a fifth."""
    X, y = datasets.make_friedman2(400, random_state=0)
    losses = []
    for seed in range(15):
        a, b = pair("regression", solver="lbfgs", hidden_layer_sizes=(12, 6), max_iter=300, random_state=seed)
        losses.append([a.fit(X.astype("float32"), y).loss_, a.fit(X, y).loss_, b.fit(X, y).loss_])
    *mine, theirs = np.median(losses, axis=0)
    assert max(mine) < 2 * theirs  # a loss that stays on the plateau is three to four times as large


def test_float32_fits_targets_that_lie_far_from_0():
    """As prices of 30 million: a first step, of length 1, is 1e-7 of the way."""
    X, y = problem("regression")
    y = 1e6 * y + 3e7
    fitted = ours("regression", solver="lbfgs", activation="tanh").fit(X.astype(np.float32), y)
    assert fitted.loss_ < y.var()


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_curve_falls_to_the_loss(kind):
    X, y = problem(kind)
    a = ours(kind, solver="lbfgs", max_iter=30).fit(X, y)
    assert len(a.loss_curve_) == a.n_iter_
    assert a.loss_curve_[-1] == pytest.approx(a.loss_)
    assert np.all(np.diff(a.loss_curve_) <= 0)
    assert a.loss_curve_[-1] < 0.8 * a.loss_curve_[0]


@pytest.mark.parametrize("limit", [{"max_fun": 8}, {"max_iter": 4}], ids=str)
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_its_limits_end_it_with_a_warning(kind, limit):
    X, y = problem(kind)
    for estimator in pair(kind, solver="lbfgs", **limit):
        with pytest.warns(ConvergenceWarning):
            estimator.fit(X, y)
        assert 1 <= estimator.n_iter_ <= max(limit.values())


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_it_stops_by_itself_where_the_gradient_is_below_tol(kind):
    X, y = problem(kind)
    for estimator in pair(kind, solver="lbfgs", hidden_layer_sizes=(), alpha=1.0, tol=1e-3):
        assert estimator.fit(X, y).n_iter_ < 100


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_warm_start_goes_on_from_where_it_was(kind):
    X, y = problem(kind)
    for estimator in pair(kind, solver="lbfgs", warm_start=True, max_iter=5):
        first = estimator.fit(X, y).loss_
        assert estimator.fit(X, y).loss_ < first
        assert estimator.n_iter_ <= 5


@pytest.mark.parametrize("given", [{"batch_size": 7}, {"learning_rate_init": 5.0}, {"shuffle": False}], ids=str)
def test_what_it_does_not_use_changes_nothing(given):
    X, y = problem("multiclass")
    fits = [ours("multiclass", solver="lbfgs", max_iter=8, **p).fit(X, y) for p in ({}, given)]
    assert_same_bits(*fits)
