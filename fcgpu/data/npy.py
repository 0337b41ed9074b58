"""NPY and NPZ, NumPy's file formats. Nothing is unpickled, and every size is checked before anything is allocated."""

import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.data.dataset import Dataset, dataset, scale_of
from fcgpu.data.unpack import fill, unpacked_limit
from fcgpu.errors import DataError

NPZ_KEYS = (("X", "y", "X_test", "y_test"), ("x_train", "y_train", "x_test", "y_test"))


def load_npy(path: Path, most: float) -> Dataset:
    """A Dataset from an array (n, 1 + n_features), the label first. While it loads, it is in memory twice.

    A file larger than half of `most` bytes stays on disk: X is then a read-only memory map.
    """
    table = read_npy(path, most / 2)
    if table.ndim != 2 or table.shape[1] < 2:
        raise DataError(f"{path}: shape {table.shape}; expected (n_samples, 1 + n_features), the label first")
    X = table[:, 1:] if isinstance(table, np.memmap) else np.ascontiguousarray(table[:, 1:])
    return dataset(X, table[:, 0], scale=scale_of(X), name=str(path))


def load_npz(path: Path) -> Dataset:
    """A Dataset from the arrays of one row of NPZ_KEYS, the test pair optional; pictures are flattened to rows."""
    X, y, X_test, y_test = [*read_npz(path), None, None][:4]
    X, image_shape = flattened(X)
    if X_test is not None:
        X_test, test_shape = flattened(X_test)
        if test_shape != image_shape:
            raise DataError(f"{path}: test pictures are {test_shape}, the others {image_shape}; they must be equal")
        if np.uint8 in (X.dtype, X_test.dtype) and "f" in (X.dtype.kind, X_test.dtype.kind):  # may be scaled already
            raise DataError(f"{path}: test features are {X_test.dtype}, the others {X.dtype}; save both in one type")
    return dataset(X, y, X_test, y_test, image_shape=image_shape, scale=scale_of(X), name=str(path))


def flattened(X: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Pictures (n, height, width[, 1 or 3]) flattened to rows, and image_shape; any other X unchanged, and None."""
    if X.ndim == 4 and X.shape[3] == 1:
        X = X[..., 0]
    if X.ndim == 3 or (X.ndim == 4 and X.shape[3] == 3):
        return X.reshape(len(X), -1), X.shape[1:]
    return X, None


def read_npy(path: Path, most: float = math.inf) -> Any:
    """The array of an NPY file, in C order and native byte order. Raises DataError as `_array` does.

    A file of more than `most` bytes that is stored in this order already is memory-mapped.
    """
    with path.open("rb") as stream:
        size, name = os.fstat(stream.fileno()).st_size, str(path)
        if size > most:
            shape, fortran, dtype = _header(stream, size, name)
            if dtype.isnative and not fortran:
                return np.memmap(stream, dtype, "r", stream.tell(), shape)
            stream.seek(0)
        return _array(stream, size, name)


def read_npz(path: Path, *, features_only: bool = False) -> list[Any]:
    """The arrays of an NPZ file that one row of NPZ_KEYS names, in its order.

    With `features_only` just the first of them, or the file's only array, whatever its name.
    Raises DataError for a file that is not a complete zip, a compression other than deflate, a size that the file
    cannot hold, a missing array, and as `_array` does.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            keys = _npz_keys(path, list(members), features_only)
            return [_member(path, archive, members[key], key) for key in keys]
    except (DataError, OSError, MemoryError):
        raise
    except Exception as error:  # zipfile raises errors of many kinds
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
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: array {key} has compression {info.compress_type}; expected none or deflate")
    packed = min(info.compress_size, path.stat().st_size)
    room = packed if info.compress_type == zipfile.ZIP_STORED else unpacked_limit(packed)
    if info.file_size > room:
        raise DataError(
            f"{path}: array {key} claims to unpack to {info.file_size} bytes, its part of the file holds at most "
            f"{room}; save it again"
        )
    with archive.open(info) as stream:
        return _array(stream, info.file_size, f"{path}: array {key}")


def _array(stream: Any, size: int, name: str) -> Any:
    """The array of an NPY stream of `size` bytes. Raises DataError as `_header` does, and for missing data."""
    shape, fortran, dtype = _header(stream, size, name)
    data = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    found = fill(data, stream)
    if found != len(data):
        raise DataError(f"{name}: truncated: expected {len(data)} bytes of data, found {found}; save it again")
    array = data.view(dtype).reshape(shape[::-1]).T if fortran else data.view(dtype).reshape(shape)
    return np.ascontiguousarray(array, dtype.newbyteorder("="))


def _header(stream: Any, size: int, name: str) -> tuple[tuple[int, ...], bool, Any]:
    """(shape, whether in Fortran order, dtype) of an NPY stream of `size` bytes, which is read up to its data.

    Raises DataError for what is not NPY 1.0, Python objects, a dtype that is neither numeric nor text, an empty array,
    and a header that disagrees with `size`.
    """
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):  # later versions allow headers of 4 GB, which only structured dtypes need
            raise ValueError(f"version {version}, expected (1, 0)")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (zipfile.BadZipFile, zlib.error):
        raise
    except Exception as error:  # numpy raises errors of many kinds here, some of many lines
        raise DataError(f"{name}: not an NPY array ({str(error)[:80]!r}); write it with numpy.save") from error
    if dtype.hasobject:
        raise DataError(f"{name}: holds Python objects, never unpickled; save numbers, or text as y.astype(str)")
    if dtype.kind not in "buifU" or not dtype.itemsize:
        raise DataError(f"{name}: dtype {dtype}; expected real numbers, or text for labels, as y.astype(str)")
    if not 1 <= len(shape) <= 4 or min(shape) < 1:
        raise DataError(f"{name}: shape {shape}; expected 1 to 4 dimensions, none of them empty")
    claimed, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if claimed != there:
        raise DataError(
            f"{name}: truncated or corrupt: {shape} of {dtype} needs {claimed} bytes, found {there}; save it again"
        )
    return shape, fortran, dtype
