"""Calls into the OpenBLAS that NumPy has loaded, for what NumPy itself does not offer. Without one, NumPy's calls.

    C ← α A B + β C   several products at once, each on one of OpenBLAS's own threads
    y ← α x + β y     in one pass through memory

How a product is cut into pieces depends on its shape alone, and each piece is computed by one thread, so no bit depends
on the number of threads. OpenBLAS's threads start on a piece within microseconds; Python's take about fifty.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import compiled
from fcgpu.kernels.denormals import count_as_zero
from fcgpu.workers import ONE_BLAS_THREAD

ROW_MAJOR, AS_IS, TRANSPOSED = 101, 111, 112  # CBLAS's enumerations
LEAST = 1e6  # multiplications: OpenBLAS up to 0.3.31 crashes if a product in a batch has fewer
PIECE, PIECES = 3e6, 8  # multiplications that are worth a thread; most pieces of a product

STALL = 2e-3  # a call on several threads was held up if it took 3 times its shortest time and these seconds more
PAUSE, LONGEST = 0.05, 10.0  # seconds on one thread after that: at first, and at most if it keeps happening

Product = tuple[Any, Any, Any]  # (A (m, k), B (k, n), C (m, n))


def pieces(A: Any, B: Any, C: Any) -> list[Product]:
    """Cut A B = C into products of equal parts of C's rows, or of its columns if there are more of them.

    The number of pieces is a power of two; it is 1 if A is uint8.
    """
    if A.dtype == np.uint8:
        return [(A, B, C)]
    (m, k), n = A.shape, B.shape[1]
    count = 1 << max(1, min(PIECES, int(m * k * n / PIECE))).bit_length() - 1
    parts = [slice(start, stop) for start, stop in pairwise(max(m, n) * i // count for i in range(count + 1))]
    return [(A[part], B, C[part]) if m >= n else (A, B[:, part], C[:, part]) for part in parts]


def product(products: Sequence[Product], alpha: float = 1.0, beta: float = 0.0, threads: int = 1) -> Callable[[], Any]:
    """A function without arguments that computes C ← α A B + β C for each product.

    The arrays of all products have one dtype, and must stay at their place in memory. A and B have contiguous rows or
    contiguous columns, C has contiguous rows. If the kernels multiply bytes, A may be uint8; then B must have
    contiguous rows, too, and β be 0 or 1. Call the function inside `Workers.quiet`, which holds BLAS to one thread: a
    call on several threads leaves BLAS at one. While other runs count on that, the call uses one, too.
    """
    if products[0][0].dtype == np.uint8:
        return partial(_bytes, products, alpha, bool(beta))
    blas = _openblas(products[0][2].dtype.char)
    if blas is None:
        return partial(_by_numpy, products, alpha, beta)
    if len(products) > 1 and blas.gemm_batch and min(A.size * C.shape[1] for A, _, C in products) > LEAST:
        return _together(blas, products, alpha, beta, min(threads, len(products)))
    if len(products) > 1:
        calls = [product([one], alpha, beta) for one in products]
        return lambda: [call() for call in calls]
    A, B, C = products[0]
    if (alpha, beta) == (1, 0) and C.flags.c_contiguous:
        return partial(np.dot, A, B, C)  # a microsecond faster
    return _gemm(blas, A, B, C, alpha, beta)


def axpby(alpha: Any, x: Any, beta: Any, y: Any) -> None:
    """y ← α x + β y, for contiguous arrays of one dtype and shape; α and β are numbers or arrays (1,).

    One pass through memory if y is a NumPy array and there is an OpenBLAS; else several array operations.
    """
    blas = _openblas(y.dtype.char) if isinstance(y, np.ndarray) else None
    if blas is None:
        y *= beta
        y += alpha * x
    else:
        at = blas.real.from_buffer
        blas.axpby(y.size, _number(alpha), ctypes.byref(at(x)), 1, _number(beta), ctypes.byref(at(y)), 1)


def _number(value: Any) -> float:
    return float(value.item()) if isinstance(value, np.ndarray) else value


def _bytes(products: Sequence[Product], alpha: float, add: bool) -> None:
    for A, B, C in products:
        compiled.native.multiply_bytes(A, B, C, alpha, add, compiled.has_tile_unit())


def _by_numpy(products: Sequence[Product], alpha: float, beta: float) -> None:
    for A, B, C in products:
        if beta:
            C *= beta
            C += alpha * (A @ B)
        else:
            np.matmul(A, B, out=C)
            C *= alpha


class Crowd:
    """Detects that other programs compete for the processors.

    If one of OpenBLAS's threads gets no processor, the others wait milliseconds for it, a hundred times as long as some
    products take. Then products are computed on one thread for a while.
    """

    def __init__(self) -> None:
        self._until, self._pause = -math.inf, PAUSE

    def is_there(self, now: float) -> bool:
        return now < self._until

    def met(self, now: float) -> None:
        """Pause after a call that was held up and ended `now`; twice as long if the last pause ended shortly before."""
        soon = now - self._until < 10 * self._pause
        self._pause = min(2 * self._pause, LONGEST) if soon else PAUSE
        self._until = now + self._pause


CROWD = Crowd()


class _OpenBLAS(NamedTuple):
    """OpenBLAS's functions for one dtype, and the ctypes of their arguments."""

    gemm: Any
    gemm_batch: Any  # None in old versions
    axpby: Any
    set_threads: Any
    integer: Any
    real: Any


def _gemm(blas: _OpenBLAS, A: Any, B: Any, C: Any, alpha: float, beta: float) -> Callable[[], Any]:
    (order_a, stride_a), (order_b, stride_b), (_, stride_c) = map(_order, (A, B, C))
    shape = map(blas.integer, (*C.shape, A.shape[1]))
    return partial(
        blas.gemm, ROW_MAJOR, order_a, order_b, *shape, blas.real(alpha), _place(A), blas.integer(stride_a),
        _place(B), blas.integer(stride_b), blas.real(beta), _place(C), blas.integer(stride_c),
    )  # fmt: skip


def _together(
    blas: _OpenBLAS, products: Sequence[Product], alpha: float, beta: float, threads: int
) -> Callable[[], None]:
    count, enum, place = len(products), ctypes.c_int, ctypes.c_void_p
    orders = [[_order(array) for array in one] for one in products]

    def each(kind: Any, value: Callable[[int], Any]) -> Any:
        return (kind * count)(*map(value, range(count)))

    def matrices(i: int) -> tuple[Any, Any]:
        return each(place, lambda j: products[j][i].ctypes.data), each(blas.integer, lambda j: orders[j][i][1])

    sizes = [each(blas.integer, size) for size in (
        lambda j: products[j][2].shape[0], lambda j: products[j][2].shape[1], lambda j: products[j][0].shape[1],
    )]  # fmt: skip
    make = partial(
        blas.gemm_batch, ROW_MAJOR, each(enum, lambda j: orders[j][0][0]), each(enum, lambda j: orders[j][1][0]),
        *sizes, each(blas.real, lambda j: alpha), *matrices(0), *matrices(1), each(blas.real, lambda j: beta),
        *matrices(2), blas.integer(count), each(blas.integer, lambda j: 1),
    )  # fmt: skip

    shortest = math.inf

    def call(_: Any = products) -> None:  # the default keeps the arrays alive as long as their addresses are in use
        nonlocal shortest
        zeros = count_as_zero(False)  # OpenBLAS's threads do not flush denormals: the same bits in each thread
        with ONE_BLAS_THREAD.lock:
            began = perf_counter()
            together = not (ONE_BLAS_THREAD.is_shared() or CROWD.is_there(began))
            if together:
                blas.set_threads(threads)
                make()
                blas.set_threads(1)
                ended = perf_counter()
                if ended - began > 3 * shortest + STALL:
                    CROWD.met(ended)
                shortest = min(shortest, ended - began)
        if not together:
            make()
        count_as_zero(zeros)

    return call


def _place(array: Any) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)  # it keeps a reference to the array


def _order(array: Any) -> tuple[int, int]:
    """CBLAS's transpose flag and leading dimension; of a single row or column the stride means nothing."""
    (rows, columns), (down, right) = array.shape, (stride // array.itemsize for stride in array.strides)
    return (AS_IS, max(down, columns)) if right == 1 else (TRANSPOSED, max(right, rows))


@cache
def _openblas(kind: str) -> _OpenBLAS | None:
    """The functions for kind "f" (float32) or "d" (float64); None for others, and if NumPy uses another BLAS."""
    if kind not in "fd":
        return None
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["internal_api"] != "openblas":
            continue
        loaded = ctypes.CDLL(library["filepath"])
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            config = getattr(loaded, f"{prefix}openblas_get_config{suffix}", None)
            if config and hasattr(loaded, f"{prefix}cblas_sgemm{suffix}"):
                config.restype = ctypes.c_char_p
                integer = ctypes.c_int64 if b"USE64BITINT" in config() else ctypes.c_int32
                return _functions(loaded, f"{prefix}%s{suffix}", kind, integer)
    return None


def _functions(loaded: Any, name: str, kind: str, integer: Any) -> _OpenBLAS:
    letter, real = {"f": ("s", ctypes.c_float), "d": ("d", ctypes.c_double)}[kind]
    place = ctypes.c_void_p
    gemm, axpby = (getattr(loaded, name % f"cblas_{letter}{function}") for function in ("gemm", "axpby"))
    axpby.argtypes = [integer, real, place, integer, real, place, integer]
    batch = getattr(loaded, name % f"cblas_{letter}gemm_batch", None)
    for function in filter(None, (gemm, axpby, batch)):
        function.restype = None
    return _OpenBLAS(gemm, batch, axpby, getattr(loaded, name % "openblas_set_num_threads"), integer, real)
