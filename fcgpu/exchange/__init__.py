"""Converts models to and from objects of other libraries. Each library is imported only when it is used."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fcgpu.data.labels import as_classes
from fcgpu.errors import ConfigError, DataError
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import Spec


def flat(layers: Iterable[tuple[Any, Any]]) -> Any:
    """A flat vector (n_params,), copied from pairs of weights (n_in, n_out) and biases (n_out,)."""
    return np.concatenate([np.ravel(array) for layer in layers for array in layer])


def checked_classes(spec: Spec, classes: Any) -> tuple[int | str, ...]:
    """Labels as Model.classes holds them. Raises ConfigError if their number does not fit the outputs, if two are
    equal, or if they are not all integers or all text.
    """
    classes = np.asarray(classes)
    expected = max(2, spec.sizes[-1]) if OUTPUTS[spec.output].classifies else 0
    try:
        made = as_classes(classes, "classes") if classes.shape == (expected,) else ()
    except DataError as error:
        raise ConfigError(str(error)) from None
    if classes.shape != (expected,) or len(set(made)) < expected or len({type(label) for label in made}) > 1:
        raise ConfigError(
            f"classes={classes.tolist()} for {spec.sizes[-1]} outputs of {spec.output}: "
            "expected a different whole number or text for each, two for a single sigmoid, and none for values"
        )
    return made
