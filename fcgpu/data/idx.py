"""IDX, the format of MNIST: a magic number, big-endian sizes, then the bytes; plain or gzip.

Sizes are checked against the file before anything is allocated. Gzip is inflated block by block into the final array,
so reading needs no more memory than the array.
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.data.dataset import Dataset, dataset, refuse_unknown_labels
from fcgpu.data.unpack import fill, unpacked, unpacked_limit
from fcgpu.errors import DataError

NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "t10k": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UNSIGNED_BYTE = 0x08


def has_idx(folder: Path) -> bool:
    """Whether the folder holds any of the four MNIST files."""
    return any(_find(folder, name) for names in NAMES.values() for name in names)


def refuse_misplaced(folder: Path) -> None:
    """Raise DataError for IDX files whose names are not MNIST's, and for those in a sub-folder, as torchvision's."""
    for path in sorted(folder.iterdir()):
        if path.name.removesuffix(".gz").endswith("-ubyte") and path.is_file():
            names = ", ".join(name for pair in NAMES.values() for name in pair)
            raise DataError(f"{path}: an IDX file of another name; expected {names}, plain or with .gz: rename them")
        if path.is_dir() and has_idx(path):
            raise DataError(f"{folder}: its IDX files are in {path.name}; give that folder: {path}")


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
        X_test = X_test.reshape(len(X_test), -1)
    data = dataset(X.reshape(len(X), -1), y, X_test, y_test, image_shape=image_shape, scale=1 / 255, name=name)
    refuse_unknown_labels(data)
    return data


def read_idx(path: Path, n_dimensions: int) -> Any:
    """The uint8 array of an IDX file.

    Raises DataError for an empty file, a wrong magic number, sizes that the file cannot hold, missing or extra bytes,
    and corrupt gzip.
    """
    if not (path.is_file() or path.is_dir()):  # a pipe would block
        raise DataError(f"{path}: not a regular file; expected an IDX file")
    size = path.stat().st_size
    with unpacked(path) as (stream, is_gzip):
        shape = _header(stream, path, n_dimensions)
        claimed, room = math.prod(shape), unpacked_limit(size) if is_gzip else size - stream.tell()
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
    return array.reshape(shape)


def _header(stream: Any, path: Path, n_dimensions: int) -> tuple[int, ...]:
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
