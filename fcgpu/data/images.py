"""Pictures as rows of bytes. They are read by Pillow, an optional dependency that is imported on first use."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.data.dataset import Dataset, dataset
from fcgpu.data.unpack import EXPANSION
from fcgpu.errors import DataError, MissingExtraError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2")  # pictures, too: to skip them would lose samples unnoticed
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # Pillow's others include EPS, which runs Ghostscript
ORIENTATION = 0x0112  # EXIF's tag; its values and Pillow's transpositions, and which of these exchange the sides
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
SIDEWAYS = (2, 4, 5, 6)
MAX_PIXELS = 64 * 2**20  # checked before decoding: a small file can claim a picture that fills the memory
SPARE_PIXELS = 8 * 2**20  # a larger picture may have at most EXPANSION pixels per byte of its file
GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "F")  # 16 and 32 bits, which Pillow would clip to 8


def load_folder(root: Path, image_size: tuple[int, int] | None, shape: tuple[int, ...] | None) -> Dataset:
    """A Dataset from a folder with one sub-folder per class, or with `train` and `test` folders of such sub-folders.

    X is uint8 (n, height * width * 3), or (n, height * width) if every picture is grey; rows are ordered by class, then
    by file name. Pictures are resized to `image_size` (height, width); without it all must have one size. If `shape`,
    (height, width) for grey or (height, width, 3), is given, they are resized and converted to it instead.

    Raises DataError for fewer than two classes, for a class without pictures or with pictures in folders of its folder,
    and as `read_pictures` does.
    """
    classes = _sub_folders(root)
    split = [folder.name for folder in classes] == ["test", "train"] and all(map(_sub_folders, classes))
    paths, y = _labelled(root / "train" if split else root)
    if not y:
        raise DataError(
            f"{root}: no data in this folder; expected two or more class folders with pictures, or MNIST's four IDX "
            "files (a table is named by its file)"
        )
    if len(set(y)) < 2:
        raise DataError(f"{root}: 1 class folder; expected two or more, each with its pictures")
    test_paths, y_test = _labelled(root / "test") if split else ([], [])
    shape = shape or common_shape(paths + test_paths, image_size)
    X = read_pictures(paths, shape)
    test = (read_pictures(test_paths, shape), np.array(y_test)) if split else ()
    return dataset(X, np.array(y), *test, image_shape=shape, scale=1 / 255, name=str(root))


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder sorted by name, without hidden ones.

    Raises DataError if there are none, and for pictures of the kinds in UNREAD.
    """
    files = [path for path in sorted(folder.iterdir()) if path.name[0] != "."]
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if unread := [path for path in files if path.suffix.lower() in UNREAD]:
        raise DataError(f"{unread[0]}: this kind of picture is not read; convert it to PNG or JPEG, or remove it")
    if not paths:
        raise DataError(f"{folder}: no pictures in this folder; expected files ending in {' '.join(SUFFIXES)}")
    return paths


def common_shape(paths: Sequence[Path], image_size: tuple[int, int] | None = None) -> tuple[int, ...]:
    """(height, width) if every picture is grey, else (height, width, 3); only the files' headers are read.

    The size is `image_size` or, without it, that of the first picture; then another size raises DataError.
    """
    grey, size = True, image_size
    for path in paths:
        with _opened(path) as picture:
            grey = grey and picture.mode in GREY_MODES
            found = (picture.height, picture.width)
            if _turn(picture) in SIDEWAYS:
                found = found[::-1]
        size = size or found
        if image_size is None and found != size:
            raise DataError(
                f"{path}: {found[0]} x {found[1]} pixels (height x width); expected {size[0]} x {size[1]}, "
                f"as {paths[0]}: give image_size=(height, width) to resize all"
            )
    assert size is not None
    return size if grey else (*size, 3)


def read_pictures(paths: Sequence[Path], shape: tuple[int, ...]) -> Any:
    """uint8 (n, prod(shape)), a picture per row, resized and converted to `shape`, (height, width[, 3]).

    Raises DataError for a file that is not a readable picture, more than 8 bits per channel, or too many pixels.
    """
    X = np.empty((len(paths), math.prod(shape)), np.uint8)
    for path, row in zip(paths, X, strict=True):
        with _opened(path) as picture:
            turn = _turn(picture)
            picture = picture.convert("L" if len(shape) == 2 else "RGB")
            if turn is not None:
                picture = picture.transpose(turn)
            if picture.size != (shape[1], shape[0]):
                picture = picture.resize((shape[1], shape[0]))
            row[:] = np.asarray(picture).reshape(-1)
    return X


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Pillow image whose pixels are not decoded yet. Errors of Pillow become a DataError that names the path."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("reading images", "Pillow", "images") from error
    if not path.is_file():
        raise DataError(f"{path}: not a regular file; expected a picture")
    try:
        # Pillow warns of decompression bombs, which are refused below, and of damaged metadata, which is not used.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as picture:
            paid = path.stat().st_size * EXPANSION
            slow = any(part[0] == "bmp_rle" for part in picture.tile)  # Pillow decodes it in Python, byte by byte
            most = min(SPARE_PIXELS, paid) if slow else min(MAX_PIXELS, max(SPARE_PIXELS, paid))
            if picture.width * picture.height > most:
                raise DataError(f"{path}: {picture.height} x {picture.width} pixels; expected at most {most} in all")
            if picture.mode[0] in DEEP_MODES:
                raise DataError(f"{path}: mode {picture.mode}; expected 8 bits a channel: convert it")
            yield picture
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds
        raise DataError(f"{path}: not a readable picture ({error}); replace or remove it") from error


def _turn(picture: Any) -> int | None:
    """How to transpose a photograph (Image.Transpose) of a camera that was turned, as it notes in EXIF; else None."""
    if picture.format not in ("JPEG", "MPO"):  # others have to be decoded first
        return None
    try:
        return TURNS.get(picture.getexif().get(ORIENTATION))
    except Exception:  # damaged metadata
        return None


def _labelled(root: Path) -> tuple[list[Path], list[str]]:
    """The paths of the pictures in all class folders, and the class name of each."""
    classes = _sub_folders(root)
    for inner in (inner for folder in classes for inner in _sub_folders(folder)):
        if any(path.suffix.lower() in (*SUFFIXES, *UNREAD) for path in inner.iterdir()):
            raise DataError(
                f"{inner}: pictures so deep are not read; expected CLASS/PICTURE, or train/CLASS/PICTURE and "
                "test/CLASS/PICTURE with no other folder beside train and test"
            )
    found = [(path, folder.name) for folder in classes for path in pictures_in(folder)]
    return [path for path, _ in found], [name for _, name in found]


def _sub_folders(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.is_dir() and path.name[0] != "."]
