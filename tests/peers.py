"""Small problems of each kind, and pairs of estimators, fcgpu's and scikit-learn's, with the same parameters."""

import numpy as np
from sklearn import neural_network

import fcgpu

KINDS = ("binary", "multiclass", "multilabel", "regression", "regressions", "counts", "several counts")
CLASSIFY = ("binary", "multiclass", "multilabel")
LOSS = {"counts": {"loss": "poisson"}, "several counts": {"loss": "poisson"}}
SOLVERS = {
    "sgd": {"solver": "sgd", "momentum": 0.0},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd"},
    "adam": {"solver": "adam"},
}


def problem(kind, n=53, n_features=6, seed=0):
    """X (n, n_features) float64 and y of that kind; two classes are text, three are non-consecutive numbers."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((n, n_features))
    Z = X @ random.standard_normal((n_features, 3)) + 0.3 * random.standard_normal((n, 3))
    y = {
        "binary": lambda: np.where(Z[:, 0] > 0, "yes", "no"),
        "multiclass": lambda: np.array([-1, 4, 7])[Z.argmax(axis=1)],
        "multilabel": lambda: (Z > 0).astype(int),
        "regression": lambda: Z[:, 0],
        "regressions": lambda: Z,
        "counts": lambda: random.poisson(np.exp(0.3 * Z[:, 0])).astype(float),
        "several counts": lambda: random.poisson(np.exp(0.3 * Z)).astype(float),
    }[kind]()
    return X, y


def weights(n, seed=1):
    return np.random.default_rng(seed).uniform(0.2, 3.0, n)


def params(kind, **given):
    return {"hidden_layer_sizes": (7, 5), "random_state": 3, "learning_rate_init": 0.02, **LOSS.get(kind, {}), **given}


def ours(kind, **given):
    """fcgpu's estimator for problems of this kind."""
    estimator = fcgpu.MLPClassifier if kind in CLASSIFY else fcgpu.MLPRegressor
    return estimator(**params(kind, **given))


def pair(kind, **given):
    """fcgpu's and scikit-learn's estimator for problems of this kind."""
    theirs = neural_network.MLPClassifier if kind in CLASSIFY else neural_network.MLPRegressor
    return ours(kind, **given), theirs(**params(kind, **given))


def assert_same_fit(a, b, atol=1e-6):
    """The loss curve, the validation scores and every parameter agree to `atol`."""
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=0, atol=atol)
    assert_same_network(a, b, atol)
    assert (a.validation_scores_ is None) == (b.validation_scores_ is None)
    if a.validation_scores_ is not None:
        np.testing.assert_allclose(a.validation_scores_, b.validation_scores_, rtol=0, atol=atol)


def assert_same_network(a, b, atol=1e-6):
    assert len(a.coefs_) == len(b.coefs_) == len(a.intercepts_) == len(b.intercepts_)
    for mine, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert mine.shape == other.shape
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine, other, rtol=0, atol=atol)


def assert_same_bits(a, b):
    """The learned parameters are bit-equal."""
    for mine, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(a.loss_curve_, b.loss_curve_)
