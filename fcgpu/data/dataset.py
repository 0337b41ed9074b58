"""Dataset, which every reader returns: features in their stored dtype, labels as class indices, and a scale."""

import math
import operator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from fcgpu.backend import as_numpy
from fcgpu.data.features import check_features
from fcgpu.data.labels import are_other_numbers, as_column, check_labels, encode, encode_labels, shown
from fcgpu.data.names import Names, check_names, names_of
from fcgpu.errors import DataError

EXPECTED = "expected arrays as Dataset describes them; fcgpu.dataset(X, y) makes them of labels, lists and tables"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and labels. `fcgpu.dataset(X, y)` makes one from anything that NumPy takes.

    X : (n_samples, n_features), in its stored dtype; pixels stay uint8. A CuPy array stays on its GPU.
    y : (n_samples,) intp, indices into `classes`; if `classes` is None, float64 targets, (n_samples,) or
        (n_samples, n_outputs).
    X_test, y_test : the same for the test samples, or None.
    classes : the distinct labels of the source, sorted; None for a regression.
    image_shape : (height, width) or (height, width, 3) if each row is a flattened picture, else None.
    scale : factor by which features are multiplied when they are used, such as 1/255 for pixels.
    name : what error messages call the data.
    feature_names : (n_features,) names of the features, or None.

    Raises DataError if X and y do not have these shapes, dtypes and index range; the values of X are not checked.
    """

    X: Any = field(repr=False)
    y: Any = field(repr=False)
    X_test: Any = field(default=None, repr=False)
    y_test: Any = field(default=None, repr=False)
    classes: tuple[int | str, ...] | None = None
    image_shape: tuple[int, ...] | None = None
    scale: float = 1.0
    name: str = "arrays"
    feature_names: Names = field(default=None, repr=False)

    def __post_init__(self) -> None:
        pairs = [(self.X, self.y)] if self.X_test is None else [(self.X, self.y), (self.X_test, self.y_test)]
        for X, y in pairs:
            if getattr(X, "ndim", None) != 2 or getattr(y, "ndim", None) not in (1, 2) or len(y) != X.shape[0]:
                raise DataError(f"{self.name}: {_kind(X)} and {_kind(y)}; {EXPECTED}")
            if y.dtype.kind not in "buif":
                raise DataError(f"{self.name}: y of dtype {y.dtype}; {EXPECTED}")
            if self.feature_names is not None and len(self.feature_names) != X.shape[1]:
                raise DataError(
                    f"{self.name}: {len(self.feature_names)} feature_names; expected {X.shape[1]}, a name a feature"
                )
            if (
                self.classes is not None
                and y.ndim == 1
                and (y.dtype.kind not in "iu" or (len(y) and not 0 <= y.min() <= y.max() < len(self.classes)))
            ):
                raise DataError(f"{self.name}: y is no index into {len(self.classes)} classes; {EXPECTED}")

    @property
    def n_samples(self) -> int:
        return int(self.X.shape[0])

    @property
    def n_features(self) -> int:
        return int(self.X.shape[1])

    @property
    def are_pictures(self) -> bool:
        """Whether rows are pictures: their shape is known, or they are 64 numbers or more, 8x8, with the scale of bytes
        up to 255.
        """
        return self.image_shape is not None or (self.scale == 1 / 255 and self.n_features >= 64)


def _kind(array: Any) -> str:
    return f"an array of shape {array.shape}" if hasattr(array, "shape") else f"a {type(array).__name__}"


def dataset(
    X: Any,
    y: Any,
    X_test: Any = None,
    y_test: Any = None,
    *,
    image_shape: tuple[int, ...] | None = None,
    scale: float = 1.0,
    name: str = "arrays",
    feature_names: Names = None,
) -> Dataset:
    """A checked Dataset from arrays: X (n_samples, n_features) of numbers, y (n_samples,) labels or targets.

    X may be in GPU memory (an array of CuPy or of another library) and stays there; y is copied to the host.
    image_shape : (height, width) or (height, width, 3) if a row is a flattened picture.
    scale : factor by which features are multiplied when they are used.
    feature_names : (n_features,) names of the features; None for those of X's columns, if X is a DataFrame.

    Labels that are all text, or all whole numbers below 2**53 in magnitude, become classes (integers of up to 64 bits
    do, too). Other floats, and a y with several columns, become float64 targets; so do whole numbers where the test
    samples have others, and `train` refuses those if its output needs labels.

    Raises DataError for shapes that disagree, no samples, a dtype that is not numeric, long doubles, NaN or infinity, a
    test label of text that no training sample has, a scale that is not above 0, or an image_shape that does not fit a
    row.
    """
    if feature_names is None:
        feature_names = names_of(X)
        check_names(names_of(X_test), feature_names, f"{name} (test)")
    X, y = check_features(X, name), as_column(y, name)
    if not (isinstance(scale, Real) and 0 < scale < np.inf):
        raise DataError(f"{name}: scale={scale!r}; expected a finite number above 0, which features are multiplied by")
    if image_shape is not None:
        given, image_shape = image_shape, picture_shape(image_shape)
        if image_shape is None or math.prod(image_shape) != X.shape[1]:
            raise DataError(
                f"{name}: image_shape={given!r} with {X.shape[1]} features; expected (height, width) or "
                "(height, width, 3) of as many pixels"
            )
    if X_test is None and y_test is not None:
        raise DataError(f"{name}: y_test without X_test; give both, or neither")
    check_labels(X, y, name)
    classes, encoded = encode(y, name)
    if X_test is not None:
        X_test, y_test = check_features(X_test, f"{name} (test)"), as_column(y_test, f"{name} (test)")
        check_labels(X_test, y_test, f"{name} (test)")
        if X_test.shape[1] != X.shape[1]:
            raise DataError(f"{name}: X_test has {X_test.shape[1]} features, X has {X.shape[1]}; they must be equal")
        if classes is not None and are_other_numbers(y_test, classes):
            classes, encoded = None, y.astype(np.float64)
        if classes is not None:
            y_test = encode_labels(y_test, classes, f"{name} (test)")
        elif y_test.dtype.kind == "U" or y_test.shape[1:] != y.shape[1:]:
            raise DataError(
                f"{name}: y_test has shape {y_test.shape} and dtype {y_test.dtype}, y {y.shape} and {y.dtype}; "
                "expected numbers in as many columns as y has"
            )
        else:
            y_test = y_test.astype(np.float64)
    return Dataset(X, encoded, X_test, y_test, classes, image_shape, float(scale), name, feature_names)


def targets(data: Dataset, y: Any) -> Any:
    """Regression targets (n, n_outputs): y itself or, if y holds class indices, the labels as numbers.

    Raises DataError for labels that are text.
    """
    if data.classes is not None:
        if isinstance(data.classes[0], str):
            raise DataError(f"{data.name}: labels are text ({shown(data.classes)}); expected numbers as targets")
        y = np.asarray(data.classes, dtype=np.float64)[y]
    return y.reshape(len(y), -1)


def refuse_unknown_labels(data: Dataset) -> None:
    """Raise DataError if y would be labels, had y_test no others."""
    classes, _ = encode(data.y, data.name)
    if classes is not None and data.y_test is not None:
        try:
            encode_labels(data.y_test, classes, f"{data.name} (test)")
        except DataError as error:
            raise DataError(f"{error}; for real-valued targets use output='identity'") from None


def check_weights(weights: Any, n: int, dtype: str, name: str) -> Any:
    """Sample weights (n,) as a NumPy array.

    Raises DataError unless they are finite, 0 or more and not all 0, and neither their sum nor its reciprocal is
    outside the normal range of `dtype`, the run's.
    """
    weights = np.asarray(as_numpy(weights))
    if weights.shape != (n,) or weights.dtype.kind not in "buif":
        raise DataError(
            f"{name}: sample_weight has shape {weights.shape} and dtype {weights.dtype}; expected ({n},) numbers"
        )
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
        raise DataError(
            f"{name}: sample weights run from {weights.min():g} to {weights.max():g}; expected finite numbers of 0 or "
            "more, not all 0"
        )
    with np.errstate(all="ignore"):
        total, tiny = np.sum(weights, dtype=float), np.finfo(dtype).tiny
    if not tiny <= total <= 1 / tiny:
        raise DataError(
            f"{name}: sample weights add up to {total:g}; expected {tiny:.1g} to {1 / tiny:.1g}, for {dtype}: divide "
            "them by their mean"
        )
    return weights


def scale_of(X: Any) -> float:
    """1 / max(X) for uint8, so that scaled features lie in 0..1; 1 for any other dtype."""
    return 1 / max(int(X.max(initial=0)), 1) if X.dtype == np.uint8 else 1.0


def picture_shape(value: Any) -> tuple[int, ...] | None:
    """(height, width) or (height, width, 3) as Python's integers, each above 0; None if `value` is neither."""
    try:
        shape = tuple(operator.index(side) for side in value)
    except TypeError:
        return None
    return shape if len(shape) in (2, 3) and min(shape) > 0 and shape[2:] in ((), (3,)) else None
