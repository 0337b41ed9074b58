"""The order in which each epoch takes the samples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fcgpu.errors import ConfigError


class Order:
    """Draws the order of n samples for one epoch after the other.

    draws : an object with NumPy's permutation(n); None for a Generator from `seed`.
    """

    def __init__(self, draws: Any, seed: int, n: int) -> None:
        self._draws, self._n = draws, n
        if draws is None:
            self._draws = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed).spawn(1)[0]))
        self._first: Any = None  # the first order that was drawn
        self._drawn: Any = None  # the next one, if it is drawn already

    def begin(self) -> None:
        """The next epoch is the first. If its order was drawn before, it is the same, and nothing is drawn for it."""
        self._drawn = self._first

    def next(self) -> Any:
        """The order (n,) of the next epoch, on the host. Raises ConfigError if `draws` returns another shape."""
        order, self._drawn = self._draws.permutation(self._n) if self._drawn is None else self._drawn, None
        if np.shape(order) != (self._n,):
            raise ConfigError(
                f"order={type(self._draws).__name__}: permutation({self._n}) has shape {np.shape(order)}; "
                f"expected ({self._n},)"
            )
        self._first = order if self._first is None else self._first
        return order

    def state(self) -> Mapping[str, Any] | None:
        """The state of the random generator; None if `draws` shows none."""
        generator = getattr(self._draws, "bit_generator", None)
        return None if generator is None else generator.state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state` of another Order. Raises ConfigError if `draws` has no such state."""
        try:
            self._draws.bit_generator.state = state
        except (AttributeError, ValueError):  # it has none, or one of another kind
            raise ConfigError(
                f"order={type(self._draws).__name__}: expected a Generator of {state['bit_generator']}, whose state "
                "start has; replace(start, order=None) begins another order"
            ) from None
