"""What scikit-learn draws from `random_state`, in its order: the same random_state starts the same run in both."""

import math
from typing import Any

import numpy as np
from sklearn.utils import check_random_state, shuffle

from fcgpu.errors import ConfigError
from fcgpu.params import Spec


def generator(random_state: Any) -> Any:
    """The numpy.random.RandomState that a parameter `random_state` means. Raises ConfigError if it means none."""
    try:
        return check_random_state(random_state)
    except ValueError:
        raise ConfigError(
            f"random_state={random_state!r}: expected None, a whole number from 0 to 2**32 - 1 or a "
            "numpy.random.RandomState"
        ) from None


def weights(spec: Spec, random: Any) -> Any:
    """Initial parameters (n_params,) float64: uniform in ±√(6 / (n_in + n_out)), or ±√(2 / (n_in + n_out)) for sigmoid.

    Biases, too.
    """
    flat = np.empty(spec.n_params)
    for W, b in spec.layers(flat):
        bound = math.sqrt((2 if spec.activation == "sigmoid" else 6) / sum(W.shape))
        W[...] = random.uniform(-bound, bound, W.shape)
        b[...] = random.uniform(-bound, bound, b.size)
    return flat


class Order:
    """Draws each epoch's order by shuffling the order of the epoch before, as scikit-learn does."""

    def __init__(self, random: Any, n: int) -> None:
        self._order, self._random = np.arange(n), random

    def permutation(self, n: int) -> Any:
        self._order = shuffle(self._order, random_state=self._random)
        return self._order

    def skip(self, epochs: int) -> None:
        """Advance the random state as the orders of so many epochs do."""
        for _ in range(epochs):
            self._random.shuffle(self._order)
