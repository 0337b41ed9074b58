"""What a run's events can be asked for: losses, the network as a Model, and its scores."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.data.dataset import Dataset, targets
from fcgpu.errors import DeviceMemoryError, DivergenceError
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.model import Model, Score
from fcgpu.optim import FULL_BATCH
from fcgpu.params import Spec
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.standardized import Standardization
from fcgpu.train.state import State


class Results:
    """The results of a run that began with the State `start`.

    history : (epochs, 3) on the device, the sums that the steps have filled in.
    has_classes : whether the targets are class indices. scale : multiplies the features of a Model's samples.
    standard : how the samples were standardized; losses and the Model are for the samples as they are.
    training_set : the features that were trained on, on a GPU as they lie there, and the scale that multiplies them.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        spec: Spec,
        backend: Backend,
        plan: Plan,
        start: State,
        history: Any,
        *,
        has_classes: bool,
        scale: float,
        standard: Standardization,
        training_set: tuple[Any, float],
    ) -> None:
        self._recipe, self._data, self._spec, self._backend, self._threads = recipe, data, spec, backend, plan.threads
        self._history, self._has_classes, self._scale, self._training_set = history, has_classes, scale, training_set
        self._halvings, self._checked, self._standard = start.halvings, start.epochs, standard

    def sums(self, epoch: int) -> tuple[float, float, int]:
        """Loss with penalty, penalty, and correct predictions of an epoch; waits for the device."""
        loss, penalty, correct = self._backend.to_host(self._history[epoch - 1])
        unit = self._standard.loss_unit
        return unit * float(loss), unit * float(penalty), int(correct)

    def check(self, epochs: int) -> None:
        """Raise DivergenceError if one of the first `epochs` losses is not finite; waits for the device."""
        losses = self._backend.to_host(self._history[self._checked : epochs, 0])
        if not (finite := np.isfinite(losses)).all():
            wrong = int(np.argmin(finite))
            raise self.diverged(losses[wrong], self._checked + wrong + 1)
        self._checked = epochs

    def diverged(self, loss: float, epoch: int) -> DivergenceError:
        """The error for a loss that is not finite, with what can be tried."""
        recipe, standard, at, tries = self._recipe, self._standard, "", []
        if recipe.optimizer not in FULL_BATCH:
            rate = math.ldexp(recipe.learning_rate, -self._halvings)
            at, tries = f" with learning_rate={rate:g}", [f"learning_rate={rate / 10:g}", "gradient_clip=1"]
        unscaled = ["features"] if standard.mean is None else []
        if standard.target_mean is None and not OUTPUTS[recipe.output].classifies:
            unscaled.append("targets")
        if unscaled:
            tries.append(f"{' and '.join(unscaled)} of a smaller scale")
        if recipe.optimizer in FULL_BATCH and recipe.dtype == "float32":
            tries.append("dtype='float64'")
        *others, last = tries or ["optimizer='adam'"]
        words = f"{', '.join(others)}, or {last}" if others else last
        return DivergenceError(f"the loss is {loss} in epoch {epoch}{at}: try {words}")

    def model(self, params: Any) -> Model:
        """The Model with parameters (n_params,) on the host."""
        data, classes = self._data, self._data.classes if self._has_classes else None
        params = self._standard.folded(self._spec, params)
        return Model(self._spec, params, classes, self._scale, data.image_shape, self._recipe.name, data.feature_names)

    def test(self, model: Model) -> Score | None:
        """The model's score on the test samples; None if there are none."""
        return None if self._data.X_test is None else self._score(model, self._data.X_test, self._data.y_test)

    def train(self, model: Model) -> Score:
        """The last model's score on the samples that it was trained on."""
        X, scale = self._training_set
        try:
            return self._score(replace(model, scale=scale), X, self._data.y)
        except DivergenceError:  # the last step diverged, after the last loss was measured
            raise self.diverged(math.nan, self._checked) from None

    def _score(self, model: Model, X: Any, y: Any) -> Score:
        if not self._has_classes:
            y = targets(self._data, y)
        try:
            return model.score_encoded(X, y, device=self._backend, threads=self._threads)
        except DeviceMemoryError:  # do not lose the trained network for want of memory: score on the CPU
            return model.score_encoded(self._backend.to_host(X), y, device="cpu")
