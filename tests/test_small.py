"""The path for small batches against the path for large ones, which makes the same update with sums in another order.

Tolerance: in float64 the two differ in each step by a few eps of numbers near 1, and 20 steps of such a small network
add up to far less than 1e-10.
"""

import platform
import sys
import threading
import time

import numpy as np
import pytest
from test_workers import blas_threads

import fcgpu
from fcgpu.kernels import blas
from fcgpu.kernels.denormals import AsZeros, count_as_zero
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.updates import UPDATES
from fcgpu.params import Spec, initial
from fcgpu.train import cpu, kept, plan_c, small, staircase
from fcgpu.train.small import SmallBatches
from fcgpu.workers import Workers

IS_X86 = (sys.platform, platform.machine()) in (("linux", "x86_64"), ("win32", "AMD64"))


@pytest.fixture(autouse=True)
def in_numpy(monkeypatch):
    """Steps in NumPy, also where C has been compiled."""
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)


RULES = [name for name in UPDATES if name != "rprop"]
REGULARISED = {"alpha": 0.1, "gradient_clip": 0.5, "dropout": 0.3}


def digits(kind="softmax"):
    """Samples with many zeros, so that the staircase order is used, and a last batch that is not full."""
    random = np.random.default_rng(5)
    X = (random.random((107, 48)) < np.linspace(0.95, 0, 48) ** 6) * random.integers(1, 256, (107, 48))
    y = {"softmax": np.arange(107) % 3, "sigmoid": np.arange(107) % 3, "identity": X[:, :2] / 255, "exp": X[:, :1] % 5}
    return fcgpu.dataset(X.astype(np.uint8), y[kind], scale=1 / 255)


def trained(data, **options):
    options = {"hidden": (9, 6), "epochs": 4, "batch": 20, "dtype": "float64", "learning_rate": 0.01, **options}
    _, *epochs, finished = fcgpu.train(data, device="cpu", **options)
    return finished.model.params, [(e.loss, e.penalty, e.accuracy) for e in epochs]


def trained_as_large(monkeypatch, data, **options):
    with monkeypatch.context() as patch:
        patch.setattr(cpu, "is_small", lambda plan: False)
        return trained(data, **options)


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-11)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert ours[:2] == pytest.approx(theirs[:2], rel=1e-11)
        assert ours[2] == theirs[2]


@pytest.mark.parametrize("changes", [{}, REGULARISED, {"hidden": ()}], ids=["plain", "regularised", "logistic"])
@pytest.mark.parametrize("optimizer", RULES)
def test_a_run_is_the_same_but_for_rounding(optimizer, changes, monkeypatch):
    data = digits()
    options = {"optimizer": optimizer, **changes, "sample_weight": np.linspace(0.5, 2, 107) if changes else None}
    if "hidden" in changes:
        options["sample_weight"] = None
    assert_same(trained(data, **options), trained_as_large(monkeypatch, data, **options))


def test_gradients_are_clipped_before_the_learning_rate_multiplies_them():
    options = {"optimizer": "gradient_descent", "learning_rate": 0.01, "gradient_clip": 0.05, "epochs": 1}
    params, _ = trained(digits(), **options, batch="full")
    start = initial(Spec((48, 9, 6, 3)), seed=0)
    assert np.linalg.norm(params - start) == pytest.approx(0.01 * 0.05, rel=1e-9)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_loss_is_measured_later_as_it_would_have_been(output, schedule, monkeypatch):
    monkeypatch.setattr(kept, "BYTES", 50 * 8 * 2)  # memory for a few batches, so that an epoch is processed in pieces
    data, options = digits(output), {"output": output, "schedule": schedule, "optimizer": "momentum"}
    assert_same(trained(data, **options), trained_as_large(monkeypatch, data, **options))


@pytest.mark.parametrize("optimizer", ["gradient_descent", "adam"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_parts_of_a_batch_are_as_wide_as_their_samples(optimizer, shuffle, monkeypatch):
    monkeypatch.setattr(staircase, "STEP", 1)
    monkeypatch.setattr(small, "TREAD", 3)
    data, options = digits(), {"optimizer": optimizer, "shuffle": shuffle, "dropout": 0.3}
    widths = []
    noted = SmallBatches._load

    def load(self, rows, tile, width):
        widths.append(width)
        noted(self, rows, tile, width)

    monkeypatch.setattr(SmallBatches, "_load", load)
    found = trained(data, **options)
    assert len(set(widths)) > 4
    assert_same(found, trained_as_large(monkeypatch, data, **options))


@pytest.mark.parametrize("optimizer", ["gradient_descent", "adam"])
def test_without_openblas_the_same_is_computed_by_numpy(optimizer, monkeypatch):
    data, options = digits(), {"optimizer": optimizer, "alpha": 0.1 if optimizer == "adam" else 0.0}
    asked = trained(data, **options)
    monkeypatch.setattr(blas, "_openblas", lambda kind: None)
    assert_same(trained(data, **options), asked)


def matrix(random, m, n, dtype):
    """A matrix (m, n): contiguous, a transposed view, or part of a wider one."""
    shape = (m, n + random.integers(3)) if random.random() < 0.5 else (n, m + random.integers(3))
    made = random.standard_normal(shape).astype(dtype)
    return made[:, :n] if shape[0] == m and shape[1] >= n else made[:, :m].T


@pytest.fixture(params=["openblas", "old openblas", "numpy"])
def library(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(blas, "_openblas", lambda kind: None)
    elif blas._openblas("f") is None:
        pytest.skip("NumPy's BLAS is not an OpenBLAS")
    elif request.param == "old openblas":
        found = blas._openblas
        monkeypatch.setattr(blas, "_openblas", lambda kind: found(kind)._replace(gemm_batch=None))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.3, 0.0), (-1.5, 1.0), (2.0, 0.5)])
def test_products_of_any_shape_and_layout(alpha, beta, dtype, library):
    random = np.random.default_rng(0)
    for _ in range(100):
        m, k, n = random.integers(1, 30, 3)
        A, B = matrix(random, m, k, dtype), matrix(random, k, n, dtype)
        C = random.standard_normal((m, n + 2)).astype(dtype)[:, :n]
        expected = beta * C + alpha * (A.astype(float) @ B)
        bound = 8 * k * np.finfo(dtype).eps * (np.abs(C).max() + k * np.abs(A).max() * np.abs(B).max())
        if not beta:
            C[...] = np.nan  # what is in C does not count, as in BLAS
        blas.product([(A, B, C)], alpha, beta)()
        np.testing.assert_allclose(C, expected, rtol=0, atol=bound)


LARGE = [((130, 300, 210), "NN", 2), ((900, 120, 130), "TN", 4), ((130, 300, 500), "NT", 4), ((64, 400, 2100), "TT", 8)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "layout", "pieces"), LARGE)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (-0.5, 1.0)])
def test_large_products_have_the_same_bits_on_any_number_of_threads(alpha, beta, shape, layout, pieces, dtype, library):
    random, (m, k, n) = np.random.default_rng(1), shape
    A = random.standard_normal((k, m) if layout[0] == "T" else (m, k)).astype(dtype)
    B = random.standard_normal((n, k) if layout[1] == "T" else (k, n)).astype(dtype)
    A, B = A.T if layout[0] == "T" else A, B.T if layout[1] == "T" else B
    C, found = random.standard_normal((m, n)).astype(dtype), []
    with Workers(1).quiet():
        for threads in (1, 2, 3, 8):
            D = C.copy()
            made = blas.pieces(A, B, D)
            sizes = [part.size for *_, part in made]
            assert (len(sizes), sum(sizes)) == (pieces, m * n)
            assert max(sizes) - min(sizes) <= min(m, n)
            blas.product(made, alpha, beta, threads)()
            found.append(D)
    expected = beta * C + alpha * (A.astype(float) @ B)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=16 * k * np.finfo(dtype).eps * 10)
    assert all(np.array_equal(D, found[0]) for D in found)


def test_products_too_small_for_a_batch_are_made_one_by_one():
    """OpenBLAS up to 0.3.31 would crash on them."""
    A, B, C = np.ones((20, 30)), np.ones((30, 10)), np.zeros((20, 10))
    blas.product([(A[:10], B, C[:10]), (A[10:], B, C[10:])], threads=2)()
    assert (C == 30).all()


def test_threads_and_denormals_are_as_before_a_product():
    if blas._openblas("f") is None:
        pytest.skip("NumPy's BLAS is not an OpenBLAS")
    A, B, C = np.full((200, 300), 1e-20, "f"), np.full((300, 200), 1e-21, "f"), np.zeros((200, 200), "f")
    for zeros in (True, False):
        with Workers(1).quiet():
            before = count_as_zero(zeros)
            blas.product(blas.pieces(A, B, C), threads=2)()
            assert (blas_threads(), count_as_zero(before)) == ({1}, zeros and IS_X86)
            assert (C > 0).all()  # denormal numbers, of each thread
            C[...] = 0


def test_denormals_count_as_zero_inside_and_not_behind():
    tiny, half = np.full(100, 1e-40, np.float32), np.float32(0.5)
    with AsZeros(), AsZeros():
        assert (tiny * half == 0).all() == IS_X86
    assert (tiny * half > 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_axpby_for_numbers_and_arrays_of_one(dtype, library):
    random = np.random.default_rng(0)
    for shape in [(1,), (7,), (3, 5), (1001,)]:
        x, y = (random.standard_normal(shape).astype(dtype) for _ in range(2))
        expected = -0.5 * x + 0.9 * y
        blas.axpby(np.full(1, -0.5, dtype), x, 0.9, y)
        np.testing.assert_allclose(y, expected, rtol=0, atol=4 * np.finfo(dtype).eps * 4)


def test_numpys_openblas_is_found():
    if "openblas" in np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]:
        assert [blas._openblas(kind) is not None for kind in "fde"] == [True, True, False]


def test_a_library_that_is_no_openblas_is_not_asked(monkeypatch):
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: [{"internal_api": "mkl", "filepath": "none"}])
    blas._openblas.cache_clear()
    try:
        assert blas._openblas("f") is None
    finally:
        blas._openblas.cache_clear()


@pytest.mark.parametrize("optimizer", ["gradient_descent", "adam"])
def test_a_run_has_the_same_bits_on_any_number_of_threads(optimizer):
    random = np.random.default_rng(3)
    X = (random.random((900, 400)) < np.linspace(1, 0, 400) ** 2) * random.random((900, 400))
    data = fcgpu.dataset(X.astype(np.float32), np.arange(900) % 10)
    options = {"hidden": (300, 200), "batch": 200, "dtype": "float32", "optimizer": optimizer, "epochs": 2}
    runs = [trained(data, threads=threads, **options) for threads in (1, 2, 5)]
    assert all(np.array_equal(params, runs[0][0]) and epochs == runs[0][1] for params, epochs in runs)


@pytest.mark.parametrize("path", ["small", "large"])
def test_a_batch_without_any_weight_changes_nothing(path, monkeypatch):
    data, weights = digits(), np.ones(107)
    weights[:20] = 0
    if path == "large":
        monkeypatch.setattr(cpu, "is_small", lambda plan: False)
    options = {"optimizer": "gradient_descent", "schedule": "constant", "shuffle": False, "alpha": 0.5, "epochs": 1}
    with_them = trained(data, sample_weight=weights, **options)
    without = trained(fcgpu.dataset(data.X[20:], data.y[20:], scale=data.scale), **options)
    np.testing.assert_allclose(with_them[0], without[0], rtol=0, atol=1e-12)


def test_products_go_by_one_thread_while_another_run_counts_on_it(monkeypatch):
    """A run whose products of tiles went by two threads had other bits; none begins during a call on several."""
    real, asked, beginning, begun = blas._openblas("f"), [], threading.Event(), threading.Event()
    if real is None or not real.gemm_batch:
        pytest.skip("this NumPy's BLAS makes no products together")

    def another_run():
        beginning.set()
        with Workers(1).quiet():
            begun.set()

    another = threading.Thread(target=another_run)

    def set_threads(n):
        asked.append((n, begun.is_set()))
        if n > 1 and not beginning.is_set():
            another.start()
            beginning.wait()
            time.sleep(0.1)

    monkeypatch.setattr(blas, "CROWD", blas.Crowd())
    monkeypatch.setattr(blas, "_openblas", lambda kind: real._replace(set_threads=set_threads))
    A = np.ones((128, 128), np.float32)
    call = blas.product([(A, A, np.empty_like(A)) for _ in range(2)], threads=2)
    with Workers(1).quiet():
        with Workers(1).quiet():
            call()
        assert asked == []
        call()
        assert asked == [(2, False), (1, False)]
        another.join()


def test_products_go_by_one_thread_while_other_programs_hold_threads_up(monkeypatch):
    """With a clock that the calls advance; the pause doubles if a thread is delayed again right after one."""
    now, asked, takes = [0.0], [], [50e-6]
    real = blas._openblas("f")
    if real is None or not real.gemm_batch:
        pytest.skip("this NumPy's BLAS makes no products together")

    def set_threads(n):
        asked.append(n)
        if n > 1:
            now[0] += takes[0]

    monkeypatch.setattr(blas, "perf_counter", lambda: now[0])
    monkeypatch.setattr(blas, "CROWD", blas.Crowd())
    monkeypatch.setattr(blas, "_openblas", lambda kind: real._replace(set_threads=set_threads))
    A, B = np.ones((128, 128), np.float32), np.ones((128, 128), np.float32)
    made = [(A, B, np.empty_like(A)) for _ in range(2)]
    call = blas.product(made, threads=2)

    def threads():
        asked.clear()
        call()
        assert (made[0][2] == 128).all()
        return max(asked, default=1)

    assert [threads() for _ in range(3)] == [2, 2, 2]
    for pause in (blas.PAUSE, 2 * blas.PAUSE, 4 * blas.PAUSE):
        takes[0] = 5e-3  # delayed once
        assert threads() == 2
        takes[0] = 50e-6
        assert threads() == 1
        now[0] += 0.9 * pause
        assert threads() == 1
        now[0] += 0.2 * pause
    assert [threads() for _ in range(3)] == [2, 2, 2]
    now[0] += 100
    takes[0] = 5e-3
    assert threads() == 2
    now[0] += 1.1 * blas.PAUSE
    assert threads() == 2
