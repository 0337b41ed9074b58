"""CSV, plain or gzip: numbers separated by commas, parsed in blocks of lines to bound the memory."""

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np

from fcgpu.data.dataset import Dataset, dataset, scale_of
from fcgpu.data.idx import GZIP, unpacked_limit
from fcgpu.errors import DataError

CSV_BLOCK = 1 << 20  # characters parsed at once: bounds the temporary memory
MAX_LINE = 4 << 20  # bytes


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
    with _csv_lines(path) as lines:
        first = next((line for line in lines if not line.isspace()), "")
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
        for block in _blocks(lines, [] if header else [first]):
            rows = _numbers(block)
            if rows is None or rows.shape[1] != columns:
                raise _csv_fault(path, columns, header)
            X = _extended(X, rows[:, labels:])
            y.append(rows[:, 0].copy())  # a view would keep the whole block
    if not y:
        raise DataError(f"{path}: a header and nothing else; expected lines of numbers after it")
    return X, np.concatenate(y) if labels else None


@contextmanager
def _csv_lines(path: Path) -> Iterator[TextIO]:
    """The lines of a text file, plain or gzip; DataError where it is neither."""
    with path.open("rb") as raw:
        try:
            stream = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP else raw
            if b"\0" in stream.peek(1):
                raise DataError(f"{path}: not text: it holds NUL bytes; expected CSV in UTF-8")
            limit = unpacked_limit(path.stat().st_size) if stream is not raw else math.inf
            with io.TextIOWrapper(cast(Any, _Bounded(path, stream, limit)), encoding="utf-8-sig") as lines:
                yield lines
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from error
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: corrupt gzip ({error}); expected a complete file: copy it again") from error


class _Bounded(io.BufferedIOBase):
    """The bytes of a stream, up to `limit` of them and MAX_LINE in a line; DataError where there are more."""

    def __init__(self, path: Path, stream: io.BufferedIOBase, limit: float) -> None:
        self._path, self._stream, self._left, self._line = path, stream, limit, 0

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        block = self._stream.read1(size)
        self._left -= len(block)
        newline = block.rfind(b"\n")
        self._line = len(block) - newline - 1 if newline >= 0 else self._line + len(block)
        if self._left < 0:
            raise DataError(f"{self._path}: would unpack to far more than its size; unpack it by hand if it is no bomb")
        if self._line > MAX_LINE:
            raise DataError(f"{self._path}: a line of more than {MAX_LINE} bytes; expected a sample in each line")
        return block


def _blocks(lines: TextIO, block: list[str]) -> Iterator[list[str]]:
    """`block` and the rest of the lines, some at a time, without those that are blank."""
    block += lines.readlines(CSV_BLOCK)
    while block:
        rows = [line for line in block if not line.isspace()]
        if rows:
            yield rows
        block = lines.readlines(CSV_BLOCK)


def _numbers(rows: list[str]) -> Any:
    """The lines as float64 (n, columns), or None where they are ragged, not numbers or not finite."""
    try:
        values = np.loadtxt(rows, delimiter=",", comments=None, ndmin=2, encoding=None)
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def _extended(X: Any, rows: Any) -> Any:
    """X with the rows added, in place where the type stays; uint8 becomes float64 when a row does not fit."""
    if X.dtype == np.uint8 and not (rows.min() >= 0 and rows.max() <= 255 and (rows == rows.astype(np.uint8)).all()):
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
