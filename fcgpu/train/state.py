"""The complete state of a run, on the host. Resuming from it equals never having stopped, bit for bit on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fcgpu.train.stopping import Patience


@dataclass(frozen=True)
class State:
    """Parameters (n_params,) in the run's dtype, and everything else that training changes.

    `train(..., start=State(params))` starts a new run from parameters alone. If epochs is 0, `stopped` is ignored.
    """

    params: Any = field(repr=False)
    rule: Mapping[str, Any] = field(default_factory=dict, repr=False)  # the optimizer's state; empty for a new one
    epochs: int = 0  # finished
    steps: int = 0  # updates made
    samples: int = 0  # samples seen in the finished epochs
    drops: int = 0  # how often the adaptive schedule has lowered the learning rate
    patience: Patience | None = None  # of early stopping
    best: Any = field(default=None, repr=False)  # (n_params,), the best parameters so far, if early stopping keeps them
    order: Mapping[str, Any] | None = None  # state of the random generator that shuffles
    halvings: int = 0  # how often the learning rate was halved after a divergence
    seconds: float = 0.0  # of training
    evaluated: int = 0  # samples evaluated in these seconds
    stopped: str = ""  # why the run stopped before its last epoch; empty if it did not
    optimizer: str = ""  # the optimizer whose state `rule` is
