"""The base of both estimators: from scikit-learn's parameters to a run of `train`, and from it to attributes."""

import math
import os
import warnings
from copy import copy
from dataclasses import fields, replace
from functools import cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted

from fcgpu.backend import Backend, Work, choose, device_of, gpu_of
from fcgpu.data.dataset import Dataset
from fcgpu.errors import ConfigError, DataError, FcgpuError
from fcgpu.estimator import arrays, draws
from fcgpu.estimator.listen import listen
from fcgpu.estimator.parameters import ACTIVATIONS, batch_of, recipe_of, settings_of
from fcgpu.estimator.watch import Watch
from fcgpu.model import Model
from fcgpu.optim import FULL_BATCH
from fcgpu.outputs import outputs
from fcgpu.params import Spec, initial
from fcgpu.suggest import choices
from fcgpu.train import train
from fcgpu.train.events import EpochEnded
from fcgpu.train.plan import work_of
from fcgpu.train.recipe import Recipe
from fcgpu.train.state import State

CURVES = ("loss_curve_", "validation_scores_", "validation_losses_")


class Samples(NamedTuple):
    """Samples that are checked."""

    X: Any  # (n, n_features)
    y: Any  # targets in the form that the loss takes
    weights: Any  # (n,) or None
    labels: Any  # y as the caller passed it


class BaseMLP(BaseEstimator):  # type: ignore[misc]
    """A multi-layer perceptron with scikit-learn's interface.

    After fit the parameters are in `coefs_` and `intercepts_` only: assigning to them changes the predictions.

    A subclass has its parameters from `parameters.py`, and defines:
    _encoded : labels or targets in the form that the loss takes; sets classes_ and n_outputs_.
    _weighted : sample weights. _strata : labels for a stratified split, or None.
    _output, _loop_classes, _model_classes : the network's output, and the classes of the Dataset and of the Model.
    _reported : the loss as scikit-learn reports it. _decided : predictions from outputs. _score_of : their score.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    # Fitting

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, *, incremental: bool = False, validation_data: Any = None
    ) -> Any:
        settings = settings_of({f.name: getattr(self, f.name) for f in fields(self)})
        if incremental and settings["early_stopping"]:
            raise ConfigError("partial_fit does not support early_stopping=True: one call is one epoch")
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        self._namespace = arrays.given(X).namespace
        X, y, weights = arrays.checked(self, X, y, sample_weight, y_numeric=not self._classifies, reset=first)
        labels, y = y, self._encoded(y, first=first, incremental=incremental)
        weights = self._weighted(labels, weights)
        dtype = arrays.compute_dtype(self.dtype, X.dtype)
        random = draws.generator(self.random_state)
        n, n_features = map(int, X.shape)
        sizes = (n_features, *settings["hidden_layer_sizes"], self.n_outputs_)
        seed = int(random.randint(2**31)) if settings["init"] != "auto" or any(settings["dropout"]) else 0
        epochs = 1 if incremental else settings["max_iter"]
        recipe = recipe_of(settings, n, output=self._output, epochs=epochs, dtype=dtype, seed=seed)
        spec = Spec(sizes, recipe.activation, recipe.output, recipe.init)
        batch = recipe.batch_of(n)
        work = work_of(spec, batch, settings["max_iter"] * -(-n // batch))
        backend = backend_for(device_of(self.device, X), work)
        if first:
            flat = draws.weights(spec, random) if settings["init"] == "auto" else initial(spec, seed)
            self._begin(spec, settings, State(flat))
        elif sizes != self._sizes:
            raise DataError(f"the network is {'-'.join(map(str, self._sizes))}, these parameters and data ask for "
                            f"{'-'.join(map(str, sizes))}: fit with warm_start=False")  # fmt: skip
        samples, held_out = Samples(X, y, weights, labels), None
        if validation_data is not None:
            held_out = self._validation(validation_data)
        elif settings["early_stopping"]:
            samples, held_out = self._split(samples, settings, random)
        if held_out is not None:  # n may be fewer
            n = samples.X.shape[0]
            recipe = recipe.but(batch=batch_of(settings, n))
        if (size := settings["batch_size"]) not in ("auto", "full") and size > n and recipe.batch != "full":
            warnings.warn(f"Got `batch_size`={size} and {n} samples: it is clipped to their number", stacklevel=3)
        start, order = self._start(settings, spec, recipe.optimizer, incremental=incremental), draws.Order(random, n)
        last, why = self._run(samples, held_out, recipe, backend, settings, start=start, order=order)
        if recipe.shuffle and recipe.batch == n and not isinstance(self.random_state, Integral):
            order.skip(last.epoch)  # scikit-learn shuffles single batches, too, and the caller may draw from its state
        self._end(last, why, spec, recipe, backend, incremental=incremental)
        return self

    def _run(
        self, samples: Samples, held_out: Samples | None, recipe: Recipe, backend: Backend, settings: dict[str, Any], *,
        start: State, order: Any,
    ) -> tuple[EpochEnded, str]:  # fmt: skip
        """Train on the samples; return what `listen` does. If it fails, the curves are what they were."""
        curves = {name: copy(getattr(self, name)) for name in CURVES}
        try:
            watch = Watch(self, settings, backend, held_out, recipe.dtype)
            X = arrays.for_backend(samples.X, backend, recipe.dtype)
            data = Dataset(X, samples.y, classes=self._loop_classes, name=type(self).__name__)
            events = train(
                data, recipe, device=backend, threads=settings["threads"], sample_weight=samples.weights, monitor=watch,
                start=start, order=order, sample_ids=arrays.row_hashes(X) if any(settings["dropout"]) else None,
            )  # fmt: skip
            return listen(events, watch, settings, recipe.epochs)
        except BaseException:
            self.__dict__.update(curves)  # with a warm start those of the fit before, as the weights are
            raise

    def _begin(self, spec: Spec, settings: dict[str, Any], state: State) -> None:
        """Set the attributes of an untrained network."""
        self.n_layers_ = len(spec.sizes)
        self.n_iter_ = self.t_ = 0
        self.loss_curve_: list[float] = []
        self.validation_scores_: list[float] | None = None
        self.validation_losses_: list[float] | None = None
        self.best_loss_: float | None = None if settings["early_stopping"] else math.inf
        self.best_validation_score_: float | None = -math.inf if settings["early_stopping"] else None
        self._state: State = state
        self._watched: tuple[Any, ...] = ()
        self._set(spec, state.params)

    def _set(self, spec: Spec, flat: Any) -> None:
        self.out_activation_ = {"sigmoid": "logistic"}.get(spec.output, spec.output)
        layers = spec.layers(flat)
        self.coefs_, self.intercepts_ = [W for W, _ in layers], [b[0] for _, b in layers]

    def _start(self, settings: dict[str, Any], spec: Spec, optimizer: str, *, incremental: bool) -> State:
        """The State to start from. partial_fit continues with the optimizer's state; a warm start begins with a new
        optimizer, and so does partial_fit if `solver` has changed.
        """
        state: State = replace(self._state, params=self._flat(spec), epochs=0, order=None, best=None)
        if incremental and state.optimizer == optimizer:
            return state
        patience = state.patience if self._watched == (settings["early_stopping"], settings["monitor"]) else None
        return State(state.params, samples=state.samples, patience=patience)

    def _end(
        self, last: EpochEnded, why: str, spec: Spec, recipe: Recipe, backend: Backend, *, incremental: bool
    ) -> None:
        """Set the attributes of the trained network, and warn if it has not converged."""
        state = last.state()
        early = recipe.early_stopping
        self._state = replace(state, params=None, best=None)
        self._watched = (early, self.monitor)
        self._set(spec, state.best if early else state.params)
        self.device_, self.n_iter_ = backend.device, last.epoch
        self.loss_ = self.loss_curve_[-1]
        stochastic = recipe.optimizer not in FULL_BATCH
        if stochastic:
            self.t_ = state.samples
        if early:
            self.best_validation_score_ = max(self.validation_scores_ or [-math.inf])
        else:
            self.best_loss_ = min(self.best_loss_ if self.best_loss_ is not None else math.inf, min(self.loss_curve_))
        ended = "" if why else f"Maximum iterations ({recipe.epochs})"
        if recipe.max_fun and state.rule["evaluations"] >= recipe.max_fun:
            ended = f"Maximum evaluations ({recipe.max_fun})"
        if ended and not incremental:  # it begins with scikit-learn's words, by which programs filter
            who = "Stochastic Optimizer" if stochastic else f"{self.solver} failed to converge"
            warnings.warn(
                f"{who}: {ended} reached and the optimization hasn't converged yet: raise the limit, or scale the "
                "features.",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _validation(self, validation_data: Any) -> Samples:
        """The held-out Samples from the caller's (X, y) or (X, y, sample_weight)."""
        if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
            raise DataError("validation_data: expected (X, y) or (X, y, sample_weight)")
        X, y, *rest = validation_data
        weights = rest[0] if rest else None
        X, y, weights = arrays.checked(self, X, y, weights, y_numeric=not self._classifies, reset=False)
        return Samples(X, self._encoded(y, first=False, incremental=True), self._weighted(y, weights), y)

    def _split(self, samples: Samples, settings: dict[str, Any], random: Any) -> tuple[Samples, Samples]:
        """(training samples, held-out samples) for early stopping, split as scikit-learn does."""
        n, fraction = samples.X.shape[0], settings["validation_fraction"]
        if not fraction:
            raise ConfigError(
                "validation_fraction=0 with early_stopping=True: expected more than 0, or validation_data"
            )
        parts = train_test_split(
            np.arange(n), random_state=random, test_size=fraction, stratify=self._strata(samples.y)
        )
        if len(parts[1]) < 2:
            raise DataError(
                f"The validation set is too small: validation_fraction={fraction:g} of {n} samples is {len(parts[1])}, "
                "expected 2 or more. Increase validation_fraction or the size of your dataset."
            )
        with gpu_of(samples.X):
            kept, held_out = (Samples(*(None if part is None else part[rows] for part in samples)) for rows in parts)
        return kept, held_out

    # Using

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Those of `coefs_`, which may have been assigned."""
        shapes = [np.shape(W) for W in self.coefs_]
        return (shapes[0][0], *(shape[1] for shape in shapes))

    def _flat(self, spec: Spec, *, copy: bool = True) -> Any:
        """The parameters in `coefs_` and `intercepts_` as one vector (n_params,) of floats."""
        parts = [part for pair in zip(self.coefs_, self.intercepts_, strict=False) for part in pair]
        few = spec.n_params <= arrays.COPIED
        flat = arrays.joined(parts) if copy or few else arrays.undivided(parts)
        if flat.size != spec.n_params:
            raise DataError(
                f"coefs_ of shapes {[np.shape(W) for W in self.coefs_]} and intercepts_ of "
                f"{[np.shape(b) for b in self.intercepts_]} are no network: expected (n_in, n_out) and (n_out,), and "
                "the n_out of each layer as the n_in of the next"
            )
        return flat if flat.dtype.char in "fd" else flat.astype("float64")

    def _spec(self) -> Spec:
        if self.activation not in ACTIVATIONS:  # set_params may have changed it since fit
            raise ConfigError(f"activation={self.activation!r}: {choices(self.activation, ACTIVATIONS)}")
        output = ACTIVATIONS.get(self.out_activation_, self.out_activation_)  # as it was in fit
        return Spec(self._sizes, ACTIVATIONS[self.activation], output)

    @property
    def model_(self) -> Model:
        """The network as an fcgpu.Model, a copy. Raises AttributeError for labels that a Model does not support."""
        check_is_fitted(self)
        try:
            names = tuple(getattr(self, "feature_names_in_", ())) or None
            spec = self._spec()
            return Model(spec, self._flat(spec), self._model_classes(), feature_names=names)
        except FcgpuError as error:  # hasattr, which notebooks call for every attribute, expects AttributeError
            raise AttributeError(str(error)) from error

    def _outputs(self, X: Any, method: str) -> tuple[Any, Any]:
        """(outputs (n, n_outputs), the way back to the kind of array that X is)."""
        if not hasattr(self, "coefs_"):
            check_is_fitted(self)
        taken = arrays.given(X)
        arrays.same_namespace(self, taken, method)
        X, spec = arrays.checked_features(self, taken.array), self._spec()
        if X.shape[1] != spec.sizes[0]:
            raise DataError(f"X has {X.shape[1]} features, but coefs_[0] is for {spec.sizes[0]}")
        backend = backend_for(device_of(self.device, X), work_of(spec, X.shape[0]))
        flat = backend.to_device(self._flat(spec, copy=False))
        X = arrays.for_backend(X, backend, flat.dtype)
        return outputs(spec, flat, X, backend, self.threads, activate=True), taken.back


def backend_for(device: str, work: Work | None = None) -> Backend:
    """The backend for `device`, chosen once per process; a forked child chooses again, because CUDA does not survive a
    fork. Small work is decided without looking for a GPU.
    """
    if device == "auto" and work is not None and work.is_small:
        device = "cpu"
    return _backend_of(device, os.getpid())


@cache
def _backend_of(device: str, process: int) -> Backend:
    return choose(device)
