"""A classifier's labels: checked, as indices of their classes, and with the weights of these."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import type_of_target

from fcgpu.data.labels import check_labels, shown
from fcgpu.errors import ConfigError, DataError

REMEDIES = {  # for targets that are no labels, by scikit-learn's names for them
    "continuous": "numbers to predict are for MLPRegressor",
    "continuous-multioutput": "numbers to predict are for MLPRegressor",
    "multiclass-multioutput": "sklearn.multioutput.MultiOutputClassifier fits a classifier to each column",
    "unknown": "make them one type: y.astype(int), or y.astype(str)",
}


def checked(y: Any, name: str) -> tuple[Any, str]:
    """(labels (n,), "binary" or "multiclass"), or (0 and 1 (n, n_labels), "multilabel-indicator").

    name : of the estimator, for an error message. Raises DataError if y is neither.
    """
    try:
        kind = type_of_target(y, input_name="y")
    except TypeError:  # of what cannot be put in order, as None among text
        if y.dtype != object:
            raise
        kind = "unknown"
    if kind == "unknown" and y.dtype == object and len(set(map(type, y.flat))) > 1:
        check_labels(y, y, name)  # raises DataError that names samples of each type
    if kind in ("binary", "multiclass"):
        return column_or_1d(y, warn=True), kind
    if kind == "multilabel-indicator":
        return (y.toarray() if hasattr(y, "toarray") else np.asarray(y)), kind
    remedy = REMEDIES.get(kind, "give X and y in this order")
    raise DataError(f"Unknown label type: {kind}; expected labels (n,), or 0 and 1 (n, n_labels): {remedy}")


def distinct(labels: Any) -> Any:
    """The labels in order, each once; text in the shortest dtype that holds it, as scikit-learn does."""
    found = np.unique(labels)
    return np.array(found.tolist()) if found.dtype.kind in "OSU" else found


def indices(y: Any, classes: Any, *, complete: bool) -> Any:
    """The index of each label in `classes`. Raises DataError for others and, if y must be `complete`, for fewer."""
    if complete and not np.array_equal(found := np.unique(y), classes):
        raise DataError(
            "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
            f"got {in_words(classes)}, `y` has {in_words(found)}"
        )
    index = np.searchsorted(classes, y)
    if np.any(classes[np.minimum(index, len(classes) - 1)] != y):
        found = np.unique(y)
        raise DataError(
            f"`y` has classes not in `self.classes_`. `self.classes_` has {in_words(classes)}. 'y' has "
            f"{in_words(found)}."
        )
    return index


def in_words(classes: Any) -> str:
    """Labels (n,) for an error message: on one line, and not all of many."""
    return f"[{shown(tuple(classes.tolist()))}]"


def weights(y: Any, class_weight: Any, sample_weight: Any) -> Any:
    """sample_weight (n,) or None, times the weights of the classes. Raises ConfigError for a wrong class_weight."""
    if class_weight is None:
        return sample_weight
    if not (_are_weights(class_weight.values()) if isinstance(class_weight, dict) else str(class_weight) == "balanced"):
        words = "expected None, 'balanced', or a dict of label to a weight of 0 or more"
        raise ConfigError(f"class_weight={class_weight!r}: {words}")
    by_class = compute_sample_weight(class_weight, y)
    return by_class if sample_weight is None else by_class * sample_weight


def _are_weights(values: Iterable[Any]) -> bool:
    return all(isinstance(value, Real) and 0 <= float(value) < math.inf for value in values)
