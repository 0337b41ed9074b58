"""Logits of small batches, kept until there are enough to compute their losses in one call.

A step needs only the gradient of its loss; the loss itself is not needed before the epoch ends. For a batch of ten it
would take as long as the products of a layer.
"""

from typing import Any

import numpy as np

from fcgpu.network import Network

BYTES = 256 << 10  # of logits that are measured at once, so that they are still in the cache


class KeptLogits:
    """The logits (rows, n_outputs) of the batches since `measured`, with their targets and, if any, weights."""

    def __init__(self, net: Network, batch: int, samples: int, dtype: Any, *, count: bool) -> None:
        rows = max(batch, min(samples, BYTES // (np.dtype(dtype).itemsize * net.spec.sizes[-1])))
        self._net, self._count, self._share = net, count, 1 / samples
        self._logits = np.empty((rows, net.spec.sizes[-1]), dtype)
        self._losses, self._correct = np.empty((rows, 1), dtype), np.empty((rows,), bool)
        self._loss, self._right, self._used = 0.0, 0, 0
        self._y: list[Any] = []
        self._weights: list[Any] = []

    def room(self, y: Any, weight: Any = None) -> Any:
        """A buffer (n, n_outputs) for the logits of a batch with targets y (n, ...).

        weight (n, 1) multiplies the losses; if it is None, they are divided by the number of samples of the run.
        """
        if self._used + len(y) > len(self._logits):
            self._measure()
        start, self._used = self._used, self._used + len(y)
        self._y.append(y)
        if weight is not None:
            self._weights.append(weight)
        return self._logits[start : self._used]

    def measured(self) -> tuple[float, int]:
        """(Σ weight * loss, number of correct predictions) of all samples since the last call."""
        self._measure()
        measured, self._loss, self._right = (self._loss, self._right), 0.0, 0
        return measured

    def _measure(self) -> None:
        Z, losses, correct = (a[: self._used] for a in (self._logits, self._losses, self._correct))
        y, weight = np.concatenate(self._y), np.concatenate(self._weights) if self._weights else self._share
        self._net.measure(Z, y, weight, losses)
        self._loss += float(losses.sum(dtype=np.float64))
        if self._count:
            self._net.kernels.count_correct(Z, y, correct)
            self._right += int(np.count_nonzero(correct))
        self._used, self._y, self._weights = 0, [], []
