"""What a model says of the samples that it was, or was not, trained on."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcgpu.data import load
from fcgpu.data.dataset import Dataset
from fcgpu.errors import DataError
from fcgpu.model import Model, Score
from fcgpu.report.runs import RunFiles


@dataclass(frozen=True)
class Judged:
    """The test samples, or the training samples where there are no others.

    y (n,) are indices into the model's classes, or targets (n, n_outputs); P is what `predict_proba` gives.
    """

    model: Model
    data: Dataset
    split: str  # "test" or "training"
    X: Any
    y: Any
    P: Any
    score: Score
    seed: int

    def others(self, run: RunFiles) -> str:
        """What there is to say where the run's own samples were not these."""
        loss = run.number("test_loss" if self.split == "test" else "train_loss")
        if self.split != "test" and run.recipe.early_stopping:  # which held some of these out
            loss = None
        if loss is None or math.isclose(self.score.loss, loss, rel_tol=1e-3, abs_tol=1e-4):
            return ""
        return (
            f"The {self.split} samples are not those of the run any more: on these the loss is {self.score.loss:.4g}, "
            f"and result.json says {loss:.4g}."
        )

    @property
    def predicted(self) -> Any:
        """Indices into the classes (n,)."""
        return np.argmax(self.P, axis=1)

    @property
    def wrong(self) -> Any:
        """Indices of the samples whose class the model gets wrong, the least probable class first."""
        wrong = np.flatnonzero(self.predicted != self.y)
        return wrong[np.argsort(self.P[wrong, self.y[wrong]], kind="stable")]

    def label(self, index: int) -> str:
        assert self.model.classes is not None
        return str(self.model.classes[index])


def judged(run: RunFiles) -> Judged:
    """Load the recipe's data and ask the model. Raises FcgpuError without a model or without the data."""
    model, recipe = run.model, run.recipe
    if model is None:
        raise DataError("there is no model to ask")
    if not recipe.data:
        raise DataError("the recipe names no data")
    data = load(recipe.data, image_size=recipe.image_size or None)
    split = "training" if data.X_test is None else "test"
    X, y = (data.X, data.y) if data.X_test is None else (data.X_test, data.y_test)
    y = model.targets(data, y)
    Z = model.decision_function(X)
    return Judged(model, data, split, X, y, model.predict_proba(X), model.score_logits(Z, y), recipe.seed)
