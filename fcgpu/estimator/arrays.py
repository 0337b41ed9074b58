"""Arrays of every kind in, and answers of the same kind out.

NumPy and what scikit-learn makes NumPy of, sparse matrices, CuPy and other arrays in GPU memory, arrays that speak
DLPack, and with scikit-learn's `array_api_dispatch` those of any standard namespace.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fcgpu.errors import ConfigError, DataError

CPU = 1  # of DLPack's device types
SMALL = ("float32", "float16", "bool", "int8", "uint8", "int16", "uint16")  # types that float32 holds exactly


class SparseRows:
    """A sparse matrix whose rows come out dense, so that training takes it a tile at a time."""

    ndim = 2

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsr()
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self.nbytes = self.matrix.data.nbytes + self.matrix.indices.nbytes + self.matrix.indptr.nbytes

    def __getitem__(self, rows: Any) -> Any:
        return self.matrix[rows].toarray()

    def __len__(self) -> int:
        return int(self.shape[0])


class Given(NamedTuple):
    """An array in a form that scikit-learn and the backend take, and the way back to its own kind."""

    array: Any
    back: Callable[[Any], Any]


def given(X: Any) -> Given:
    """NumPy and the like as they are; other arrays through DLPack, without a copy where they allow it."""
    if on_gpu(X):
        import cupy

        return Given(cupy.asarray(X), _to_cupy)
    if isinstance(X, np.ndarray) or not hasattr(X, "__dlpack__"):
        return Given(X, _same)
    kind, _ = X.__dlpack_device__()
    if kind != CPU:
        raise DataError(f"X lies on DLPack device type {kind}: expected the CPU's memory or a CUDA GPU's")
    return Given(np.from_dlpack(X), _to_namespace_of(X))


def on_gpu(X: Any) -> bool:
    """Is it in a CUDA GPU's memory?"""
    return hasattr(X, "__cuda_array_interface__")


def on_host(array: Any) -> Any:
    """NumPy, from any kind of array; None and lists as they are."""
    if on_gpu(array):
        import cupy

        return cupy.asnumpy(cupy.asarray(array))
    return given(array).array


def check_on_gpu(estimator: Any, X: Any, *, reset: bool) -> Any:
    """What scikit-learn's `validate_data` checks, without bringing X to the host."""
    import cupy
    from sklearn.utils.validation import _check_feature_names, _check_n_features

    if X.ndim != 2 or 0 in X.shape:
        raise DataError(f"X has shape {X.shape}; expected (n_samples, n_features), each 1 or more")
    if X.dtype.kind not in "buif":
        raise DataError(f"X has dtype {X.dtype}; features must be real numbers")
    if X.dtype.kind == "f" and not bool(cupy.isfinite(X).all()):
        raise DataError("X has NaN or infinity; features must be finite: drop or fill such samples")
    _check_feature_names(estimator, X, reset=reset)
    _check_n_features(estimator, X, reset=reset)
    return X


def compute_dtype(asked: str, stored: Any) -> str:
    """ "float32" or "float64": the one asked for, else the least that holds the stored features exactly."""
    if asked != "auto":
        return asked
    return "float32" if stored.name in SMALL else "float64"


def for_backend(X: Any, backend: Any) -> Any:
    """Features as training takes them: a sparse matrix by its rows, or on a GPU in full."""
    if on_gpu(X):
        if not backend.on_gpu:
            raise ConfigError(f"device={backend.device!r} with X on a GPU: use device='auto', or cupy.asnumpy(X)")
        return X
    if hasattr(X, "tocsr"):
        return X.toarray() if backend.on_gpu else SparseRows(X)
    return X


def device_of(asked: str, X: Any) -> str:
    """The device that was asked for, or where X is already."""
    return f"cuda:{X.device.id}" if asked == "auto" and on_gpu(X) else asked


def _same(answer: Any) -> Any:
    return answer


def _to_cupy(answer: Any) -> Any:
    """Numbers as a CuPy array; text, which no GPU holds, stays on the host."""
    import cupy

    return cupy.asarray(answer) if answer.dtype.kind in "biuf" else answer


def _to_namespace_of(X: Any) -> Callable[[Any], Any]:
    """Back to the namespace of X where scikit-learn is told to dispatch, else NumPy, as its estimators answer."""
    from sklearn import get_config

    if not get_config()["array_api_dispatch"]:
        return _same
    xp = X.__array_namespace__()
    return lambda answer: xp.asarray(answer) if answer.dtype.kind in "biuf" else answer
