"""A trained network with what is needed to use it: predict, and judge the predictions."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fcgpu.backend import Backend, beside, choose, device_of, namespace_of, on_gpu
from fcgpu.data.dataset import Dataset, check_features, dataset, encode_labels, not_a_label, shown, targets, type_of
from fcgpu.errors import ConfigError, DataError, DivergenceError, whole
from fcgpu.host import cpu_count
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.network import Network, Workspace
from fcgpu.params import Layer, Spec
from fcgpu.workers import Workers

TILE_BYTES = 4 << 20  # of buffers, for a tile of predictions on the CPU: about what a core's caches hold
GPU_TILE_BYTES = 256 << 20

Compute = Callable[[Network, Sequence[Layer], Workspace], Any]


def expect_model(given: Any) -> None:
    """Raises ConfigError for what is no Model."""
    if not isinstance(given, Model):
        raise ConfigError(f"{type(given).__name__}: expected a Model, which a fitted estimator has as model_")


class Score(NamedTuple):
    loss: float  # mean over samples of the sum over outputs, without the regulariser
    accuracy: float | None  # None where the output is not one of classes
    samples: int


@dataclass(frozen=True, eq=False)
class Model:
    """params (n_params,) on the host, and the meaning of its inputs and outputs.

    `classes` is None for a regression. Features are multiplied by `scale` (a pixel's 1/255) before the first layer.
    """

    spec: Spec
    params: Any
    classes: tuple[int | str, ...] | None = None
    scale: float = 1.0
    image_shape: tuple[int, ...] | None = None
    recipe: str = "custom"

    def predict_proba(self, X: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Any:
        """Probabilities (n, n_classes) in the type of `params`; without classes the values (n, n_outputs).

        X is (n, n_features), as unscaled as the training data, and is taken in tiles: memory stays bounded. Computed
        where X lies, on the CPU or its GPU, unless `device` says "cuda" or "cuda:N"; the answer lies where X does.
        Raises DataError where X does not fit the model, ConfigError for threads below 1, DeviceError where the device
        cannot work, DivergenceError where the outputs are not finite.
        """
        P = self._outputs(X, device, threads, Network.predict)
        return of_both(P) if self.classes is not None and P.shape[1] == 1 else P

    def decision_function(self, X: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Any:
        """The logits (n, n_outputs): what `predict_proba` is computed from. For two classes there may be one."""
        return self._outputs(X, device, threads, Network.forward)

    def predict(self, X: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Any:
        """The class of each sample (n,), as `classes` has it; for a regression the values (n,) or (n, n_outputs).

        On the host, wherever X is.
        """
        backend = where(device, X)
        if self.classes is None:
            values = backend.to_host(self.predict_proba(X, device=backend, threads=threads))
            return values[:, 0] if values.shape[1] == 1 else values
        Z = self.decision_function(X, device=backend, threads=threads)
        return np.asarray(self.classes, dtype=type_of(self.classes))[class_index(backend.to_host(Z))]

    def score(self, X: Any, y: Any, *, device: str | Backend | None = None, threads: int | None = None) -> Score:
        """Loss and accuracy on X (n, n_features) and y: labels (n,), or targets (n,) or (n, n_outputs).

        Raises DataError for a label that is none of the classes, and for more or fewer of them than samples.
        """
        samples = dataset(X, y, name="X and y")
        return self.score_encoded(samples.X, self.targets(samples, samples.y), device=device, threads=threads)

    def score_encoded(
        self, X: Any, y: Any, *, device: str | Backend | None = None, threads: int | None = None
    ) -> Score:
        """As `score`, of class indices (n,) or targets (n,) or (n, n_outputs), which are not looked at."""
        backend = where(device, X)
        return self.score_logits(backend.to_host(self.decision_function(X, device=backend, threads=threads)), y)

    def score_logits(self, Z: Any, y: Any, weights: Any = None) -> Score:
        """Loss and accuracy of logits Z (n, n_outputs) against y, as `score_encoded`; Z is left as it is.

        weights (n,), not all 0, make means of loss and accuracy weighted ones.
        """
        shares = np.full(len(Z), 1 / len(Z)) if weights is None else weights / np.sum(weights, dtype=float)
        accuracy = None
        if self.classes is not None:
            accuracy = float(np.mean(class_index(Z) == y) if weights is None else shares @ (class_index(Z) == y))
        else:
            y = y.reshape(len(y), -1)
            if y.shape != Z.shape:
                raise DataError(f"targets of shape {y.shape} don't match the model: expected {Z.shape}")
        losses = np.empty((len(Z), 1))
        with np.errstate(all="ignore"):  # the loss of outputs that large is infinite, of others 0
            OUTPUTS[self.spec.output].measure(Z.astype(np.float64), y, shares[:, None], losses, xp=np)
        return Score(float(losses.sum()), accuracy, len(Z))

    def targets(self, data: Dataset, y: Any) -> Any:
        """y of `data` as `score` takes it: indices into this model's classes, or targets (n, n_outputs).

        Raises DataError for a label that is none of the classes, and for targets of another number.
        """
        if self.classes is None:
            values = targets(data, y)
            if values.shape[1] != self.spec.sizes[-1]:
                raise DataError(
                    f"{data.name}: {values.shape[1]} targets a sample don't match the model: "
                    f"expected {self.spec.sizes[-1]}"
                )
            return values
        if data.classes is None:
            raise DataError(
                f"{data.name}: expected labels among the model's classes {shown(self.classes)}, "
                f"found {not_a_label(data.y)}"
            )
        return encode_labels(np.asarray(data.classes, dtype=type_of(data.classes))[y], self.classes, data.name)

    def _outputs(self, X: Any, device: str | Backend | None, threads: int | None, compute: Compute) -> Any:
        backend, threads = where(device, X), whole("threads", threads)
        if not backend.holds(X):
            X = check_features(X, "X")
        if X.shape[1] != self.spec.sizes[0]:
            raise DataError(
                f"X has {X.shape[1]} features, the model was trained with {self.spec.sizes[0]}; "
                "give the same columns as in training"
            )
        with backend.enough_memory("free its memory, or use device='cpu'"):
            out = in_tiles(compute, self.spec, backend.to_device(self.params), X, backend, threads, self.scale)
            xp = backend.xp if backend.holds(out) else np
            finite = backend.to_host(xp.all(xp.isfinite(out), axis=1))
        if not finite.all():
            raise DivergenceError(
                f"the model's outputs for sample {int(np.argmin(finite))} are not finite: expected features of the "
                f"scale it was trained on, in the range of {self.params.dtype}"
            )
        return out


def where(device: str | Backend | None, X: Any) -> Backend:
    """The backend for `device`; by default the one of X."""
    if isinstance(device, Backend):
        device_of(device.device, X)
        return device
    return choose(device or ("auto" if on_gpu(X) else "cpu"), X=X)


def in_tiles(
    compute: Compute, spec: Spec, params: Any, X: Any, backend: Backend, threads: int | None, scale: float = 1.0
) -> Any:
    """compute(net, layers, work) (n, n_outputs) for X (n, n_features), tile by tile, so that memory stays bounded.

    params (n_params,) is on the device. The answer is on the device where X is, else on the host. Nothing is checked.
    """

    def in_tiles_of(tile: int) -> Any:
        with backend.current():
            return _in_tiles(compute, spec, params, X, backend, threads, scale, tile)

    row = params.dtype.itemsize * Workspace.values(spec)
    if not backend.on_gpu:
        return in_tiles_of(max(16, TILE_BYTES // row))
    tile = min(X.shape[0], max(1, min(GPU_TILE_BYTES, backend.memory() // 2) // (row + X.dtype.itemsize * X.shape[1])))
    while tile > 1:
        try:
            return in_tiles_of(tile)
        except Exception as error:
            if not backend.ran_out(error):
                raise
        backend.give_back()
        tile = -(-tile // 2)
    return in_tiles_of(1)


def _in_tiles(
    compute: Compute, spec: Spec, params: Any, X: Any, backend: Backend, threads: int | None, scale: float, tile: int
) -> Any:
    net, xp, dtype, n = Network(spec, backend, scale=scale), backend.xp, params.dtype, X.shape[0]
    layers = spec.layers(params)
    workers = Workers(1 if backend.on_gpu else threads or cpu_count())
    tile = min(n, tile)
    n_tiles = -(-n // tile)
    free = deque(Workspace(spec, tile, dtype, xp, backward=False) for _ in range(min(workers.threads, n_tiles)))
    resident = backend.holds(X)
    out = (xp if resident else np).empty((n, spec.sizes[-1]), dtype)

    def one(i: int) -> None:
        rows = slice(i * tile, min(n, (i + 1) * tile))
        part = X[rows] if resident else backend.to_device(X[rows])
        whole = free.pop()
        work = net.load(part, slice(None), whole.head(rows.stop - rows.start, spec.sizes[0]))
        answer = compute(net, layers, work)
        out[rows] = answer if resident else backend.to_host(answer)
        free.append(whole)

    try:
        with workers.quiet():
            workers.run(one, n_tiles)
    finally:
        workers.close()
    return out


def confusion(y: Any, predicted: Any, n_classes: int) -> Any:
    """(n_classes, n_classes): of how many samples of a class, its row, which class was predicted."""
    return np.bincount(n_classes * y + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def of_both(P: Any) -> Any:
    """The probabilities (n, 2) of two classes from P (n, 1), the second one's."""
    xp = namespace_of(P)
    with beside(P):
        return xp.concatenate([1 - P, P], axis=1)


def class_index(Z: Any) -> Any:
    """The class (n,) that logits (n, n_outputs) speak for; one output speaks for class 1 where it is positive."""
    return (Z[:, 0] > 0).astype(np.intp) if Z.shape[1] == 1 else np.argmax(Z, axis=1)
