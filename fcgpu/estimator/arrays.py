"""Converts arrays of other libraries for the estimators, checks them, and converts predictions back to the same kind.

Supported are NumPy arrays and what scikit-learn converts to them, sparse matrices, CuPy and other arrays in GPU memory,
and arrays with DLPack. With scikit-learn's `array_api_dispatch`, predictions are given in the namespace of X.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn import get_config
from sklearn.utils import check_array
from sklearn.utils._array_api import array_api_compat, get_namespace_and_device
from sklearn.utils.validation import _check_feature_names, _check_n_features, _check_sample_weight, validate_data

from fcgpu.backend import as_numpy, gpu_of, namespace_of, on_gpu
from fcgpu.data.features import NUMBERS_AT_ONCE, check_features, parts
from fcgpu.errors import DataError

CPU = 1  # DLPack's number for this device type
IN_CACHE = 1 << 16  # numbers hashed at once: a third of the time of NUMBERS_AT_ONCE, on two cores of a Xeon
SPARSE = ["csr", "csc"]  # sparse matrices of other kinds are converted to one of these
DENSE = 8  # how often a number must be 0, on average, before products that skip it are faster
FEW = 65_536  # numbers, for which scikit-learn's checks take longer than it does to read them
COPIED = 32_768  # numbers, which are copied faster than NumPy tells where the parts of a network lie
SMALL = ("float32", "float16", "bool", "int8", "uint8", "int16", "uint16")  # types that float32 holds exactly


class SparseRows:
    """A sparse matrix; `self[rows]` is dense, so that training converts one tile at a time."""

    ndim = 2

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix.tocsr()
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self.nbytes = self.matrix.data.nbytes + self.matrix.indices.nbytes + self.matrix.indptr.nbytes

    def __getitem__(self, rows: Any) -> Any:
        return self.matrix[rows].toarray()


class VerySparseRows(SparseRows):
    """One with so few numbers that are not 0 that products of only those are faster; `self[rows]` stays sparse."""

    def __init__(self, matrix: Any) -> None:
        super().__init__(matrix)
        self.nnz = matrix.nnz

    def __getitem__(self, rows: Any) -> Any:
        return self.matrix[rows]

    def tocsr(self) -> Any:
        """The matrix; `kernels.dense.is_sparse` looks for this method."""
        return self.matrix


class Given(NamedTuple):
    """An array in a form that scikit-learn and the backend take, and how to convert predictions back."""

    array: Any
    back: Callable[[Any], Any]  # from an array on the host or on X's GPU to the kind of X
    namespace: str  # must be the same in fit and predict if scikit-learn dispatches


def given(X: Any) -> Given:
    """X as Given: what scikit-learn takes is unchanged; other arrays come through DLPack, if possible without a copy.

    Raises DataError for memory other than the CPU's or a CUDA GPU's, and for dtypes that NumPy lacks.
    """
    back: Callable[[Any], Any] = _same
    if on_gpu(X):
        array, name = namespace_of(X).asarray(X), "cupy"
        back = partial(_to_gpu_of, array)
    elif isinstance(X, np.ndarray) or not hasattr(X, "__dlpack__"):
        return Given(X, back, "numpy")
    else:
        kind, _ = X.__dlpack_device__()
        if kind != CPU:
            raise DataError(f"X lies on DLPack device type {kind}: expected the CPU's memory or a CUDA GPU's")
        array, name = _from_dlpack(X), "numpy"
    if array is not X and get_config()["array_api_dispatch"] and array_api_compat.is_array_api_obj(X):
        namespace, _, device = get_namespace_and_device(X)
        return Given(
            array, lambda answer: _to_namespace(answer, namespace, device), f"{namespace.__name__} on {device}"
        )
    return Given(array, back, name)


def _from_dlpack(X: Any) -> Any:
    try:
        return np.from_dlpack(X)
    except (BufferError, RuntimeError, TypeError) as error:
        raise DataError(f"{type(X).__name__} through DLPack: {error}; expected an array of a NumPy type") from error


def same_namespace(estimator: Any, X: Given, method: str) -> None:
    """Raise DataError if scikit-learn dispatches and X is of another namespace or device than in fit."""
    if get_config()["array_api_dispatch"] and X.namespace != estimator._namespace:
        raise DataError(
            f"Inputs passed to {type(estimator).__name__}.{method}() must use the same namespace and the same device "
            f"as those passed to fit(): {X.namespace} is not {estimator._namespace}"
        )


def on_host(array: Any) -> Any:
    """A NumPy array from any kind of array; None and lists are returned as they are."""
    return as_numpy(array) if on_gpu(array) else given(array).array


def checked(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, y_numeric: bool, reset: bool
) -> tuple[Any, Any, Any]:
    """X, y and weights, checked as scikit-learn does; X stays on its device, y and weights are on the host."""
    X, y = given(X).array, on_host(y)
    if on_gpu(X):
        X = _check_on_gpu(estimator, X, reset=reset)
        y = check_array(y, ensure_2d=False, dtype="numeric" if y_numeric else None, input_name="y")
        if len(y) != X.shape[0]:
            raise DataError(f"Found input variables with inconsistent numbers of samples: {[X.shape[0], len(y)]}")
    elif reset or not (_passes(estimator, X) and is_plain_target(y) and len(y) == X.shape[0]):
        X, y = validate_data(
            estimator, X, y, accept_sparse=SPARSE, dtype="numeric", reset=reset, multi_output=True, y_numeric=y_numeric
        )
    if X.dtype.kind not in "buif" or X.dtype.itemsize > 8:
        raise DataError(
            f"X has dtype {X.dtype}: expected real numbers of at most 64 bits; encode text, categories and dates "
            "as numbers, as OneHotEncoder does"
        )
    if sample_weight is not None:
        sample_weight = _check_sample_weight(on_host(sample_weight), np.empty(X.shape[0]))
    return X, y, sample_weight


def checked_features(estimator: Any, X: Any) -> Any:
    """X of a prediction, checked as scikit-learn does."""
    if on_gpu(X):
        return _check_on_gpu(estimator, X, reset=False)
    if _passes(estimator, X):
        return X
    return validate_data(estimator, X, accept_sparse=SPARSE, dtype="numeric", reset=False)


def _passes(estimator: Any, X: Any) -> bool:
    """Whether scikit-learn's checks would return X as it is. They take twice as long as the prediction of a sample."""
    numbers = X.data if hasattr(X, "tocsr") and X.format in SPARSE else X
    return (
        type(numbers) is np.ndarray
        and numbers.dtype in ("float32", "float64")
        and X.ndim == 2
        and X.shape[0] > 0
        and X.shape[1] == getattr(estimator, "n_features_in_", None)
        and numbers.size <= FEW
        and not hasattr(estimator, "feature_names_in_")
        and bool(np.isfinite(numbers).all())
    )


def is_plain_target(y: Any) -> bool:
    """Whether y is a vector of finite numbers, which scikit-learn's checks would return as it is."""
    kind = y.dtype.kind if type(y) is np.ndarray and y.ndim == 1 else ""
    return kind in ("i", "u") or (kind == "f" and bool(np.isfinite(y).all()))


def _check_on_gpu(estimator: Any, X: Any, *, reset: bool) -> Any:
    """Check X as scikit-learn's `validate_data` does, but without copying it to the host."""
    X = check_features(X, type(estimator).__name__)
    _check_feature_names(estimator, X, reset=reset)
    _check_n_features(estimator, X, reset=reset)
    return X


def compute_dtype(asked: str, stored: Any) -> str:
    """The dtype of parameters and arithmetic: `asked` or, if that is "auto", float32 if it holds the features exactly,
    else float64.
    """
    if asked != "auto":
        return asked
    return "float32" if stored.name in SMALL else "float64"


def for_backend(X: Any, backend: Any, dtype: Any) -> Any:
    """X for `train` in a dtype: a sparse matrix as SparseRows, or for a GPU dense; other arrays are returned as they
    are.
    """
    if not hasattr(X, "tocsr"):
        return X
    if backend.on_gpu:
        return X.toarray()
    return VerySparseRows(X.astype(dtype, copy=False)) if X.nnz * DENSE <= X.shape[0] * X.shape[1] else SparseRows(X)


def joined(parts: Sequence[Any]) -> Any:
    """The numbers of all parts in one new vector."""
    return np.concatenate(parts, axis=None)


def undivided(parts: Sequence[Any]) -> Any:
    """The vector that parts are if they follow each other in the memory of one array, as after a fit; else `joined`."""
    first, memory = parts[0], getattr(parts[0], "base", None)
    if not (isinstance(memory, np.ndarray) and memory.ndim == 1 and memory.flags.c_contiguous):
        return joined(parts)
    start = end = first.ctypes.data
    for part in parts:
        is_there = getattr(part, "base", None) is memory and part.ctypes.data == end
        if not (is_there and part.flags.c_contiguous and part.dtype == first.dtype):
            return joined(parts)
        end += part.nbytes
    at = start - memory.ctypes.data
    return memory.view(np.uint8)[at : at + end - start].view(first.dtype)


def row_hashes(X: Any) -> Any:
    """(n,) uint32: a hash of each row of X (n, n_features), on the host or a GPU; equal rows have equal hashes.

    They are dropout's sample ids, so that a sample of weight 2 trains like two equal samples.
    """
    random = np.random.Generator(np.random.PCG64(0))
    factors = random.integers(2**64, size=X.shape[1], dtype=np.uint64) | np.uint64(1)
    if isinstance(X, SparseRows):
        return _sparse_row_hashes(X.matrix, factors)
    with gpu_of(X):
        xp = namespace_of(X)
        factors, found = xp.asarray(factors), xp.empty((X.shape[0],), dtype=np.uint32)
        for rows in parts(X.shape, NUMBERS_AT_ONCE if on_gpu(X) else IN_CACHE):
            found[rows] = xp.sum(_words(X[rows], factors, xp), axis=1) >> np.uint64(32)
        return found


def _sparse_row_hashes(matrix: Any, factors: Any) -> Any:
    """The same from the numbers that are not 0: the others add 0. Their sums modulo 2^64 are differences of sums."""
    if not matrix.has_canonical_format:  # several numbers in one place are their sum
        matrix = matrix.copy()
        matrix.sum_duplicates()
    n = matrix.nnz  # its arrays may be longer
    sums = np.zeros(n + 1, dtype=np.uint64)
    np.cumsum(_words(matrix.data[:n], factors[matrix.indices[:n]], np), out=sums[1:])
    return (np.diff(sums[matrix.indptr]) >> np.uint64(32)).astype(np.uint32)


def _words(numbers: Any, factors: Any, xp: Any) -> Any:
    made = xp.zeros(numbers.shape, dtype=np.float64)
    made += numbers  # -0 is 0
    words = made.view(np.uint64)
    words ^= words >> np.uint64(32)
    words *= factors
    return words


def _same(answer: Any) -> Any:
    return answer


def _to_gpu_of(X: Any, answer: Any) -> Any:
    """Numbers as a CuPy array on the GPU of X; text stays on the host, because CuPy has no text."""
    with gpu_of(X):
        return namespace_of(X).asarray(answer) if answer.dtype.kind in "biuf" else answer


def _to_namespace(answer: Any, namespace: Any, device: Any) -> Any:
    """Numbers as an array of another namespace; text as NumPy, because the array API standard has no text."""
    if answer.dtype.kind not in "biuf":
        return answer
    return namespace.from_dlpack(answer) if on_gpu(answer) else namespace.asarray(answer, device=device)
