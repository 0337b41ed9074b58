"""IDX, the format of MNIST: a magic number, big-endian sizes, then the bytes; plain or gzip.

Sizes are checked against the file before anything is allocated. Gzip is inflated block by block into the final array,
so reading needs no more memory than the array.
"""

import gzip
import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.data.dataset import Dataset, dataset, refuse_unknown_labels
from fcgpu.errors import DataError

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "t10k": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DEFLATE_LIMIT = 1032  # one byte of deflate expands to at most this many bytes
EXPANSION = 200  # largest accepted ratio of unpacked to compressed size; MNIST's is 5
SPARE = 64 << 20  # bytes that any file may unpack to, whatever the ratio
BLOCK = 1 << 17
GZIP = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08


def has_idx(folder: Path) -> bool:
    """Whether the folder holds any of the four MNIST files."""
    return any(_find(folder, name) for names in NAMES.values() for name in names)


def load_idx(folder: Path, name: str) -> Dataset:
    """A Dataset from a folder with MNIST's file names, each plain or with .gz; the t10k pair may be absent.

    X is uint8 (n, height * width). Raises DataError as `read_idx` does, for a missing file, and for unequal counts or
    picture sizes.
    """
    X, y = _pair(folder, "train")
    X_test, y_test = _pair(folder, "t10k") if any(_find(folder, name) for name in NAMES["t10k"]) else (None, None)
    image_shape = X.shape[1:]
    if X_test is not None:
        if X_test.shape[1:] != image_shape:
            raise DataError(f"{folder}: t10k images are {X_test.shape[1:]}, train images {image_shape}; must be equal")
        X_test = _rolled_out(X_test)
    data = dataset(_rolled_out(X), y, X_test, y_test, image_shape=image_shape, scale=1 / 255, name=name)
    refuse_unknown_labels(data)
    return data


def read_idx(path: Path, n_dimensions: int) -> Any:
    """The uint8 array of an IDX file.

    Raises DataError for an empty file, a wrong magic number, sizes that the file cannot hold, missing or extra bytes,
    and corrupt gzip.
    """
    if not (path.is_file() or path.is_dir()):  # a pipe would block
        raise DataError(f"{path}: not a regular file; expected an IDX file")
    with path.open("rb") as raw:
        size = os.fstat(raw.fileno()).st_size
        packed = raw.peek(2)[:2] == GZIP
        stream: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            shape = _header(stream, path, n_dimensions)
            claimed, room = math.prod(shape), unpacked_limit(size) if packed else size - stream.tell()
            says = f"its header says {' x '.join(map(str, shape))} = {claimed} bytes"
            if claimed == 0:
                raise DataError(f"{path}: empty: {says}; expected at least one")
            if claimed > room:
                raise DataError(
                    f"{path}: truncated or corrupt: {says}, but {size} bytes of file hold at most {room}; copy it again"
                )
            array = np.empty(claimed, np.uint8)
            found = fill(array, stream)
            if found < claimed:
                raise DataError(f"{path}: truncated: {says}, found {found}; copy the file again")
            if stream.read1(1):  # at the end of gzip this also checks the CRC
                raise DataError(f"{path}: {says}, but more follow; expected none: copy the file again")
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: corrupt gzip ({error}); expected a complete file: copy it again") from error
    return array.reshape(shape)


def unpacked_limit(size: int) -> int:
    """Most bytes that a compressed file of `size` bytes may unpack to; one that claims more is taken for a bomb."""
    return min(size * DEFLATE_LIMIT, max(SPARE, size * EXPANSION))


def fill(array: Any, stream: io.BufferedIOBase) -> int:
    """Fill a uint8 array (n,) from the stream, block by block; return the bytes read, less than n if it ends early."""
    view, filled = memoryview(array), 0
    while filled < len(view):
        try:
            block = stream.read1(min(BLOCK, len(view) - filled))
        except EOFError:  # compressed data that breaks off: read1 has delivered all that came before
            break
        if not block:
            break
        view[filled : filled + len(block)] = block
        filled += len(block)
    return filled


def _header(stream: io.BufferedIOBase, path: Path, n_dimensions: int) -> tuple[int, ...]:
    magic, expected = stream.read(4), bytes([0, 0, UNSIGNED_BYTE, n_dimensions])
    if not magic:
        raise DataError(f"{path}: empty; expected an IDX file of unsigned bytes")
    if magic != expected:
        raise DataError(
            f"{path}: begins with {magic.hex(' ')}; expected {expected.hex(' ')}: "
            f"IDX, unsigned bytes, {n_dimensions} dimensions, plain or gzip"
        )
    sizes = stream.read(4 * n_dimensions)
    if len(sizes) < 4 * n_dimensions:
        raise DataError(
            f"{path}: truncated: {4 + len(sizes)} bytes, expected a header of {4 + 4 * n_dimensions}; copy it again"
        )
    return struct.unpack(f">{n_dimensions}I", sizes)


def _pair(folder: Path, split: str) -> tuple[Any, Any]:
    """Images (n, height, width) and labels (n,)."""
    images, labels = (_find(folder, name) for name in NAMES[split])
    if images is None or labels is None:
        missing = NAMES[split][images is not None]
        raise DataError(f"{folder}: no {missing} and no {missing}.gz; expected {' and '.join(NAMES[split])}")
    X, y = read_idx(images, 3), read_idx(labels, 1)
    if len(X) != len(y):
        raise DataError(f"{labels}: {len(y)} labels for the {len(X)} images of {images.name}; counts must be equal")
    return X, y


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def _rolled_out(images: Any) -> Any:
    return images.reshape(len(images), math.prod(images.shape[1:]))
