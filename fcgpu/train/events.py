"""What `train` yields. Events are frozen; what costs a transfer from the device is fetched when it is asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field

from fcgpu.backend import Backend
from fcgpu.data.dataset import Dataset
from fcgpu.model import Model, Score
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe


@dataclass(frozen=True)
class Started:
    """Everything is checked, planned and allocated; the first step is next."""

    recipe: Recipe
    data: Dataset
    backend: Backend
    plan: Plan


@dataclass(frozen=True)
class EpochEnded:
    """One pass over the data. `seconds` counts training only, from the first step on."""

    epoch: int  # from 1
    epochs: int
    step: int  # updates so far
    seconds: float
    samples: int  # seen so far
    learning_rate: float  # of the last step
    _fetch: Callable[[], tuple[float, int]] = field(repr=False)
    _model: Callable[[], Model] = field(repr=False)
    _n: int = field(repr=False)
    _counts: bool = field(repr=False)

    @property
    def loss(self) -> float:
        """Mean over the epoch's samples, each measured before the update it led to, plus the regulariser."""
        return self._fetch()[0]

    @property
    def cost(self) -> float:
        """The loss summed over the samples, as the article prints it."""
        return self._n * self.loss

    @property
    def accuracy(self) -> float | None:
        """Share of the epoch's samples answered rightly before the update they led to; None for a regression."""
        return self._fetch()[1] / self._n if self._counts else None

    def model(self) -> Model:
        """The network as it is now, copied to the host."""
        return self._model()


@dataclass(frozen=True)
class Finished:
    """The run's result. `seconds` counts training only; the scores are of the finished model."""

    model: Model
    epochs: int
    steps: int
    seconds: float
    samples: int
    train: Score
    test: Score | None


Event = Started | EpochEnded | Finished
