"""Class and sample weights: each equals its documented equivalent."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import CLASSIFY, KINDS, assert_same_bits, assert_same_network, ours, problem, weights
from sklearn.utils.class_weight import compute_sample_weight

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FIRST_ORDER = ["sgd", "adam", "nesterov", "momentum", "gradient_descent", "rmsprop", "adamw"]
EVERY_SOLVER = [*FIRST_ORDER, "rprop", "lbfgs"]
CLASS_WEIGHTS = {
    "binary": [{"no": 3.0, "yes": 0.25}, {"yes": 2}, "balanced"],
    "multiclass": [{-1: 0.5, 4: 2.0, 7: 1.25}, {4: 3}, "balanced"],
}


@pytest.mark.parametrize("solver", EVERY_SOLVER)
@pytest.mark.parametrize(
    ("kind", "class_weight"), [(kind, w) for kind, ws in CLASS_WEIGHTS.items() for w in ws], ids=str
)
def test_class_weight_is_the_sample_weight_bit_for_bit(kind, class_weight, solver):
    X, y = problem(kind)
    given = {"solver": solver, "batch_size": 16 if solver in FIRST_ORDER else "auto", "max_iter": 6}
    by_class = ours(kind, class_weight=class_weight, **given).fit(X, y)
    by_sample = ours(kind, **given).fit(X, y, compute_sample_weight(class_weight, y))
    plain = ours(kind, **given).fit(X, y)
    assert_same_bits(by_class, by_sample)
    assert not np.allclose(by_class.coefs_[0], plain.coefs_[0], atol=1e-6)


@pytest.mark.parametrize("class_weight", [{"no": 3.0, "yes": 0.25}, "balanced"], ids=str)
def test_class_weight_multiplies_sample_weight(class_weight):
    X, y = problem("binary")
    w = weights(len(X))
    a = ours("binary", class_weight=class_weight, max_iter=6).fit(X, y, w)
    b = ours("binary", max_iter=6).fit(X, y, w * compute_sample_weight(class_weight, y))
    assert_same_bits(a, b)


@pytest.mark.parametrize("solver", EVERY_SOLVER)
@pytest.mark.parametrize("kind", KINDS)
def test_whole_sample_weights_are_repetitions(kind, solver):
    X, y = problem(kind)
    w = np.random.default_rng(2).integers(0, 4, len(X))
    given = {"solver": solver, "batch_size": "full", "alpha": 0.1, "activation": "tanh", "max_iter": 12}
    weighted = ours(kind, **given).fit(X, y, w)
    repeated = ours(kind, **given).fit(np.repeat(X, w, axis=0), np.repeat(y, w, axis=0))
    assert_same_network(weighted, repeated)
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_sample_weights_are_none(kind):
    X, y = problem(kind)
    given = {"batch_size": 16, "alpha": 0.0, "max_iter": 10}
    fits = [ours(kind, **given).fit(X, y, w) for w in (None, np.ones(len(X)), np.full(len(X), 2.5))]
    assert_same_network(fits[0], fits[1], atol=1e-9)
    assert_same_network(fits[0], fits[2], atol=1e-6)


@pytest.mark.parametrize("kind", [*CLASSIFY, "regression"])
def test_a_sample_of_weight_zero_is_not_there(kind):
    X, y = problem(kind)
    w = np.ones(len(X))
    w[10:20] = 0
    without = np.delete(X, slice(10, 20), axis=0), np.delete(y, slice(10, 20), axis=0)
    X[10:20] *= 100
    given = {"batch_size": "full", "max_iter": 10, "activation": "tanh"}
    assert_same_network(ours(kind, **given).fit(X, y, w), ours(kind, **given).fit(*without))


@pytest.mark.parametrize("bad", [np.ones(5), np.full(53, np.nan), np.zeros(53)], ids=["short", "nan", "zero"])
def test_sample_weights_that_make_no_sense_are_refused(bad):
    X, y = problem("binary")
    with pytest.raises(ValueError, match=r"[Ww]eight"):
        ours("binary").fit(X, y, bad)
