"""Steps in C: against the formulas, and in training against the steps in NumPy."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from native_cases import at_the_end, digits

import fcgpu
from fcgpu.kernels import REFERENCE, compiled
from fcgpu.kernels.activations import ACTIVATIONS as REFERENCES
from fcgpu.kernels.denormals import AsZeros, are_counted_as_zero
from fcgpu.kernels.losses import OUTPUTS as LOSSES
from fcgpu.kernels.updates import UPDATES
from fcgpu.logits import ACTIVATIONS, tile
from fcgpu.network import Workspace
from fcgpu.params import Spec, aligned, initial, weights_only
from fcgpu.train import in_c, plan, plan_c
from fcgpu.train.converted import Converted
from fcgpu.train.loop import fit_to
from fcgpu.train.pace import Pace
from fcgpu.train.pixels import Pixels
from fcgpu.train.plan_c import OUTPUTS, RULES

pytestmark = pytest.mark.skipif(not hasattr(compiled.native, "steps"), reason="native.c was not compiled")
SIZES = [(1, 1, 2), (5, 17, 3), (40, 130, 64, 10), (200, 16, 16, 1), (33, 4), (6, 5, 4, 3, 2, 20, 7), (9, 303, 2)]
HYPERPARAMETERS = {"momentum": 0.8, "rho": 0.7, "beta_1": 0.7, "beta_2": 0.8, "epsilon": 1e-3, "weight_decay": 0.3}
RATES = np.array([0.3, 0.2])
NO_RULE = plan_c.rule("lbfgs")


class Problem:
    """Two batches of a network, the second smaller if `samples` is more than 1, and what two steps come to."""

    def __init__(self, sizes, samples, activation, output, rule, dtype, features="bytes", *, weighted=False,
                 dense=False, alpha=0.0, clip=0.0, drops=None):  # fmt: skip
        random = np.random.default_rng(0)
        output = "sigmoid" if output == "softmax" and sizes[-1] == 1 else output
        self.spec, self.dtype, self.scale, self.alpha = Spec(sizes, activation, output), np.dtype(dtype), 1 / 255, alpha
        self.samples, self.rule, self.clip = samples, rule, clip
        n = samples + max(1, samples // 2)
        self.X = random.integers(0, 256, (2 * n, sizes[0]), dtype=np.uint8)
        self.X[random.random(self.X.shape) < 0.7] = 0
        if features == "numbers":
            self.X = (self.X * random.normal(0, 1, self.X.shape)).astype(dtype)
        self.order = random.permutation(2 * n)[:n]
        k = max(2, sizes[-1])
        dense = dense or output == "identity"
        self.y = random.random((2 * n, sizes[-1])).astype(dtype) if dense else random.integers(0, k, 2 * n)
        if dense and output == "softmax":
            self.y /= self.y.sum(1, keepdims=True)
        self.weights = random.integers(0, 3, 2 * n).astype(dtype) if weighted else None
        self.params = initial(self.spec, 1).astype(dtype)
        self.params += random.normal(0, 0.1, self.params.shape).astype(dtype)
        self.state = [random.random(self.params.shape).astype(dtype) for _ in "mv"]
        self.dropped = {"ids": None, "keys": None, "drops": None}
        if drops:
            ids, keys = (random.integers(0, 2**32, shape, np.uint32) for shape in (2 * n, (2, len(drops), 2)))
            self.dropped = {"ids": ids, "keys": keys, "drops": np.array(drops)}
        self.given = {key: HYPERPARAMETERS[key] for key in UPDATES[rule].defaults}

    def arguments(self, threads=1, some=5, *, tiles=False, by_layer=False, **changes):
        """Those of the C, by name: the arrays that it overwrites are copies."""
        m, v = (array.copy() for array in self.state)
        first = [self.given[key] for key in ("momentum", "rho", "beta_1") if key in self.given] or [0.0]
        others = (self.given.get(key, 0.0) for key in ("beta_2", "epsilon", "weight_decay"))
        reals = [self.scale, self.alpha, *first, *others, self.clip, 3.0, 1.0]
        wholes = [
            self.samples, some, threads, ACTIVATIONS.index(self.spec.activation), OUTPUTS.index(self.spec.output),
            self.spec.output != "identity", RULES.index(self.rule), 10, tiles, by_layer,
        ]  # fmt: skip
        sizes = np.array(self.spec.sizes, np.intp)
        doubles, clipped = self.dtype == np.float64, self.clip > 0
        cut = self.samples, some, threads, doubles, clipped, tiles, by_layer, False
        room = compiled.native.steps_room(sizes, *cut)
        return {
            "X": self.X, "order": self.order, "y": self.y, "weights": self.weights, "params": self.params.copy(),
            "m": m, "v": v, "rates": RATES.copy(), "sums": np.zeros(3), "sizes": sizes,
            "room": aligned(room, np.uint8), "wholes": np.array(wholes), "reals": np.array(reals), **self.dropped,
            **changes,
        }  # fmt: skip

    def run(self, **changes):
        """(params, m, v, sums) after two steps in C."""
        given = self.arguments(**changes)
        assert compiled.native.steps(*given.values()) == len(given["rates"])
        return [given[name] for name in ("params", "m", "v", "sums")]

    def right(self):
        """The same in float64, by the references."""
        w, state, sums = self.params.astype(float), [array.astype(float) for array in self.state], np.zeros(3)
        kind, loss = UPDATES[self.rule].state, LOSSES[self.spec.output].loss
        given = dict(self.given)
        if "weight_decay" in given:
            given["weight_decay"] = weights_only(self.spec, given["weight_decay"])
        named = {"m": state[0], "v": state[1], "t": np.array([3.0])}
        for i, rate in enumerate(RATES):
            rows = self.order[i * self.samples : (i + 1) * self.samples]
            n, y = len(rows), self.y[rows]
            weight = np.ones((n, 1)) if self.weights is None else self.weights[rows].astype(float)[:, None]
            weight = weight / (weight.sum() or 1)
            total = n if self.weights is None else self.weights[rows].sum()
            share = 1 / total if total else 0
            gradient = np.zeros(w.shape)
            layers = self.spec.layers(w)
            A, kept = [self.X[rows] * self.scale], []
            for j, (W, b) in enumerate(layers):
                A.append(A[-1] @ W)
                if j < len(layers) - 1:
                    REFERENCES[self.spec.activation].forward(A[-1], b, xp=np)
                    if self.dropped["ids"] is not None:
                        ids, keys, drops = self.dropped.values()
                        kept.append(np.zeros(A[-1].shape, bool))
                        REFERENCE["dropout"](A[-1], kept[-1], keys[i, j], ids[rows], drops[j], xp=np)
            A[-1] += layers[-1].b
            losses = np.zeros((n, 1))
            REFERENCE[loss](A[-1], y, weight, losses, xp=np)
            sums[0] += losses.sum() * n / 10
            if self.spec.output != "identity" and y.ndim == 1:
                correct = np.zeros(n, bool)
                REFERENCE["count_correct"](A[-1], y, correct, xp=np)
                sums[2] += correct.sum()
            dZ = A[-1]
            REFERENCE[f"{loss}_delta"](dZ, 0.0, y, weight, xp=np)
            for j, (dW, db) in reversed(list(enumerate(self.spec.layers(gradient)))):
                dW[...], db[...] = A[j].T @ dZ, dZ.sum(0)
                dZ = dZ @ layers[j].W.T
                if kept and j:
                    REFERENCE["dropout_backward"](A[j], dZ, kept[j - 1], self.dropped["drops"][j - 1], xp=np)
                if j and self.spec.activation != "identity":
                    REFERENCES[self.spec.activation].backward(A[j], dZ, xp=np)
                penalty = np.zeros(())
                REFERENCE["add_l2"](layers[j].W, dW, self.alpha, share, penalty, xp=np)
                sums[1] += penalty * n / 10
            if self.clip:
                REFERENCE["clip_by_norm"](gradient, self.clip, xp=np)
            UPDATES[self.rule].update(w, gradient, kind(*(named[f] for f in kind._fields)), rate, **given, xp=np)
        return [w, *state, sums]


def assert_near(found, right, dtype):
    near = 2000 * np.finfo(dtype).eps  # of sums of some hundred numbers, in two steps
    for one, other in zip(found, right, strict=True):
        np.testing.assert_allclose(one, other, rtol=near, atol=near * max(1, np.abs(other).max()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("features", ["bytes", "numbers"])
@pytest.mark.parametrize("batch", [1, 2, 7, 10, 29, 75])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_two_steps_are_those_of_the_references(sizes, batch, features, dtype):
    at = SIZES.index(sizes) + batch + (features == "bytes")
    for i, output in enumerate(OUTPUTS):
        activation, rule = ACTIVATIONS[(at + i) % len(ACTIVATIONS)], RULES[(at + 2 * i) % len(RULES)]
        it = Problem(
            sizes, batch, activation, output, rule, dtype, features, weighted=at % 2 == 0, dense=at % 3 == 0,
            alpha=0.1 * (at % 5 == i), clip=0.05 * (at % 3 == i),
            drops=[0.3, 0.5, 0.1, 0.7, 0.01][: len(sizes) - 2] if at % 4 < 2 else None,
        )  # fmt: skip
        if it.y.ndim == 2 and output != "identity":
            it.spec = Spec(sizes, activation, it.spec.output)
        right = it.right()
        for by_layer in (False, True):
            wholes = counting(it, counts=it.y.ndim == 1, by_layer=by_layer)
            assert_near(it.run(wholes=wholes, by_layer=by_layer), right, dtype)


on_tiles = pytest.mark.skipif(not compiled.has_tile_unit(), reason="this processor has no tile unit")
TILED = {"some": 32, "tiles": True}


@on_tiles
@pytest.mark.parametrize("batch", [1, 16, 17, 32, 33, 75, 128])
@pytest.mark.parametrize("sizes", [*SIZES, (16, 16, 3), (64, 32, 48, 2), (95, 31, 7)], ids=str)
def test_two_steps_on_the_tile_unit_are_those_of_the_references(sizes, batch):
    at = sizes[0] + batch
    for i, rule in enumerate(RULES):
        activation, output = ACTIVATIONS[(at + i) % len(ACTIVATIONS)], OUTPUTS[(at + i) % len(OUTPUTS)]
        it = Problem(
            sizes, batch, activation, output, rule, "float32", weighted=i % 2 == 0, alpha=0.1 * (at % 3 == i % 3),
            clip=0.05 * (i == 3), drops=[0.3, 0.5, 0.1, 0.7, 0.01][: len(sizes) - 2] if i == 4 else None,
        )  # fmt: skip
        it.X[:, : sizes[0] // 2] *= at % 4 > 0  # strips of features that no sample has,
        it.X[it.order[32:], 16:32] *= at % 2 == 0  # and one that the first samples have alone
        right = it.right()
        for by_layer in (False, True):
            expected = it.run(**TILED, by_layer=by_layer)
            assert_near(expected, right, "float32")
            for one, other in zip(it.run(**TILED, by_layer=by_layer, threads=3), expected, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("samples", "some", "features", "dtype", "goes"),
    [
        (64, 32, "bytes", "float32", compiled.has_tile_unit()), (64, 31, "bytes", "float32", False),
        (64, 32, "numbers", "float32", False), (64, 32, "bytes", "float64", False),
        (2049, 32, "bytes", "float32", False),
    ],
)  # fmt: skip
def test_the_tile_unit_takes_bytes_and_floats_in_tasks_of_its_own(samples, some, features, dtype, goes):
    it = Problem((20, 30, 4), samples, "relu", "softmax", "adam", dtype, features)
    with contextlib.nullcontext() if goes else pytest.raises(TypeError, match="expected contiguous arrays"):
        it.run(some=some, tiles=True)


def counting(it, *, counts, by_layer):
    wholes = it.arguments(by_layer=by_layer)["wholes"]
    wholes[5] = counts
    return wholes


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_rule_activation_and_output(rule, activation, output):
    it = Problem((20, 30, 10, 4), 10, activation, output, rule, "float64", alpha=0.2, weighted=True)
    assert_near(it.run(), it.right(), "float64")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("alpha", "clip"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.05)])
@pytest.mark.parametrize("by_layer", [False, True])
def test_without_a_rule_the_gradient_is_left_and_the_parameters_stay(by_layer, alpha, clip, dtype):
    it = Problem((40, 130, 64, 10), 75, "relu", "softmax", "momentum", dtype, alpha=alpha, clip=clip, weighted=True)
    one, nothing = {"rates": RATES[:1], "threads": 2, "by_layer": by_layer}, np.zeros_like(it.params)
    _, _, moved, sums = it.run(v=nothing.copy(), **one)
    wholes = it.arguments(threads=2, by_layer=by_layer)["wholes"]
    wholes[6] = NO_RULE
    params, gradient, v, same_sums = it.run(wholes=wholes, v=None, **one)
    np.testing.assert_array_equal(-gradient.dtype.type(RATES[0]) * gradient, moved)
    np.testing.assert_array_equal(params, it.params)
    np.testing.assert_array_equal(same_sums, sums)
    assert v is None
    assert np.any(gradient)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "clip"), [("gradient_descent", 0.0), ("adam", 0.0), ("adam", 0.05)])
@pytest.mark.parametrize("by_layer", [False, True])
def test_no_bit_depends_on_the_threads(by_layer, rule, clip, dtype):
    drops = [0.3, 0.5] if clip else None
    it = Problem((40, 130, 64, 10), 75, "relu", "softmax", rule, dtype, alpha=0.1, clip=clip, drops=drops)
    expected = it.run(by_layer=by_layer)
    for threads, times in ((2, 20), (3, 20), (8, 20), (64, 2)):  # more than there are processors or tasks, too
        for _ in range(times):
            for one, other in zip(it.run(threads=threads, by_layer=by_layer), expected, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("by_layer", [False, True])
def test_no_bit_of_the_parameters_depends_on_the_samples_of_a_task(by_layer, dtype):
    it = Problem((40, 130, 64, 10), 75, "relu", "softmax", "adam", dtype, alpha=0.1, clip=0.05, drops=[0.3, 0.5])
    expected = it.run(by_layer=by_layer)
    for some in (1, 4, 32, 75, 100):
        for one, other in zip(it.run(some=some, by_layer=by_layer)[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("samples", [2049, 5000])
def test_no_bit_depends_on_how_the_sums_of_many_samples_are_cut_into_tasks(samples, dtype):
    it = Problem((40, 9, 4), samples, "relu", "softmax", "momentum", dtype, alpha=0.1)
    expected = it.run()
    assert_near(expected, it.right(), dtype)
    for some in (1, 31, 2048, 9999):
        for one, other in zip(it.run(some=some, threads=2)[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_gradient_of_many_samples_keeps_its_digits(monkeypatch):
    """In one sum of float32, equal numbers are all rounded the same way: 0.1 % would be lost."""
    n, taken = 200_000, used(monkeypatch)
    X, y = np.full((n, 1), 0.7, np.float32), np.arange(n) < 2
    _, ended, _ = fcgpu.train(
        (X, y.astype(int)), hidden=(), output="sigmoid", init="zeros", optimizer="gradient_descent", learning_rate=1,
        schedule="constant", epochs=1, device="cpu",
    )  # fmt: skip
    assert sum(taken) == 1
    np.testing.assert_allclose(ended.model().params, (2 / n - 0.5) * np.array([0.7, 1]), rtol=2e-5)


def test_rows_may_be_named_or_the_first_ones():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "adam", "float32", weighted=True)
    wide = np.zeros((len(it.order), 60), np.uint8)
    wide[:, 20:40] = it.X[it.order]
    first = {"y": it.y[it.order], "weights": it.weights[it.order], "order": None}
    for X in (it.X[it.order], wide[:, 20:40]):
        for one, other in zip(it.run(X=X, **first), it.run(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_only_the_labels_of_the_named_rows_count():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "adam", "float32")
    y = np.full(len(it.y), 4)
    y[it.order] = it.y[it.order]
    np.testing.assert_array_equal(it.run(y=y)[0], it.run()[0])


def test_labels_may_be_integers_of_any_type():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "adam", "float32")
    for dtype in "bBhHiIlLqQ":
        np.testing.assert_array_equal(it.run(y=it.y.astype(dtype))[0], it.run()[0])


def test_a_batch_whose_weights_are_all_0_has_no_gradient():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "gradient_descent", "float64", alpha=0.1)
    params, *_, sums = it.run(weights=np.zeros(len(it.X)))
    np.testing.assert_array_equal(params, it.params)
    assert not sums[:2].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_of_weights_below_the_normal_numbers_stays_finite(dtype):
    it = Problem((20, 30, 4), 10, "relu", "softmax", "gradient_descent", dtype)
    tiny = np.finfo(dtype).tiny
    params, *_, sums = it.run(weights=np.full(len(it.X), tiny / 2**20, dtype))
    assert np.isfinite(params).all()
    assert np.isfinite(sums).all()


def test_a_rate_of_0_drops_nothing_and_one_next_to_1_all():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "gradient_descent", "float32")
    keys = np.array([[[1, 0]], [[1, 0]]], np.uint32)
    dropped = {"ids": np.zeros(len(it.X), np.uint32), "keys": keys}  # the first unit's hash is 0
    np.testing.assert_array_equal(it.run(**dropped, drops=np.zeros(1))[0], it.run()[0])
    params = it.run(**dropped, drops=np.array([np.nextafter(1, 0)]))[0]
    np.testing.assert_array_equal(params[:-4], it.params[:-4])


def test_not_a_number_and_infinities_reach_the_loss():
    for value in (np.nan, np.inf):
        it = Problem((20, 30, 4), 10, "relu", "softmax", "adam", "float32", "numbers")
        it.X[it.order[3], 5] = value
        assert not np.isfinite(it.run()[3][0])


def test_a_clipped_gradient_whose_norm_is_not_a_number_is_none():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "gradient_descent", "float32", "numbers", clip=1.0)
    it.X[:, 7] = 0  # a feature without a gradient
    it.X[it.order[3], 5] = np.nan
    assert np.isnan(it.run(rates=RATES[:1])[0]).all()


def test_what_it_is_not_written_for_is_refused_and_nothing_touched():
    it = Problem((20, 30, 4), 10, "relu", "softmax", "adam", "float32")
    still = it.params.copy()
    still.flags.writeable = False
    room = compiled.native.steps_room(np.array(it.spec.sizes), 10, 5, 1, *5 * [False])
    behind, wholes, dense = it.order.copy(), it.arguments()["wholes"], np.zeros((len(it.X), 4))
    behind[9] = len(it.X)

    drops = {
        "ids": np.zeros(len(it.X), np.uint32), "keys": np.zeros((2, 1, 2), np.uint32), "drops": np.array([0.5]),
    }  # fmt: skip

    shared = aligned(room, np.uint8)
    named = shared[: it.order.nbytes].view(np.intp)
    named[:] = it.order
    both = np.array([0.3, 0.2, 0.0])

    def whole(i, value):
        changed = wholes.copy()
        changed[i] = value
        return {"wholes": changed}

    for changes in (
        {"X": it.X.astype(float)}, {"X": np.repeat(it.X, 2, axis=1)[:, ::2]},
        {"X": it.X[:, :19]}, {"X": None}, {"X": it.X[:5]},
        {"order": it.order + len(it.X)}, {"order": it.order - len(it.X)}, {"order": it.order[:10]}, {"order": behind},
        {"order": it.order.astype(np.int32)}, {"order": it.order[::-1]}, {"order": it.order[:0]},
        {"params": it.params.astype(float)}, {"params": it.params[:-1]}, {"params": None}, {"params": still},
        {"m": None}, {"v": None}, {"v": still}, {"m": it.state[0][:-1].copy()}, {"m": it.state[0].astype(float)},
        {"y": it.y + 4}, {"y": it.y - 4}, {"y": it.y[:-1]}, {"y": dense}, {"y": dense[:, :3].astype(np.float32)},
        {"y": None}, {"y": it.y.astype(str)},
        {"weights": np.ones(len(it.X) - 1, np.float32)}, {"weights": np.ones(len(it.X))},
        {"rates": RATES.astype(np.float32)}, {"rates": RATES[:0]}, {"rates": np.ones(3)}, {"sums": np.zeros(2)},
        {"room": np.zeros(room - 1, np.uint8)}, {"sizes": np.array([20, 30])}, {"sizes": np.array([20, 29, 4])},
        {"sizes": np.array([20, 0, 4])}, {"sizes": np.array([20.0, 30.0, 4.0])}, {"sizes": np.full(65, 2)},
        {"wholes": wholes[:-1]}, {"wholes": wholes.astype(float)}, {"reals": np.zeros(8)},
        {"ids": np.zeros(len(it.X), np.uint32)}, {**drops, "ids": drops["ids"][1:]}, {**drops, "drops": np.zeros(2)},
        {**drops, "drops": np.array([1.0])}, {**drops, "drops": np.array([-0.1])},
        {**drops, "keys": drops["keys"][1:]}, {**drops, "keys": drops["keys"].astype(int)}, {**drops, "drops": None},
        whole(0, 0), whole(1, 0), whole(2, 0), whole(2, 65), whole(6, 7), whole(6, -1), whole(7, 0),
        {**whole(6, NO_RULE), "m": None}, {**whole(6, NO_RULE), "m": it.state[0].astype(float)},
        whole(0, 2**62), whole(1, 2**62), {"sizes": np.array([20, 2**62, 4])},
        {"y": unaligned(it.y)}, {"reals": (ctypes.c_double * 9)()}, {"room": aligned(room + 8, np.uint8)[8:]},
        {"m": it.state[1], "v": it.state[1]}, {"order": named, "room": shared},
        {"rates": both[:2], "sums": both},
    ):  # fmt: skip
        given = it.arguments(**changes)
        before = {name: given[name].copy() for name in ("params", "m", "v") if given[name] is not None}
        with pytest.raises(TypeError, match="expected contiguous arrays of one float type"):
            compiled.native.steps(*given.values())
        for name, array in before.items():
            np.testing.assert_array_equal(given[name], array)
    for bad in (
        (np.array([3]), 10, 5, 1), (np.array([3, 2]), 0, 5, 1), (np.array([3, 2]), 10, 5, 65),
        (np.array([3, 2]), 2**60, 5, 1), (np.array([3, 2]), 10, 2**60, 1), (np.array([2**60, 2]), 10, 5, 1),
        (np.array([3, 2]), 10, 5, 0), (np.full(65, 2), 10, 5, 1), (np.array([3, 2049]), 10, 5, 1),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="expected the sizes of a few layers"):
            compiled.native.steps_room(*bad, *5 * [False])


@pytest.mark.parametrize("clip", [-1.0, np.nan])
def test_a_limit_of_the_gradient_that_is_not_positive_is_none(clip):
    it = Problem((20, 30, 4), 10, "relu", "softmax", "adam", "float32")
    reals = it.arguments()["reals"]
    reals[6] = clip
    for one, other in zip(it.run(reals=reals), it.run(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("by_layer", [False, True])
@pytest.mark.parametrize(
    ("dtype", "cut"), [("float32", {}), ("float64", {}), pytest.param("float32", TILED, marks=on_tiles)]
)
@pytest.mark.parametrize("sizes", [(5, 3, 1), (33, 17, 9), (20, 16, 8)], ids=str)
def test_nothing_is_read_or_written_behind_the_arrays(sizes, dtype, cut, by_layer):
    """Each array ends at an inaccessible page; an access behind it kills the process."""
    for batch, rule in ((1, "adam"), (10, "gradient_descent"), (32, "momentum")):
        it = Problem(sizes, batch, "tanh", "softmax", rule, dtype, weighted=True)
        cut = {**cut, "by_layer": by_layer}
        expected, given = it.run(**cut), it.arguments(threads=2, **cut)
        given = {name: array if array is None else at_the_end(array) for name, array in given.items()}
        assert compiled.native.steps(*given.values()) == 2
        for name, array in zip(("params", "m", "v", "sums"), expected, strict=True):
            np.testing.assert_array_equal(given[name], array)


@pytest.mark.parametrize(
    "cut", [{}, {"by_layer": True}, pytest.param(TILED, marks=on_tiles)], ids=["", "by_layer", "tiled"]
)
def test_it_returns_after_the_given_seconds_and_goes_on_from_there(cut):
    it = Problem((40, 130, 64, 10), 75, "relu", "softmax", "adam", "float32")
    expected, given, done = it.run(**cut), it.arguments(**cut), 0
    given["reals"][-1] = 0.0
    rates, order = given.pop("rates"), given["order"]
    while done < 2:
        given["order"], given["reals"][-2] = order[75 * done :], 3.0 + done
        names = list(it.arguments())
        made = compiled.native.steps(*({**given, "rates": rates[done:]}[name] for name in names))
        assert made == 1
        done += made
    for name, array in zip(("params", "m", "v", "sums"), expected, strict=True):
        np.testing.assert_array_equal(given[name], array)


def test_denormal_numbers_count_as_zero_in_every_thread():
    """As in the thread that calls. The squares of these gradients would be denormal."""
    it = Problem((200, 130, 10), 75, "relu", "softmax", "rmsprop", "float32")
    it.X, it.state = np.full(it.X.shape, 1e-17, np.float32), [np.zeros_like(it.params)] * 2
    first = slice(200 * 130)
    assert it.run()[2][first].any()
    with AsZeros():
        if not are_counted_as_zero():
            pytest.skip("denormal numbers are not flushed on this system")
        found = [it.run(threads=2)[2][first] for _ in range(30)]  # which thread does what is not fixed
    assert not np.any(found)  # out here, where a denormal number is not 0


OPTIONS = [
    {"optimizer": "gradient_descent", "learning_rate": 0.5},
    {"optimizer": "momentum", "batch": 32, "activation": "sigmoid"},
    {"optimizer": "adam", "alpha": 0.1, "output": "sigmoid", "batch": 64},
    {"optimizer": "adamw", "batch": 7, "activation": "tanh", "weight_decay": 0.1, "gradient_clip": 0.3},
    {"optimizer": "rmsprop", "batch": 1, "epochs": 1, "sample_weight": np.linspace(0, 2, 300)},
    {"optimizer": "nesterov", "shuffle": False, "hidden": (), "warmup": 1},
    {"optimizer": "adam", "dropout": (0.2, 0.5), "batch": 64},
    {"optimizer": "adam", "dropout": 0.2, "hidden": ()},
    {"optimizer": "rmsprop", "dropout": 0.3, "batch": 10, "sample_ids": np.arange(300)[::-1] // 2, "alpha": 0.1},
    {"optimizer": "adam", "output": "identity", "batch": 100, "early_stopping": True, "n_iter_no_change": 2},
]


def used(monkeypatch):
    """A list with an entry for each call of the C: how many steps it made."""
    taken, real = [], compiled.native.steps
    ours = SimpleNamespace(**{**vars(compiled.native), "steps": lambda *a: taken.append(real(*a)) or taken[-1]})
    monkeypatch.setattr(compiled, "native", ours)
    monkeypatch.setattr(compiled, "has_tile_unit", lambda: False)  # with it large batches in float64 are not for C
    return taken


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o["optimizer"])
def test_a_training_ends_where_one_in_numpy_ends(options, monkeypatch):
    options = {"hidden": (24, 12), "epochs": 5, "device": "cpu", "seed": 3, "dtype": "float64", "batch": 10, **options}
    taken = used(monkeypatch)
    _, *mine = fcgpu.train(digits(300), **options)
    assert sum(taken) == mine[-1].steps
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)
    _, *others = fcgpu.train(digits(300), **options)
    assert sum(taken) == mine[-1].steps
    np.testing.assert_allclose(mine[-1].model.params, others[-1].model.params, rtol=1e-9, atol=1e-9)
    assert len(mine) == len(others)
    for one, other in zip(mine[:-1], others[:-1], strict=True):
        assert (one.loss, one.penalty) == pytest.approx((other.loss, other.penalty), rel=1e-9)
        assert (one.accuracy, one.samples, one.step) == (other.accuracy, other.samples, other.step)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "lbfgs"}, {"optimizer": "lbfgs", "alpha": 0.1, "activation": "tanh", "hidden": ()},
        {"optimizer": "lbfgs", "output": "sigmoid", "sample_weight": np.linspace(0, 2, 300), "early_stopping": True},
        {"optimizer": "lbfgs", "max_fun": 2, "scale": 1.0},
        {"optimizer": "rprop"}, {"optimizer": "rprop", "alpha": 0.1, "output": "identity"},
    ],
    ids=str,
)  # fmt: skip
def test_the_optimizers_of_the_full_batch_are_given_its_loss_and_gradient(options, monkeypatch):
    options = {"hidden": (24, 12), "epochs": 8, "device": "cpu", "seed": 3, "dtype": "float64", **options}
    taken, data = used(monkeypatch), digits(300)
    if options.get("output") == "identity":
        data = (data.X, np.sin(np.arange(300.0)))
    _, *mine = fcgpu.train(data, **options)
    n = mine[-1].plan.samples
    assert taken == [1] * (mine[-1].samples // n)
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)
    _, *others = fcgpu.train(data, **options)
    assert len(taken) * n == mine[-1].samples
    np.testing.assert_allclose(mine[-1].model.params, others[-1].model.params, rtol=1e-7, atol=1e-7)
    assert len(mine) == len(others) == (1 if "max_fun" in options else 8) + 1
    for one, other in zip(mine[:-1], others[:-1], strict=True):
        assert (one.loss, one.penalty) == pytest.approx((other.loss, other.penalty), rel=1e-8)
        assert (one.accuracy, one.samples, one.step) == (other.accuracy, other.samples, other.step)


@pytest.mark.parametrize("tiles", [False, pytest.param(True, marks=on_tiles)])
def test_no_bit_depends_on_threads_memory_or_the_type_of_pixels(tiles, monkeypatch):
    data, taken, found = digits(300), used(monkeypatch), []
    monkeypatch.setattr(compiled, "has_tile_unit", lambda: tiles)
    floats = fcgpu.dataset(data.X / 255, data.y)
    recipe = fcgpu.Recipe(hidden=(24, 12), batch=70)
    given, taken_as = (floats.X, floats.y), Pixels(floats.X, 255)
    least = plan.plan(fit_to(recipe, floats)[0], given, recipe, fcgpu.choose("cpu"), threads=1, taken=taken_as).bytes
    for shuffle in (True, False):
        for given, options in (
            (data, {"threads": 1}), (data, {"threads": 3}), (floats, {}), (floats, {"memory_budget": least}),
        ):  # fmt: skip
            *_, finished = fcgpu.train(
                given, hidden=(24, 12), epochs=3, batch=70, device="cpu", optimizer="adam", seed=3, shuffle=shuffle,
                **options,
            )  # fmt: skip
            found.append(finished.model.params)
    assert sum(taken) == 8 * finished.steps
    for i, params in enumerate(found):
        np.testing.assert_array_equal(params, found[i // 4 * 4])


def unaligned(array):
    return np.ndarray(array.shape, array.dtype, bytes(1) + array.tobytes(), 1)


def forms(array):
    """The same numbers in other places and another order of bytes."""
    return [unaligned(array), np.repeat(array, 2, axis=0)[::2], array.astype(array.dtype.newbyteorder())]


class Drawn:
    """An order that is another kind of array than NumPy's own."""

    def __init__(self, form):
        self._form, self._random = form, np.random.default_rng(1)

    def permutation(self, n):
        return self._form(self._random.permutation(n))


class TestForms:
    """What was given may have any form that NumPy takes."""

    @pytest.fixture
    def params(self, monkeypatch):
        taken, data = used(monkeypatch), digits(300)

        def trained(*, form=np.asarray, **changes):
            options = {"hidden": (6,), "epochs": 2, "batch": 10, "device": "cpu", "output": "sigmoid", **changes}
            given = replace(data, X=options.pop("X", data.X), y=options.pop("y", data.y))
            *_, finished = fcgpu.train(given, order=Drawn(form), **options)
            assert sum(taken) == finished.steps
            taken.clear()
            return finished.model.params

        return trained

    def test_of_targets(self, params):
        for y in (digits(300).y, np.random.default_rng(0).random((300, 3), np.float32)):
            for form in forms(y):
                np.testing.assert_array_equal(params(y=form), params(y=y))

    def test_of_weights(self, params):
        weights = np.linspace(0, 2, 300, dtype=np.float32)
        for form in forms(weights):
            np.testing.assert_array_equal(params(sample_weight=form), params(sample_weight=weights))

    @pytest.mark.parametrize(
        "form",
        [lambda o: o.astype(np.int32), lambda o: o.astype(np.uint64), lambda o: forms(o)[1], lambda o: o - 300, list],
    )
    def test_of_the_order(self, params, form):
        np.testing.assert_array_equal(params(form=form), params())

    @pytest.mark.parametrize("batch", [10, "full"])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_of_features(self, dtype, batch, params):
        X = (digits(300).X / 254).astype(np.float32)  # no pixels
        options = {"dtype": dtype, "batch": batch, "optimizer": "adam"}
        expected = params(X=X, **options)
        for form in (*forms(X), np.asfortranarray(X), X[:, ::-1].copy()[:, ::-1], X.astype(np.float64)):
            np.testing.assert_array_equal(params(X=form, **options), expected)
        whole = np.rint(1000 * X)
        expected = params(X=whole.astype(dtype), **options)
        np.testing.assert_array_equal(params(X=whole.astype(np.int64), **options), expected)

    def test_of_bytes(self, params):
        X = digits(300).X
        for form in (*forms(X), np.asfortranarray(X), X[:, ::-1].copy()[:, ::-1]):
            np.testing.assert_array_equal(params(X=form), params())

    @pytest.mark.parametrize("sparse", [True, False])
    def test_of_features_that_are_converted_a_batch_at_a_time(self, sparse, params, monkeypatch):
        X = (digits(300).X / 254).astype(np.float32)
        expected = params(X=X)
        parts, convert = set(), Converted.__getitem__

        def converted(self, rows):
            parts.add(len(range(300)[rows]) if isinstance(rows, slice) else len(rows))
            return convert(self, rows)

        monkeypatch.setattr(Converted, "__getitem__", converted)
        monkeypatch.setattr(Converted, "copy", None)
        if sparse:  # a copy is not even tried, whatever the budget
            matrix = pytest.importorskip("scipy.sparse").csr_array(X.astype(np.float64))
            pytest.importorskip("sklearn")
            from fcgpu.estimator.arrays import SparseRows

            np.testing.assert_array_equal(params(X=SparseRows(matrix)), expected)
        else:
            data, recipe = fcgpu.dataset(X.astype(np.float64), digits(300).y), fcgpu.Recipe(hidden=(6,), batch=10)
            spec, y = fit_to(recipe.but(output="sigmoid"), data)
            least = plan.plan(spec, (data.X, y), recipe, fcgpu.choose("cpu")).bytes
            np.testing.assert_array_equal(params(X=data.X, memory_budget=least), expected)
        assert parts == {10}


@pytest.mark.parametrize(
    "changes",
    [
        {"output": "exp"}, {"hidden": (3,) * 63, "activation": "tanh"},
    ],
    ids=str,
)  # fmt: skip
def test_other_runs_go_another_way(changes, monkeypatch):
    data, taken = digits(300), used(monkeypatch)
    X = (data.X / 254).astype(np.float32)
    *_, finished = fcgpu.train((X, data.y), **{"hidden": (6,), "epochs": 1, "batch": 10, "device": "cpu", **changes})
    assert not taken
    assert finished.epochs == 1


@pytest.mark.parametrize(
    ("batch", "pixels", "goes"),
    [(99, 0, True), (100, 0, True), (101, 0, False), ("full", 300, True), ("full", 299, False), (300, 299, False)],
)
def test_larger_batches_of_pixels_go_another_way(batch, pixels, goes, monkeypatch):
    data, taken = digits(300), used(monkeypatch)
    monkeypatch.setattr(plan_c, "MOST", 300 if batch in ("full", 300) else 100)
    monkeypatch.setattr(plan_c, "MOST_PIXELS", pixels)
    for _event in fcgpu.train((data.X, data.y), hidden=(6,), epochs=1, batch=batch, optimizer="adam", device="cpu"):
        pass
    assert bool(taken) == goes


@pytest.mark.parametrize("batch", [101, 300])
@pytest.mark.parametrize(("spare", "goes"), [(0, True), (-1, False)])
def test_larger_batches_of_few_numbers_do_not(batch, spare, goes, monkeypatch):
    data, spec, recipe = digits(300), Spec((50, 6, 4), "relu", "softmax"), fcgpu.Recipe(hidden=(6,))
    monkeypatch.setattr(plan_c, "MOST", 100)
    monkeypatch.setattr(plan_c, "FEW_BYTES", batch * Workspace.numbers_per_row(spec) * 4 + spare)
    X = (data.X / 254).astype(np.float32)
    assert plan_c.is_for(300, batch, spec, recipe, X, data.y) == goes


@pytest.mark.parametrize(
    ("sizes", "batch", "threads"),
    [
        ((784, 128, 64, 10), 15, 1), ((784, 128, 64, 10), 16, 2), ((784, 128, 64, 10), 128, 16),
        ((784, 128, 64, 10), 2048, 64), ((20, 32, 3), 200, 1), ((784, 2048, 10), 128, 64), ((784, 2048, 10), 1, 4),
        ((784, 300, 10), 8, 5), ((784, 286, 10), 8, 1), ((20, 64, 64, 3), 200, 3),
    ],
)  # fmt: skip
def test_a_thread_more_must_be_worth_its_start(sizes, batch, threads):
    spec = Spec(sizes, "relu", "softmax")
    assert plan_c.threads(spec, batch, "float32", 100) == threads
    assert plan_c.threads(spec, batch, "float32", 2) == min(threads, 2)


def test_in_float64_a_thread_needs_half_as_many_samples():
    spec = Spec((784, 128, 64, 10), "relu", "softmax")
    assert [plan_c.threads(spec, batch, "float64", 100) for batch in (7, 8, 32)] == [1, 2, 8]


@pytest.mark.parametrize(("least", "goes"), [(50 * 6, True), (50 * 6 + 1, False)])
def test_wide_layers_go_layer_by_layer(least, goes, monkeypatch):
    taken, (X, y) = [], (digits(300).X, digits(300).y)
    ours = {"steps": lambda *given: taken.append(given[11]) or real(*given)}
    real = compiled.native.steps
    monkeypatch.setattr(compiled, "native", SimpleNamespace(**{**vars(compiled.native), **ours}))
    monkeypatch.setattr(plan_c, "BY_LAYER", least)
    for _event in fcgpu.train((X, y), hidden=(4, 6, 50), epochs=1, batch=10, optimizer="adam", device="cpu"):
        pass
    assert {int(wholes[9]) for wholes in taken} == {goes}


@pytest.mark.parametrize(
    ("hidden", "batch", "threads", "rows"),
    [(128, 128, 2, 32), (128, 128, 16, 8), (128, 128, 6, 22), (128, 1000, 2, 32), (128, 63, 16, 9), (2048, 128, 2, 64),
     (2048, 128, 8, 16)],
)  # fmt: skip
def test_there_is_a_task_for_every_thread(hidden, batch, threads, rows):
    spec = Spec((784, hidden, 10), "relu", "softmax")
    assert tile(spec, batch, "float32", plan_c.threads(spec, batch, "float32", threads)) == rows


@pytest.mark.parametrize("by_layer", [False, True])
def test_no_bit_of_the_losses_depends_on_the_threads_by_which_a_batch_is_cut(by_layer, monkeypatch):
    monkeypatch.setattr(plan_c, "THREAD_FLOP", 1000)
    data, found = digits(300), []
    monkeypatch.setattr(plan_c, "BY_LAYER", data.X.shape[1] * 60 + (not by_layer))
    for threads in (1, 2, 5, 16):
        started, *ended, _ = fcgpu.train(
            data, hidden=(60, 30), epochs=3, batch=130, optimizer="adam", alpha=0.1, device="cpu", threads=threads
        )
        found.append((started.plan.tile, [(event.loss, event.penalty) for event in ended], ended[-1].model().params))
    assert [rows for rows, *_ in found] == 4 * [32] if compiled.has_tile_unit() else [26, 22, 26, 9]
    for _, losses, params in found[1:]:
        assert losses == found[0][1]
        np.testing.assert_array_equal(params, found[0][2])


def test_batches_with_more_activations_than_a_cache_holds_go_another_way(monkeypatch):
    data, spec, recipe = digits(300), Spec((50, 6, 4), "relu", "softmax"), fcgpu.Recipe(hidden=(6,), batch=31)
    for spare, goes in ((0, True), (-1, False)):
        monkeypatch.setattr(plan_c, "MOST_BYTES", 31 * Workspace.numbers_per_row(spec) * 4 + spare)
        assert plan_c.is_for(300, 31, spec, recipe, data.X, data.y) == goes


@pytest.mark.parametrize(("outputs", "goes"), [(2048, True), (2049, False)])
def test_more_outputs_than_a_block_holds_go_another_way(outputs, goes, monkeypatch):
    taken, data = used(monkeypatch), (digits(4).X, np.zeros((4, outputs), np.float32))
    for _event in fcgpu.train(data, hidden=(), output="identity", batch=2, epochs=1, device="cpu"):
        pass
    assert bool(taken) == goes


def test_where_the_tile_unit_multiplies_pixels_it_does(monkeypatch):
    monkeypatch.setattr(compiled, "has_tile_unit", lambda: True)
    data = digits(300)
    spec, recipe = Spec((50, 6, 4), "relu", "softmax"), fcgpu.Recipe(hidden=(6,), batch=32)
    assert plan_c.on_tiles(64, recipe, data.X)
    assert not plan_c.on_tiles(63, recipe, data.X)
    assert not plan_c.on_tiles(64, recipe, data.X.astype(np.float32))
    assert plan_c.is_for(300, 64, spec, recipe, data.X, data.y)
    wide, X = Spec((50, 10486, 4), "relu", "softmax"), np.zeros((600, 50), np.uint8)  # 2 MiB and 48 bytes
    monkeypatch.setattr(plan_c, "MOST_BYTES", 1 << 30)
    assert plan_c.is_for(300, 256, wide, recipe, X, data.y)
    assert not plan_c.is_for(300, 257, wide, recipe, X, data.y)
    assert plan_c.is_for(300, 257, replace(wide, sizes=(50, 10485, 4)), recipe, X, data.y)
    assert plan_c.is_for(300, 257, wide, recipe, X.astype(np.float32), data.y)
    recipe = recipe.but(dtype="float64")
    assert not plan_c.is_for(300, 128, spec, recipe, data.X, data.y)
    assert plan_c.is_for(300, 127, spec, recipe, data.X, data.y)
    assert plan_c.is_for(300, 128, spec, recipe, data.X.astype(float), data.y)


def test_the_plan_counts_parameters_moments_a_converted_batch_and_scratch_memory():
    spec, recipe = Spec((50, 6, 4), "relu", "softmax"), fcgpu.Recipe(hidden=(6,), batch=70, optimizer="adam")
    scratch = compiled.native.steps_room(np.array(spec.sizes), 70, 32, 1, *5 * [False])
    converted = 70 * 50
    assert plan_c.work_bytes(spec, 70, recipe, 32, 1, False) == 4 * (3 * spec.n_params + converted) + scratch
    vectors = 2 + 2 * 20 + 4  # parameters, gradient and those of L-BFGS
    recipe = fcgpu.Recipe(hidden=(6,), optimizer="lbfgs", history_size=20)
    assert plan_c.work_bytes(spec, 70, recipe, 32, 1, False) == 4 * (vectors * spec.n_params + converted) + scratch


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_call_is_given_so_many_samples(shuffle, monkeypatch):
    taken, params = used(monkeypatch), []
    for most in (1 << 16, 150, 1):
        monkeypatch.setattr(in_c, "CALL", most)
        *_, finished = fcgpu.train(
            digits(300), hidden=(6,), epochs=1, batch=70, device="cpu", shuffle=shuffle, threads=1
        )
        params.append(finished.model.params)
    assert taken[-5:] == [1] * 5
    assert sum(taken) == 15
    for one in params[1:]:
        np.testing.assert_array_equal(one, params[0])


def test_the_pace_is_told_how_many_steps_a_call_has_made(monkeypatch):
    used(monkeypatch)
    made, told, real = [], [], compiled.native.steps
    monkeypatch.setattr(compiled.native, "steps", lambda *given: made.append(real(*given)) or made[-1])
    monkeypatch.setattr(Pace, "made", lambda self, steps: told.append(steps))
    for _event in fcgpu.train(digits(300), hidden=(6,), epochs=2, batch=10, device="cpu"):
        pass
    assert told == made
    assert sum(told) == 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")
def test_an_interrupt_is_heard_within_an_epoch():
    program = """
import signal
import numpy as np, fcgpu
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
random = np.random.default_rng(0)
data = random.normal(size=(20000, 300)).astype(np.float32), random.integers(0, 3, 20000)
try:
    for event in fcgpu.train(data, hidden=(600, 600), batch=1, epochs=1, optimizer="adam"):
        print("begun", flush=True)
except KeyboardInterrupt:
    print("heard")
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    assert process.communicate(timeout=60)[0] == "heard\n"
    assert time.perf_counter() - began < 5


def test_two_trainings_at_once_do_not_disturb_each_other():
    options = {"hidden": (24, 12), "epochs": 20, "device": "cpu", "batch": 70, "optimizer": "adam"}
    *_, expected = fcgpu.train(digits(300), **options)
    found = [None, None]

    def train(i):
        *_, finished = fcgpu.train(digits(300), **options)
        found[i] = finished.model.params

    threads = [threading.Thread(target=train, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for params in found:
        np.testing.assert_array_equal(params, expected.model.params)
