"""What both estimators share: from scikit-learn's parameters to a run of the training loop, and back to attributes."""

import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, shuffle
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fcgpu.backend import Backend, choose
from fcgpu.data.dataset import Dataset
from fcgpu.errors import ConfigError, DataError
from fcgpu.estimator import arrays
from fcgpu.estimator.parameters import NEED_AN_END, checked, recipe_of
from fcgpu.estimator.watch import Watch
from fcgpu.model import Model, in_tiles
from fcgpu.optim import FULL_BATCH
from fcgpu.params import Spec
from fcgpu.train import train
from fcgpu.train.events import EpochEnded
from fcgpu.train.state import State


class BaseMLP(BaseEstimator):  # type: ignore[misc]
    """A multi-layer perceptron with scikit-learn's face. `coefs_` and `intercepts_` are its one truth once it is fitted."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        incremental: bool = False,
        validation_data: tuple[Any, Any] | None = None,
    ) -> Any:
        found = checked(self.get_params(deep=False))
        if incremental and found["early_stopping"]:
            raise ConfigError("partial_fit does not support early_stopping=True: there is no run to stop early")
        if incremental and found["learning_rate"] in NEED_AN_END:
            raise ConfigError(
                f"partial_fit does not support learning_rate={found['learning_rate']!r}: nobody knows how many calls follow"
            )
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y = self._checked_arrays(X, y, reset=first)
        weights = None if sample_weight is None else _check_sample_weight(arrays.on_host(sample_weight), np.empty(len(y)))
        y = self._encoded(y, first=first, incremental=incremental)
        weights = self._weighted(y, weights)
        backend = _backend(arrays.device_of(self.device, X))
        dtype = arrays.compute_dtype(self.dtype, X.dtype)
        random = check_random_state(self.random_state)
        spec = Spec((X.shape[1], *found["hidden_layer_sizes"], self._n_outputs(y)), output=self._output())
        start = self._start(found, spec, random, first=first, incremental=incremental)
        parts = self._parts(found, X, y, weights, random, validation_data)
        X, y, weights, held_out = parts
        batch = _batch_size(found["batch_size"], X.shape[0])
        seed = int(random.randint(2**31)) if any(found["dropout"]) or found["init"] != "auto" else 0
        recipe = recipe_of(
            found, output=self._output(), batch=batch, epochs=1 if incremental else found["max_iter"], dtype=dtype, seed=seed
        )
        if start.params is None:
            start = replace(start, params=_drawn(Spec(spec.sizes, recipe.activation, spec.output, recipe.init), seed))
        self.device_ = backend.device
        watch = Watch(self, spec, dtype, backend, held_out, found)
        data = Dataset(arrays.for_backend(X, backend), y, classes=self._loop_classes(), name=type(self).__name__)
        events = train(
            data, recipe, device=backend, threads=found["threads"], sample_weight=weights, start=start,
            order=_Order(X.shape[0], random), monitor=watch,
        )  # fmt: skip
        last = self._listen(events, found)
        self._take(last, spec, recipe, first=first, watch=watch)
        if not incremental and last.epoch == recipe.epochs and not self._converged:
            warnings.warn(
                f"{found['solver']} reached max_iter={recipe.epochs} without meeting tol={found['tol']:g}: "
                "raise max_iter, or scale the features",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self
