"""Records an estimator's curves after every epoch, and computes the number that early stopping watches."""

import math
from copy import copy
from inspect import signature
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.errors import ConfigError, DataError
from fcgpu.estimator import arrays
from fcgpu.kernels import REFERENCE
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.outputs import outputs
from fcgpu.suggest import nearest
from fcgpu.train.events import EpochEnded


class Watch:
    """A monitor for `train`: it appends to the estimator's curves, and returns a number; less is better.

    held_out : Samples with labels, or None. what : the name of the number, for the reason to stop.

    The number is the training loss as scikit-learn reports it. With early stopping it is the validation loss if the
    parameter `monitor` is "loss", else minus the score by `monitor` or, if that is None, minus the validation score.
    """

    def __init__(self, estimator: Any, settings: dict[str, Any], backend: Backend, held_out: Any, dtype: Any) -> None:
        self.estimator, self.backend = estimator, backend
        self.held_out, self.X = held_out, held_out and arrays.for_backend(held_out.X, backend, dtype)
        self.early, self.verbose, self.monitor = settings["early_stopping"], settings["verbose"], settings["monitor"]
        self.what = f"the validation {'loss' if self.monitor == 'loss' else 'score'}" if self.early else "the loss"
        self.scorer, self.weighs = None, False  # weighs: whether the scorer takes sample weights
        if callable(self.monitor):
            self.scorer, self.weighs = self.monitor, _takes_weights(self.monitor)
        elif self.monitor not in (None, "loss"):
            self.scorer = _scorer(self.monitor)
            self.weighs = _takes_weights(self.scorer._score_func)
        if self.scorer is not None:  # scorers compare NumPy answers with NumPy labels
            self.held_out = held_out._replace(X=arrays.on_host(held_out.X))
        if held_out is not None and (w := held_out.weights) is not None and not (w.min() >= 0 and w.max() > 0):
            raise DataError(
                f"the weights of the samples held out run from {w.min():g} to {w.max():g}: expected numbers of 0 or "
                "more, not all 0"
            )
        self.last: EpochEnded | None = None
        if held_out is not None and estimator.validation_scores_ is None:
            estimator.validation_scores_, estimator.validation_losses_ = [], []

    def __call__(self, event: EpochEnded) -> float:
        estimator = self.estimator
        loss = estimator._reported(event.loss, event.penalty)
        estimator.loss_curve_.append(loss)
        self.last = event
        if self.verbose:
            print(f"Iteration {event.epoch}, loss = {loss:.8f}")
        if self.held_out is None:
            return float(loss)
        score, held_out_loss = self._judged(event)
        estimator.validation_scores_.append(score)
        estimator.validation_losses_.append(held_out_loss)
        if self.verbose:
            print(f"Validation score: {score:f}")
        if not self.early:
            return float(loss)
        return held_out_loss if self.monitor == "loss" else -score

    def _judged(self, event: EpochEnded) -> tuple[float, float]:
        """(score, loss) of the held-out samples, with the current parameters."""
        estimator, (X, y, weights, labels) = self.estimator, self.held_out
        model = event.model()
        flat = self.backend.to_device(model.params)
        Z = self.backend.to_host(outputs(model.spec, flat, self.X, self.backend, estimator.threads, activate=False))
        if not np.isfinite(Z).all():
            return math.nan, math.nan
        judged = model.score_logits(Z, y, weights)
        loss = float(estimator._reported(judged.loss, 0.0))
        if self.scorer is not None:
            now = copy(estimator)
            now._set(model.spec, model.params)
            now.device, now._namespace = self.backend.device, "numpy"
            vars(now).pop("feature_names_in_", None)  # checked already, and X is an array without names now
            given = {"sample_weight": weights} if self.weighs else {}
            return float(self.scorer(now, X, labels, **given)), loss
        score = judged.accuracy if judged.r2 is None else judged.r2
        if score is not None:  # scikit-learn's functions take 0.4 ms, longer than many an epoch
            return score, loss
        REFERENCE[OUTPUTS[model.spec.output].prediction](Z, 0, xp=np)
        return float(estimator._score_of(labels, estimator._decided(Z), weights)), loss


def _takes_weights(function: Any) -> bool:
    try:
        return "sample_weight" in signature(function).parameters
    except (TypeError, ValueError):  # a callable whose signature cannot be found
        return False


def _scorer(name: Any) -> Any:
    from sklearn.metrics import get_scorer, get_scorer_names

    if name not in (known := get_scorer_names()):
        words = nearest(name, ["loss", *known]) or "or a scorer of your own"
        raise ConfigError(f"monitor={name!r}: expected 'loss' or one of sklearn.metrics.get_scorer_names(); {words}")
    return get_scorer(name)
