"""What `train` yields. Events are frozen; what costs a transfer from the device is fetched when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

from fcgpu.backend import Backend
from fcgpu.data.dataset import Dataset
from fcgpu.model import Model, Score
from fcgpu.params import Spec
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.state import State


class _Frozen:
    """A copy of an event is the event: nothing of it changes, and what it asks is the run's, of which there is one."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


@dataclass(frozen=True)
class Started(_Frozen):
    """Everything is checked, planned and allocated; the first step is next."""

    recipe: Recipe
    data: Dataset
    spec: Spec
    backend: Backend
    plan: Plan


@dataclass(frozen=True)
class EpochEnded(_Frozen):
    """One pass over the data; for lbfgs one iteration. `seconds` counts training only, from the first step on."""

    epoch: int  # from 1
    epochs: int
    step: int  # updates so far
    seconds: float
    samples: int  # seen in those seconds
    learning_rate: float | None  # of the last step; None for lbfgs, which has none
    monitored: float | None  # what early stopping watches, where it does; less is better
    _fetch: Callable[[], tuple[float, float, int]] = field(repr=False)
    _state: Callable[[], State] = field(repr=False)
    _model: Callable[[], Model] = field(repr=False)
    _test: Callable[[], Score | None] = field(repr=False)
    _n: int = field(repr=False)
    _counts: bool = field(repr=False)
    note: str = ""  # what a person should know of the epoch: memory ran out, and the tiles are smaller now

    @property
    def loss(self) -> float:
        """Mean over the epoch's samples, each measured before the update it led to, plus the regulariser.

        With lbfgs, whose line search measures where it arrives, after it: the loss of `model`.
        """
        return self._fetch()[0]

    @property
    def penalty(self) -> float:
        """The regulariser's part of the loss."""
        return self._fetch()[1]

    @property
    def cost(self) -> float:
        """The loss summed over the samples, as the article prints it."""
        return self._n * self.loss

    @property
    def accuracy(self) -> float | None:
        """Share of the epoch's samples answered rightly, when `loss` is measured; None for a regression."""
        return self._fetch()[2] / self._n if self._counts else None

    def model(self) -> Model:
        """The network as this epoch left it, copied to the host. Raises ConfigError when the run has gone on."""
        return self._model()

    def test(self) -> Score | None:
        """`model` on the test samples; None without any. `seconds` doesn't count what this takes.

        Raises ConfigError when the run has gone on, DivergenceError where the outputs are not finite.
        """
        return self._test()

    def state(self) -> State:
        """All that the run has come to, copied to the host: `train(..., start=state)` goes on from it.

        Raises ConfigError when the run has gone on.
        """
        return self._state()


@dataclass(frozen=True)
class Finished(_Frozen):
    """The run's result: the last parameters, or the best where early stopping kept them.

    `seconds` counts training only. The scores are of the finished model, computed when first asked for.
    """

    model: Model
    epochs: int
    steps: int
    seconds: float
    samples: int
    stopped: str  # why before the last epoch; empty where it was the last
    plan: Plan  # as it was at the end
    capture: str  # how a GPU was given its steps: "graph of 64 steps", or "eager: " and why; empty on the CPU
    _train: Callable[[], Score] = field(repr=False)
    _test: Callable[[], Score | None] = field(repr=False)

    @cached_property
    def train(self) -> Score:
        return self._train()

    @cached_property
    def test(self) -> Score | None:
        """None where there are no test samples."""
        return self._test()


Event = Started | EpochEnded | Finished
