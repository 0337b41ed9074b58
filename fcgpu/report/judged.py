"""A model's predictions for its run's samples."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcgpu.data import load
from fcgpu.data.dataset import Dataset
from fcgpu.errors import DataError
from fcgpu.model import Model, Score
from fcgpu.report.runs import RunFiles
from fcgpu.train.recipe import Recipe


@dataclass(frozen=True)
class Judged:
    """The test samples (the training samples if there are none) with the model's predictions.

    y : (n,) indices into the model's classes, or targets (n, n_outputs). P : the result of `predict_proba`.
    """

    model: Model
    data: Dataset
    split: str  # "test" or "training"
    X: Any
    y: Any
    P: Any
    score: Score
    seed: int

    def mismatch(self, run: RunFiles) -> str:
        """A warning if these are not the run's samples, because their loss is not that in result.json; else ""."""
        loss = run.number("test_loss" if self.split == "test" else "train_loss")
        if self.split != "test" and run.recipe.early_stopping:  # it held some of these samples out
            loss = None
        if loss is None or math.isclose(self.score.loss, loss, rel_tol=1e-3, abs_tol=1e-4):
            return ""
        return (
            f"The {self.split} samples are not those of the run any more: on these the loss is {self.score.loss:.4g}, "
            f"and result.json says {loss:.4g}."
        )

    @property
    def predicted(self) -> Any:
        """The predicted classes (n,), as indices."""
        return np.argmax(self.P, axis=1)

    @property
    def wrong(self) -> Any:
        """Indices of the misclassified samples, the one whose true class is least probable first."""
        wrong = np.flatnonzero(self.predicted != self.y)
        return wrong[np.argsort(self.P[wrong, self.y[wrong]], kind="stable")]

    def label(self, index: int) -> str:
        assert self.model.classes is not None
        return str(self.model.classes[index])


def judged(model: Model, recipe: Recipe) -> Judged:
    """Load the recipe's data and predict them. Raises FcgpuError if the data do not load."""
    if not recipe.data:
        raise DataError("the recipe names no data")
    data = load(recipe.data, image_size=recipe.image_size or None)
    split = "training" if data.X_test is None else "test"
    X, y = (data.X, data.y) if data.X_test is None else (data.X_test, data.y_test)
    y = model.targets(data, y)
    return Judged(model, data, split, X, y, model.predict_proba(X), model.score_encoded(X, y), recipe.seed)
