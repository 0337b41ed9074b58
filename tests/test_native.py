"""The CPU's C kernels against their references, and in training."""

import ast
import itertools
import shutil
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kernel_cases import DTYPES, compare, whole
from native_cases import at_the_end, digits

import fcgpu
from fcgpu.kernels import REFERENCE, compiled, dense
from fcgpu.kernels.native import ALIKE, SPECIAL, faster
from fcgpu.train import plan_c

KERNELS = Path(compiled.__file__).parent
HEADERS = Path(sysconfig.get_path("include"), "Python.h")
FASTER = {name: faster(name, REFERENCE[name]) for name in (*ALIKE, *SPECIAL) if compiled.native is not None}
HALVES = sorted(name for name in FASTER if name.endswith("_delta") or f"{name}_delta" in FASTER)
ELSEWHERE = {
    "load_tile",
    "dense_forward",
    "dense_backward",
    "add_l2",
    "binary_cross_entropy_delta",
    "cross_entropy_delta",
}  # what kernel_cases does not call

needs_native = pytest.mark.skipif(compiled.native is None, reason="native.c was not compiled")
needs_tiles = pytest.mark.skipif(not compiled.has_tile_unit(), reason="this processor has no tile unit")
on_tiles = pytest.mark.parametrize("tiles", [False, pytest.param(True, marks=needs_tiles)])


@needs_native
def test_the_stub_names_every_function_of_the_module():
    stub = ast.parse((KERNELS / "_native.pyi").read_text(encoding="utf-8"))
    names = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert names == {name for name in vars(compiled.native) if not name.startswith("__")}


class Host(np.ndarray):
    """A NumPy array with the `get` of a device array."""

    def get(self):
        return np.asarray(self)


HOST = SimpleNamespace(**{**vars(np), "asarray": lambda a: np.array(a).view(Host)})


@pytest.mark.skipif(not (shutil.which("cc") and HEADERS.exists()), reason="there is no C compiler, or no Python.h")
def test_is_there_where_it_can_be_compiled():
    assert compiled.native is not None


@pytest.mark.parametrize(("system", "said"), [("linux", "with a C compiler"), ("win32", "not for Windows")])
def test_info_says_why_there_is_none(system, said, monkeypatch):
    monkeypatch.setattr(compiled, "native", None)
    monkeypatch.setattr(sys, "platform", system)
    assert said in compiled.in_words()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(FASTER.keys() - ELSEWHERE))
def test_equals_the_reference(name, dtype):
    compare(name, whole(FASTER, name), dtype, HOST, flushes=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", HALVES)
def test_halves_of_a_loss_equal_the_reference(name, dtype):
    random, eps, at = np.random.default_rng(0), np.finfo(dtype).eps, 0 if name.endswith("_delta") else 3
    for n, k in ((1, 1), (50, 10), (700, 3)):
        Z, b = random.normal(0, 3, (n, k)).astype(dtype), random.normal(0, 1, (1, k)).astype(dtype)
        labels, targets = random.integers(0, k, n), random.random((n, k)).astype(dtype)
        weights = 1 / n, np.full(1, 1 / n, dtype), random.random((n, 1)).astype(dtype)
        kinds = labels, labels.astype(np.uint8), targets / targets.sum(axis=1, keepdims=True)
        for y, weight in itertools.product(kinds, weights):
            mine, expected = ((Z.copy(), y, weight, np.empty((n, 1), dtype)) for _ in range(2))
            if at == 0:
                mine, expected = ((made[0], b, y, weight) for made in (mine, expected))
            FASTER[name](*mine, xp=None)  # the reference would need xp
            REFERENCE[name](*expected, xp=np)
            np.testing.assert_allclose(mine[at], expected[at], rtol=0, atol=(16 + k) * eps * (1 + np.abs(Z).max()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [2, 3, 10, 33])
@pytest.mark.parametrize("name", HALVES)
def test_a_sample_has_the_same_loss_alone_and_among_others(name, k, dtype):
    """So no bit depends on the threads, by whose number a batch is cut into tasks."""
    random = np.random.default_rng(0)
    Z, b = random.normal(0, 3, (70, k)).astype(dtype), random.normal(0, 1, (1, k)).astype(dtype)
    for y in (random.integers(0, k, 70), random.random((70, k)).astype(dtype)):
        found = []
        for size in (70, 1):
            made, losses = Z.copy(), np.empty((70, 1), dtype)
            for rows in (slice(i, i + size) for i in range(0, 70, size)):
                given = (b, y[rows], 0.3) if name.endswith("_delta") else (y[rows], 0.3, losses[rows])
                FASTER[name](made[rows], *given, xp=None)
            found.append(made if name.endswith("_delta") else losses)
        np.testing.assert_array_equal(*found)


@needs_native
@pytest.mark.parametrize("shape", [(1, 1), (300, 7), (33, 129), (1, 5000), (5000, 1)])
def test_takes_what_lies_in_one_piece_and_leaves_the_rest_to_the_reference(shape):
    random = np.random.default_rng(0)
    Z, b = random.normal(0, 3, shape), random.normal(0, 1, (1, shape[1]))
    for name in ("sigmoid", "tanh", "relu", "leaky_relu", "softmax"):
        native, expected = getattr(compiled.native, name), Z.copy()
        REFERENCE[name](expected, b, xp=np)
        whole, columns, other = Z.copy(), np.asfortranarray(Z), Z.astype(np.float16)
        assert native(whole, b)
        np.testing.assert_allclose(whole, expected, rtol=1e-13, atol=1e-15)
        if min(shape) > 1:
            assert not native(columns, b)
        assert not native(other, b)
        assert not native(whole, b.astype(np.float32))
        assert not native(whole, b[:, :-1])
        assert not native(Z[None], b)
        np.testing.assert_array_equal(other, Z.astype(np.float16))
        FASTER[name](columns, b, xp=np)
        np.testing.assert_allclose(columns, expected, rtol=1e-13, atol=1e-15)


@needs_native
def test_refuses_what_it_must_not_write_or_read():
    native, Z = compiled.native, np.zeros((4, 3), np.float32)
    losses, still = np.zeros((4, 1), np.float32), Z.copy()
    still.flags.writeable = False
    assert not native.sigmoid(still, 0)
    assert not native.sigmoid(Z, 1)
    assert not native.cross_entropy_delta(Z, 1, np.arange(4) % 3, 0.25)
    for y in ([0, 1, 2, 3], [0, 1, -1, 2], [0, 1, 2], [0.5, 1, 2, 0]):
        assert not native.cross_entropy_delta(Z, 0, np.array(y), 0.25)
        assert not native.cross_entropy(Z, np.array(y), 0.25, losses)
    assert not native.cross_entropy(Z, np.arange(4) % 3, 0.25, losses[:3])
    assert not native.cross_entropy(Z, np.arange(4) % 3, np.ones(2, np.float32), losses)
    X, A = np.arange(12, dtype=np.uint8).reshape(4, 3), np.full((2, 3), -1, np.float32)
    for rows in ([0, 4], [-1, 0], [0], [0.0, 1.0]):
        assert not native.load_tile(X, np.array(rows), A)
    assert not native.load_tile(X[:1], None, A)
    assert not native.load_tile(X.T, None, A)
    assert (A == -1).all()
    assert not Z.any()
    with pytest.raises(TypeError, match="expected 2 arguments"):
        native.sigmoid(Z)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["uint8", "same", "int16"])
@pytest.mark.parametrize(
    "rows", [slice(2, 7), np.array([5, 0, 5, 39, 2]), (slice(2, 7), slice(6)), (np.array([1, 3, 2, 0, 9]), slice(6))]
)
def test_loads_rows_as_numpy_does(rows, stored, dtype):
    X = np.random.default_rng(0).integers(0, 256, (40, 9)).astype(dtype if stored == "same" else stored)
    expected = X[rows].astype(dtype)
    for order in (np.ascontiguousarray, np.asfortranarray):
        A = np.zeros((5, 9), dtype)[:, : expected.shape[1]]
        FASTER["load_tile"](order(X), rows, A, xp=np)
        np.testing.assert_array_equal(A, expected)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [0.25, np.float32(0.25), np.array(0.25)])
def test_adds_l2_as_the_reference(share, dtype):
    random = np.random.default_rng(0)
    for shape in ((1, 1), (77, 61)):
        W, dW = random.normal(0, 1, (2, *shape)).astype(dtype)
        mine, expected = dW.copy(), dW.copy()
        penalty, expected_penalty = np.ones((), dtype), np.ones((), dtype)
        FASTER["add_l2"](W, mine, 0.5, share, penalty, xp=np)
        REFERENCE["add_l2"](W, expected, 0.5, share, expected_penalty, xp=np)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(mine, expected, rtol=4 * eps, atol=4 * eps)
        np.testing.assert_allclose(penalty, expected_penalty, rtol=80 * eps)
        assert penalty.dtype == dtype


SHAPES = [(1, 1, 1), (16, 32, 16), (17, 33, 18), (128, 784, 128), (5, 1100, 3), (300, 40, 70), (31, 513, 10)]


def stored_bytes(m, k, transposed):
    """Random bytes (m, k), a part of a larger array."""
    beside = np.random.default_rng(0).integers(0, 256, ((k, m + 5) if transposed else (m, k + 5)), dtype=np.uint8)
    return beside.T[:m] if transposed else beside[:, :k]


def multiplied(A, B, alpha, add, tiles=True):
    """alpha A B + C, the same in long doubles, the same with absolute values, and C."""
    m, n, wide = len(A), B.shape[1], np.longdouble
    around = np.random.default_rng(1).normal(0, 1, (m + 2, n + 3)).astype(B.dtype)
    C, before = around[1:-1, 1:-2], around.copy()
    compiled.native.multiply_bytes(A, B, C, alpha, add, tiles)
    C_before = before[1:-1, 1:-2] if add else np.zeros_like(C)
    found = C.copy()
    C[...] = before[1:-1, 1:-2]
    np.testing.assert_array_equal(around, before)  # nothing outside C was written
    with np.errstate(invalid="ignore"):
        exact = alpha * (A.astype(wide) @ B.astype(wide)) + C_before
    return found, exact, abs(alpha) * (A.astype(wide) @ abs(B).astype(wide)) + abs(C_before), C_before


@needs_native
@on_tiles
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("add", [False, True])
def test_products_of_bytes_are_those_of_float32(shape, transposed, add, tiles):
    """As accurate as float32 allows: each term has a relative error of 2^-24, and a sum rounds k times."""
    m, k, n = shape
    random = np.random.default_rng(0)
    B = random.normal(0, 1, (k, n + 3)).astype(np.float32)[:, :n]
    B *= np.exp2(random.integers(-30, 30, (k, 1))).astype(np.float32)
    found, exact, terms, _ = multiplied(stored_bytes(m, k, transposed), B, -0.75, add, tiles)
    assert (abs(found - exact) <= 2.0**-24 * (4 + k**0.5) * terms).all()


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("spread", [0, 9])
def test_products_of_bytes_are_those_of_float64(shape, transposed, add, spread):
    """A column is rounded to 2^-55 of its greatest number; then slices of 1,024 numbers, alpha and C are rounded."""
    m, k, n = shape
    random = np.random.default_rng(0)
    B = random.normal(0, 1, (k, n + 3))[:, :n] * np.exp2(random.integers(-300, 300, n))
    B *= np.exp2(random.integers(-spread, spread + 1, (k, 1)))
    A = stored_bytes(m, k, transposed)
    found, exact, _, before = multiplied(A, B, -0.75, add)
    rounded = 0.75 * 2.0**-55 * abs(B).max(axis=0) * A.sum(axis=1, keepdims=True, dtype=float)
    assert (abs(found - exact) <= rounded + 2.0**-53 * (4 * abs(exact) + 2 * abs(before))).all()


@needs_native
@on_tiles
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ends", [(0, 0, 0), (0, 70, 200), (70, 200, 0), (200, 0, 70), (1, 64, 65)])
def test_rows_may_end_anywhere_in_zeros(transposed, dtype, ends, tiles):
    A, B = stored_bytes(48, 200, transposed).copy("K"), np.random.default_rng(0).normal(0, 1, (200, 20)).astype(dtype)
    for strip, end in enumerate(ends):
        A[16 * strip : 16 * strip + 16, end:] = 0
    found, exact, terms, _ = multiplied(A, B, 1.0, False, tiles)
    assert (abs(found - exact) <= 100 * np.finfo(dtype).eps * terms).all()


@needs_native
@on_tiles
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_read_or_written_behind_the_arrays(transposed, dtype, tiles):
    """Each array ends at an inaccessible page; an access behind it kills the process."""
    for m, k, n in ((1, 1, 1), (17, 33, 18), (40, 70, 9)):
        A = np.ones((k, m) if transposed else (m, k), np.uint8)
        A, B, C = at_the_end(A), at_the_end(np.ones((k, n), dtype)), at_the_end(np.zeros((m, n), dtype))
        compiled.native.multiply_bytes(A.T if transposed else A, B, C, 1.0, False, tiles)
        np.testing.assert_array_equal(C, k)


@needs_tiles
def test_a_whole_number_is_multiplied_without_an_error():
    """All numbers that fit in 7 bytes, of both signs."""
    random = np.random.default_rng(0)
    B = random.integers(-(2**53), 2**53, (40, 20)) * 2.0
    B[0], B[1], A = 2.0**54, -(2.0**55 - 4), np.eye(40, dtype=np.uint8)
    np.testing.assert_array_equal(multiplied(A, B, 1.0, False)[0], B)


@needs_native
@on_tiles
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_column_with_a_number_that_is_none_has_none(dtype, tiles):
    A, whole = stored_bytes(20, 70, False), np.random.default_rng(0).normal(0, 1, (70, 20)).astype(dtype)
    expected = multiplied(A, whole, 1.0, False, tiles)[0]
    for wrong in (np.nan, np.inf, -np.inf):
        for row in (0, 69):
            B = whole.copy()
            B[row, 3] = wrong
            found = multiplied(A, B, 1.0, False, tiles)[0]
            assert not np.isfinite(found[:, 3]).any()
            np.testing.assert_array_equal(np.delete(found, 3, axis=1), np.delete(expected, 3, axis=1))


@needs_tiles
@pytest.mark.parametrize("factor", [0.0, 1e-300, 1e-288, 1e300])
def test_the_smallest_and_the_largest_are_multiplied_too(factor):
    """The kernel multiplies whole numbers and scales them by 2^-1014 or more."""
    A, B = stored_bytes(20, 70, False), np.random.default_rng(0).uniform(1, 2, (70, 20)) * factor
    found, exact, *_ = multiplied(A, B, 1.0, False)
    np.testing.assert_allclose(found, exact.astype(float), rtol=1e-14, atol=70 * 255 * 2.0**-1014)


@needs_native
def test_products_of_bytes_refuse_other_arrays():
    A, B, C = np.zeros((4, 6), np.uint8), np.zeros((6, 5), np.float32), np.zeros((4, 5), np.float32)
    still = C.copy()
    still.flags.writeable = False
    for wrong in (
        (A.astype(np.int8), B, C), (A, B.astype(float), C), (A, B, C.astype(float)), (A[:, :5], B, C), (A, B, C[:3]),
        (A, B, C[:, :4]), (A, np.asfortranarray(B), C), (A, B, np.asfortranarray(C)), (A[::2, ::2], B[::2], C[:2]),
        (A, B, still), (None, B, C), (A[0], B, C), (A, B.astype(int), C.astype(int)),
    ):  # fmt: skip
        with pytest.raises(TypeError, match="expected uint8 A"):
            compiled.native.multiply_bytes(*wrong, 1.0, False, False)


def sparse_of(A, dtype, index="int32"):
    """(values, columns, ends) of the numbers of A that are not 0, row by row."""
    rows, columns = np.nonzero(A)
    ends = np.r_[0, np.bincount(rows, minlength=len(A)).cumsum()]
    return A[rows, columns].astype(dtype), columns.astype(index), ends.astype(index)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (7, 30, 5), (40, 300, 67), (3, 50, 16), (9, 40, 23), (3, 3200, 1000)], ids=str
)
def test_products_of_sparse_matrices_are_those_of_dense_ones(shape, index, dtype):
    rows, width, n = shape
    random = np.random.default_rng(0)
    A = random.normal(size=(rows, width)) * (random.random((rows, width)) < 0.1)
    A[rows // 2] = 0  # rows and columns without numbers
    given = sparse_of(A, dtype, index)
    for alpha, across in ((1.0, False), (0.25, True)):
        left = A.T if across else A
        B = random.normal(size=(left.shape[1], n)).astype(dtype)
        C = at_the_end(np.full((len(left), n), np.nan, dtype))
        assert compiled.native.multiply_sparse(*given, at_the_end(B), C, alpha, across)
        want = alpha * left.astype(dtype).astype(float) @ B
        np.testing.assert_allclose(C, want, rtol=0, atol=50 * np.finfo(dtype).eps * max(1, np.abs(want).max()))


@needs_native
@pytest.mark.parametrize("across", [False, True])
def test_products_of_sparse_matrices_refuse_other_arrays(across):
    A = np.diag(np.arange(1.0, 5.0))[:, [3, 1, 2, 0]]
    values, columns, ends = sparse_of(A, "float64")
    good = {"values": values, "columns": columns, "ends": ends, "B": np.ones((4, 3)), "C": np.zeros((4, 3))}
    C = good["C"]
    bad = [
        {"values": values.astype("float32")}, {"values": values[:3]}, {"values": values.astype(int)},
        {"columns": columns + 1}, {"columns": columns - 1}, {"columns": columns.astype("uint32")},
        {"columns": columns.astype("int16")},
        {"columns": columns.astype(float)}, {"columns": np.repeat(columns, 2)[::2]}, {"ends": ends + 1},
        {"ends": ends[::-1].copy()}, {"ends": np.array([0, 3, 1, 3, 4])}, {"ends": np.array([0, -1, 2, 3, 4])},
        {"ends": np.zeros(0, int)}, {"ends": ends[:-1]}, {"ends": np.array([0, 1, 2, 3, 5])},
        {"B": np.ones((3, 3))}, {"B": np.ones((4, 4))}, {"B": np.ones((4, 3), "float32")},
        {"B": np.ones((4, 6))[:, ::2]}, {"B": C}, {"C": np.zeros((4, 4))}, {"C": np.zeros((3, 4)).T},
        {"C": np.zeros(12)},
    ]  # fmt: skip
    for change in bad:
        assert not compiled.native.multiply_sparse(*(good | change).values(), 1.0, across), change
    assert not C.any()
    assert compiled.native.multiply_sparse(*good.values(), 1.0, across)
    np.testing.assert_array_equal(C, (A.T if across else A) @ good["B"])
    C.flags.writeable = False
    assert not compiled.native.multiply_sparse(*good.values(), 1.0, across)


@needs_native
@pytest.mark.parametrize("call", ["multiply_bytes", "steps_room"])
def test_after_an_argument_that_is_no_number_none_is_asked_for(call):
    asked, A, B, C = [], np.zeros((4, 6), np.uint8), np.zeros((6, 5)), np.zeros((4, 5))
    truth = type("Truth", (), {"__bool__": lambda self: asked.append(self) or True})()
    given = {"multiply_bytes": (A, B, C, "x", truth, truth), "steps_room": (np.array([3, 2]), "x", 5, 1, *5 * [truth])}
    if not hasattr(compiled.native, call):
        pytest.skip("this compiler has no vector types")
    with pytest.raises(TypeError, match=r"real number|an integer"):
        getattr(compiled.native, call)(*given[call])
    assert not asked


@needs_native
@on_tiles
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dense_layer_takes_bytes_also_where_it_is_not_the_first(dtype, tiles, monkeypatch):
    monkeypatch.setattr(compiled, "has_tile_unit", lambda: tiles)
    random, eps = np.random.default_rng(0), np.finfo(dtype).eps
    A, W = random.integers(0, 256, (40, 30), dtype=np.uint8), random.normal(0, 1, (30, 20)).astype(dtype)
    dZ = random.normal(0, 1, (40, 20)).astype(dtype)
    found, expected = ([np.zeros(s, dtype) for s in ((40, 20), (30, 20), (1, 20), (40, 30))] for _ in range(2))
    ones = np.ones((1, 40), dtype)
    for (Z, dW, db, dA), forward, backward, tile in (
        (found, FASTER["dense_forward"], FASTER["dense_backward"], A),
        (expected, dense.dense_forward, dense.dense_backward, A.astype(dtype)),
    ):
        forward(tile, W, Z, 0.5, xp=np)
        backward(dZ.copy(), tile, W, ones, dW, db, dA, 0.5, xp=np)
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e3 * eps, atol=1e5 * eps)


OPTIONS = [
    {"batch": "full", "optimizer": "adam", "alpha": 0.1},
    {"batch": "full", "optimizer": "lbfgs"},
    {"batch": 64, "optimizer": "gradient_descent", "learning_rate": 0.5},
    {"batch": 64, "optimizer": "adamw", "dropout": 0.2, "activation": "relu", "output": "softmax"},
    {"batch": 10, "optimizer": "nesterov", "activation": "tanh", "output": "softmax", "epochs": 2},
    {"batch": 500, "optimizer": "rmsprop", "activation": "leaky_relu", "gradient_clip": 1.0, "learning_rate": 1e-3},
]


@needs_native
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o['optimizer']} {o['batch']}")
@pytest.mark.parametrize("without", ["native", "tiles"])
@pytest.mark.parametrize(("dtype", "near"), [("float32", 0.02), ("float64", 1e-9)])
def test_a_training_without_it_ends_at_the_same_loss(options, without, dtype, near, monkeypatch):
    options = {"hidden": (24, 12), "epochs": 4, "device": "cpu", "seed": 3, "dtype": dtype, **options}
    *_, mine = fcgpu.train(digits(1500), **options)
    if without == "native":
        monkeypatch.setattr(compiled, "native", None)
    monkeypatch.setattr(compiled, "multiplies_bytes", lambda: False)
    *_, other = fcgpu.train(digits(1500), **options)
    assert mine.train.loss == pytest.approx(other.train.loss, rel=near / 20)
    np.testing.assert_allclose(mine.model.params, other.model.params, rtol=near, atol=near)


@needs_native
@on_tiles
@pytest.mark.parametrize("batch", ["full", 700, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_trained_on_with_the_same_bits_on_any_number_of_threads(batch, dtype, tiles, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "has_tile_unit", lambda: tiles)
    data, found = digits(3000), []
    np.save(tmp_path / "X.npy", data.X)
    mapped = fcgpu.dataset(np.load(tmp_path / "X.npy", mmap_mode="r"), data.y, scale=1 / 255)
    for source, threads in ((data, 1), (data, 2), (data, 5), (mapped, 2)):
        *_, finished = fcgpu.train(
            source, hidden=(24, 12), epochs=3, batch=batch, device="cpu", threads=threads, optimizer="adam", seed=3,
            dtype=dtype,
        )  # fmt: skip
        found.append(finished.model.params)
    for params in found[1:]:
        np.testing.assert_array_equal(params, found[0])


@needs_tiles
@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_are_predicted_from_as_floats_are(dtype):
    data, near = digits(3000), 1e3 * np.finfo(dtype).eps
    *_, finished = fcgpu.train(data, hidden=(24, 12), epochs=2, device="cpu", seed=3, dtype=dtype)
    model, floats = finished.model, data.X.astype(dtype)
    expected = model.decision_function(floats)
    for X in (data.X, np.asfortranarray(data.X), data.X[::-1][::-1]):
        np.testing.assert_allclose(model.decision_function(X), expected, rtol=near, atol=near)


LAYOUTS = {
    "every third column": lambda X: np.repeat(X, 3, axis=1)[:, ::3],
    "every other row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "mirrored": lambda X: X[:, ::-1].copy()[:, ::-1],
    "upside down": lambda X: X[::-1].copy()[::-1],
    "by columns": np.asfortranarray,
    "columns of every other row": lambda X: np.asfortranarray(np.repeat(X, 2, axis=0))[::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("batch", "dtype"), [("full", "float32"), (64, "float64"), (10, "float32")])
def test_bytes_may_lie_in_any_way(layout, dtype, batch, monkeypatch):
    monkeypatch.setattr(plan_c, "is_for", lambda *of: False)  # test_in_c.py has the steps in C
    data = digits(400)
    X = LAYOUTS[layout](data.X)
    options = {"hidden": (6,), "epochs": 2, "batch": batch, "device": "cpu", "dtype": dtype, "seed": 3}
    *_, expected = fcgpu.train(data, **options)
    *_, found = fcgpu.train(fcgpu.dataset(X, data.y, scale=data.scale), **options)
    near = 1e3 * np.finfo(dtype).eps
    np.testing.assert_allclose(found.model.params, expected.model.params, rtol=near, atol=near)
    np.testing.assert_allclose(found.model.predict_proba(X), found.model.predict_proba(data.X), rtol=near, atol=near)
