"""`standardize`: a run on samples as they are equals one on samples standardized by hand, and its Model takes the
former.
"""

from dataclasses import replace

import numpy as np
import pytest
from device_double import as_cupy, double_backend
from threadpoolctl import threadpool_limits

import fcgpu
from fcgpu.errors import DeviceMemoryError
from fcgpu.train import plan_c, standardized
from fcgpu.train.pixels import is_mapped
from fcgpu.train.plan import ORDER_BYTES
from fcgpu.train.standardized import Standardization
from fcgpu.train.state import State

FEATURES = {"classes": {}, "numbers": {"output": "identity"}, "counts": {"output": "exp"}}
RULES = {
    "full": {"learning_rate": 0.05},
    "batches": {"batch": 16, "dropout": 0.2},
    "lbfgs": {"optimizer": "lbfgs", "tol": 0.0},
    "linear": {"hidden": (), "batch": 50},
}


def table(kind="classes", n=150, seed=0, dtype="float64"):
    """Features of means 0 to 2,000 and scales 0.01 to 100, the last one constant; labels, or two targets far from 0 or
    large counts.
    """
    random = np.random.default_rng(seed)
    Z = random.normal(size=(n, 4))
    X = np.c_[Z * [0.01, 1, 100, 30] + [0, -5, 2000, 900], np.full(n, 0.1)].astype(dtype)
    if kind == "classes":
        return X, (Z[:, 0] + Z[:, 1] > 0).astype(int) + (Z[:, 2] > 0.5)
    if kind == "counts":
        return X, random.poisson(np.exp(np.c_[9 + Z[:, 0], 5 - Z[:, 1]]))
    return X, np.c_[500 + 20 * Z[:, 0] + 3 * Z[:, 1] ** 2, 7 * Z[:, 2] - 4e3]


def by_hand(X, y, X_test, kind):
    """The standardized samples, their targets, what predictions are to be multiplied by and then added, and what losses
    are to be multiplied by.
    """
    mean, std = X.mean(0), X.std(0)
    std[-1] = np.inf
    samples = (X - mean) / std, (X_test - mean) / std
    if kind == "classes":
        return *samples, y, (1, 0, 1)
    m, s = (y.mean(0), np.sqrt(y.var(0).mean())) if kind == "numbers" else (0, y.mean())
    return *samples, (y - m) / s, (s, m, s**2 if kind == "numbers" else s)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("rule", RULES)
def test_a_run_equals_that_on_samples_standardized_by_hand(kind, rule):
    X, y = table(kind)
    X_test, _ = table(kind, 40, seed=1)
    ours = {"dtype": "float64", "hidden": (6,), "epochs": 5, "alpha": 0.1, "device": "cpu"} | FEATURES[kind]
    ours |= RULES[rule]
    X_hand, X_test_hand, y_hand, (s, m, unit) = by_hand(X, y, X_test, kind)
    *expected, theirs = fcgpu.train((X_hand, y_hand), **ours)
    *events, done = fcgpu.train((X, y), standardize=True, **ours)
    for event, other in zip(events[1:], expected[1:], strict=True):
        assert event.loss == pytest.approx(unit * other.loss, rel=1e-9)
        assert event.penalty == pytest.approx(unit * other.penalty, rel=1e-9)
    np.testing.assert_allclose(
        done.model.predict_proba(X_test), theirs.model.predict_proba(X_test_hand) * s + m, rtol=1e-9
    )
    assert done.train.loss == pytest.approx(unit * theirs.train.loss, rel=1e-9)
    assert (done.model.scale, done.model.params.dtype) == (1.0, np.float64)


def test_a_feature_that_did_not_vary_is_not_used():
    X, y = table()
    *_, done = fcgpu.train((X, y), standardize=True, epochs=2, device="cpu")
    assert not done.model.spec.layers(done.model.params)[0].W[-1].any()
    assert done.model.params.dtype == np.float32
    X[:, -1] = 1e6
    np.testing.assert_array_equal(done.model.predict_proba(X), done.model.predict_proba(table()[0]))


def test_blocks_are_as_good_as_all_samples_at_once(monkeypatch):
    """Also if a feature is constant in each of them, or if they have no weight, or if a row is longer than a block."""
    X, y = table(n=2000)
    X, weights = np.c_[X, 2024 + (np.arange(2000) > 990)], np.arange(2000) % 7.0
    weights[300:600] = 0
    ours = {"standardize": True, "sample_weight": weights, "epochs": 1, "device": "cpu"}
    found = []
    for at_once in (1 << 20, 360, 1):
        monkeypatch.setattr(standardized, "AT_ONCE", at_once)
        *_, done = fcgpu.train((X, y), dtype="float64", **ours)
        found.append(done.model.params)
        list(fcgpu.train((X, y), **ours))  # float32 can tell 2024 from 2025
    for params in found[1:]:
        np.testing.assert_allclose(params, found[0], rtol=1e-9)


def test_targets_keep_their_digits():
    """Near 1e6 the numbers of float32 are 1/16 apart."""
    X, y = table("numbers")
    X, y = X[:, :1], 1e6 + y[:, :1]
    y_hand = (y - y.mean(0)) / y.std(0)
    ours = {"output": "identity", "epochs": 5, "device": "cpu"}
    *expected, _ = fcgpu.train(((X - X.mean(0)) / X.std(0), y_hand), **ours)
    *events, _ = fcgpu.train((X, y), standardize=True, **ours)
    assert events[0].plan.data_bytes == expected[0].plan.data_bytes
    for event, other in zip(events[1:], expected[1:], strict=True):
        assert event.loss == pytest.approx(y.var() * other.loss, rel=1e-6)


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("which", ["every third", "the last hundred"])
def test_samples_of_weight_0_do_not_count(kind, which):
    X, y = table(kind)
    weights = np.arange(150) % 3.0 if which == "every third" else np.arange(150, 0, -1) * (np.arange(150) < 50.0)
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
@pytest.mark.parametrize("stored", ["float32", ">f8", "float16", "int16", "uint8", "bool"])
def test_every_dtype_and_order_and_a_small_budget_give_the_same_bits(stored, in_c, monkeypatch, tmp_path):
    """Under a budget that is too small for a copy, each use converts its part; so do features that stay on disk."""
    if not in_c:
        monkeypatch.setattr(plan_c, "is_for", lambda *a: False)
    X, y = table(n=400)
    X = (X / 10).astype(stored)
    np.save(tmp_path / "X.npy", X)
    ours = {"standardize": True, "epochs": 2, "device": "cpu", "hidden": (5,), "batch": 64}
    ours["dtype"] = "float64" if in_c else "float32"
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert is_mapped(mapped)
    models = []
    for features in (X, X.astype(float), np.asfortranarray(X), mapped):
        started, *_, done = fcgpu.train((features, y), **ours)
        models.append(done.model.params.tobytes())
    tight, *_, done = fcgpu.train((mapped, y), memory_budget=started.plan.bytes - 1, **ours)
    models.append(done.model.params.tobytes())
    assert tight.plan.data_bytes == y.nbytes + 400 * ORDER_BYTES
    assert started.plan.data_bytes - tight.plan.data_bytes == 400 * 5 * np.dtype(ours["dtype"]).itemsize
    assert len(set(models)) == 1


@pytest.mark.parametrize(("n_samples", "n_features"), [(70_000, 1), (30, 20_000)])
def test_threads_of_blas_change_no_bit(n_samples, n_features):
    """Two of them would share one long sum: over the samples, or over the features."""
    X = np.random.default_rng(0).normal(3, 1, size=(n_samples, n_features))
    ours = {"standardize": True, "output": "identity", "hidden": (1,), "dtype": "float64", "epochs": 1, "batch": 5000}
    bits = set()
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            *_, done = fcgpu.train((X, X[:, 0] ** 2), device="cpu", **ours)
        bits.add(done.model.params.tobytes())
    assert len(bits) == 1


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
    with pytest.raises(
        fcgpu.ConfigError, match=r"^standardize=True changes nothing for pictures, as in .*mnist.* out$"
    ):
        fcgpu.train(data, standardize=True)
    assert next(fcgpu.train(data, standardize=False, device="cpu")).data.scale == 1 / 255
    far = replace(data, y=data.y + 1e4, classes=None)
    ours = {"output": "identity", "standardize": True, "optimizer": "lbfgs", "epochs": 60}
    *_, done = fcgpu.train(far, **ours, device="cpu")
    assert done.model.scale == 1 / 255
    assert done.train.r2 > 0.9


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("stored", ["uint8", "float32"])
def test_pictures_without_a_scale_get_one(stored, resident, mnist, device, monkeypatch):
    if type(device.xp).__name__ != "module":
        as_cupy(device.xp, monkeypatch)
    X, y, sides = mnist.X[:100].astype(stored), mnist.y[:100], {"image_shape": (28, 28)}
    there = {"device": device} if resident else {"device": "cpu"}
    ours = {"epochs": 2, "hidden": (5,)} | there
    given = fcgpu.dataset(device.to_device(X) if resident else X, y, **sides)
    *_, expected = fcgpu.train(fcgpu.dataset(X, y, scale=1 / 255, **sides), **ours)
    *_, done = fcgpu.train(given, standardize=True, **ours)
    assert done.model.scale == 1 / 255
    np.testing.assert_allclose(done.model.params, expected.model.params, rtol=0, atol=1e-5)
    recipe = fcgpu.Recipe(standardize=True, epochs=1)
    for changes, scale in (({"scale": 0.5}, 0.5), ({"standardize": False}, 1.0)):
        *_, done = fcgpu.train(given, recipe, **changes, **there)
        assert done.model.scale == scale
    with pytest.raises(fcgpu.ConfigError, match=r"^standardize=True changes nothing for pictures"):
        fcgpu.train(given, scale=0.5, standardize=True)
    faint = fcgpu.dataset(X / np.float32(1000), y, **sides)
    *_, done = fcgpu.train(faint, standardize=True, epochs=1, device="cpu")
    assert done.model.scale == 1


@pytest.mark.parametrize(("n_features", "standardized"), [(63, True), (64, False)])
def test_few_bytes_up_to_255_are_no_picture(n_features, standardized):
    """A column of 0 and 1 beside one of up to 255 would hardly be learned from."""
    X = np.random.default_rng(0).integers(0, 2, (200, n_features), dtype=np.uint8)
    X[0, 5] = 255
    data = fcgpu.dataset(X, X[:, 0], scale=1 / 255)
    *_, done = fcgpu.train(data, fcgpu.load_recipe("own"), epochs=1, device="cpu")
    assert done.model.scale == (1.0 if standardized else 1 / 255)
    assert data.are_pictures != standardized


def test_what_cannot_be_standardized_is_refused():
    X, y = table()
    message = r"^scale=0\.5 changes nothing with standardize=True: leave it out, or use standardize=False"
    with pytest.raises(fcgpu.ConfigError, match=message):
        fcgpu.train((X, y), standardize=True, scale=0.5)
    for recipe, keys in ((None, {"standardize": True, "scale": 0.0}), (fcgpu.Recipe(standardize=True, scale=0.5), {})):
        started, *_, done = fcgpu.train((X, y), recipe, epochs=1, device="cpu", **keys)
        assert (started.data.scale, done.model.scale) == (1, 1)
    X[:, 2] += 1e8
    message = (
        r"^arrays: feature 2 lies \S+ standard deviations from 0, too far .* float32: subtract 1.*e\+08 from it, or"
    )
    with pytest.raises(fcgpu.DataError, match=message):
        fcgpu.train((X, y), standardize=True)
    *_, done = fcgpu.train((X, y), standardize=True, dtype="float64", epochs=40, device="cpu")
    assert done.train.accuracy > 0.9
    for far in (1e6, 1e9):  # of which float32 can tell a few apart, and none
        with pytest.raises(fcgpu.DataError, match=r"^arrays: target 0 lies 1\S+e\+0. standard .* dtype='float64'$"):
            fcgpu.train((X[:, :1], far + X[:, 1]), standardize=True, output="identity")
    with pytest.raises(
        fcgpu.DataError, match=r"^arrays: feature 0 lies .* too far .* float64: subtract 1e\+08 from it$"
    ):
        fcgpu.train((1e8 + 1e-6 * (X[:20, :1] > 0), y[:20]), standardize=True, dtype="float64")


@pytest.mark.parametrize(("dtype", "small", "large"), [("float32", 1e-39, 1e39), ("float64", 1e-158, 1e160)])
def test_numbers_that_the_dtype_or_their_squares_cannot_hold_are_refused(dtype, small, large):
    X, y = table()
    ours = {"standardize": True, "dtype": dtype, "epochs": 2, "device": "cpu"}
    for factor, size, remedy in ((small, "small", "multiply"), (large, "large", "divide")):
        for what in ("feature", "target"):
            if (what, size, dtype) == ("target", "large", "float32"):
                continue  # another error, without standardize, too
            given = (X * [1, factor, 1, 1, 1], y) if what == "feature" else (X, factor * X[:, 1])
            changes = {} if what == "feature" else {"output": "identity"}
            where = 1 if what == "feature" else 0
            message = f"^arrays: {what} {where} is too {size} for standardize in {dtype}: {remedy} it$"
            with pytest.raises(fcgpu.DataError, match=message):
                fcgpu.train(given, **ours, **changes)
    if dtype == "float32":  # neither the mean is too large, nor what lies between it and the largest number
        X[:, 1] = np.where(np.arange(150) % 2, 0.5e38, 4.5e38)
        with pytest.raises(fcgpu.DataError, match=r"^arrays: feature 1 is too large"):
            fcgpu.train((X, y), **ours)
    X[:, 1] = y * {"float32": 1e-37, "float64": 1e-153}[dtype]
    *_, done = fcgpu.train((X, y), **ours)
    assert np.isfinite(done.model.params).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_feature_that_seldom_varies_is_learned_from(dtype):
    """A year that is another one in 2 of 40,000 samples lies 286,000 standard deviations from 0."""
    random = np.random.default_rng(0)
    X, y = np.c_[np.full(40_000, 2024.0), random.normal(size=40_000)], np.zeros(40_000, int)
    X[[5, 500], 0], y[[5, 500]] = 2025, 1
    *_, done = fcgpu.train(
        (X, y), standardize=True, hidden=(), dtype=dtype, batch=50, epochs=5, learning_rate=0.1, device="cpu"
    )
    assert done.train.accuracy == 1
    assert done.train.loss < 0.001
    start = State(np.ones(6))
    *_, done = fcgpu.train((X, y), start=start, standardize=True, hidden=(), dtype=dtype, epochs=1, learning_rate=1e-20)
    std = {"float32": 100 * np.finfo("float32").eps * 2024, "float64": 5e-5**0.5}[dtype]
    np.testing.assert_allclose(done.model.params[:2], 1 / std, rtol=1e-4)


@pytest.mark.parametrize(("kind", "tol"), [("numbers", 0.01), ("counts", 1e-3)])
def test_the_least_improvement_is_that_of_standardized_targets(kind, tol):
    """But of a monitor of one's own it is as given."""
    X, y = table(kind)
    X_hand, _, y_hand, _ = by_hand(X, y, X, kind)
    ours = {"dtype": "float64", "device": "cpu", "hidden": (5,), "epochs": 80, "tol": tol} | FEATURES[kind]
    ours |= {"n_iter_no_change": 3}
    *_, expected = fcgpu.train((X_hand, y_hand), **ours)
    held_out = set()
    for unit in (1e-6, 1.0, 1e6):
        data = (X, unit * y)
        loss_unit = by_hand(*data, X, kind)[3][2]
        *_, done = fcgpu.train(data, standardize=True, **ours)
        assert done.epochs == expected.epochs
        assert done.stopped == f"the loss did not improve by more than {tol * loss_unit:g} in 3 epochs"
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
        (steps | {"output": "exp"}, "learning_rate=0.2, or gradient_clip=1"),
        ({"optimizer": "lbfgs", "dtype": "float32"}, "dtype='float64'"),
        ({"optimizer": "lbfgs"}, "optimizer='adam'"),
    ):
        huge = State(np.full(12, 1e30) if "dtype" in changes else np.full(12, 1e160))
        with pytest.raises(fcgpu.DivergenceError, match=rf" in epoch 1\b.*: try {remedy}$"):
            list(fcgpu.train((X, abs(y)), start=huge, **ours | changes))


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_trains_on_the_same(kind, resident, device, monkeypatch):
    if type(device.xp).__name__ != "module":
        as_cupy(device.xp, monkeypatch)
    X, y = table(kind)
    made = Standardization(np.ones(5), np.ones(5)).features(device.to_device(X), "float32", device, 1)
    assert made.dtype == np.float32
    ours = {"standardize": True, "epochs": 3, "hidden": (6,), "batch": 50} | FEATURES[kind]
    *events, there = fcgpu.train((device.to_device(X) if resident else X, y), **ours, device=device)
    *expected, here = fcgpu.train((X, y), **ours, device="cpu")
    for event, other in zip(events[1:], expected[1:], strict=True):
        assert event.loss == pytest.approx(other.loss, rel=1e-4)
    bound = 1e-4 if kind == "classes" else 1e-3 * by_hand(X, y, X, kind)[3][0]
    np.testing.assert_allclose(there.model.predict_proba(X), here.model.predict_proba(X), rtol=0, atol=bound)
    assert there.train.loss == pytest.approx(here.train.loss, rel=1e-3)


def test_memory_that_a_copy_does_not_fit_in_is_an_error(monkeypatch):
    device, (X, y) = double_backend(monkeypatch), table()
    as_cupy(device.xp, monkeypatch)
    there = device.to_device(X)
    memory = device.xp.memory
    message = (
        r"^cuda:0 ran out of memory .*: standardize=True copies X there: free its memory, or give cupy.asnumpy\(X\)"
    )
    for number in range(3, 11):  # the first two are of the check that X is finite
        memory.free_all_blocks()
        memory.refused = {memory.allocations + number}
        with pytest.raises(DeviceMemoryError, match=message):
            fcgpu.train((there, y), standardize=True, device=device)
    memory.refused = set()
    monkeypatch.setattr("fcgpu.backend.free_memory", lambda: 5000)
    with pytest.raises(fcgpu.ConfigError, match=r"^standardize=True copies X for a GPU, and 2\.9 KiB are more"):
        fcgpu.train((X, y), standardize=True, device=device)
