"""What looks wrong with data though it can be trained on. Each doubt is a sentence, which the command line prints."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fcgpu.backend import as_numpy
from fcgpu.data.dataset import Dataset, targets
from fcgpu.data.features import ROWS_CHECKED_AT_ONCE
from fcgpu.kernels.losses import OUTPUTS

LARGE = 100  # root mean square from which a network learns poorly from a feature, or takes long to reach a target
# If all are below these, it learns little from features, and at first its outputs are many times as large as targets.
SMALL = {"feature": 0.01, "target": 0.1}
MANY_CLASSES, FEW_SAMPLES = 20, 5  # so many classes with so few samples each are probably numbers to predict


def doubts(data: Dataset, scale: float, output: str, *, standardized: bool = False) -> Iterator[str]:
    """The doubts about data whose features are multiplied by `scale`, or standardized, and whose y is the target of
    `output`.
    """
    if not standardized or data.are_pictures:
        yield from _unscaled("feature", data.X, scale, pictures=data.are_pictures)
    if output == "identity":
        yield from (
            _of_other_units(targets(data, data.y)) if standardized else _unscaled("target", targets(data, data.y))
        )
    if output == "exp" and not standardized and (mean := targets(data, data.y).mean(dtype=np.float64)) > LARGE:
        yield f"counts have a mean of {mean:.3g}; a network learns better where it is about 1: use --standardize"
    n_classes = len(data.classes or ())
    if OUTPUTS[output].classifies and n_classes > MANY_CLASSES and data.n_samples < FEW_SAMPLES * n_classes:
        distinct = "; if they only number the samples, leave them out" if n_classes == data.n_samples else ""
        if distinct and data.feature_names is not None:
            distinct += ", and name the label's column: --target-column"
        yield (
            f"{n_classes} classes for {data.n_samples} samples: if the labels are numbers to predict, use "
            f"--output identity{distinct}"
        )
    if output == "softmax" and data.y.ndim == 2 and _one_hot(data.y[:ROWS_CHECKED_AT_ONCE]):
        yield "y is one-hot: with y.argmax(axis=1) in its place the model has classes, and its accuracy is measured"


def _one_hot(y: Any) -> bool:
    """Whether each row of y (n, n_outputs) is a 1 and zeros."""
    return bool(((y == 0) | (y == 1)).all() and (y.sum(axis=1) == 1).all())


def _of_other_units(y: Any) -> Iterator[str]:
    std = np.std(y[:ROWS_CHECKED_AT_ONCE], axis=0, dtype=np.float64)
    low, high = np.where(std > 0, std, np.inf).argmin(), std.argmax()
    if 0 < LARGE * std[low] < std[high]:
        yield (
            f"target {low} has a standard deviation of {std[low]:.3g}, target {high} of {std[high]:.3g}: of a loss "
            "that adds up their squares the former is hardly learned; divide each target by its standard deviation"
        )


def _unscaled(what: str, values: Any, scale: float = 1.0, *, pictures: bool = False) -> Iterator[str]:
    """Looks at the first samples, and not at bytes: pixels have a scale, or are meant to be raw."""
    if values.dtype == np.uint8:
        return
    some = as_numpy(values[:ROWS_CHECKED_AT_ONCE])
    with np.errstate(all="ignore"):
        # einsum makes no copy, which could exceed the memory if the features are many and mapped from disk
        size = np.sqrt(np.einsum("ij,ij->j", some, some, dtype=np.float64) / len(some)) * scale
    found = ""
    if size.max() > LARGE:
        found = f"{what} {size.argmax()} has a root mean square of {size.max():.3g}"
    elif 0 < size.max() < SMALL[what]:
        found = f"no {what} has a root mean square above {size.max():.3g}"
    if found:
        remedy = f"use --standardize, or subtract each {what}'s mean and divide by its standard deviation"
        if pictures:
            remedy = f"use --scale {scale / size.max():.1g}"
        yield f"{found}; a network learns better where it is about 1: {remedy}"
