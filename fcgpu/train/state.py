"""All that a run has come to, on the host: going on from it equals never having stopped, bit for bit on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fcgpu.train.stopping import Patience


@dataclass(frozen=True)
class State:
    """params (n_params,), and what else training changes. A new run may start from parameters alone.

    With epochs of 0 it is a start and not a run's middle: then `stopped` does not count.
    """

    params: Any
    rule: Mapping[str, Any] = field(default_factory=dict)  # the optimizer's arrays and numbers; empty for a new one
    epochs: int = 0
    steps: int = 0
    samples: int = 0  # of the finished epochs
    drops: int = 0  # of the adaptive schedule
    patience: Patience | None = None
    best: Any = None  # (n_params,), the best parameters where early stopping keeps them
    order: Mapping[str, Any] | None = None  # of the random generator that shuffles
    halvings: int = 0  # of the learning rate, after a divergence
    seconds: float = 0.0  # of training
    evaluated: int = 0  # samples in those seconds
    stopped: str = ""  # why the run had ended before its last epoch, where it had
    optimizer: str = ""  # whose arrays and numbers the rule's are
