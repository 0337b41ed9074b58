"""Tables of numbers: CSV in blocks of lines; NPY and NPZ without unpickling, their sizes checked first."""

import gzip
import io
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from fcgpu.data.dataset import Dataset, dataset
from fcgpu.data.idx import DEFLATE_LIMIT, GZIP, fill
from fcgpu.errors import DataError

CSV_BLOCK = 1 << 20  # characters parsed at once: bounds the temporary memory
NPZ_KEYS = (("X", "y", "X_test", "y_test"), ("x_train", "y_train", "x_test", "y_test"))


def load_csv(path: Path) -> Dataset:
    """A Dataset from numbers separated by commas, the label first; see `read_csv`."""
    X, y = read_csv(path)
    return dataset(X, y, scale=scale_of(X), name=str(path))


def load_npy(path: Path) -> Dataset:
    """A Dataset from an array (n, 1 + n_features), the label first; for a moment it is in memory twice."""
    table = read_npy(path)
    if table.ndim != 2 or table.shape[1] < 2:
        raise DataError(f"{path}: shape {table.shape}; expected (n_samples, 1 + n_features), the label first")
    X = np.ascontiguousarray(table[:, 1:])
    return dataset(X, table[:, 0], scale=scale_of(X), name=str(path))


def load_npz(path: Path) -> Dataset:
    """A Dataset from arrays named as a row of NPZ_KEYS, the test pair optional; pictures are rolled out."""
    X, y, X_test, y_test = [*read_npz(path), None, None][:4]
    X, image_shape = rolled_out(X)
    if X_test is not None:
        X_test, test_shape = rolled_out(X_test)
        if test_shape != image_shape:
            raise DataError(f"{path}: test pictures are {test_shape}, the others {image_shape}; they must be equal")
    return dataset(X, y, X_test, y_test, image_shape=image_shape, scale=scale_of(X), name=str(path))


def scale_of(X: Any) -> float:
    """1 / max for uint8, so that features lie in 0..1; 1 for any other type."""
    return 1 / max(int(X.max(initial=0)), 1) if X.dtype == np.uint8 else 1.0


def rolled_out(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Pictures (n, height, width[, 1 or 3]) as rows and the shape of one; anything else as it is, and None."""
    if X.ndim == 4 and X.shape[3] == 1:
        X = X[..., 0]
    if X.ndim == 3 or (X.ndim == 4 and X.shape[3] == 3):
        return X.reshape(len(X), math.prod(X.shape[1:])), X.shape[1:]
    return X, None


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


def read_npy(path: Path) -> Any:
    """The array of an NPY file, in C order and native bytes. Raises DataError: see `_array`."""
    with path.open("rb") as stream:
        return _array(stream, os.fstat(stream.fileno()).st_size, str(path))


def read_npz(path: Path, *, features_only: bool = False) -> list[Any]:
    """The arrays of an NPZ file that NPZ_KEYS names, in its order; of `features_only` just X, or a single array.

    Raises DataError: not a zip, truncated, another compression than deflate, a size that the file cannot hold,
    a missing array, and what `_array` refuses.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            keys = _npz_keys(path, list(members), features_only)
            return [_member(path, archive, members[key], key) for key in keys]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: not a complete NPZ file ({error}); write it with numpy.savez") from error


def _npz_keys(path: Path, found: Sequence[str], features_only: bool) -> Sequence[str]:
    keys: Sequence[str] = next((keys for keys in NPZ_KEYS if keys[0] in found), NPZ_KEYS[0])
    if features_only:
        keys = found if len(found) == 1 else keys[:1]
    elif not set(keys[2:]) & set(found):
        keys = keys[:2]
    missing = [key for key in keys if key not in found]
    if missing:
        raise DataError(
            f"{path}: no array {' or '.join(missing)}, found {', '.join(found) or 'none'}; "
            f"expected {' or '.join(map(', '.join, NPZ_KEYS))}, the test pair optional"
        )
    return keys


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str) -> Any:
    expansion = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: DEFLATE_LIMIT}.get(info.compress_type)
    if expansion is None:
        raise DataError(f"{path}: array {key} has compression {info.compress_type}; expected none or deflate")
    room = min(info.compress_size, path.stat().st_size) * expansion
    if info.file_size > room:
        raise DataError(f"{path}: array {key} claims {info.file_size} bytes, its part of the file holds at most {room}")
    with archive.open(info) as stream:
        return _array(stream, info.file_size, f"{path}: array {key}")


def _array(stream: Any, size: int, name: str) -> Any:
    """The array of an NPY stream of `size` bytes.

    Raises DataError: not NPY 1.0, Python objects, not numbers or text, empty, a header that disagrees with the size,
    truncated.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):  # later ones allow headers of 4 GB, which only tables with named columns need
            raise ValueError(f"version {version}, expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (zipfile.BadZipFile, zlib.error):
        raise
    except Exception as error:  # numpy raises errors of many kinds here, some of many lines
        raise DataError(f"{name}: not an NPY array ({str(error)[:80]!r}); write it with numpy.save") from error
    if dtype.hasobject:
        raise DataError(f"{name}: holds Python objects, which are never unpickled; save an array of numbers")
    if dtype.kind not in "buifU" or not dtype.itemsize:
        raise DataError(f"{name}: dtype {dtype}; expected real numbers, or text for labels")
    if not 1 <= len(shape) <= 4 or min(shape) < 1:
        raise DataError(f"{name}: shape {shape}; expected 1 to 4 dimensions, none of them empty")
    claimed, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != there:
        raise DataError(
            f"{name}: truncated or corrupt: {shape} of {dtype} needs {claimed} bytes, found {there}; save it again"
        )
    data = np.empty(claimed, np.uint8)
    found = fill(data, stream)
    if found != claimed:
        raise DataError(f"{name}: truncated: expected {claimed} bytes of data, found {found}; save it again")
    array = data.view(dtype).reshape(shape[::-1]).T if fortran else data.view(dtype).reshape(shape)
    return np.ascontiguousarray(array, dtype.newbyteorder("="))


@contextmanager
def _csv_lines(path: Path) -> Iterator[TextIO]:
    """The lines of a text file, plain or gzip; DataError where it is neither."""
    with path.open("rb") as raw:
        try:
            stream = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP else raw
            if b"\0" in stream.peek(1):
                raise DataError(f"{path}: not text: it holds NUL bytes; expected CSV in UTF-8")
            with io.TextIOWrapper(stream, encoding="utf-8-sig") as lines:
                yield lines
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from error
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: corrupt gzip ({error}); expected a complete file: copy it again") from error


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
