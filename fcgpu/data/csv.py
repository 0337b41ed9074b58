"""CSV, plain or gzip: numbers separated by commas, parsed in blocks of lines to bound the memory.

Whole numbers of one to three digits, which pixels are, take a short cut: they are put together from their digits by a
few passes over the bytes, on every processor. Everything else goes through NumPy's own parser.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np

from fcgpu.backend import Workers, cpu_count
from fcgpu.data.dataset import Dataset, dataset, scale_of
from fcgpu.data.idx import GZIP
from fcgpu.errors import DataError

CSV_BLOCK = 1 << 18  # bytes parsed at once: bounds the temporary memory
MOST_THREADS = 8  # each holds a block and its numbers
BOM = b"\xef\xbb\xbf"


def load_csv(path: Path) -> Dataset:
    """A Dataset from numbers separated by commas, the label first; see `read_csv`."""
    X, y = read_csv(path)
    return dataset(X, y, scale=scale_of(X), name=str(path))


def read_csv(path: Path, n_features: int | None = None) -> tuple[Any, Any]:
    """X (n, n_features), uint8 where every feature is whole and in 0..255, else float64; y (n,) float64.

    UTF-8, plain or gzip. The first line is a header where its first field is text, or none of its fields is a number.
    The first column is the label, unless `n_features` is given and is the number of columns: then y is None.

    Raises DataError, with line and column: ragged, not a number, not finite; no samples, no features, not text;
    neither n_features columns nor one more.
    """
    with _csv_bytes(path) as stream, closing(Workers(min(MOST_THREADS, cpu_count()))) as workers:
        start = next(_blocks(stream, b"", 1), b"")
        first = _lines(start)[0] if start else ""
        if not first:
            raise DataError(f"{path}: empty; expected lines of numbers separated by commas, the label first")
        fields = _fields(first)
        columns, words = len(fields), [not _is_number(field) for field in fields]
        header = all(words) or (words[0] and fields[0] != "")
        if n_features is not None and columns not in (n_features, n_features + 1):
            raise DataError(
                f"{path}: {columns} columns don't match the model: expected {n_features} features, "
                f"or {n_features + 1} columns with the label first"
            )
        labels = int(columns != n_features)
        if columns == labels:
            raise DataError(f"{path}: one column; expected a label and features, separated by commas")
        X, y = np.empty((0, columns - labels), np.uint8), []
        blocks = _blocks(stream, b"" if header else start, CSV_BLOCK)
        for some in iter(lambda: list(islice(blocks, workers.threads)), []):
            parsed = [None] * len(some)

            def parse(i: int, some: Any = some, parsed: Any = parsed) -> None:
                parsed[i] = _short_whole_numbers(some[i], columns)

            workers.run(parse, len(some))
            for block, rows in zip(some, parsed, strict=True):
                rows = _numbers(_lines(block)) if rows is None else rows
                if rows is None or rows.shape[1] != columns:
                    raise _csv_fault(path, columns, header)
                X = _extended(X, rows[:, labels:])
                y.append(rows[:, 0].astype(np.float64))
    if not y:
        raise DataError(f"{path}: a header and nothing else; expected lines of numbers after it")
    return X, np.concatenate(y) if labels else None


@contextmanager
def _csv_bytes(path: Path) -> Iterator[Any]:
    """The bytes of a text file, plain or gzip; DataError where it is neither."""
    with path.open("rb") as raw:
        try:
            stream = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP else raw
            if b"\0" in stream.peek(1):
                raise DataError(f"{path}: not text: it holds NUL bytes; expected CSV in UTF-8")
            yield stream
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from error
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: corrupt gzip ({error}); expected a complete file: copy it again") from error


@contextmanager
def _csv_lines(path: Path) -> Iterator[TextIO]:
    with _csv_bytes(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
        yield lines


def _blocks(stream: BinaryIO, block: bytes, size: int) -> Iterator[bytes]:
    """`block` and the rest of the stream, some `size` bytes of whole lines at a time, that hold more than space."""
    while True:
        block += stream.read(size)
        block += b"" if block.endswith(b"\n") else stream.readline()
        if not block:
            return
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        block = block.removeprefix(BOM)
        if not block.isspace():
            yield block
        block = b""


def _lines(block: bytes) -> list[str]:
    return [line for line in block.decode().split("\n") if line and not line.isspace()]


def _short_whole_numbers(block: bytes, columns: int) -> Any:
    """The lines as uint8 or uint16 (n, columns) where every field is one to three digits and no more, else None."""
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
    """The lines as float64 (n, columns), or None where they are ragged, not numbers or not finite."""
    try:
        values = np.loadtxt(rows, delimiter=",", comments=None, ndmin=2, encoding=None)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _extended(X: Any, rows: Any) -> Any:
    """X with the rows added, in place where the type stays; uint8 becomes float64 when a row does not fit."""
    if X.dtype == rows.dtype == np.uint8:
        pass
    elif X.dtype == np.uint8 and not (rows.min() >= 0 and rows.max() <= 255 and (rows == rows.astype(np.uint8)).all()):
        X = X.astype(np.float64)
    n = len(X)
    X.resize((n + len(rows), X.shape[1]), refcheck=False)
    X[n:] = rows
    return X


def _csv_fault(path: Path, columns: int, header: bool) -> DataError:
    """Why a CSV file was refused: the first line that cannot be one of the table."""
    with _csv_lines(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            fields = _fields(line)
            if len(fields) != columns:
                return DataError(
                    f"{path}, line {number}: {len(fields)} values; expected {columns}, as in the first line"
                )
            for column, field in enumerate([] if header else fields, 1):
                at = f"{path}, line {number}, column {column}"
                if not _is_number(field):
                    return DataError(f"{at}: {field[:40]!r}; expected a number (values are separated by commas)")
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
    return "_" not in field  # Python's float takes 1_000, the parser of tables does not
