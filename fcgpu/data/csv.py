"""CSV, plain or gzip: separated numbers and labels, parsed in blocks of lines to bound the memory.

A block of nothing but whole numbers of one to three digits, as pixels are, takes a fast path: a few vectorised passes
over its bytes, on all processors. Everything else goes through numpy.loadtxt.
"""

from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fcgpu.data.columns import fields_of, is_number, label_column, names_in, separator_in
from fcgpu.data.dataset import Dataset, dataset, scale_of
from fcgpu.data.lines import blocks_of, lines_of, whole_lines
from fcgpu.data.names import Names
from fcgpu.errors import DataError
from fcgpu.host import cpu_count
from fcgpu.workers import Workers

CSV_BLOCK = 1 << 18  # bytes parsed at once: bounds the temporary memory
MOST_THREADS = 8  # each holds a block and its parsed numbers in memory


def load_csv(path: Path, target_column: str = "", feature_names: Names = None) -> Dataset:
    """A Dataset from a CSV file of numbers and labels; see `read_csv`."""
    X, y, names = read_csv(path, target_column=target_column, feature_names=feature_names)
    return dataset(X, y, scale=scale_of(X), name=str(path), feature_names=names)


def read_csv(
    path: Path, n_features: int | None = None, *, target_column: str = "", feature_names: Names = None
) -> tuple[Any, Any, Names]:
    """X (n, n_features), uint8 if every feature is a whole number from 0 to 255, else float64; y (n,) float64, or text
    if the first label is; the features' names in the header, or None.

    The file is UTF-8, plain or gzip; commas separate its columns or, if its first line has none, semicolons or tabs.
    The label is in the column that the header calls `target_column`, or the only one that it does not call by one of
    feature_names, or in the first one; if `n_features` is given and equals the number of columns, there is none, and y
    is None. Labels may be text where the header names every column.

    Raises DataError, with line and column, for ragged lines and for fields that are not finite numbers; for a file
    without samples or features, or that is not text; for a number of columns other than n_features or n_features + 1;
    and for a header that `names_in` or `label_column` refuses.
    """
    with whole_lines(path) as read, closing(Workers(min(MOST_THREADS, cpu_count()))) as workers:
        start = next((line for line in blocks_of(read, 1) if not line.isspace()), b"")
        first = lines_of(start)[0] if start else ""
        if not first:
            raise DataError(f"{path}: empty; expected lines of numbers separated by commas, and a label in each")
        fields = fields_of(first, separator := separator_in(first))
        names, columns = names_in(path, fields, target_column), len(fields)
        if columns == 1 and n_features != 1:
            wanted = "a label and features" if n_features is None else f"{n_features} features"
            raise DataError(f"{path}: one column; expected {wanted}, separated by commas, not {first[:40]!r}")
        if n_features is not None and columns not in (n_features, n_features + 1):
            raise DataError(
                f"{path}: {columns} columns don't match the model: expected {n_features} features, "
                f"or {n_features + 1} columns with a label"
            )
        label = None
        if columns != n_features:
            label = label_column(path, names, target_column, feature_names, dropped=n_features is not None)
        begun = start if names is None else start.lstrip().partition(b"\n")[2]
        blocks = (block for block in chain([begun], blocks_of(read, CSV_BLOCK)) if block.strip())
        head = next(blocks, b"")
        layout = Layout(path, separator, columns, names, label)
        layout = layout._replace(text=_is_text(layout, head))
        X, y = np.empty((0, columns - (label is not None)), np.uint8), []
        for table, labels in _tables(chain([head] if head else [], blocks), layout, workers):
            if table is None:
                raise _csv_fault(layout)
            X = _extended(X, table)
            y.append(labels)
    if not y:
        raise DataError(f"{path}: a header and nothing else; expected lines of numbers after it")
    if names is not None and label is not None:
        names = names[:label] + names[label + 1 :]
    return X, None if label is None else np.concatenate(y), names


class Layout(NamedTuple):
    """The columns of a file: how many, their names if it has a header, which is the label, and whether that is text."""

    path: Path
    separator: str
    columns: int
    names: Names
    label: int | None
    text: bool = False


def _is_text(layout: Layout, block: bytes) -> bool:
    """Whether the first label, in a block's first line, is text. It cannot be where the header may be a sample."""
    names, label = layout.names, layout.label
    if label is None or names is None or not block or any(map(is_number, names)):
        return False
    fields = fields_of(lines_of(block)[0], layout.separator)
    return len(fields) > label and fields[label] != "" and not is_number(fields[label])


def _tables(blocks: Iterator[bytes], layout: Layout, workers: Workers) -> Iterator[tuple[Any, Any]]:
    """The features (n, n_features) and labels (n,) of each block; (None, None) for one that is not right."""
    for some in iter(lambda: list(islice(blocks, workers.threads)), []):
        tables = [None] * len(some)

        def parse(i: int, some: list[bytes] = some, tables: list[Any] = tables) -> None:
            tables[i] = _short_whole_numbers(some[i], layout.columns, layout.separator)

        if not layout.text:
            workers.run(parse, len(some))
        for block, table in zip(some, tables, strict=True):
            yield _parted(layout, block, table)


def _parted(layout: Layout, block: bytes, table: Any) -> tuple[Any, Any]:
    """The features and labels of the block's lines, whose numbers (n, columns) are `table` unless it is None."""
    _, separator, columns, _, label, text = layout
    if label is not None and text:
        lines = lines_of(block)
        fields = [line.split(separator) for line in lines]
        labels = [_unquoted(each[label]) for each in fields if len(each) == columns]
        if len(labels) < len(lines) or not all(labels):
            return None, None
        table = _numbers(lines, separator, [column for column in range(columns) if column != label])
        return table, np.array(labels)
    if table is None:
        table = _numbers(lines_of(block), separator)
    if table is None or table.shape[1] != columns:
        return None, None
    if label is None:
        return table, None
    return np.delete(table, label, axis=1) if label else table[:, 1:], table[:, label].astype(np.float64)


def _short_whole_numbers(block: bytes, columns: int, separator: str) -> Any:
    """The lines as uint8 or uint16 (n, columns) if every field is one to three digits and nothing else, else None."""
    text = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    digits = text - np.uint8(ord("0"))  # above 9 for any other character
    ends = np.flatnonzero(digits > 9)
    if len(ends) % columns:
        return None
    separators = text[ends].reshape(-1, columns)
    if (separators[:, :-1] != ord(separator)).any() or (separators[:, -1] != ord("\n")).any():
        return None
    length = np.diff(ends, prepend=-1)  # of a field and its separator
    if length.min() < 2 or length.max() > 4:
        return None
    values = digits[ends - 1].astype(np.uint16)
    tens, hundreds = np.flatnonzero(length > 2), np.flatnonzero(length > 3)
    values[tens] += digits[ends[tens] - 2] * np.uint16(10)
    values[hundreds] += digits[ends[hundreds] - 3] * np.uint16(100)
    return (values if values.max() > 255 else values.astype(np.uint8)).reshape(-1, columns)


def _numbers(rows: list[str], separator: str, columns: list[int] | None = None) -> Any:
    """The lines, or only these columns of them, as float64; None if they are ragged, not numbers or not finite."""
    try:
        values = np.loadtxt(rows, delimiter=separator, comments=None, ndmin=2, encoding=None, usecols=columns)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _extended(X: Any, rows: Any) -> Any:
    """X with the rows appended, in place unless a uint8 X becomes float64 because a value does not fit."""
    if X.dtype == np.uint8 and not _are_bytes(rows):
        X = X.astype(np.float64)
    n = len(X)
    X.resize((n + len(rows), X.shape[1]), refcheck=False)
    X[n:] = rows
    return X


def _are_bytes(rows: Any) -> bool:
    """Whether the finite numbers are whole and from 0 to 255."""
    if rows.dtype == np.uint8:
        return True
    return bool(rows.min() >= 0 and rows.max() <= 255 and (rows == rows.astype(np.uint8)).all())


def _csv_fault(layout: Layout) -> DataError:
    """The error for a CSV file that did not parse: it names the first bad line."""
    path, separator, columns, names, label, text = layout
    header = names is not None
    with whole_lines(path) as read:
        lines = (line for block in blocks_of(read, CSV_BLOCK) for line in block.removesuffix(b"\n").split(b"\n"))
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            fields = fields_of(line.decode(), separator)
            if len(fields) != columns:
                quoted = "; a comma in quotes separates, too: leave such text out" if b'"' in line else ""
                return DataError(
                    f"{path}, line {number}: {len(fields)} values; expected {columns}, as in the first line{quoted}"
                )
            for column, field in enumerate([] if header else fields):
                at = f"{path}, line {number}, column {column + 1}"
                if column == label and text:
                    if not _unquoted(field):
                        return DataError(f"{at}: no label; drop such samples")
                elif not is_number(field):
                    return DataError(f"{at}: {field[:40]!r}; expected a number: {_remedy(layout, column, field)}")
                elif not np.isfinite(float(field)):
                    return DataError(f"{at}: {field}; values must be finite: drop or fill such samples")
            header = False
    return DataError(f"{path}: expected lines of {columns} numbers")


def _remedy(layout: Layout, column: int, field: str) -> str:
    if any(each in field for each in ",;\t"):
        return "separate all by commas or all by semicolons, and write numbers with a point, as 1.5"
    if column == layout.label and field:
        return "labels may be text if the first one is, and a first line names every column"
    why = "fill what is missing, write numbers without quotes, and text as numbers, as pandas.get_dummies does"
    if layout.label != 0 or not field:
        return why
    if layout.names is None:
        return f"{why}; if this is the label, put it first"
    return f"{why}; if this is the label, put it first, or train with target_column={layout.names[column]}"


def _unquoted(field: str) -> str:
    return field.strip().strip("\"'")
