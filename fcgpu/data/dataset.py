"""Dataset, which every reader returns: features in their stored dtype, labels as class indices, and a scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from fcgpu.backend import as_numpy, beside, namespace_of
from fcgpu.errors import DataError

LONG_DOUBLE = "g"  # 64 to 128 bits, depending on the machine; no GPU has it
EXPECTED = "expected arrays as Dataset describes them; fcgpu.dataset(X, y) makes them of labels, lists and tables"
EXACT = 2.0**53  # from here on, different whole numbers may round to the same float64
ROWS_CHECKED_AT_ONCE = 4096  # bounds the temporary memory of a pass over X


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and labels. `fcgpu.dataset(X, y)` makes one from anything that NumPy takes.

    X : (n_samples, n_features), in its stored dtype; pixels stay uint8. A CuPy array stays on its GPU.
    y : (n_samples,) intp, indices into `classes`; if `classes` is None, float64 targets, (n_samples,) or
        (n_samples, n_outputs).
    X_test, y_test : the same for the test samples, or None.
    classes : the distinct labels of the source, sorted; None for a regression.
    image_shape : (height, width) or (height, width, 3) if each row is a flattened picture, else None.
    scale : factor by which features are multiplied when they are used, such as 1/255 for pixels.
    name : what error messages call the data.

    Raises DataError if X and y do not have these shapes, dtypes and index range; the values of X are not checked.
    """

    X: Any
    y: Any
    X_test: Any = None
    y_test: Any = None
    classes: tuple[int | str, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    scale: float = 1.0
    name: str = "arrays"

    def __post_init__(self) -> None:
        pairs = [(self.X, self.y)] if self.X_test is None else [(self.X, self.y), (self.X_test, self.y_test)]
        for X, y in pairs:
            if getattr(X, "ndim", None) != 2 or getattr(y, "ndim", None) not in (1, 2) or len(y) != X.shape[0]:
                raise DataError(f"{self.name}: {_kind(X)} and {_kind(y)}; {EXPECTED}")
            if y.dtype.kind not in "buif":
                raise DataError(f"{self.name}: y of dtype {y.dtype}; {EXPECTED}")
            if (
                self.classes is not None
                and y.ndim == 1
                and (y.dtype.kind not in "iu" or (len(y) and not 0 <= y.min() <= y.max() < len(self.classes)))
            ):
                raise DataError(f"{self.name}: y is no index into {len(self.classes)} classes; {EXPECTED}")

    @property
    def n_samples(self) -> int:
        return int(self.X.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.X.shape[1])


def _kind(array: Any) -> str:
    return f"an array of shape {array.shape}" if hasattr(array, "shape") else f"a {type(array).__name__}"


def dataset(
    X: Any,
    y: Any,
    X_test: Any = None,
    y_test: Any = None,
    *,
    image_shape: tuple[int, ...] | None = None,
    scale: float = 1.0,
    name: str = "arrays",
) -> Dataset:
    """A checked Dataset from arrays: X (n_samples, n_features) of numbers, y (n_samples,) labels or targets.

    X may be in GPU memory (an array of CuPy or of another library) and stays there; y is copied to the host.
    image_shape : (height, width) or (height, width, 3) if a row is a flattened picture.
    scale : factor by which features are multiplied when they are used.

    Labels that are all text, or all whole numbers below 2**53 in magnitude, become classes (integers of up to 64 bits
    do, too). Other floats, and a y with several columns, become float64 targets.

    Raises DataError for shapes that disagree, no samples, a dtype that is not numeric, long doubles, NaN or infinity, a
    test label that no training sample has, a scale that is not above 0, or an image_shape that does not fit a row.
    """
    X, y = check_features(X, name), _column(y, name)
    if not (isinstance(scale, Real) and 0 < scale < np.inf):
        raise DataError(f"{name}: scale={scale!r}; expected a finite number above 0, which features are multiplied by")
    if image_shape is not None:
        image_shape = _shape_of_a_picture(image_shape, X.shape[1], name)
    if X_test is None and y_test is not None:
        raise DataError(f"{name}: y_test without X_test; give both, or neither")
    _check_labels(X, y, name)
    classes, encoded = _encode(y, name)
    if X_test is not None:
        X_test, y_test = check_features(X_test, f"{name} (test)"), _column(y_test, f"{name} (test)")
        _check_labels(X_test, y_test, f"{name} (test)")
        if X_test.shape[1] != X.shape[1]:
            raise DataError(f"{name}: X_test has {X_test.shape[1]} features, X has {X.shape[1]}; they must be equal")
        if classes is not None:
            y_test = encode_labels(y_test, classes, f"{name} (test)")
        elif y_test.dtype.kind == "U" or y_test.shape[1:] != y.shape[1:]:
            raise DataError(
                f"{name}: y_test has shape {y_test.shape} and dtype {y_test.dtype}, y {y.shape} and {y.dtype}; "
                "expected numbers in as many columns as y has"
            )
        else:
            y_test = y_test.astype(np.float64)
    return Dataset(X, encoded, X_test, y_test, classes, image_shape, float(scale), name)


def check_features(X: Any, name: str) -> Any:
    """X (n_samples, n_features) as a CuPy array if it is in GPU memory, else as a NumPy array; not copied if it is one.

    Raises DataError unless X has two dimensions, none empty, and finite booleans, integers or floats of up to 64 bits.
    """
    if hasattr(X, "tocsr"):
        raise DataError(f"{name}: X is a sparse matrix; give X.toarray(), or use MLPClassifier, which takes it")
    xp = namespace_of(X)
    X = _array("X", X, name, xp)
    if X.ndim != 2:
        raise DataError(
            f"{name}: X has shape {X.shape}; expected (n_samples, n_features): of pictures X.reshape(len(X), -1)"
        )
    if X.dtype == object:
        X = _numbers(X, name)
    if 0 in X.shape:
        raise DataError(f"{name}: X has shape {X.shape}; at least one sample and one feature are needed")
    if X.dtype.kind not in "buif":
        raise DataError(f"{name}: X has dtype {X.dtype}; features must be real numbers")
    _refuse_long_doubles("X", X, name)
    if X.dtype.kind == "f":
        with beside(X):
            _check_finite(X, name, xp)
    return X


def _check_finite(X: Any, name: str, xp: Any) -> None:
    for start in range(0, len(X), ROWS_CHECKED_AT_ONCE):
        finite = xp.isfinite(X[start : start + ROWS_CHECKED_AT_ONCE])
        if not bool(xp.all(finite)):
            row, column = np.argwhere(~as_numpy(finite))[0]
            value = as_numpy(X[start + row, column])
            raise DataError(
                f"{name}: feature {column} of sample {start + row} is {value}; "
                "features must be finite: drop or fill such samples"
            )


def encode_labels(y: Any, classes: tuple[int | str, ...], name: str) -> Any:
    """Labels (n,) as indices (n,) intp into `classes`. Raises DataError with the first label that is not in it."""
    known = np.asarray(classes, dtype=type_of(classes))
    if (known.dtype.kind == "U") != (y.dtype.kind == "U"):
        raise DataError(f"{name}: label {y.flat[0]!s} is not one of the classes {shown(classes)}")
    order = np.argsort(known)
    index = order[np.minimum(np.searchsorted(known, y, sorter=order), len(known) - 1)]
    wrong = np.flatnonzero(known[index] != y)
    if wrong.size:
        raise DataError(
            f"{name}: label {y[wrong[0]]} of sample {wrong[0]} is out of range; the classes are {shown(classes)}"
        )
    return index.astype(np.intp)


def targets(data: Dataset, y: Any) -> Any:
    """Regression targets (n, n_outputs): y itself or, if y holds class indices, the labels as numbers.

    Raises DataError for labels that are text.
    """
    if data.classes is not None:
        if isinstance(data.classes[0], str):
            raise DataError(f"{data.name}: labels are text ({shown(data.classes)}); expected numbers as targets")
        y = np.asarray(data.classes, dtype=np.float64)[y]
    return y.reshape(len(y), -1)


def check_weights(weights: Any, n: int, dtype: str, name: str) -> Any:
    """Sample weights (n,) as a NumPy array.

    Raises DataError unless they are finite, 0 or more and not all 0, and neither their sum nor its reciprocal is
    outside the normal range of `dtype`, the run's.
    """
    weights = np.asarray(as_numpy(weights))
    if weights.shape != (n,) or weights.dtype.kind not in "buif":
        raise DataError(
            f"{name}: sample_weight has shape {weights.shape} and dtype {weights.dtype}; expected ({n},) numbers"
        )
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
        raise DataError(
            f"{name}: sample weights run from {weights.min():g} to {weights.max():g}; expected finite numbers of 0 or "
            "more, not all 0"
        )
    with np.errstate(all="ignore"):
        total, tiny = np.sum(weights, dtype=float), np.finfo(dtype).tiny
    if not tiny <= total <= 1 / tiny:
        raise DataError(
            f"{name}: sample weights add up to {total:g}; expected {tiny:.1g} to {1 / tiny:.1g}, for {dtype}: divide "
            "them by their mean"
        )
    return weights


def not_a_label(y: Any) -> str:
    """For an error message: why targets (n,) or (n, n_outputs) cannot be labels."""
    if y.ndim == 2:
        return f"{y.shape[1]} columns of targets"
    first = int(np.flatnonzero(~_whole(y))[0])
    return f"{y[first]:.9g} for sample {first}"


def shown(classes: tuple[int | str, ...]) -> str:
    """Classes for an error message; if there are more than 12, the middle is left out."""
    words = [str(c) for c in classes]
    return ", ".join(words if len(words) <= 12 else [*words[:5], "...", *words[-2:]])


def scale_of(X: Any) -> float:
    """1 / max(X) for uint8, so that scaled features lie in 0..1; 1 for any other dtype."""
    return 1 / max(int(X.max(initial=0)), 1) if X.dtype == np.uint8 else 1.0


def _array(what: str, given: Any, name: str, xp: Any = np) -> Any:
    """`given` as an array of xp. Raises DataError for rows of several lengths, and for masked values, which asarray
    would take as they are.
    """
    if hasattr(given, "filled") and np.any(given.mask):
        raise DataError(f"{name}: {what} has masked values; drop such samples, or fill them: {what}.filled(value)")
    try:
        return xp.asarray(given)
    except ValueError as error:
        raise DataError(f"{name}: {what} is no array ({error}); expected rows of equal length") from None


def _column(y: Any, name: str) -> Any:
    """y as a NumPy array; a column (n, 1), as some libraries keep labels, becomes (n,)."""
    given = as_numpy(y)
    y = _array("y", given, name)
    if y.dtype.kind == "U" and not hasattr(given, "dtype"):  # a list: NumPy makes text of its numbers and of NaN, too
        y = np.asarray(given, dtype=object)
    if y.dtype.kind in "OT":  # T: text of any length
        y = _alike(y)
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _check_labels(X: Any, y: Any, name: str) -> None:
    if y.ndim not in (1, 2) or len(y) != len(X) or 0 in y.shape:
        raise DataError(f"{name}: y has shape {y.shape} for {len(X)} samples; expected ({len(X)},)")
    if y.dtype.kind not in "buifU":
        first: dict[str, str] = {}
        for i, value in enumerate(y.flat):
            first.setdefault(type(value).__name__, f"{repr(value)[:40]} for sample {i // (y.size // len(y))}")
        found = " and ".join(f"{kind} ({first[kind]})" for kind in sorted(first))
        raise DataError(
            f"{name}: y has {found}; labels must all be whole numbers or all text, targets real numbers: "
            "drop samples without one"
        )
    _refuse_long_doubles("y", y, name)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        bad = int(np.argwhere(~np.isfinite(y))[0][0])
        raise DataError(f"{name}: the label of sample {bad} is {y[bad]}; labels must be finite: drop such samples")


def _refuse_long_doubles(what: str, array: Any, name: str) -> None:
    if array.dtype.char == LONG_DOUBLE:
        raise DataError(
            f"{name}: {what} has dtype {array.dtype}; expected floats of at most 64 bits: {what}.astype('float64')"
        )


def _encode(y: Any, name: str) -> tuple[tuple[int | str, ...] | None, Any]:
    """(classes, indices) for labels, (None, float64 targets) for anything else."""
    if y.ndim == 2 or (y.dtype.kind == "f" and not _whole(y).all()):
        return None, y.astype(np.float64)
    values, index = np.unique(y, return_inverse=True)
    return as_classes(values, name), index.astype(np.intp)


def _whole(y: Any) -> Any:
    """(n,) bool: which of the floats y (n,) represent exactly one whole number, as a label must."""
    return (y == np.rint(y)) & (np.abs(y) < EXACT)


def as_classes(values: Any, name: str) -> tuple[int | str, ...]:
    """Labels as Model.classes holds them: str, or int for whole numbers, True and False.

    Raises DataError for any other number, and for more than 64 bits.
    """
    classes = []
    for value in np.asarray(values).tolist():
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not isinstance(value, str) and not (whole and -(2**63) <= value < 2**64):
            raise DataError(f"{name}: label {value!r}; labels must be whole numbers of at most 64 bits, or text")
        classes.append(value if isinstance(value, str) else int(value))
    return tuple(classes)


def type_of(classes: Sequence[Any]) -> Any:
    """uint64 if a class needs it, where NumPy alone would choose float64 or object; else None, NumPy's choice."""
    return np.uint64 if isinstance(classes[0], int) and max(classes) >= 2**63 else None


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


def _alike(y: Any) -> Any:
    """An object array that is all text or all numbers, as an array of that type; any other array unchanged."""
    if all(isinstance(value, str) for value in y.flat):
        return np.array(y.tolist(), str)
    if all(isinstance(value, Real | np.bool_) for value in y.flat):
        return np.array(y.tolist())
    return y


def _shape_of_a_picture(shape: Any, n_features: int, name: str) -> tuple[int, ...]:
    sides = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    fits = len(sides) == 2 or (len(sides) == 3 and sides[2] == 3)
    if not (fits and all(isinstance(side, Integral) for side in sides) and math.prod(sides) == n_features):
        raise DataError(
            f"{name}: image_shape={shape!r} with {n_features} features; expected (height, width) or (height, width, 3) "
            "of as many pixels"
        )
    return tuple(int(side) for side in sides)
