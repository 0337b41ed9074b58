"""Models to and from the objects of other libraries, each of which is imported only when it is asked for."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fcgpu.errors import ConfigError
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import Spec


def flat(layers: Iterable[tuple[Any, Any]]) -> Any:
    """The flat vector (n_params,), a copy, of weights (n_in, n_out) and biases (n_out,)."""
    return np.concatenate([np.ravel(array) for layer in layers for array in layer])


def labels(spec: Spec, classes: Any) -> tuple[int | str, ...]:
    """Labels as a Model has them. Raises ConfigError for other kinds, and for more or fewer than the outputs tell."""
    classes = np.asarray(classes)
    expected = max(2, spec.sizes[-1]) if OUTPUTS[spec.output].classifies else 0
    if classes.shape != (expected,) or classes.dtype.kind not in "biuU":
        raise ConfigError(
            f"classes of shape {classes.shape} and type {classes.dtype} for {spec.sizes[-1]} outputs of {spec.output}: "
            "expected a whole number or text for each, two for a single sigmoid, and none for values"
        )
    return tuple(classes.tolist())
