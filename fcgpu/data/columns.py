"""The columns of a CSV file: what separates them, whether the first line names them, and which of them is the label."""

from pathlib import Path

from fcgpu.data.names import Names
from fcgpu.errors import DataError
from fcgpu.suggest import choices

MANY = 4  # from this many columns on, a first line of 0, 1, 2, ... is taken for column numbers, not for a sample
LABEL = ("label", "class", "target", "y")  # names of a label column in a header


def separator_in(line: str) -> str:
    """What separates the fields of a file's first line: a comma, or else a semicolon or a tab if it has one."""
    return next((each for each in ",;\t" if each in line), ",")


def fields_of(line: str, separator: str) -> list[str]:
    return [field.strip() for field in line.split(separator)]


def is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python's float accepts 1_000, numpy.loadtxt does not


def names_in(path: Path, fields: list[str], target_column: str) -> Names:
    """The names of the columns if the fields of the first line are a header, else None.

    It is one if its first field is text, if none of its fields is a number, or if target_column is one of them. Raises
    DataError if it numbers the columns from 0, because it looks like a sample, or if there is no such target_column.
    """
    if len(fields) >= MANY and fields == [str(i) for i in range(len(fields))]:  # else it would be a sample
        raise DataError(
            f"{path}: line 1 numbers the columns, as pandas does if they have no names; "
            "name them, or write no header: header=False"
        )
    names = tuple(field.strip("\"'") for field in fields)
    words = [not is_number(field) for field in fields]
    named = all(words) or (words[0] and fields[0] != "")
    if target_column and names.count(target_column) != 1:
        where = "it is the name of several" if target_column in names else choices(target_column, names)
        if not (named or target_column in names):
            where = "the file has no header, a first line of names"
        raise DataError(f"{path}: no column for target_column={target_column!r}: {where}")
    return names if named or target_column else None


def label_column(path: Path, names: Names, target_column: str, feature_names: Names, *, dropped: bool) -> int:
    """Which column is the label: target_column, or the only one that is none of feature_names, or the first.

    Raises DataError if it is the first for want of a better one, but a later one has a name from LABEL; or if the first
    column has no name, unless the labels are only to be dropped.
    """
    if names is None:
        return 0
    if not (names[0] or dropped):
        raise DataError(
            f"{path}: column 1 has no name: if it holds row numbers, as pandas and R write them, leave them out: "
            "index=False, row.names=FALSE"
        )
    if target_column:
        return names.index(target_column)
    if feature_names is not None:
        others = [column for column, name in enumerate(names) if name not in feature_names]
        return others[0] if len(others) == 1 else 0
    found = next((column for column, name in enumerate(names) if name.lower() in LABEL), 0)
    if found:
        raise DataError(
            f"{path}: column {found + 1} is named {names[found]}, and column 1, {names[0][:40]}, is taken for the "
            f"label: put the right one first, or train with target_column={names[found]}"
        )
    return 0
