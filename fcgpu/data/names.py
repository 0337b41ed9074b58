"""The names of features: of a DataFrame's columns, or of a CSV file's header. A model takes them in one order only."""

from collections.abc import Sequence
from typing import Any

from fcgpu.errors import DataError

Names = tuple[str, ...] | None


def names_of(X: Any) -> Names:
    """The names of X's columns if it is a table, such as a DataFrame, and all are text; else None."""
    columns = getattr(X, "columns", ())
    if isinstance(columns, list) and isinstance(named := getattr(X, "column_names", None), list):
        columns = named  # of a table of pyarrow, whose `columns` are arrays
    names = tuple(columns) if hasattr(columns, "__iter__") else ()
    return names if names and all(isinstance(name, str) for name in names) else None


def check_names(found: Sequence[str] | None, expected: Sequence[str] | None, name: str) -> None:
    """Raise DataError if the features have other names than in training, or another order. None fits any names."""
    if found is None or expected is None or len(found) != len(expected):  # a wrong number has a message of its own
        return
    column = next((i for i, pair in enumerate(zip(found, expected, strict=True)) if len(set(pair)) > 1), None)
    if column is None:
        return
    remedy = "give the same features in the same order"
    if sorted(found) != sorted(expected):
        remedy = "give the features of the training, or features without names if they are the same"
    raise DataError(
        f"{name}: feature {column} is {found[column]!r}, the model was trained with {expected[column]!r}: {remedy}"
    )
