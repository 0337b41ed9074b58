"""Features as users hand them over, as arrays of finite numbers; or an error that names the sample and the remedy."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fcgpu.backend import as_numpy, gpu_of, namespace_of
from fcgpu.errors import DataError, first_line

LONG_DOUBLE = "g"  # 64 to 128 bits, depending on the machine; no GPU has it
ROWS_CHECKED_AT_ONCE = 4096  # of those that a doubt is about
NUMBERS_AT_ONCE = 1 << 22  # bounds the temporary memory of a pass over X
GPU_NUMBERS_AT_ONCE = 1 << 26  # the same on a GPU, which the host waits for each time


def check_features(X: Any, name: str) -> Any:
    """X (n_samples, n_features) as a CuPy array if it is in GPU memory, else as a NumPy array; not copied if it is one.

    Raises DataError unless X has two dimensions, none empty, and finite booleans, integers or floats of up to 64 bits.
    """
    if hasattr(X, "tocsr"):
        raise DataError(f"{name}: X is a sparse matrix; give X.toarray(), or use MLPClassifier, which takes it")
    xp = namespace_of(X)
    X = as_array("X", X, name, xp)
    if X.ndim != 2:
        remedy = "of pictures X.reshape(len(X), -1)"
        if X.ndim < 2:
            remedy = "of one sample X.reshape(1, -1), of one feature X.reshape(-1, 1)"
        raise DataError(f"{name}: X has shape {X.shape}; expected (n_samples, n_features): {remedy}")
    if X.dtype == object:
        X = _numbers(X, name)
    if 0 in X.shape:
        raise DataError(f"{name}: X has shape {X.shape}; at least one sample and one feature are needed")
    if X.dtype.kind not in "buif":
        raise DataError(f"{name}: X has dtype {X.dtype}; features must be real numbers")
    refuse_long_doubles("X", X, name)
    if X.dtype.kind == "f":
        with gpu_of(X):
            _check_finite(X, name, xp)
    return X


def _check_finite(X: Any, name: str, xp: Any) -> None:
    for rows in parts(X.shape, NUMBERS_AT_ONCE if xp is np else GPU_NUMBERS_AT_ONCE):
        finite = xp.isfinite(X[rows])
        if not bool(xp.all(finite)):
            row, column = np.argwhere(~as_numpy(finite))[0]
            value = as_numpy(X[rows.start + row, column])
            raise DataError(
                f"{name}: feature {column} of sample {rows.start + row} is {value}; "
                "features must be finite: drop or fill such samples"
            )


def parts(shape: tuple[int, ...], most: int = NUMBERS_AT_ONCE) -> Iterator[slice]:
    """Slices of the rows of an array of that shape (n, ...), each of one row or of at most `most` numbers."""
    rows = max(1, most // math.prod(shape[1:]))
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def as_array(what: str, given: Any, name: str, xp: Any = np) -> Any:
    """`given` as an array of xp. Raises DataError for rows of several lengths, for what is no array and cannot be made
    one, and for masked values, which asarray would take as they are.
    """
    if hasattr(given, "filled") and np.any(given.mask):
        raise DataError(f"{name}: {what} has masked values; drop such samples, or fill them: {what}.filled(value)")
    try:
        array = xp.asarray(given)
    except ValueError as error:
        raise DataError(f"{name}: {what} is no array ({error}); expected rows of equal length") from None
    except (RuntimeError, TypeError) as error:  # a tensor that requires a gradient, or of a type that NumPy lacks
        if xp is not np:  # an error of the GPU is none of the data
            raise
        kind, why = type(given).__name__, first_line(error)
        raise DataError(f"{name}: {what} is a {kind} that NumPy cannot take ({why}); expected its types") from error
    if array.ndim == 0 and array.dtype == object:
        kind = type(given).__name__
        raise DataError(f"{name}: {what} is a {kind}; expected an array, a list of rows or a table in memory")
    return array


def refuse_long_doubles(what: str, array: Any, name: str) -> None:
    """Raise DataError for floats of more than 64 bits."""
    if array.dtype.char == LONG_DOUBLE:
        raise DataError(
            f"{name}: {what} has dtype {array.dtype}; expected floats of at most 64 bits: {what}.astype('float64')"
        )


def _numbers(X: Any, name: str) -> Any:
    """An object array (n, d), such as a table with columns of several types gives, as float64."""
    try:
        return X.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        row = next(i for i in range(len(X)) if not _are_numbers(X[i]))
        column = next(j for j in range(X.shape[1]) if not _are_numbers(X[row, j : j + 1]))
        raise DataError(
            f"{name}: feature {column} of sample {row} is {repr(X[row, column])[:40]}; features must be real numbers: "
            "encode text as numbers, drop or fill what is missing"
        ) from None


def _are_numbers(values: Any) -> bool:
    try:
        values.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
