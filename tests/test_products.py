"""Products by cuBLAS, which the double computes by the definition of BLAS, column-major, from the given addresses.

The expected value is NumPy's product of the same matrices in row-major order; so a wrong order of operands, flag,
dimension or leading dimension gives a wrong number or an address out of bounds.
"""

import gc
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from device_double import HALVES, double_backend
from stream_double import COMPUTE_TF32, operand

from fcgpu.kernels import cublas

TYPES = [(H, C) for H, C in (("float32", "float32"), ("float64", "float64"))]
TYPES += [(H, C) for _, H in HALVES for C in (H, "float32")]


@pytest.fixture(params=["nvmath", "cupy"])
def product(request, monkeypatch):
    """(namespace, Gemm, its stream)."""
    xp = double_backend(monkeypatch).xp
    if request.param == "cupy":
        return xp, cublas.through_cupy(xp), xp.cuda.get_current_stream()
    stream = xp.cuda.Stream(non_blocking=True)
    return xp, cublas.through_nvmath(xp, stream), stream


def matrix(random, xp, shape, dtype, gap):
    """Random numbers on the device, in a wider array whose last `gap` columns are NaN."""
    host = np.full((shape[0], shape[1] + gap), np.nan).astype(dtype)
    host[:, : shape[1]] = random.normal(0, 1, shape)
    return xp.asarray(host)[:, : shape[1]]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("dtype", "out"), TYPES)
def test_random_shapes_give_numpys_product(dtype, out, seed, product):
    xp, multiply, stream = product
    random = np.random.default_rng(seed)
    m, n, k = (int(v) for v in random.integers(1, 9, 3))
    flags = {"transposed_a": bool(seed & 1), "transposed_b": bool(seed & 2)}
    alpha, beta = [(1.0, 0.0), (0.25, 1.0), (-2.0, 0.5)][seed % 3]
    shapes = [(k, m) if flags["transposed_a"] else (m, k), (n, k) if flags["transposed_b"] else (k, n)]
    A, B = (matrix(random, xp, shape, dtype, gap=int(random.integers(0, 3))) for shape in shapes)
    C = matrix(random, xp, (m, n), out, gap=1)
    a, b, c = (x.get().astype(float) for x in (A, B, C))
    a, b = (x.T if turn else x for x, turn in zip((a, b), flags.values(), strict=True))
    expected = alpha * (a @ b) + (beta * c if beta else 0)
    if not beta:
        C[...] = float("nan")  # C is overwritten, not read
    with stream:
        multiply(A, B, C, alpha=alpha, beta=beta, **flags)
        found = C.get().astype(float)
    eps = float(np.finfo(np.float32).eps if out != "float64" else np.finfo(float).eps) * k
    eps += 2.0**-8 if out == "bfloat16" else 2.0**-11 if out == "float16" else 0
    size = abs(alpha) * (np.abs(a) @ np.abs(b)) + beta * np.abs(np.nan_to_num(c))
    assert (np.abs(found - expected) <= 4 * eps * size).all()


def test_cupys_handle_is_that_of_the_thread_that_multiplies(monkeypatch):
    xp = double_backend(monkeypatch).xp
    multiply, A, C = cublas.through_cupy(xp), xp.ones((8, 8)), xp.empty((8, 8))
    with ThreadPoolExecutor(1) as other:
        other.submit(multiply, A, A, C).result()
    assert (C.get() == 8).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_forked_while_another_thread_records_may_end_its_handles():
    held = threading.Event()

    def record():
        with cublas.ALONE:
            held.set()
            time.sleep(0.2)

    thread = threading.Thread(target=record)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(not cublas.ALONE.acquire(timeout=5))
    thread.join()
    assert os.waitpid(child, 0) == (child, 0)


def test_tf32_is_for_float32_alone(monkeypatch):
    xp = double_backend(monkeypatch).xp
    multiply = cublas.through_cupy(xp, tf32=True)
    for dtype in ("float32", "float64", "float16"):
        A, C = xp.asarray(np.full((8, 8), 1 + 2.0**-10 + 2.0**-12).astype(dtype)), xp.empty((8, 8), dtype=dtype)
        multiply(A, A, C)
    assert [call[-1] == COMPUTE_TF32 for call in xp.cublas.calls] == [True, False, False]
    x = np.array([1 + 2.0**-11, 1 + 2.0**-11 + 2.0**-20, 1 + 3 * 2.0**-11, -1e-30, np.inf, np.nan], np.float32)
    exact = [1, 1 + 2.0**-10, 1 + 2.0**-9, -1e-30, np.inf, np.nan]  # ties to even
    np.testing.assert_allclose(operand(x, COMPUTE_TF32), exact, rtol=2.0**-11)
    assert operand(x, COMPUTE_TF32)[:3].tolist() == exact[:3]


@pytest.mark.parametrize(
    ("shapes", "types", "words"),
    [
        (((2, 3), (4, 5), (2, 5)), ("float32",) * 3, "does not give"),
        (((2, 3), (3, 5), (5, 2)), ("float32",) * 3, "does not give"),
        (((2, 2, 3), (3, 5), (2, 5)), ("float32",) * 3, "does not give"),
        (((2, 3), (3, 5), (2, 5)), ("float32", "float64", "float64"), "float32 and float64"),
        (((2, 3), (3, 5), (2, 5)), ("float32", "float32", "float64"), "does not give float64"),
        (((2, 3), (3, 5), (2, 5)), ("float16", "float16", "float64"), "does not give float64"),
    ],
)
def test_what_does_not_go_together_is_refused(shapes, types, words, product):
    xp, multiply, _ = product
    with pytest.raises(ValueError, match=words):
        multiply(*(xp.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, types, strict=True)))


def test_rows_in_pieces_are_refused(product):
    xp, multiply, _ = product
    whole = xp.zeros((4, 4))
    with pytest.raises(ValueError, match="do not lie in one piece"):
        multiply(xp.swapaxes(whole[:, :3], 0, 1), whole, xp.zeros((3, 4)))


@pytest.mark.parametrize("fails", ["empty", "set_stream", "set_workspace"])
def test_a_handle_that_does_not_come_to_work_is_given_back(fails, monkeypatch):
    xp = double_backend(monkeypatch).xp

    def fail(*arguments, **options):
        raise MemoryError("no more")

    monkeypatch.setattr(xp if fails == "empty" else sys.modules["nvmath.bindings.cublas"], fails, fail)
    with pytest.raises(MemoryError):
        cublas.through_nvmath(xp, xp.cuda.Stream(non_blocking=True))
    assert not xp.cublas._handles


def test_a_handle_is_given_back(monkeypatch):
    xp = double_backend(monkeypatch).xp
    multiply = cublas.through_nvmath(xp, xp.cuda.Stream(non_blocking=True))
    assert len(xp.cublas._handles) == 1
    del multiply
    gc.collect()
    assert not xp.cublas._handles
