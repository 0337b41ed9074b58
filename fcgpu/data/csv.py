"""CSV, plain or gzip: numbers separated by commas, parsed in blocks of lines to bound the memory.

A block of nothing but whole numbers of one to three digits, as pixels are, takes a fast path: a few vectorised passes
over its bytes, on all processors. Everything else goes through numpy.loadtxt.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.data.dataset import Dataset, dataset, scale_of
from fcgpu.data.names import Names
from fcgpu.data.unpack import unpacked, unpacked_limit
from fcgpu.errors import DataError
from fcgpu.host import cpu_count
from fcgpu.workers import Workers

CSV_BLOCK = 1 << 18  # bytes parsed at once: bounds the temporary memory
MAX_LINE = 4 << 20  # bytes
MOST_THREADS = 8  # each holds a block and its parsed numbers in memory
BOM = b"\xef\xbb\xbf"
MANY = 4  # from this many columns on, a first line of 0, 1, 2, ... is taken for column numbers, not for a sample
LABEL = ("label", "class", "target", "y")  # names of a label column in a header


def load_csv(path: Path) -> Dataset:
    """A Dataset from numbers separated by commas, the label first; see `read_csv`."""
    X, y, names = read_csv(path)
    return dataset(X, y, scale=scale_of(X), name=str(path), feature_names=names)


def read_csv(path: Path, n_features: int | None = None) -> tuple[Any, Any, Names]:
    """X (n, n_features), uint8 if every feature is a whole number from 0 to 255, else float64; y (n,) float64; the
    features' names in the header, or None.

    The file is UTF-8, plain or gzip. The first line is a header if its first field is text, or if none of its fields is
    a number. The first column is the label, unless `n_features` is given and equals the number of columns: then y is
    None.

    Raises DataError, with line and column, for ragged lines and for fields that are not finite numbers; for a file
    without samples or features, or that is not text; for a number of columns other than n_features or n_features + 1;
    for a header in which a later column has a name from LABEL or the first has no name; and for a header that numbers
    the columns from 0, because it looks like a sample.
    """
    with _csv_bytes(path) as read, closing(Workers(min(MOST_THREADS, cpu_count()))) as workers:
        start = next((line for line in _blocks(read, 1) if not line.isspace()), b"")
        first = _lines(start)[0] if start else ""
        if not first:
            raise DataError(f"{path}: empty; expected lines of numbers separated by commas, the label first")
        fields = _fields(first)
        columns, words = len(fields), [not _is_number(field) for field in fields]
        header = all(words) or (words[0] and fields[0] != "")
        if columns >= MANY and fields == [str(i) for i in range(columns)]:  # else it would be a sample
            raise DataError(
                f"{path}: line 1 numbers the columns, as pandas does if they have no names; "
                "name them, or write no header: header=False"
            )
        if columns == 1 and n_features != 1:
            wanted = "a label and features" if n_features is None else f"{n_features} features"
            raise DataError(f"{path}: one column; expected {wanted}, separated by commas, not {first[:40]!r}")
        if n_features is not None and columns not in (n_features, n_features + 1):
            raise DataError(
                f"{path}: {columns} columns don't match the model: expected {n_features} features, "
                f"or {n_features + 1} columns with the label first"
            )
        labels = int(columns != n_features)
        if header and labels:
            _check_label_first(path, fields, dropped=n_features is not None)
        begun = start.lstrip().partition(b"\n")[2] if header else start
        blocks = (block for block in chain([begun], _blocks(read, CSV_BLOCK)) if block.strip())
        X, y = np.empty((0, columns - labels), np.uint8), []
        for rows in _tables(blocks, columns, workers):
            if rows is None or rows.shape[1] != columns:
                raise _csv_fault(path, columns, header)
            X = _extended(X, rows[:, labels:])
            y.append(rows[:, 0].astype(np.float64))
    if not y:
        raise DataError(f"{path}: a header and nothing else; expected lines of numbers after it")
    names = tuple(field.strip("\"'") for field in fields[labels:]) if header else None
    return X, np.concatenate(y) if labels else None, names


def _check_label_first(path: Path, header: list[str], *, dropped: bool) -> None:
    names = [field.strip("\"'").lower() for field in header]
    if not (names[0] or dropped):
        raise DataError(
            f"{path}: column 1, which is taken for the label, has no name: if it holds row numbers, as pandas and R "
            "write them, leave them out: index=False, row.names=FALSE"
        )
    found = next((column for column, name in enumerate(names, 1) if name in LABEL), 1)
    if found != 1:
        raise DataError(
            f"{path}: column {found} is named {header[found - 1]}, and column 1, {header[0][:40]}, is taken for the "
            f"label; put the label first, or give column {found} another name if it is a feature"
        )


@contextmanager
def _csv_bytes(path: Path) -> Iterator[Callable[[int], bytes]]:
    """A function that reads about `size` bytes of whole lines from a file, plain or gzip.

    Inside the context, what is not UTF-8 text or not complete gzip raises DataError.
    """
    with unpacked(path) as (stream, is_gzip):
        if b"\0" in stream.peek(1):
            raise DataError(f"{path}: not text: it holds NUL bytes; expected CSV in UTF-8")
        limit = unpacked_limit(path.stat().st_size) if is_gzip else math.inf
        try:
            yield _whole_lines(path, stream, limit)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from error


def _whole_lines(path: Path, stream: Any, limit: float) -> Callable[[int], bytes]:
    """A function that reads about `size` bytes of whole lines.

    It raises DataError after `limit` bytes in all, and for a line of more than about MAX_LINE bytes.
    """
    left = limit

    def read(size: int) -> bytes:
        nonlocal left
        block: bytes = stream.read(size)
        if not block.endswith(b"\n"):
            rest = stream.readline(MAX_LINE)
            if len(rest) == MAX_LINE:
                raise DataError(
                    f"{path}: a line of more than {MAX_LINE} bytes; expected a sample in each: save larger ones as .npy"
                )
            block += rest
        left -= len(block)
        if left < 0:
            raise DataError(f"{path}: unpacks to far more than its size; if you trust it, unpack it yourself")
        return block

    return read


def _blocks(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Blocks of whole lines, about `size` bytes each, with every line ending changed to a line feed."""
    for block in iter(lambda: read(size), b""):
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield block.removeprefix(BOM)


def _lines(block: bytes) -> list[str]:
    return [line.decode() for line in block.split(b"\n") if line.strip()]


def _tables(blocks: Iterator[bytes], columns: int, workers: Workers) -> Iterator[Any]:
    """The numbers (n, columns) of each block; None, or another number of columns, for one that is not right."""
    for some in iter(lambda: list(islice(blocks, workers.threads)), []):
        tables = [None] * len(some)

        def parse(i: int, some: list[bytes] = some, tables: list[Any] = tables) -> None:
            tables[i] = _short_whole_numbers(some[i], columns)

        workers.run(parse, len(some))
        for block, table in zip(some, tables, strict=True):
            yield _numbers(_lines(block)) if table is None else table


def _short_whole_numbers(block: bytes, columns: int) -> Any:
    """The lines as uint8 or uint16 (n, columns) if every field is one to three digits and nothing else, else None."""
    text = np.frombuffer(block if block.endswith(b"\n") else block + b"\n", np.uint8)
    digits = text - np.uint8(ord("0"))  # above 9 for any other character
    ends = np.flatnonzero(digits > 9)
    if len(ends) % columns:
        return None
    separators = text[ends].reshape(-1, columns)
    if (separators[:, :-1] != ord(",")).any() or (separators[:, -1] != ord("\n")).any():
        return None
    length = np.diff(ends, prepend=-1)  # of a field and its separator
    if length.min() < 2 or length.max() > 4:
        return None
    values = digits[ends - 1].astype(np.uint16)
    tens, hundreds = np.flatnonzero(length > 2), np.flatnonzero(length > 3)
    values[tens] += digits[ends[tens] - 2] * np.uint16(10)
    values[hundreds] += digits[ends[hundreds] - 3] * np.uint16(100)
    return (values if values.max() > 255 else values.astype(np.uint8)).reshape(-1, columns)


def _numbers(rows: list[str]) -> Any:
    """The lines as float64 (n, columns), or None if they are ragged, not numbers or not finite."""
    try:
        values = np.loadtxt(rows, delimiter=",", comments=None, ndmin=2, encoding=None)
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


def _csv_fault(path: Path, columns: int, header: bool) -> DataError:
    """The error for a CSV file that did not parse: it names the first bad line."""
    with _csv_bytes(path) as read:
        lines = (line for block in _blocks(read, CSV_BLOCK) for line in block.removesuffix(b"\n").split(b"\n"))
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            fields = _fields(line.decode())
            if len(fields) != columns:
                quoted = "; a comma in quotes separates, too: write 1,234.5 as 1234.5" if b'"' in line else ""
                return DataError(
                    f"{path}, line {number}: {len(fields)} values; expected {columns}, as in the first line{quoted}"
                )
            for column, field in enumerate([] if header else fields, 1):
                at = f"{path}, line {number}, column {column}"
                if not _is_number(field):
                    why = "put the label first, fill what is missing, and write text as numbers, without quotes"
                    if ";" in field or "\t" in field:
                        why = "separate them by commas, and write numbers with a point, as 1.5"
                    elif column == 1 and field:
                        why = "replace text labels by numbers, without quotes, or save an NPZ file, which takes text"
                    return DataError(f"{at}: {field[:40]!r}; expected a number: {why}")
                if not np.isfinite(float(field)):
                    return DataError(f"{at}: {field}; values must be finite: drop or fill such samples")
            header = False
    return DataError(f"{path}: expected lines of {columns} numbers separated by commas")


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split(",")]


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field  # Python's float accepts 1_000, numpy.loadtxt does not
