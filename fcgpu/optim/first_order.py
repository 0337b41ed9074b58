"""A first-order rule with its state, hyperparameters and learning rate, ready to step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from fcgpu.errors import CheckpointError, ConfigError, choices
from fcgpu.kernels.updates import SCALARS, UPDATES


class FirstOrder:
    """`step(w, g, evaluate)` moves the flat parameters w (..., n_params) by the gradient that `evaluate()` leaves in g.

    It uses g up, and returns what `evaluate` returned: the loss before the step. `learning_rate` is a (1,) array on the
    device and `state` a NamedTuple of arrays like w: all there is to save.
    Raises ConfigError for a name that is not in the table.
    """

    finished, strayed = "", False  # a first-order rule never is

    def __init__(self, name: str, w: Any, kernels: Any, xp: Any, **hyperparameters: Any) -> None:
        row = known(name)
        fields = row.state._fields
        self.state = row.state(*(xp.zeros((1,), np.float64) if f in SCALARS else xp.zeros_like(w) for f in fields))
        self.learning_rate = xp.zeros((1,), dtype=w.dtype)
        self.hyperparameters = {**row.defaults, **hyperparameters}
        self._update: Callable[..., None] = partial(getattr(kernels, name), **self.hyperparameters)
        self._needs_loss = row.needs_loss

    def scaled(self, done: int = 0) -> Any:
        """The learning rate, for a caller whose gradients then come multiplied by it. For gradient descent alone.

        The caller itself subtracts the first `done` numbers of the gradient.
        """
        self._update = partial(_subtract, slice(done, None))
        return self.learning_rate

    def step(self, w: Any, g: Any, evaluate: Callable[[], Any]) -> Any:
        loss = evaluate()
        self._update(w, g, self.state, self.learning_rate, **({"loss": loss} if self._needs_loss else {}))
        return loss

    def state_on_host(self, host: Callable[[Any], Any]) -> dict[str, Any]:
        """The state's arrays, each through `host`."""
        return {name: host(array) for name, array in self.state._asdict().items()}

    def restore(self, state: Mapping[str, Any], to_device: Callable[[Any], Any]) -> None:
        """Go on from what `state_on_host` returned. Raises CheckpointError where it is of another rule or network."""
        for name, array in self.state._asdict().items():
            value = to_device(state[name]) if name in state else None
            if (found := getattr(value, "shape", "none")) != array.shape:
                raise CheckpointError(
                    f"{name} of the optimizer's state has shape {found}, expected {array.shape}: resume with the "
                    "optimizer and network that it was saved with"
                )
            array[...] = value


def _subtract(rest: slice, w: Any, g: Any, state: Any, learning_rate: Any) -> None:
    w[rest] -= g[rest]


def known(name: str) -> Any:
    if name not in UPDATES:
        raise ConfigError(f"optimizer={name!r} is not known; {choices(name, UPDATES)}")
    return UPDATES[name]
