"""Converts models to and from objects of other libraries. Each library is imported only when it is used."""

from collections.abc import Iterable
from typing import Any

import numpy as np


def flat(layers: Iterable[tuple[Any, Any]]) -> Any:
    """A flat vector (n_params,), copied from pairs of weights (n_in, n_out) and biases (n_out,)."""
    return np.concatenate([np.ravel(array) for layer in layers for array in layer])
