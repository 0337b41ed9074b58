"""Load arrays from a name or a path. Zip and picture readers are imported on first use, to keep the import cheap."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.backend import choose
from fcgpu.data import article, idx, images
from fcgpu.data.dataset import Dataset, picture_shape
from fcgpu.data.features import check_features
from fcgpu.data.names import Names, check_names
from fcgpu.errors import ConfigError, DataError
from fcgpu.suggest import choices

PathLike = str | os.PathLike[str]
TABLES = (".csv", ".npy", ".npz")
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")  # what is read as .csv

NAMED: dict[str, Callable[[], Dataset]] = {
    "mnist": lambda: idx.load_idx(Path(__file__).parent / "mnist", "mnist"),
    "two-layer": article.two_layer,
    "deep": article.deep,
    "multiclass": article.multiclass,
}


def load(
    source: PathLike,
    *,
    image_size: Sequence[int] | None = None,
    image_shape: Sequence[int] | None = None,
    memory_budget: int | None = None,
    target_column: str = "",
    feature_names: Names = None,
) -> Dataset:
    """Load a data set by its name in NAMED, or from a path. A name wins over a file of that name: write ./mnist.

    A path is a folder of IDX files with MNIST's names; a folder of images with one sub-folder per class, or with
    `train` and `test` folders of such sub-folders; a .csv or .tsv of numbers, or one of these with .gz, header
    optional, whose label may be text; a .npy with the label in the first column; a .npz with X, y and optionally
    X_test, y_test, or with Keras's x_train, y_train, x_test, y_test.

    image_size : (height, width) in pixels to resize the pictures of a folder to. Without it all must have one size.
    image_shape : (height, width) for grey or (height, width, 3), as in Model.image_shape: pictures are resized and
        converted to it. Without it they become grey if all files are grey, else RGB.
    memory_budget : bytes; None for half of the free memory. A .npy larger than half of it stays on disk: X is then a
        read-only memory map, and the file must not change while X is used.
    target_column : name of a CSV file's column that holds the label; "" for the first column.
    feature_names : names of a model's features: of a CSV file with a header, the one other column is the label.

    Returns a Dataset. X (n_samples, n_features) is uint8 for pixels and for a CSV whose features are all whole numbers
    from 0 to 255; any other CSV is float64, and a .npy or .npz keeps its dtype. For uint8 features `scale` maps them
    to 0..1.

    Raises DataError for an unknown name, a path that cannot be read, or contents that are not valid (the message says
    where); ConfigError if image_size or image_shape is no such tuple of positive integers, if both are given, if either
    is given for anything but a folder of images, or target_column for anything but a CSV file; MissingExtraError for
    pictures without Pillow.
    """
    size = None if image_size is None else _checked_shape("image_size", image_size, (2,))
    shape = None if image_shape is None else _checked_shape("image_shape", image_shape, (2, 3))
    if size and shape:
        raise ConfigError(f"image_size={size} with image_shape={shape}: expected one of them")
    sides, words = size or shape, f"image_size={size}" if size else f"image_shape={shape}"
    if sides and math.prod(sides[:2]) > images.MAX_PIXELS:
        raise ConfigError(f"{words}: {math.prod(sides[:2])} pixels; expected at most {images.MAX_PIXELS} in all")
    with _as_data_errors(source):
        named = NAMED.get(source) if isinstance(source, str) else None
        path = Path() if named else _existing(source, NAMED)
        pictures = not named and is_image_folder(path)
        if sides and not pictures:
            raise ConfigError(
                f"{words} is not for {source}: only a folder of images is resized; leave it out, or make it [] where a "
                "recipe has it"
            )
        if target_column and (named or path.is_dir() or _kind(path) != ".csv"):
            raise ConfigError(
                f"target_column={target_column!r} is not for {source}: only columns of a CSV have names; leave it out"
            )
        if named:
            return named()
        if pictures:
            idx.refuse_misplaced(path)
            return images.load_folder(path, size, shape)
        if path.is_dir():
            return idx.load_idx(path, str(path))
        return _load_table(path, memory_budget, target_column, feature_names)


def is_image_folder(source: PathLike) -> bool:
    """Whether `load` reads `source` as pictures, one sub-folder per class."""
    return source not in NAMED and Path(source).is_dir() and not idx.has_idx(Path(source))


def load_features(
    source: PathLike | Sequence[PathLike],
    n_features: int,
    *,
    image_shape: Sequence[int] | None = None,
    feature_names: Names = None,
) -> Any:
    """Load samples without labels, for a model of `n_features` to predict: (n, n_features) in their stored dtype.

    source : .csv, .tsv, .csv.gz, .npy or .npz (its X, its x_train, or its only array); a picture, or a folder or list
        of pictures. Of n_features + 1 columns of a CSV or .npy one is the label and dropped: the first, or in a CSV
        with a header the one that is none of feature_names.
    image_shape : (height, width) for grey or (height, width, 3): pictures are converted and resized to it. Without it
        all pictures must have one size, with n_features pixels, or a third of that in colour.
    feature_names : the names that the header of a CSV must have, if there is one; None for any.

    Raises DataError as `load` does, and if the number of features is not n_features; ConfigError if image_shape does
    not have n_features entries; MissingExtraError for pictures without Pillow.
    """
    shape = None if image_shape is None else _checked_shape("image_shape", image_shape, (2, 3))
    if shape and math.prod(shape) != n_features:
        raise ConfigError(
            f"image_shape={shape} makes {math.prod(shape)} features; expected {n_features}, as the model takes"
        )
    with _as_data_errors(source):
        paths = picture_paths(source)
        if paths is not None:
            return _picture_features(paths, n_features, shape)
        return _table_features(_existing(source), n_features, feature_names)


def picture_paths(source: PathLike | Sequence[PathLike]) -> list[Path] | None:
    """The files of the pictures that `load_features` reads from `source`, in the order of its rows; None for a table.

    Raises DataError for a path that is not there, and for a folder without pictures.
    """
    if isinstance(source, list | tuple):
        return [_picture(path) for path in source]
    path = _existing(source)
    if path.is_dir():
        return images.pictures_in(path)
    return [path] if path.suffix.lower() in images.SUFFIXES else None


def _load_table(path: Path, memory_budget: int | None, target_column: str, feature_names: Names) -> Dataset:
    from fcgpu.data import csv, npy

    kind = _kind(path)
    if kind == ".npy":
        return npy.load_npy(path, memory_budget or choose("cpu").memory())
    return csv.load_csv(path, target_column, feature_names) if kind == ".csv" else npy.load_npz(path)


def _table_features(path: Path, n_features: int, feature_names: Names) -> Any:
    from fcgpu.data import csv, npy

    kind = _kind(path, pictures=True)
    if kind == ".csv":
        X, _, names = csv.read_csv(path, n_features, feature_names=feature_names)
        check_names(names, feature_names, str(path))
        return X
    stored = npy.read_npy(path) if kind == ".npy" else npy.read_npz(path, features_only=True)[0]
    X = npy.flattened(stored)[0]
    labelled = kind == ".npy" and X.ndim == 2 and X.shape[1] == n_features + 1
    X = check_features(np.ascontiguousarray(X[:, 1:]) if labelled else X, str(path))
    if X.shape[1] != n_features:
        raise DataError(f"{path}: {X.shape[1]} features don't match the model: expected {n_features}")
    return X


def _picture_features(paths: Sequence[Path], n_features: int, shape: tuple[int, ...] | None) -> Any:
    if not paths:
        raise DataError("no pictures: the list of paths is empty; expected at least one")
    if shape is None:
        size = images.common_shape(paths)[:2]
        shape = next((each for each in (size, (*size, 3)) if math.prod(each) == n_features), None)
        if shape is None:
            raise DataError(
                f"{paths[0]}: {size[0]} x {size[1]} pixels make {math.prod(size)} features, in colour "
                f"{3 * math.prod(size)}, which don't match the model: expected {n_features}; resize them"
            )
    return images.read_pictures(paths, shape)


def _picture(source: PathLike) -> Path:
    """The path of one picture out of several. Raises DataError for a table."""
    path = _existing(source)
    if path.name.lower().endswith((*TABLES, *CSV, ".gz")):
        raise DataError(f"{path}: a table among several files; expected pictures, or a single table")
    return path


def _kind(path: Path, *, pictures: bool = False) -> str:
    """The kind of a table by its suffix, one of TABLES. Raises DataError for others and for what is not a file."""
    kind = ".csv" if path.name.lower().endswith(CSV) else path.suffix.lower()
    if kind not in TABLES or not path.is_file():
        others = "a folder" if not pictures else f"a picture ({' '.join(images.SUFFIXES)}) or a folder of them"
        raise DataError(f"{path}: not a file of a known kind; expected .csv, .tsv, .csv.gz, .npy or .npz, or {others}")
    return kind


def _existing(source: object, names: Iterable[str] = ()) -> Path:
    """The path with ~ expanded. Raises DataError for no path, and if nothing is there: with the nearest of `names`."""
    if not isinstance(source, str | os.PathLike):
        raise DataError(f"source is {source!r} ({type(source).__name__}); expected a name or a path")
    text = os.fspath(source)
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's own raises for ~ and a name that no user has
    if text and path.exists():
        return path
    if names and isinstance(source, str) and path.name == source and not path.suffix:
        raise DataError(
            f"{source!r} is no data set and no path: {choices(source, names)} (or give the path of a .csv, .npy or "
            ".npz file, of a folder of IDX files, or of a folder of images with one sub-folder a class)"
        )
    raise DataError(f"{str(path) if text else repr(text)}: no such file or folder; check the path")


def _checked_shape(name: str, value: Sequence[int], lengths: Sequence[int]) -> Any:
    shape = picture_shape(value)
    if shape is None or len(shape) not in lengths:
        colours = " or (height, width, 3)" if 3 in lengths else ""
        raise ConfigError(f"{name}={value!r}; expected positive whole numbers, {name}=(height, width){colours}")
    return shape


@contextmanager
def _as_data_errors(source: object) -> Iterator[None]:
    """Turn OSError and MemoryError into a DataError that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or source}: cannot be read ({error.strerror or error}); "
            "check the path and your right to read it"
        ) from error
    except MemoryError as error:
        raise DataError(f"{source}: does not fit in memory ({error}); free some or split the data") from error
