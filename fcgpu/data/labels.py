"""Labels as users hand them over, as classes and indices into them; or an error that names the sample."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from fcgpu.backend import as_numpy
from fcgpu.data.features import as_array, refuse_long_doubles
from fcgpu.errors import DataError

LONG = 40  # characters of a label in an error message
EXACT = np.float64(2**53)  # from here on, different whole numbers may round to the same float64; beyond float16


def are_classes(labels: Sequence[Any]) -> bool:
    """Whether labels are as a Model's classes: all different, and all integers of 64 bits or all text."""
    kinds = {type(label) for label in labels}
    fit = kinds == {str} or (kinds == {int} and -(2**63) <= min(labels) <= max(labels) < 2**64)
    return fit and len(set(labels)) == len(labels)


def as_column(y: Any, name: str) -> Any:
    """y as a NumPy array; a column (n, 1), as some libraries keep labels, becomes (n,)."""
    given = as_numpy(y)
    y = as_array("y", given, name)
    if y.dtype.kind == "U" and not hasattr(given, "dtype"):  # a list: NumPy makes text of its numbers and of NaN, too
        y = np.asarray(given, dtype=object)
    if y.dtype.kind in "OT":  # T: text of any length
        y = _alike(y)
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def check_labels(X: Any, y: Any, name: str) -> None:
    """Raise DataError unless y (n,) or (n, n_outputs) holds a label or finite target for each sample of X, of one kind.

    y : as `as_column` returns it.
    """
    dimensions = (1,) if y.dtype.kind == "U" else (1, 2)  # text is no target
    if y.ndim not in dimensions or len(y) != len(X) or 0 in y.shape:
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
    refuse_long_doubles("y", y, name)
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        bad = int(np.argwhere(~np.isfinite(y))[0][0])
        raise DataError(f"{name}: the label of sample {bad} is {y[bad]}; labels must be finite: drop such samples")


def encode(y: Any, name: str) -> tuple[tuple[int | str, ...] | None, Any]:
    """(classes, indices) for labels, (None, float64 targets) for anything else."""
    if y.ndim == 2 or (y.dtype.kind == "f" and not are_whole(y)):
        return None, y.astype(np.float64)
    values, index = np.unique(y, return_inverse=True)
    return as_classes(values, name), index.astype(np.intp)


def _whole(y: Any) -> Any:
    """(n,) bool: which of the floats y (n,) represent exactly one whole number, as a label must."""
    return (y == np.rint(y)) & (np.abs(y) < EXACT)


def are_whole(y: Any) -> bool:
    """Whether the floats y are one column, and each represents exactly one whole number."""
    return y.ndim == 1 and bool(_whole(y).all())


def are_other_numbers(y: Any, classes: tuple[int | str, ...]) -> bool:
    """Whether y are numbers, `classes`, too, and some of y is none of them."""
    if y.dtype.kind == "U" or isinstance(classes[0], str):
        return False
    return y.ndim != 1 or not np.isin(y, array_of(classes)).all()


def encode_labels(y: Any, classes: tuple[int | str, ...], name: str) -> Any:
    """Labels (n,) as indices (n,) intp into `classes`. Raises DataError with the first label that is not in it."""
    known = array_of(classes)
    if (known.dtype.kind == "U") != (y.dtype.kind == "U"):
        found, expected = ("text", "numbers") if y.dtype.kind == "U" else ("a number", "text")
        raise DataError(f"{name}: label {_short(y.flat[0])} is {found}, the classes {shown(classes)} are {expected}")
    order = np.argsort(known)
    index = order[np.minimum(np.searchsorted(known, y, sorter=order), len(known) - 1)]
    wrong = np.flatnonzero(known[index] != y)
    if wrong.size:
        label = y[wrong[0]]
        if y.dtype.kind == "f" and label == np.rint(label):
            label = int(label)
        raise DataError(
            f"{name}: label {_short(label)} of sample {wrong[0]} is out of range; the classes are {shown(classes)}"
        )
    return index.astype(np.intp)


def as_classes(values: Any, name: str) -> tuple[int | str, ...]:
    """Labels as Model.classes holds them: str, or int for whole numbers, True and False.

    Raises DataError for any other number, and for more than 64 bits.
    """
    classes = []
    for value in np.atleast_1d(values).tolist():
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not isinstance(value, str) and not (whole and -(2**63) <= value < 2**64):
            raise DataError(f"{name}: label {value!r}; labels must be whole numbers of at most 64 bits, or text")
        classes.append(value if isinstance(value, str) else int(value))
    return tuple(classes)


def array_of(classes: Sequence[Any]) -> Any:
    """The classes as an array (n_classes,), exactly: uint64 if one needs it, where NumPy alone would choose float64."""
    wide = isinstance(classes[0], int) and max(classes) >= 2**63
    return np.asarray(classes, dtype=np.uint64 if wide else None)


def shown(classes: tuple[int | str, ...]) -> str:
    """Classes for an error message, of more than 12 the first and last, and of long text the beginning."""
    if len(classes) > 12:
        return f"{shown(classes[:5])}, ..., {shown(classes[-2:])}"
    return ", ".join(map(_short, classes))


def _short(label: Any) -> str:
    text = str(label)
    return text if len(text) <= LONG else text[:LONG] + "..."


def not_a_label(y: Any) -> str:
    """For an error message: why targets (n,) or (n, n_outputs) cannot be labels."""
    if y.ndim == 2:
        return f"{y.shape[1]} columns of targets"
    if are_whole(y):
        return "targets, though whole numbers"
    first = int(np.flatnonzero(~_whole(y))[0])
    return f"{y[first]:.9g} for sample {first}"


def _alike(y: Any) -> Any:
    """An object array that is all text or all numbers, as an array of that type; any other array unchanged."""
    if all(isinstance(value, str) for value in y.flat):
        return np.array(y.tolist(), str)
    if all(isinstance(value, Real | np.bool_) for value in y.flat):
        return np.array(y.tolist())
    return y
