"""All passes over a small batch in one C call: against the formulas, and in training."""

from types import SimpleNamespace

import numpy as np
import pytest
from native_cases import at_the_end, digits

import fcgpu
from fcgpu.kernels import REFERENCE, compiled
from fcgpu.kernels.activations import ACTIVATIONS as REFERENCES
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import aligned, initial
from fcgpu.train import cpu, passes, plan
from fcgpu.train.loop import fit_to
from fcgpu.train.passes import ACTIVATIONS, MOST, Passes

pytestmark = pytest.mark.skipif(not hasattr(compiled.native, "passes"), reason="native.c was not compiled")
SIZES = [(1, 1, 2), (5, 17, 3), (40, 130, 64, 10), (200, 16, 16, 1), (33, 4), (6, 5, 4, 3, 2, 20, 7)]


class Problem:
    """A network's batch, and its gradient and logits by the references."""

    def __init__(self, sizes, samples, activation, output, dtype, features="bytes", weighted=False, dense=False):
        random = np.random.default_rng(0)
        output = output if sizes[-1] > 1 else "sigmoid"
        self.spec, self.dtype, self.scale = fcgpu.Spec(sizes, activation, output), np.dtype(dtype), 1 / 255
        self.data = random.integers(0, 256, (2 * samples, sizes[0]), dtype=np.uint8)
        self.data[random.random(self.data.shape) < 0.7] = 0
        if features == "numbers":
            self.data = (self.data * random.normal(0, 1, self.data.shape)).astype(dtype)
        self.rows = random.permutation(2 * samples)[:samples]
        k = max(2, sizes[-1])
        self.y = random.random((samples, sizes[-1])).astype(dtype) if dense else random.integers(0, k, samples)
        if dense and output == "softmax":
            self.y /= self.y.sum(1, keepdims=True)
        self.weight = random.random((samples, 1)).astype(dtype) if weighted else 1 / samples
        self.params = initial(self.spec, 1).astype(dtype)
        self.params += random.normal(0, 0.1, self.params.shape).astype(dtype)

    def call(self, **changes):
        """(gradient, logits, params) from the C, which overwrites other numbers in them; None if it refuses."""
        it = {**vars(self), "subtract": False, "indices": self.rows, **changes}
        gradient, logits = np.full_like(self.params, 7), np.full((len(self.rows), self.spec.sizes[-1]), 7, self.dtype)
        sizes = np.array(self.spec.sizes, np.intp)
        room = aligned(compiled.native.passes_room(sizes, len(self.rows), self.dtype == np.float64), np.uint8)
        params = it["params"].copy() if isinstance(it["params"], np.ndarray) else it["params"]
        done = compiled.native.passes(
            it["data"], it["indices"], self.scale, it.get("sizes", sizes), ACTIVATIONS.index(self.spec.activation),
            self.spec.output == "softmax", params, it.get("gradient", gradient), it["subtract"],
            it.get("logits", logits), it["y"], it["weight"], it.get("room", room),
        )  # fmt: skip
        if not done:
            assert (gradient == 7).all() and (logits == 7).all()  # noqa: PT018
            return None
        return gradient, logits, params

    def right(self):
        """(gradient, logits) in float64."""
        layers, gradient = self.spec.layers(self.params.astype(float)), np.zeros(self.params.shape)
        A = [self.data[self.rows] * self.scale]
        for i, (W, b) in enumerate(layers):
            A.append(A[-1] @ W)
            if i < len(layers) - 1:
                REFERENCES[self.spec.activation].forward(A[-1], b, xp=np)
        logits = A[-1] + layers[-1].b
        dZ = logits.copy()
        REFERENCE[f"{OUTPUTS[self.spec.output].loss}_delta"](dZ, 0.0, self.y, self.weight, xp=np)
        for i, (dW, db) in reversed(list(enumerate(self.spec.layers(gradient)))):
            dW[...], db[...] = A[i].T @ dZ, dZ.sum(0)
            dZ = dZ @ layers[i].W.T
            if i and self.spec.activation != "identity":
                REFERENCES[self.spec.activation].backward(A[i], dZ, xp=np)
        return gradient, logits


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("features", ["bytes", "numbers"])
@pytest.mark.parametrize("samples", [1, 2, 7, 10, 16, 29, 32])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradient_and_logits_are_the_references(sizes, samples, features, dtype):
    for at, output in enumerate(("softmax", "sigmoid")):
        activation = ACTIVATIONS[(samples + at) % len(ACTIVATIONS)]
        it = Problem(sizes, samples, activation, output, dtype, features, weighted=samples % 2 == 0, dense=at == 1)
        near = 50 * np.finfo(dtype).eps
        gradient, logits = it.right()
        found = it.call()
        np.testing.assert_allclose(found[1], logits, rtol=near, atol=near)
        np.testing.assert_allclose(found[0], gradient, rtol=0, atol=near * max(1, abs(gradient).max()))
        np.testing.assert_array_equal(found[2], it.params)
        unseen = ~it.data[it.rows].any(axis=0)
        assert not it.spec.layers(found[0])[0].W[unseen].any()
        W = sizes[0] * sizes[1]
        subtracted = it.call(subtract=True)
        np.testing.assert_allclose(subtracted[2][:W], it.params[:W] - gradient[:W], rtol=0, atol=2 * near)
        np.testing.assert_array_equal(subtracted[2][W:], it.params[W:])
        np.testing.assert_array_equal(subtracted[0][W:], found[0][W:])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_every_activation_and_output(activation, output):
    it = Problem((20, 30, 10, 4), 10, activation, output, "float64")
    gradient, logits = it.right()
    found = it.call()
    np.testing.assert_allclose(found[1], logits, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found[0], gradient, rtol=0, atol=1e-13)


def test_rows_may_be_named_or_the_first_ones():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "float32")
    for one, other in zip(it.call(), it.call(data=it.data[it.rows], indices=None), strict=True):
        np.testing.assert_array_equal(one, other)
    wide = np.zeros((20, 60), np.uint8)
    wide[:, 20:40] = it.data
    np.testing.assert_array_equal(it.call(data=wide[:, 20:40])[0], it.call()[0])


def test_what_it_is_not_written_for_is_refused_and_nothing_touched():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "float32")
    still = it.params.copy()
    still.flags.writeable = False
    room = compiled.native.passes_room(np.array(it.spec.sizes), 10, False)
    behind = it.rows.copy()
    behind[9] = 20
    for changes in (
        {"data": it.data.astype(float)}, {"data": it.data[:, ::2]}, {"data": it.data[:, :19]}, {"data": None},
        {"indices": it.rows + 20}, {"indices": it.rows - 20}, {"indices": it.rows[:9]}, {"indices": None},
        {"indices": it.rows.astype(np.int32)}, {"params": it.params.astype(float)}, {"params": it.params[:-1]},
        {"params": None}, {"gradient": still}, {"gradient": it.params[:-1].copy()}, {"y": it.y + 4}, {"y": it.y[:9]},
        {"weight": np.ones(3, np.float32)}, {"room": np.zeros(room - 1, np.uint8)},
        {"indices": behind},
        {"sizes": np.array([20, 30])}, {"sizes": np.array([20, 29, 4])}, {"sizes": np.array([20, 0, 4])},
        {"sizes": np.array([20.0, 30.0, 4.0])},
    ):  # fmt: skip
        assert it.call(**changes) is None, changes
    with pytest.raises(TypeError, match="expected the sizes of a few layers"):
        compiled.native.passes_room(np.array([3]), 10, False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(5, 3, 1), (33, 17, 9), (20, 16, 8)], ids=str)
def test_nothing_is_read_or_written_behind_the_arrays(sizes, dtype):
    """Each array ends at an inaccessible page; an access behind it kills the process."""
    for samples in (1, 10, 32):
        it = Problem(sizes, samples, "tanh", "softmax", dtype, weighted=True)
        room = aligned(compiled.native.passes_room(np.array(sizes), samples, dtype == "float64"), np.uint8)
        expected = it.call()[0]
        params, gradient = at_the_end(it.params), at_the_end(np.zeros_like(it.params))
        logits = at_the_end(np.zeros((samples, sizes[-1]), dtype))
        for subtract in (False, True):
            assert compiled.native.passes(
                at_the_end(it.data[it.rows]), None, it.scale, at_the_end(np.array(sizes)), 1,
                it.spec.output == "softmax", params, gradient, subtract, logits, at_the_end(it.y),
                at_the_end(it.weight), at_the_end(room),
            )  # fmt: skip
            if not subtract:
                np.testing.assert_array_equal(gradient, expected)


OPTIONS = [
    {"optimizer": "gradient_descent", "learning_rate": 0.5},
    {"optimizer": "momentum", "batch": 32, "activation": "sigmoid"},
    {"optimizer": "adam", "alpha": 0.1, "output": "sigmoid"},
    {"optimizer": "adamw", "batch": 7, "gradient_clip": 0.5, "activation": "tanh"},
    {"optimizer": "rmsprop", "batch": 1, "epochs": 1, "sample_weight": np.linspace(0, 2, 300)},
    {"optimizer": "nesterov", "shuffle": False, "hidden": (), "warmup": 1},
]


def used(monkeypatch):
    """A list with an entry for each call of the C: whether it accepted the arguments."""
    taken, real = [], compiled.native.passes
    ours = SimpleNamespace(**{**vars(compiled.native), "passes": lambda *a: taken.append(real(*a)) or taken[-1]})
    monkeypatch.setattr(compiled, "native", ours)
    return taken


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o["optimizer"])
def test_a_training_ends_where_one_by_products_ends(options, monkeypatch):
    options = {"hidden": (24, 12), "epochs": 5, "device": "cpu", "seed": 3, "dtype": "float64", "batch": 10, **options}
    taken = used(monkeypatch)
    *_, mine = fcgpu.train(digits(300), **options)
    assert len(taken) == mine.steps
    assert all(taken)
    monkeypatch.setattr(passes, "MOST", 0)
    *_, other = fcgpu.train(digits(300), **options)
    assert len(taken) == mine.steps
    np.testing.assert_allclose(mine.model.params, other.model.params, rtol=1e-9, atol=1e-9)
    assert mine.train.loss == pytest.approx(other.train.loss, rel=1e-10)


def test_no_bit_depends_on_threads_memory_or_the_type_of_pixels(monkeypatch):
    data, taken, found = digits(300), used(monkeypatch), []
    floats = fcgpu.dataset(data.X / 255, data.y)
    recipe = fcgpu.Recipe(hidden=(24, 12), batch=10)
    least = plan.plan(fit_to(recipe, floats)[0], (floats.X, floats.y), recipe, fcgpu.choose("cpu")).bytes
    for given, options in (
        (data, {"threads": 1}), (data, {"threads": 3}), (floats, {}), (floats, {"memory_budget": least}),
    ):  # fmt: skip
        *_, finished = fcgpu.train(
            given, hidden=(24, 12), epochs=3, batch=10, device="cpu", optimizer="adam", seed=3, **options
        )
        found.append(finished.model.params)
    assert len(taken) == 4 * finished.steps
    for params in found[1:]:
        np.testing.assert_array_equal(params, found[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": MOST + 1}, {"dropout": 0.2}, {"output": "identity"}, {"dtype": "float64"}, {"batch": "full"},
        {"hidden": (3,) * 63, "activation": "tanh"},
    ],
    ids=str,
)  # fmt: skip
def test_other_runs_go_another_way(changes, monkeypatch):
    data, taken = digits(300), used(monkeypatch)
    X = (data.X + 0.25).astype(np.float32)  # for dtype="float64", X has another dtype
    kinds = []
    monkeypatch.setattr(cpu, "Passes", lambda *a, **o: kinds.append(1) or Passes(*a, **o))
    *_, finished = fcgpu.train((X, data.y), **{"hidden": (6,), "epochs": 1, "batch": 10, "device": "cpu", **changes})
    assert not taken
    assert not kinds
    assert finished.epochs == 1


def test_what_the_c_refuses_goes_by_products(monkeypatch):
    data = digits(300)
    options = {"hidden": (24, 12), "epochs": 3, "batch": 10, "device": "cpu", "seed": 3, "dtype": "float64"}
    *_, expected = fcgpu.train(data, **options)
    ours = SimpleNamespace(**{**vars(compiled.native), "passes": lambda *a: False})
    monkeypatch.setattr(compiled, "native", ours)
    *_, found = fcgpu.train(data, **options)
    np.testing.assert_allclose(found.model.params, expected.model.params, rtol=1e-9, atol=1e-9)
