"""`standardize`: a run on samples as they are equals one on samples standardized by hand, and its Model takes the
former.
"""

from dataclasses import replace

import numpy as np
import pytest
from device_double import as_cupy
from threadpoolctl import threadpool_limits

import fcgpu
from fcgpu.train import plan_c
from fcgpu.train.pixels import is_mapped
from fcgpu.train.state import State

FEATURES = {"classes": {}, "numbers": {"output": "identity"}}
RULES = {
    "full": {"learning_rate": 0.05},
    "batches": {"batch": 16, "dropout": 0.2},
    "lbfgs": {"optimizer": "lbfgs", "tol": 0.0},
    "linear": {"hidden": (), "batch": 50},
}


def table(kind="classes", n=150, seed=0, dtype="float64"):
    """Features of means 0 to 2,000 and scales 0.01 to 100, the last one constant; labels, or two targets far from 0."""
    random = np.random.default_rng(seed)
    Z = random.normal(size=(n, 4))
    X = np.c_[Z * [0.01, 1, 100, 30] + [0, -5, 2000, 900], np.full(n, 0.1)].astype(dtype)
    if kind == "classes":
        return X, (Z[:, 0] + Z[:, 1] > 0).astype(int) + (Z[:, 2] > 0.5)
    return X, np.c_[500 + 20 * Z[:, 0] + 3 * Z[:, 1] ** 2, 7 * Z[:, 2] - 4e3]


def by_hand(X, y, X_test, kind):
    """The standardized samples, their targets, and (m, s)."""
    mean, std = X.mean(0), X.std(0)
    std[-1] = np.inf
    m, s = (y.mean(0), np.sqrt(y.var(0).mean())) if kind == "numbers" else (0, 1)
    return (X - mean) / std, (y - m) / s if kind == "numbers" else y, (X_test - mean) / std, (m, s)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("rule", RULES)
def test_a_run_equals_that_on_samples_standardized_by_hand(kind, rule):
    X, y = table(kind)
    X_test, _ = table(kind, 40, seed=1)
    ours = {"dtype": "float64", "hidden": (6,), "epochs": 5, "alpha": 0.1, "device": "cpu"} | FEATURES[kind]
    ours |= RULES[rule]
    X_hand, y_hand, X_test_hand, (m, s) = by_hand(X, y, X_test, kind)
    *expected, theirs = fcgpu.train((X_hand, y_hand), **ours)
    *events, done = fcgpu.train((X, y), standardize=True, **ours)
    for event, other in zip(events[1:], expected[1:], strict=True):
        assert event.loss == pytest.approx(s**2 * other.loss, rel=1e-9)
        assert event.penalty == pytest.approx(s**2 * other.penalty, rel=1e-9)
    P = theirs.model.predict_proba(X_test_hand)
    P = P * s + m if kind == "numbers" else P
    np.testing.assert_allclose(done.model.predict_proba(X_test), P, rtol=1e-9)
    assert done.train.loss == pytest.approx(s**2 * theirs.train.loss, rel=1e-9)
    assert (done.model.scale, done.model.params.dtype) == (1.0, np.float64)


def test_a_feature_that_did_not_vary_is_not_used():
    X, y = table()
    *_, done = fcgpu.train((X, y), standardize=True, epochs=2, device="cpu")
    assert not done.model.spec.layers(done.model.params)[0].W[-1].any()
    X[:, -1] = 1e6
    np.testing.assert_array_equal(done.model.predict_proba(X), done.model.predict_proba(table()[0]))


@pytest.mark.parametrize("kind", FEATURES)
def test_samples_of_weight_0_do_not_count(kind):
    X, y = table(kind)
    weights = np.arange(150) % 3.0
    X[weights == 0] *= 7
    found = []
    for part, shares in ((slice(None), weights), (weights > 0, weights[weights > 0])):
        *_, done = fcgpu.train(
            (X[part], y[part]), sample_weight=shares, standardize=True, dtype="float64", epochs=3, device="cpu",
            **FEATURES[kind],
        )  # fmt: skip
        found.append(done.model.predict_proba(X))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_samples_held_out_do_not_count_but_are_measured_as_they_are():
    X, y = table("numbers")
    ours = {"output": "identity", "standardize": True, "dtype": "float64", "epochs": 3, "device": "cpu"}
    *events, _ = fcgpu.train((X, y), **ours, early_stopping=True)
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence(0).spawn(2)[1])).permutation(150)
    out, rest = np.sort(order[:15]), np.sort(order[15:])
    alone = fcgpu.train((X[rest], y[rest], X[out], y[out]), **ours)
    scored = [event.test().loss for event in alone if isinstance(event, fcgpu.EpochEnded)]
    assert [event.monitored for event in events[1:]] == pytest.approx(scored, rel=1e-9)


@pytest.mark.parametrize("in_c", [True, False])
@pytest.mark.parametrize("stored", ["float32", ">f8", "int16", "uint8", "bool"])
def test_every_dtype_and_a_small_budget_give_the_same_bits(stored, in_c, monkeypatch, tmp_path):
    """Under a budget that is too small for a copy, each use converts its part; so do features that stay on disk."""
    if not in_c:
        monkeypatch.setattr(plan_c, "is_for", lambda *a: False)
    X, y = table(n=400)
    X = (X / 10).astype(stored)
    np.save(tmp_path / "X.npy", X)
    ours = {"standardize": True, "epochs": 2, "device": "cpu", "hidden": (5,), "batch": 64}
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert is_mapped(mapped)
    models = []
    for features, limits in ((X, {}), (mapped, {}), (X.astype(float), {}), (mapped, {"memory_budget": 200_000})):
        started, *_, done = fcgpu.train((features, y), **ours, **limits)
        models.append(done.model.params.tobytes())
    assert started.plan.budget == 200_000
    assert len(set(models)) == 1


def test_no_bit_depends_on_blas():
    """So long a product of one column is a sum on all of BLAS's threads."""
    random = np.random.default_rng(0)
    X, y = random.normal(5, 1, (50_000, 1)), random.normal(size=50_000)
    ours = {"output": "identity", "standardize": True, "hidden": (), "dtype": "float64", "epochs": 1, "device": "cpu"}
    models = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            *_, done = fcgpu.train((X, y), **ours)
            models.append(done.model.params.tobytes())
    assert len(set(models)) == 1


def test_a_resumed_run_has_the_same_bits():
    X, y = table("numbers")
    ours = {"output": "identity", "standardize": True, "optimizer": "lbfgs", "epochs": 6, "device": "cpu"}
    *events, whole = fcgpu.train((X, y), **ours)
    run = fcgpu.train((X, y), **ours)
    state = next(event for event in run if getattr(event, "epoch", 0) == 3).state()
    *_, resumed = fcgpu.train((X, y), start=state, **ours)
    assert resumed.model.params.tobytes() == whole.model.params.tobytes()
    assert events[-1].loss == pytest.approx(whole.train.loss, rel=1e-4)


def test_targets_that_do_not_vary_are_learned():
    X, _ = table()
    ours = {"output": "identity", "standardize": True, "hidden": (), "epochs": 50, "learning_rate": 0.1}
    *_, done = fcgpu.train((X, np.full(150, 1e6)), **ours, device="cpu")
    np.testing.assert_allclose(done.model.predict(X), 1e6, rtol=1e-6)


def test_of_pictures_only_targets_are_standardized(mnist):
    data = replace(mnist, X=mnist.X[:100], y=mnist.y[:100], X_test=None, y_test=None)
    plain, asked = (
        list(fcgpu.train(data, fcgpu.load_recipe("own").but(standardize=on, epochs=2), device="cpu"))[-1].model
        for on in (False, True)
    )  # fmt: skip
    assert plain.params.tobytes() == asked.params.tobytes()
    assert asked.scale == 1 / 255
    with pytest.raises(fcgpu.ConfigError, match=r"^standardize=True changes nothing for pictures, as in .*mnist"):
        fcgpu.train(data, standardize=True)
    far = replace(data, y=data.y + 1e4, classes=None)
    ours = {"output": "identity", "standardize": True, "optimizer": "lbfgs", "epochs": 60}
    *_, done = fcgpu.train(far, **ours, device="cpu")
    assert done.model.scale == 1 / 255
    assert done.train.r2 > 0.9


def test_the_least_improvement_is_that_of_standardized_targets():
    """But of a monitor of one's own it is as given."""
    X, y = table("numbers")
    X_hand, y_hand, _, (_, s) = by_hand(X, y, X, "numbers")
    ours = {"output": "identity", "dtype": "float64", "device": "cpu", "hidden": (5,), "epochs": 80, "tol": 0.01}
    ours |= {"n_iter_no_change": 3}
    *_, expected = fcgpu.train((X_hand, y_hand), **ours)
    held_out = set()
    for unit in (1e-6, 1.0, 1e6):
        data = (X, unit * y)
        *_, done = fcgpu.train(data, standardize=True, **ours)
        assert done.epochs == expected.epochs
        assert done.stopped == f"the loss did not improve by more than {0.01 * (unit * s) ** 2:g} in 3 epochs"
        *_, done = fcgpu.train(data, standardize=True, early_stopping=True, **ours)
        held_out.add(done.epochs)
        *_, done = fcgpu.train(data, standardize=True, monitor=lambda event: event.loss, **ours)
        assert done.epochs == {1e-6: 5, 1.0: 80, 1e6: 80}[unit]
    assert len(held_out) == 1
    assert max(expected.epochs, *held_out) < 80


def test_an_error_does_not_advise_to_scale_what_is_standardized():
    X, y = table("numbers")
    ours = {"standardize": True, "output": "identity", "hidden": (), "dtype": "float64", "device": "cpu"}
    steps = {"optimizer": "gradient_descent", "learning_rate": 2.0}
    for changes, remedy in (
        (steps, "learning_rate=0.2, or gradient_clip=1"),
        (steps | {"output": "exp"}, "learning_rate=0.2, gradient_clip=1, or targets of a smaller scale"),
        ({"optimizer": "lbfgs", "dtype": "float32"}, "dtype='float64'"),
        ({"optimizer": "lbfgs"}, "optimizer='adam'"),
    ):
        huge = State(np.full(12, 1e30) if "dtype" in changes else np.full(12, 1e160))
        with pytest.raises(fcgpu.DivergenceError, match=rf" in epoch 1\b.*: try {remedy}$"):
            list(fcgpu.train((X, abs(y)), start=huge, **ours | changes))


def test_what_cannot_be_standardized_is_refused():
    X, y = table()
    with pytest.raises(fcgpu.ConfigError, match=r"^scale=0\.5 changes nothing with standardize"):
        fcgpu.train((X, y), standardize=True, scale=0.5)
    X[:, 2] += 1e8
    message = (
        r"^arrays: feature 2 lies \S+ standard deviations from 0, too far .* float32: subtract 1.*e\+08 from it, or"
    )
    with pytest.raises(fcgpu.DataError, match=message):
        fcgpu.train((X, y), standardize=True)
    *_, done = fcgpu.train((X, y), standardize=True, dtype="float64", epochs=40, device="cpu")
    assert done.train.accuracy > 0.9
    with pytest.raises(fcgpu.DataError, match=r"^arrays: target 0 lies 1\S+e\+0. standard"):
        fcgpu.train((X[:, :1], 1e6 + X[:, 1]), standardize=True, output="identity")
    X[0, 1] = 1e200
    with pytest.raises(fcgpu.DataError, match=r"^arrays: feature 1 is too large to be squared: divide it"):
        fcgpu.train((X, y), standardize=True)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_trains_on_the_same(kind, resident, device, monkeypatch):
    if type(device.xp).__name__ != "module":
        as_cupy(device.xp, monkeypatch)
    X, y = table(kind)
    ours = {"standardize": True, "epochs": 3, "hidden": (6,), "batch": 50} | FEATURES[kind]
    *events, there = fcgpu.train((device.to_device(X) if resident else X, y), **ours, device=device)
    *expected, here = fcgpu.train((X, y), **ours, device="cpu")
    s = 1 if kind == "classes" else np.sqrt(y.var(0).mean())
    for event, other in zip(events[1:], expected[1:], strict=True):
        assert event.loss == pytest.approx(other.loss, rel=1e-4)
    bound = 1e-3 * s if kind == "numbers" else 1e-4
    np.testing.assert_allclose(there.model.predict_proba(X), here.model.predict_proba(X), rtol=0, atol=bound)
    assert there.train.loss == pytest.approx(here.train.loss, rel=1e-3)
