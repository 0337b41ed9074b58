"""A trained network and what is needed to use it: predictions, and their scores."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fcgpu.backend import Backend, choose, gpu_of, namespace_of, on_gpu
from fcgpu.data.dataset import Dataset, dataset, picture_shape, targets
from fcgpu.data.features import check_features, parts
from fcgpu.data.labels import are_classes, are_whole, array_of, encode_labels, not_a_label, shown
from fcgpu.data.names import Names, check_names, names_of
from fcgpu.errors import ConfigError, DataError, DivergenceError, whole
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.outputs import outputs
from fcgpu.params import Spec

FEW_LOGITS = 1 << 14  # up to so many are looked at by the host: that is sooner done than launched


def expect_model(given: Any) -> None:
    """Raise ConfigError unless `given` is a Model."""
    if not isinstance(given, Model):
        raise ConfigError(f"{type(given).__name__}: expected a Model, which a fitted estimator has as model_")


class Score(NamedTuple):
    """The result of `Model.score`.

    loss : mean over samples of the sum over outputs, without the regulariser.
    accuracy : fraction of samples whose label is correct, from 0 to 1; None for a model without classes.
    samples : their number.
    r2 : R², the mean over targets, as in scikit-learn; None but for a regression on 2 samples or more.
    """

    loss: float
    accuracy: float | None
    samples: int
    r2: float | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its parameters, and the meaning of its inputs and outputs.

    spec : the network.
    params : (n_params,) float32 or float64, on the host; spec.layers(params) gives views of each layer's W and b.
    classes : the labels of the outputs, in their order; None for a regression.
    scale : factor by which features are multiplied before the first layer, such as 1/255 for pixels.
    image_shape : (height, width) or (height, width, 3) if samples are flattened pictures, else None.
    recipe : name of the recipe that it was trained with.
    feature_names : (n_features,) names, if the training data had any, else None.

    Raises ConfigError if `params` are of another shape or type, or another part does not fit the network.
    """

    spec: Spec
    params: Any = field(repr=False)
    classes: tuple[int | str, ...] | None = None
    scale: float = 1.0
    image_shape: tuple[int, ...] | None = None
    recipe: str = "custom"
    feature_names: Names = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape, dtype = (getattr(self.params, name, None) for name in ("shape", "dtype"))
        if shape != (self.spec.n_params,) or dtype not in (np.float32, np.float64):
            found = type(self.params).__name__ if shape is None else f"shape {shape} and dtype {dtype}"
            raise ConfigError(
                f"params: {found}; expected an array of this network's {self.spec.n_params} parameters, float32 or "
                "float64 in this machine's byte order"
            )
        n_features, n_outputs = self.spec.sizes[0], self.spec.sizes[-1]
        shape, names = picture_shape(self.image_shape), self.feature_names
        n_classes = max(2, n_outputs) if OUTPUTS[self.spec.output].classifies else 0
        if self.classes is not None and not (are_classes(self.classes) and len(self.classes) == n_classes):
            raise ConfigError(
                f"classes=[{shown(self.classes)}] for {n_outputs} outputs of {self.spec.output}: expected a different "
                "whole number or text for each (int or str), two for a single sigmoid, and none for values"
            )
        if self.image_shape is not None and (shape is None or math.prod(shape) != n_features):
            raise ConfigError(
                f"image_shape={self.image_shape} for {n_features} features: expected (height, width) or "
                "(height, width, 3) of as many pixels"
            )
        if names is not None and (len(names) != n_features or not all(isinstance(name, str) for name in names)):
            raise ConfigError(f"{len(names)} feature_names for {n_features} features: expected a text for each")
        if not isinstance(self.scale, int | float) or not math.isfinite(self.scale):
            raise ConfigError(f"scale={self.scale!r}: expected a finite number")
        if not isinstance(self.recipe, str):
            raise ConfigError(f"recipe={self.recipe!r}: expected its name")

    def predict_proba(self, X: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Any:
        """Probabilities (n, n_classes) in the dtype of `params`; without classes the values (n, n_outputs).

        X : (n, n_features), unscaled, as the training data were.
        device : None for where X is, else "cpu", "cuda", "cuda:N", "auto" or a Backend.
        threads : CPU threads; None for all processors, or OMP_NUM_THREADS if that is less. They change no bit.

        X is processed in tiles, so memory is bounded. The result is on X's device.
        Raises DataError if X does not fit the model, or is a DataFrame with other columns than in training; ConfigError
        for threads below 1 or X on another GPU, DeviceError if the device cannot be used, DivergenceError if an output
        is not finite.
        """
        P = self._outputs(X, device, threads, activate=True)
        return of_both(P) if self.classes is not None and P.shape[1] == 1 else P

    def decision_function(self, X: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Any:
        """The logits (n, n_outputs), from which `predict_proba` is computed; for two classes n_outputs may be 1.

        Arguments, device and errors are those of `predict_proba`.
        """
        return self._outputs(X, device, threads)

    def predict(self, X: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Any:
        """The label of each sample, (n,); without classes the values, (n,) or (n, n_outputs).

        The result is on the host. Arguments and errors are those of `predict_proba`.
        """
        backend = backend_of(device, X)
        if self.classes is None:
            values = backend.to_host(self.predict_proba(X, device=backend, threads=threads))
            return values[:, 0] if values.shape[1] == 1 else values
        return array_of(self.classes)[self.predict_index(X, device=backend, threads=threads)]

    def predict_index(self, X: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Any:
        """As `predict`, but indices (n,) into `classes`. The logits are in memory for some samples at a time."""
        backend = backend_of(device, X)
        X = self._features(X, backend)
        index = np.empty(X.shape[0], np.intp)
        for rows in self._parts(X.shape[0]):
            Z = self._computed(X[rows], backend, threads, few=FEW_LOGITS, first=rows.start)
            with backend.current():
                index[rows] = backend.to_host(class_index(Z))
        return index

    def score(self, X: Any, y: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Score:
        """Score on X (n, n_features) and y: labels (n,), or for a regression targets (n,) or (n, n_outputs).

        Raises DataError for a label that is not in `classes` and for another number of labels than samples; else as
        `predict_proba`.
        """
        check_names(names_of(X), self.feature_names, "X and y")
        samples = dataset(X, y, name="X and y")
        return self.score_encoded(samples.X, self.targets(samples, samples.y), device=device, threads=threads)

    def score_encoded(
        self, X: Any, y: Any, *, device: str | Backend | None = None, threads: int | None = None
    ) -> Score:
        """As `score`, but y are class indices (n,), or targets (n,) or (n, n_outputs), and they are not checked."""
        backend = backend_of(device, X)
        X = self._features(X, backend)

        def logits(rows: slice) -> Any:
            return backend.to_host(self._computed(X[rows], backend, threads, first=rows.start))

        return self._score(X.shape[0], logits, y, None)

    def score_logits(self, Z: Any, y: Any, weights: Any = None) -> Score:
        """Score of logits Z (n, n_outputs) on the host, against y as in `score_encoded`. Z is not changed.

        weights : (n,), not all 0, for weighted means; None for equal weights.
        Raises DataError for targets of another shape than Z.
        """
        return self._score(len(Z), Z.__getitem__, y, weights)

    def _score(self, n: int, logits: Callable[[slice], Any], y: Any, weights: Any) -> Score:
        """`score_logits` of n samples, some at a time: `logits` returns those of a slice of them."""
        shares = np.full(n, 1 / n) if weights is None else weights / np.sum(weights, dtype=float)
        output, accuracy, r2 = OUTPUTS[self.spec.output], None, None
        if self.classes is None and (y := y.reshape(len(y), -1)).shape != (n, self.spec.sizes[-1]):
            raise DataError(f"targets of shape {y.shape} don't match the model: expected {(n, self.spec.sizes[-1])}")
        losses, right, errors = np.empty((n, 1)), np.empty(n, bool), np.zeros(self.spec.sizes[-1])
        with np.errstate(all="ignore"):  # a loss may overflow to infinity, an exponential underflow to 0
            for rows in self._parts(n):
                Z = logits(rows)
                if self.classes is not None:
                    right[rows] = class_index(Z) == y[rows]
                Z = Z.astype(np.float64)
                output.measure(Z, y[rows], shares[rows, None], losses[rows], xp=np)
                if not output.classifies:
                    output.mean(Z, 0.0, xp=np)
                    errors += weighted_sum(shares[rows], (y[rows] - Z) ** 2)
            if not output.classifies and n > 1:
                r2 = float(r2_of(y, errors, shares).mean())
        if self.classes is not None:
            accuracy = float(np.mean(right) if weights is None else shares[right].sum())
        return Score(float(losses.sum()), accuracy, n, r2)

    def _parts(self, n: int) -> Iterator[slice]:
        """Slices of n samples such that the logits of one take little memory."""
        return parts((n, self.spec.sizes[-1]))

    def targets(self, data: Dataset, y: Any) -> Any:
        """y, an array of `data`, as `score_encoded` takes it: indices into this model's classes, or targets
        (n, n_outputs).

        Raises DataError for a label that is not in `classes`, and for another number of targets than outputs.
        """
        if self.classes is None:
            values = targets(data, y)
            if values.shape[1] != self.spec.sizes[-1]:
                raise DataError(
                    f"{data.name}: {values.shape[1]} targets a sample don't match the model: "
                    f"expected {self.spec.sizes[-1]}"
                )
            return values
        if data.classes is not None:
            y = array_of(data.classes)[y]
        elif not_labels := [part for part in (data.y, y) if not are_whole(part)]:
            raise DataError(
                f"{data.name}: expected labels among the model's classes {shown(self.classes)}, "
                f"found {not_a_label(not_labels[0])}"
            )
        return encode_labels(y, self.classes, data.name)

    def _outputs(self, X: Any, device: str | Backend | None, threads: int | None, *, activate: bool = False) -> Any:
        """`outputs` of X, all finite, on X's device."""
        backend = backend_of(device, X)
        return self._computed(self._features(X, backend), backend, threads, activate=activate)

    def _features(self, X: Any, backend: Backend) -> Any:
        """X as an array of this model's features."""
        check_names(names_of(X), self.feature_names, "X")
        if not (backend.holds(X) and X.ndim == 2 and X.size):  # numbers on a GPU are not looked at: the outputs are
            X = check_features(X, "X")
        if X.shape[1] != self.spec.sizes[0]:
            raise DataError(
                f"X has {X.shape[1]} features, the model was trained with {self.spec.sizes[0]}; "
                "give the same columns as in training"
            )
        return X

    def _computed(
        self, X: Any, backend: Backend, threads: int | None, *, activate: bool = False, few: int = 0, first: int = 0
    ) -> Any:
        """`outputs` of the array X, all finite, on X's device; on the host if there are no more than `few` numbers.

        first : the number of its first sample, for an error message.
        """
        threads = whole("threads", threads)
        remedy = "free its memory, or use device='cpu'"
        with backend.enough_memory(remedy), np.errstate(all="ignore"):  # infinity and NaN are an error below
            params = backend.to_device(self.params)
            out = outputs(self.spec, params, X, backend, threads, self.scale, activate=activate)
            out = backend.to_host(out) if out.size <= few else out
            xp = backend.xp if backend.holds(out) else np
            finite = xp.isfinite(out)
            if not bool(xp.all(finite)):  # waits for the device
                sample = first + int(np.argmin(backend.to_host(finite).all(axis=1)))
                raise DivergenceError(
                    f"the model's outputs for sample {sample} are not finite: expected features of the scale it was "
                    f"trained on, in the range of {self.params.dtype}"
                )
        return out


def weighted_sum(shares: Any, values: Any) -> Any:
    """shares @ values, (n,) times (n, n_outputs), in an order that does not depend on BLAS's threads."""
    return (shares[:, None] * values).sum(axis=0)


def r2_of(y: Any, errors: Any, shares: Any) -> Any:
    """R² (n_outputs,), 1 - Σ (y - predicted)² / Σ (y - mean)², of each target y (n, n_outputs).

    errors : (n_outputs,) mean squared errors by `shares`, (n,) weights that add up to 1. A constant target counts as 1
        if all predictions are right, else as 0.
    """
    spread = weighted_sum(shares, (y - weighted_sum(shares, y)) ** 2)
    varies = np.ptp(y[shares > 0], axis=0) > 0
    return np.where(varies, 1 - errors / np.where(varies, spread, 1), errors == 0)


def backend_of(device: str | Backend | None, X: Any) -> Backend:
    """The backend for `device`, by default where X is. Raises ConfigError, DeviceError."""
    return choose(device or ("auto" if on_gpu(X) else "cpu"), X=X)


def confusion(y: Any, predicted: Any, n_classes: int) -> Any:
    """The confusion matrix (n_classes, n_classes): rows are the true classes y (n,), columns the predicted ones."""
    return np.bincount(n_classes * y + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def of_both(P: Any) -> Any:
    """The probabilities (n, 2) of two classes, from P (n, 1), the probability of the second."""
    xp = namespace_of(P)
    with gpu_of(P):
        return xp.concatenate([1 - P, P], axis=1)


def class_index(Z: Any) -> Any:
    """The predicted class indices (n,) from logits (n, n_outputs); a single output means class 1 if it is positive."""
    return (Z[:, 0] > 0).astype(np.intp) if Z.shape[1] == 1 else Z.argmax(axis=1)
