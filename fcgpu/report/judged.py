"""A model's predictions for its run's samples."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcgpu.data import load
from fcgpu.data.dataset import Dataset
from fcgpu.data.features import parts
from fcgpu.errors import DataError
from fcgpu.model import Model, Score
from fcgpu.report.runs import RunFiles
from fcgpu.train.held_out import Part, with_test_samples
from fcgpu.train.recipe import Recipe


@dataclass(frozen=True)
class Judged:
    """The test samples (the training samples if there are none) with the model's predictions.

    y : (n,) indices into the model's classes, or targets (n, n_outputs).
    predicted : (n,) the predicted classes, as indices; without classes the result of `predict_proba`, (n, n_outputs).
    sure, own : (n,) probabilities of the predicted classes, and of those in y; None without classes.
    """

    model: Model
    data: Dataset
    split: str  # "test" or "training"
    X: Any
    y: Any
    predicted: Any
    sure: Any
    own: Any
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
    def wrong(self) -> Any:
        """Indices of the misclassified samples, the one whose true class is least probable first."""
        wrong = np.flatnonzero(self.predicted != self.y)
        return wrong[np.argsort(self.own[wrong], kind="stable")]

    @property
    def n_classes(self) -> int:
        return len(self.model.classes or ())

    def label(self, index: int) -> str:
        assert self.model.classes is not None
        return str(self.model.classes[index])


def judged(model: Model, recipe: Recipe) -> Judged:
    """Load the recipe's data and predict them. Raises FcgpuError if the data do not load."""
    if not recipe.data:
        raise DataError("the recipe names no data")
    data = load(recipe.data, image_size=recipe.image_size or None, target_column=recipe.target_column)
    data = with_test_samples(Part(data), recipe).data
    split = "training" if data.X_test is None else "test"
    X, y = (data.X, data.y) if data.X_test is None else (data.X_test, data.y_test)
    y = model.targets(data, y)
    predicted, sure, own = (model.predict_proba(X), None, None) if model.classes is None else _classified(model, X, y)
    return Judged(model, data, split, X, y, predicted, sure, own, model.score_encoded(X, y), recipe.seed)


def _classified(model: Model, X: Any, y: Any) -> tuple[Any, Any, Any]:
    """(predicted, sure, own) of a Judged. All probabilities are in memory for some samples at a time."""
    n = len(y)
    predicted, sure, own = np.empty(n, np.intp), *np.empty((2, n), model.params.dtype)
    for rows in parts((n, model.spec.sizes[-1])):
        P = model.predict_proba(X[rows])
        predicted[rows], sure[rows], own[rows] = P.argmax(axis=1), P.max(axis=1), P[np.arange(len(P)), y[rows]]
    return predicted, sure, own
