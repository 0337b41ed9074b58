"""C ← C + α A B, of the OpenBLAS that NumPy has loaded: NumPy itself makes products only to overwrite with them."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

ROW_MAJOR, AS_IS, TRANSPOSED = 101, 111, 112  # CBLAS's enumerations


def is_available(dtype: Any) -> bool:
    """Is NumPy's BLAS an OpenBLAS, which can be asked?"""
    return _gemm(dtype.char) is not None


def adder(A: Any, B: Any, C: Any, alpha: float) -> Callable[[], None]:
    """A call that adds α A B to C (m, n), for arrays (m, k), (k, n) of one type whose place in memory is looked up now.

    Each is a matrix as it lies in memory or its transpose, C as it lies. Where it `is_available`.
    """
    found = _gemm(C.dtype.char)
    assert found is not None
    function, integer, real = found
    (m, k), n = A.shape, B.shape[1]
    order_a, order_b = (_order(array, integer) for array in (A, B))
    _, stride = _order(C, integer)
    arguments = (
        ROW_MAJOR, order_a[0], order_b[0], integer(m), integer(n), integer(k), real(alpha),
        A.ctypes.data_as(ctypes.c_void_p), order_a[1], B.ctypes.data_as(ctypes.c_void_p), order_b[1],
        real(1), C.ctypes.data_as(ctypes.c_void_p), stride,
    )  # fmt: skip

    def add() -> None:
        function(*arguments)  # which hold their arrays, so that these live as long

    return add


def _order(array: Any, integer: Any) -> tuple[int, Any]:
    """How a matrix lies in memory, and the distance of its rows, or columns, which of a single one means nothing."""
    (rows, columns), (down, right) = array.shape, (stride // array.itemsize for stride in array.strides)
    return (AS_IS, integer(max(down, columns))) if right == 1 else (TRANSPOSED, integer(max(right, rows)))


@cache
def _gemm(kind: str) -> tuple[Any, Any, Any] | None:
    """cblas_sgemm for kind "f" or cblas_dgemm for "d", its integer and its number; None where there is none."""
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["internal_api"] != "openblas":
            continue
        loaded = ctypes.CDLL(library["filepath"])
        for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
            name = {"f": "sgemm", "d": "dgemm"}[kind]
            function = getattr(loaded, f"{prefix}cblas_{name}{suffix}", None)
            config = getattr(loaded, f"{prefix}openblas_get_config{suffix}", None)
            if function and config:
                config.restype = ctypes.c_char_p
                integer = ctypes.c_int64 if b"USE64BITINT" in config() else ctypes.c_int32
                real, place = {"f": ctypes.c_float, "d": ctypes.c_double}[kind], ctypes.c_void_p
                enums, sizes = [ctypes.c_int] * 3, [integer] * 3
                function.argtypes = [*enums, *sizes, real, place, integer, place, integer, real, place, integer]
                function.restype = None
                return function, integer, real
    return None
