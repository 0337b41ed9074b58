"""A first-order rule with its state, hyperparameters and learning rate, ready to step."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from fcgpu.errors import CheckpointError
from fcgpu.kernels.updates import SCALARS, UPDATES


class FirstOrder:
    """`step(w, g, evaluate)` calls `evaluate()`, which fills the gradient g, and updates the parameters w in place.

    w and g are flat vectors (..., n_params). g is overwritten as scratch. `step` returns what `evaluate` returned: the
    loss before the update. `learning_rate` is a (1,) array of w's dtype on the device, which the caller sets. `state`
    is a NamedTuple of arrays; it is all that a checkpoint must save.
    """

    finished, strayed = "", False  # as in LBFGS; here they never change

    def __init__(self, name: str, w: Any, kernels: Any, xp: Any, **hyperparameters: Any) -> None:
        row = UPDATES[name]
        fields = row.state._fields
        self.state = row.state(*(xp.zeros((1,), np.float64) if f in SCALARS else xp.zeros_like(w) for f in fields))
        self.learning_rate = xp.zeros((1,), dtype=w.dtype)
        self.hyperparameters = {**row.defaults, **hyperparameters}
        self._update: Callable[..., None] = partial(getattr(kernels, name), **self.hyperparameters)
        self._needs_loss = row.needs_loss

    def expect_scaled(self, done: int = 0) -> Any:
        """Expect gradients times the learning rate, which is returned, (1,). For gradient descent only.

        From then on `step` subtracts g as it is, but for its first `done` entries, which the caller subtracts itself.
        """
        self._update = partial(_subtract, slice(done, None))
        return self.learning_rate

    def step(self, w: Any, g: Any, evaluate: Callable[[], Any]) -> Any:
        loss = evaluate()
        self._update(w, g, self.state, self.learning_rate, **({"loss": loss} if self._needs_loss else {}))
        return loss

    def state_on_host(self, host: Callable[[Any], Any]) -> dict[str, Any]:
        """The state's arrays by name, each copied by `host`."""
        return {name: host(array) for name, array in self.state._asdict().items()}

    def restore(self, state: Mapping[str, Any], to_device: Callable[[Any], Any]) -> None:
        """Load what `state_on_host` returned. Raises CheckpointError if it is another rule's or another network's."""
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
