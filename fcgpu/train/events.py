"""The events that `train` yields. They are frozen; values on the device are copied to the host when they are read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Never, Self

from fcgpu.backend import Backend
from fcgpu.data.dataset import Dataset
from fcgpu.model import Model, Score
from fcgpu.params import Spec
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.state import State


class _Frozen:
    """A copy of an event is the event itself: it does not change, and it refers to the run, which cannot be copied.

    So pickle raises TypeError.
    """

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> Never:
        raise TypeError(
            f"{type(self).__name__} refers to its run and cannot be pickled: keep what it can be asked for, as its "
            "model, its state, its loss or a Score"
        )


@dataclass(frozen=True)
class Started(_Frozen):
    """The first event: everything is checked, planned and allocated. The first step follows.

    recipe : with its changes. spec : of the network. backend : the device.
    data : the samples that are trained on, without those that early stopping holds out.
    plan : tiles, lanes, threads, and bytes of memory.
    """

    recipe: Recipe
    data: Dataset
    spec: Spec
    backend: Backend
    plan: Plan


@dataclass(frozen=True)
class EpochEnded(_Frozen):
    """An epoch has ended: one pass over the data, or one iteration of lbfgs.

    epoch : its number, from 1 on. epochs : of the whole run.
    step : updates so far.
    seconds : since the first step, with what the caller did between events but without `test()`.
    samples : evaluated in these seconds.
    learning_rate : of the last step, with rprop of the first; None for lbfgs, which has none.
    monitored : the value that early stopping watches, less is better; None if it watches nothing.
    note : a message for the user, such as that memory ran out and the run began anew with less; mostly empty.

    `model()`, `state()` and `test()` are of the network as it is after this epoch, and can only be called until the
    next EpochEnded is taken. After an interrupt within the next epoch they are of the steps that it had made, with
    lbfgs of none, and a run that resumes from that state differs from one that was not interrupted.
    """

    epoch: int
    epochs: int
    step: int
    seconds: float
    samples: int
    learning_rate: float | None
    monitored: float | None
    _fetch: Callable[[], tuple[float, float, int]] = field(repr=False)
    _state: Callable[[], State] = field(repr=False)
    _model: Callable[[], Model] = field(repr=False)
    _test: Callable[[], Score | None] = field(repr=False)
    _n: int = field(repr=False)
    _has_classes: bool = field(repr=False)
    note: str = ""

    @property
    def loss(self) -> float:
        """(Weighted) mean loss over the epoch's samples, plus the regulariser; reading it waits for the device.

        Each batch is measured before its update. With lbfgs it is the loss after the iteration, which is that of
        `model()`.
        """
        return self._fetch()[0]

    @property
    def penalty(self) -> float:
        """The part of `loss` that is the regulariser."""
        return self._fetch()[1]

    @property
    def cost(self) -> float:
        """n_samples times the loss, as the article prints it."""
        return self._n * self.loss

    @property
    def accuracy(self) -> float | None:
        """Fraction of the epoch's samples classified correctly, measured when `loss` is; None without classes."""
        return self._fetch()[2] / self._n if self._has_classes else None

    def model(self) -> Model:
        """The network after this epoch, copied to the host. Raises ConfigError once the next EpochEnded was taken."""
        return self._model()

    def test(self) -> Score | None:
        """The Score of `model()` on the test samples; None if there are none. Its time does not count in `seconds`.

        Raises ConfigError once the next EpochEnded was taken, DivergenceError if the outputs are not finite.
        """
        return self._test()

    def state(self) -> State:
        """The complete state of the run, copied to the host: `train(..., start=state)` resumes from it.

        Raises ConfigError once the next EpochEnded was taken.
        """
        return self._state()


@dataclass(frozen=True)
class Finished(_Frozen):
    """The last event, with the run's result. `train` and `test` score `model`, all samples alike, when first read.

    model : with the last parameters, or with the best if early stopping kept them.
    epochs : finished. steps : updates made.
    seconds, samples : at the end of the last epoch, as in EpochEnded.
    stopped : why the run ended before its last epoch; empty if it did not.
    plan : as in Started; the last one, if memory ran out.
    capture : how steps were launched on a GPU, as "graph of 64 steps", or "eager: " and why; empty on the CPU.
    """

    model: Model
    epochs: int
    steps: int
    seconds: float
    samples: int
    stopped: str
    plan: Plan
    capture: str
    _train: Callable[[], Score] = field(repr=False)
    _test: Callable[[], Score | None] = field(repr=False)

    @cached_property
    def train(self) -> Score:
        """The Score of `model` on the samples that it was trained on."""
        return self._train()

    @cached_property
    def test(self) -> Score | None:
        """The Score of `model` on the test samples; None if there are none."""
        return self._test()


Event = Started | EpochEnded | Finished
