"""The complete state of a run, on the host. Resuming from it equals never having stopped, bit for bit on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fcgpu.train.stopping import Patience


@dataclass(frozen=True)
class State:
    """The parameters of a run, and everything else that training changes.

    params : (n_params,) in the run's dtype.
    rule : the optimizer's state by name; empty for a new one. optimizer : the name of the optimizer.
    epochs : finished. steps : updates made. samples : seen in the finished epochs.
    drops : how often the adaptive schedule has lowered the learning rate.
    patience : of early stopping. best : (n_params,), the best parameters so far, if early stopping keeps them.
    order : state of the random generator that shuffles.
    halvings : how often the learning rate was halved after a divergence.
    seconds, evaluated : the seconds and samples of EpochEnded.
    stopped : why the run stopped before its last epoch; empty if it did not. Ignored if epochs is 0.

    `train(..., start=State(params))` starts a new run from parameters alone.
    """

    params: Any = field(repr=False)
    rule: Mapping[str, Any] = field(default_factory=dict, repr=False)
    epochs: int = 0
    steps: int = 0
    samples: int = 0
    drops: int = 0
    patience: Patience | None = None
    best: Any = field(default=None, repr=False)
    order: Mapping[str, Any] | None = None
    halvings: int = 0
    seconds: float = 0.0
    evaluated: int = 0
    stopped: str = ""
    optimizer: str = ""
