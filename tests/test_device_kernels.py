"""The kernels of a GPU step against the references, compiled for the CPU by the device double; also 16-bit floats.

Each kernel is called like its reference, through a function that pads the kernel's arguments with NaN and arbitrary
numbers, which it must not read, and checks what it writes there.
"""

import re
from functools import cache

import ml_dtypes
import numpy as np
import pytest
from device_double import COMPILED, HALVES, WHOLE, double_backend, usual_on_device
from kernel_cases import DTYPES, compare, whole

from fcgpu.kernels import REFERENCE, device, formulas
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.device import Now, Place, Rows, Sums, Tables, blocks
from fcgpu.kernels.formulas import WIDTH
from fcgpu.kernels.losses import OUTPUTS

LOSSES = [row.loss for row in OUTPUTS.values()]
TYPES = [*((dtype, None) for dtype in DTYPES), *HALVES]


def wider(A, more=0, value=np.nan):
    """The host matrix (rows, n), padded with columns to a multiple of WIDTH."""
    rows, n = A.shape
    made = np.full((rows, -(-(n + more) // WIDTH) * WIDTH), value).astype(A.dtype)
    made[:, :n] = A
    return made


def flat(A):
    return A.get().reshape(-1, A.shape[-1])


def activation(name, operand):
    def call(Z, b, *, xp):
        Z += b
        n, H = Z.shape[-1], operand or Z.dtype
        A = xp.asarray(wider(flat(Z), 1).astype(H))
        device.activate(name, A, n, xp=xp)
        found = A.get()
        assert (found[:, n] == 1).all()
        assert not found[:, n + 1 :].any()
        Z[...] = xp.asarray(found[:, :n].astype(Z.dtype).reshape(Z.shape))

    return call


def derivative(name, operand):
    def call(A, dA, *, xp):
        n, H = A.shape[-1], operand or A.dtype
        found = xp.asarray(wider(flat(dA), 1).astype(H))
        device.derive(name.removesuffix("_backward"), xp.asarray(wider(flat(A), 1).astype(H)), found, n, xp=xp)
        found = found.get()
        assert not found[:, n:].any()
        dA[...] = xp.asarray(found[:, :n].astype(dA.dtype).reshape(dA.shape))

    return call


def measured(name, Z, y, weight, operand, count, xp):
    """(dZ, losses, correct predictions) of the rows of Z; blocks have one thread, so that each row has its own sums."""
    rows, k, T = flat(Z), Z.shape[-1], Z.dtype
    weighted = not isinstance(weight, float)
    share = xp.asarray(np.array([1.0 if weighted else weight], T))
    y, weights = (  # a stack of models in the reference is so many rows here
        xp.asarray(np.concatenate([a.get()] * (len(rows) // len(y))))
        for a in (y, weight[:, 0] if weighted else xp.zeros((1,), dtype=T))
    )
    logits, sums = xp.asarray(wider(rows)), [xp.empty((len(rows),)) for _ in range(2)]
    dZ = logits if operand is None else xp.asarray(np.zeros(logits.shape, operand))
    formulas.kernel(name, xp)(
        y, weights, share, k, logits.shape[1], y.ndim == 2, weighted, count, 1.0, logits, dZ, *sums,
        size=len(rows), block_size=1,
    )  # fmt: skip
    return dZ.get()[:, :k].astype(T).reshape(Z.shape), *(s.get().reshape(Z.shape[:-1]) for s in sums)


def loss(name, operand):
    def call(Z, y, weight, losses, *, xp):
        dZ, lost, right = measured(name, Z, y, weight, operand, False, xp)
        Z[...], losses[...] = xp.asarray(dZ), xp.asarray(lost[..., None].astype(losses.dtype))
        assert not right.any()

    return call


def count_correct(Z, y, correct, *, xp):
    right = measured("squared_error", Z, y, 1.0, None, True, xp)[2]
    assert set(np.unique(right)) <= {0, 1}
    correct[...] = xp.asarray(right == 1)


def dropout(operand):
    def call(A, keep, key, ids, rate, *, xp):
        n, H = A.shape[-1], operand or A.dtype
        found = xp.asarray(wider(flat(A), 1).astype(H))
        device.dropout(found, n, keep, key, ids, rate, xp=xp)
        assert np.isnan(found.get()[:, n:].astype(float)).all()
        A[...] = xp.asarray(found.get()[:, :n].astype(A.dtype))

    return call


def dropout_backward(operand):
    def call(A, dA, keep, rate, *, xp):
        n, H = A.shape[-1], operand or A.dtype
        found = [xp.asarray(wider(flat(x), 1).astype(H)) for x in (A, dA)]
        device.dropout_backward(*found, n, keep, rate, xp=xp)
        for x, there in zip((A, dA), found, strict=True):
            x[...] = xp.asarray(there.get()[:, :n].astype(x.dtype))

    return call


def function(name, operand):
    if name in LOSSES:
        return loss(name, operand)
    others = {
        "count_correct": count_correct,
        "dropout": dropout(operand),
        "dropout_backward": dropout_backward(operand),
    }
    return others.get(name) or (derivative if name.endswith("_backward") else activation)(name, operand)


NAMES = [
    *HIDDEN_ACTIVATIONS, *(f"{name}_backward" for name in HIDDEN_ACTIVATIONS if name != "identity"),
    *LOSSES, "dropout", "dropout_backward",
]  # fmt: skip


@cache
def compile_losses_of_every_label():
    """At once, which is faster: a training's labels are int64."""
    of_training = usual_on_device(WHOLE + HALVES, {name: formulas.FORMULAS[name] for name in LOSSES})
    others = (np.dtype("int32"), np.dtype("uint8"))
    COMPILED.build([(kernel, {**kinds, "I": labels}) for kernel, kinds in of_training for labels in others])


@pytest.fixture(params=["double", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    if request.param == "cupy":
        return request.getfixturevalue("gpu").xp
    compile_losses_of_every_label()
    return double_backend(types=WHOLE + HALVES).xp


@pytest.mark.parametrize(("dtype", "operand"), TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_reference(name, dtype, operand, xp):
    compare(name, function(name, operand), dtype, xp, operand)


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_right_answers(dtype, xp):
    compare("count_correct", count_correct, dtype, xp)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "weighted"), [(1, False), (127, True), (300, False), (300, True)])
def test_the_partial_sums_of_a_loss_are_those_of_its_blocks(n, weighted, dtype, xp):
    random = np.random.default_rng(1)
    Z, y, weights = (
        random.normal(0, 2, (n, 10)).astype(dtype),
        random.integers(0, 10, n),
        random.random(n).astype(dtype),
    )
    expected, right = np.empty((n, 1), dtype), np.empty((n,), bool)
    REFERENCE["count_correct"](Z, y, right, xp=np)
    logits = xp.asarray(wider(Z))
    whole(REFERENCE, "cross_entropy")(Z, y, 0.5 * weights[:, None] if weighted else 0.5, expected, xp=np)
    sums = [xp.zeros((blocks(n) + 1,)) for _ in range(2)]
    share, loss_scale = xp.asarray(np.array([0.5], dtype)), 8.0
    rows = Rows(None, xp.asarray(y), xp.asarray(weights), None)
    device.loss("cross_entropy", rows, share, 10, loss_scale, weighted, True, logits, logits, *sums, xp=xp)
    for found, each in zip(sums, (expected[:, 0], right), strict=True):
        by_block = [each[a : a + formulas.BLOCK].sum(dtype=float) for a in range(0, n, formulas.BLOCK)]
        np.testing.assert_allclose(found.get(), [*by_block, 0], rtol=200 * np.finfo(dtype).eps)
    np.testing.assert_allclose(logits.get()[:, :10], loss_scale * Z, rtol=0, atol=loss_scale * 50 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("loss_scale", "most"), [(60_000 * 256.0, 2.0**-9), (1.0, 2.0)])
def test_a_float16_keeps_the_digits_of_small_errors_only_when_they_are_multiplied(loss_scale, most, xp):
    """Predictions with an error of 1e-4, in a batch of 60,000."""
    n, k = 64, 10
    Z = np.random.default_rng(7).normal(0, 0.5, (n, k)).astype(np.float32)
    Z[:, 3] += 12
    exact, y = Z.astype(float), np.full(n, 3)
    REFERENCE["cross_entropy_delta"](exact, 0, y, 1 / 60_000, xp=np)
    share, dZ = xp.asarray(np.array([1 / 60_000], np.float32)), xp.asarray(np.zeros((n, 16), np.float16))
    rows, sums = Rows(None, xp.asarray(y), share, None), [xp.zeros((1,)) for _ in range(2)]
    device.loss("cross_entropy", rows, share, k, loss_scale, False, False, xp.asarray(wider(Z)), dZ, *sums, xp=xp)
    found = dZ.get()[:, :k].astype(float) / loss_scale
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert error <= most
    assert loss_scale > 1 or error > 0.5


def test_rows_of_matrices_larger_than_32_bits_count_are_their_own(xp):
    at = np.array([0, 97, 98, 2**32 - 1, 2**32, 2**32 + 99, 2**36 + 5])
    kernel = xp.ElementwiseKernel(
        "int64 at, int32 groups",
        "int64 row",
        "row = row_of(at, groups)",
        "fcgpu_test_row_of",
        preamble=formulas.PREAMBLE,
    )
    assert kernel(xp.asarray(at), 98).get().tolist() == (at // 98).tolist()
    assert not [name for name, f in formulas.FORMULAS.items() if re.search(r"\(unsigned int\)i\b", f.operation)]


@pytest.mark.parametrize(("dtype", "operand"), TYPES)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("stored", ["uint8", "float"])
def test_brings_the_samples_of_a_step(stored, ordered, dtype, operand, xp):
    random, H = np.random.default_rng(2), operand or dtype
    n, d, batch, steps, k = 23, 5, 4, 6, 2
    X = random.integers(0, 256, (n, d)).astype(dtype if stored == "float" else stored)
    y, weights, order = random.random((n, k)).astype(dtype), random.random(n).astype(dtype), random.permutation(n)
    ids = random.integers(0, 2**32, n).astype(np.uint32)
    samples = Rows(*(xp.asarray(a) for a in (X, y, weights, ids)))
    for step, start, rows in ((0, 0, 4), (3, 0, 4), (9, 1, 3), (11, 0, 3)):  # the last one is a smaller batch
        place = Place(xp.asarray(np.array([step])), steps, batch, xp.asarray(order) if ordered else None)
        into = Rows(
            xp.empty((rows, 8), dtype=H), xp.empty((rows, k), dtype=dtype), xp.empty((rows,), dtype=dtype),
            xp.empty((rows,), dtype=np.uint32),
        )  # fmt: skip
        device.load(samples, place, start, 1.0, 255.0, into, True, True, xp=xp)
        chosen = np.arange(n) if not ordered else order
        chosen = chosen[step % steps * batch + start :][:rows]
        expected = np.hstack([X[chosen], np.full((rows, 1), 255), np.zeros((rows, 2))])
        assert into.X.get().astype(float).tolist() == expected.tolist()  # whole numbers, exactly
        for found, all_of_them in zip(into[1:], (y, weights, ids), strict=True):
            assert found.get().tolist() == all_of_them[chosen].tolist()
    device.load(samples, place, 0, 1 / 255, 1.0, into, False, False, xp=xp)
    found, right = into.X.get().astype(dtype), (X[chosen] * np.asarray(1 / 255, dtype)).astype(H).astype(dtype)
    np.testing.assert_allclose(found[:, :d], right, rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ordered", [False, True])
def test_the_share_of_a_sample_is_one_over_the_sum_of_weights(ordered, dtype, xp):
    random = np.random.default_rng(3)
    weights, order, found = random.random(1000).astype(dtype), random.permutation(1000), xp.empty((1,), dtype=dtype)
    place = Place(xp.asarray(np.array([7])), 4, 300, xp.asarray(order) if ordered else None)
    device.share(xp.asarray(weights), place, 100, 1e-30, found, xp=xp)
    chosen = (order if ordered else np.arange(1000))[900:]
    np.testing.assert_allclose(found.get(), [1 / weights[chosen].sum(dtype=float)], rtol=4 * np.finfo(dtype).eps)
    device.share(xp.zeros((1000,), dtype=dtype), place, 100, 1e-30, found, xp=xp)
    assert found.get().tolist() == [0]  # and so are loss, penalty and gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 129, 1000])
def test_the_penalty_and_the_norm_are_summed_by_blocks(n, dtype, xp):
    random, eps = np.random.default_rng(4), float(np.finfo(dtype).eps)
    w, g = (random.normal(0, 1, n).astype(dtype) for _ in range(2))
    alpha = random.random(n).astype(dtype)
    expected, penalty = g + 0.25 * alpha * w, 0.125 * np.sum(alpha * w * w, dtype=float)
    found, penalties, squares = xp.asarray(g), xp.empty((blocks(n),)), xp.empty((blocks(n),))
    share = xp.asarray(np.array([0.25], dtype))
    device.add_l2(xp.asarray(w), found, xp.asarray(alpha), share, penalties, xp=xp)
    np.testing.assert_allclose(found.get(), expected, rtol=4 * eps, atol=4 * eps)
    assert penalties.get().sum() == pytest.approx(float(penalty), rel=50 * eps)
    device.squares(found, squares, xp=xp)
    assert squares.get().sum() == pytest.approx(float((expected.astype(float) ** 2).sum()), rel=8 * eps)
    device.clip(found, share, xp=xp)
    np.testing.assert_allclose(found.get(), expected / 4, rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize("operand", [H for _, H in HALVES])
def test_the_copy_of_the_parameters_is_rounded_to_the_nearest(operand, xp):
    random = np.random.default_rng(5)
    w = np.concatenate([random.normal(0, 1, 500), 10.0 ** random.uniform(-9, 5, 500), [np.inf, np.nan, -0.0]])
    w = w.astype(np.float32)
    found = xp.empty(w.shape, dtype=operand)
    device.cast(xp.asarray(w), found, xp=xp)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found.get().astype(float), w.astype(operand).astype(float))


@pytest.mark.parametrize(("pieces", "error"), [(1, 2.0**-8), (2, 2.0**-16), (3, 0.0)])
def test_pieces_of_a_number_add_up_to_it(pieces, error, xp):
    """Three pieces of 8 bits are the 24 bits of a float32. The bias's 1, in the last row, is not scaled."""
    M = (np.random.default_rng(8).normal(0, 1, (9, 16)) * 10.0 ** np.arange(-8, 8)).astype(np.float32)
    parts, back = xp.empty((9, pieces, 16), dtype=ml_dtypes.bfloat16), xp.empty((9, 16), dtype=np.float32)
    device.split(xp.asarray(M), 8, 0.5, parts, xp=xp)
    expected = M * np.array([0.5] * 8 + [1])[:, None]
    total = parts.get().astype(float).sum(axis=1)
    np.testing.assert_allclose(total, expected, rtol=error)
    assert (np.abs(parts.get()[:, 1:].astype(float)) <= np.abs(expected)[:, None] * 2.0**-8).all()
    device.merge(xp.asarray(parts.get().astype(np.float32)), 8, 2.0, back, xp=xp)
    np.testing.assert_allclose(back.get(), total * np.array([2.0] * 8 + [1])[:, None], rtol=2.0**-23)


class Turning:
    """Random arguments of `end_step`, for an optimizer that counts steps and two layers with dropout."""

    def __init__(self, xp, dtype, n=300, done=7, first=5, steps=3):
        random = np.random.default_rng(6)
        self.sums = [random.random(n) for _ in range(4)]
        self.rates = random.random(10).astype(dtype)
        self.keys = random.integers(0, 2**32, (11, 4)).astype(np.uint32)
        self.history, self.done, self.first, self.steps = random.random((4, 3)), done, first, steps
        self.now = Now(
            xp.empty((3,)), xp.asarray(self.history), xp.asarray(np.array([done])), xp.asarray(np.array([20.0])),
            xp.empty((1,), dtype=dtype), xp.empty((1,), dtype=dtype), xp.empty((4,), dtype=np.uint32),
        )  # fmt: skip
        tables = Tables(xp.asarray(self.rates), xp.asarray(self.keys), xp.asarray(np.array([first])))
        self.call = lambda used, limit, advance: device.end_step(
            Sums(*(xp.asarray(s) for s in self.sums)), tables, self.now, used, steps, 0.4, limit, advance, xp=xp
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_turn_adds_up_writes_history_and_counts(dtype, xp):
    it = Turning(xp, dtype)
    it.call((300, 20, 0), 0.0, True)
    (losses, rights, penalties, _), now = it.sums, it.now
    loss, right, penalty = losses.sum(), rights.sum(), penalties[:20].sum()
    np.testing.assert_allclose(now.totals.get(), [loss + penalty, penalty, right], rtol=1e-13)
    row = it.history[2] + [0.4 * (loss + penalty), 0.4 * penalty, right]  # step 7, with three steps in an epoch
    np.testing.assert_allclose(now.history.get(), [*it.history[:2], row, it.history[3]], rtol=1e-13)
    assert (now.at.get(), now.t.get(), now.rate.get(), now.clip.get()) == (8, 21, it.rates[7 - 5], 1)
    assert now.key.get().tolist() == it.keys[8 - 5].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_turn_that_does_not_advance_only_adds_up(dtype, xp):
    it = Turning(xp, dtype)
    it.call((1, 0, 0), 0.0, False)
    np.testing.assert_array_equal(it.now.totals.get(), [it.sums[0][0], 0, it.sums[1][0]])
    np.testing.assert_array_equal(it.now.history.get(), it.history)
    assert (it.now.at.get(), it.now.t.get()) == (7, 20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_a_turn_limits_the_norm(limit, dtype, xp):
    it = Turning(xp, dtype)
    norm = np.sqrt(it.sums[3].sum())
    it.call((1, 0, 300), limit, True)
    assert it.now.clip.get() == pytest.approx(min(1, limit / norm), rel=float(4 * np.finfo(dtype).eps))


# Each formula with an error: one number 0.1 % off, or one comparison reversed.
WRONG = {
    **dict.fromkeys(HIDDEN_ACTIVATIONS, ("x.v[j] = H(column + j < n ? g", "x.v[j] = H(column + j < n ? T(1.001) * g")),
    **{
        f"{name}_backward": ("? d : T(0)", "? T(1.001) * d : T(0)") for name in HIDDEN_ACTIVATIONS if name != "identity"
    },
    **dict.fromkeys(LOSSES, ("double(sum * weight)", "double(sum * weight) * 1.001")),
    "dropout": (">= threshold", "< threshold"),
    "dropout_backward": ("T(da) * T(factor)", "T(da) * T(factor) * T(1.001)"),
}


def off(name):
    formula = formulas.FORMULAS[name]
    changed = formula._replace(operation=formula.operation.replace(*WRONG[name]))
    assert changed != formula
    return changed


@pytest.fixture(scope="module")
def wrong_formulas_compiled():
    double_backend()
    COMPILED.build([request for name in WRONG for request in usual_on_device(formulas={name: off(name)})])


@pytest.mark.usefixtures("wrong_formulas_compiled")
@pytest.mark.parametrize("name", WRONG)
def test_a_formula_that_is_a_thousandth_off_is_caught(name, monkeypatch):
    """In float32, whose tolerance is the larger one."""
    monkeypatch.setitem(formulas.FORMULAS, name, off(name))
    with pytest.raises(AssertionError):
        compare(name, function(name, None), "float32", double_backend().xp)


def test_every_formula_is_compared():
    others = {
        "load",
        "share",
        "cast",
        "split",
        "merge",
        "add_l2",
        "squares",
        "clip",
        "end_step",
        "identity_backward",
        "to_bytes",
    }  # these are tested separately above, and in test_pixels.py
    assert set(NAMES) | others == set(formulas.FORMULAS)
