"""A network's forward and backward pass over one tile of samples: the equations, in order.

    forward   Z = A W + b,  A = g(Z)
    loss      from the logits Z of the last layer, which it overwrites with dZ
    backward  dW = Aᵀ dZ,  db = Σ dZ,  dA = dZ Wᵀ,  dZ = dA g'(Z)

With dropout, in training only, a hidden A is masked after g, and its dA before g'.

What is left out on purpose: cutting a batch into tiles and adding up their gradients (`train/evaluate.py`), threads,
and optimizers.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fcgpu.backend import Backend
from fcgpu.kernels import Kernels, compiled
from fcgpu.kernels.dense import is_sparse
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import Layer, Spec


class Workspace:
    """All buffers that the passes over up to `rows` samples write, allocated once.

    A[0] is the tile (rows, n_features), A[l] the output of layer l, A[-1] the logits. dA[l] is the gradient of A[l],
    and keep[l] its dropout mask, if there is dropout.
    """

    def __init__(
        self, spec: Spec, rows: int, dtype: Any, xp: Any, *, backward: bool = True, dropout: Sequence[float] = ()
    ) -> None:
        self.A = [xp.empty((rows, n), dtype=dtype) for n in spec.sizes]
        self.dA = [None, *(xp.empty((rows, n), dtype=dtype) for n in spec.sizes[1:-1])] if backward else []
        self.keep = [None, *(xp.empty((rows, n), dtype=bool) for n, _ in zip(spec.sizes[1:-1], dropout, strict=False))]
        if backward:
            self.ones = xp.ones((1, rows), dtype=dtype)
            self.losses = xp.empty((rows, 1), dtype=dtype)
            self.correct = xp.empty((rows,), dtype=bool)
        self._heads: dict[tuple[int, int], Workspace] = {}

    def head(self, rows: int, width: int) -> "Workspace":
        """Views of the buffers' first `rows` rows, and of the first `width` features: for a smaller tile."""
        found = self._heads.get((rows, width))
        if found is None:
            found = self.over(self.A[0][:rows, :width])
            found.A[1:] = [a[:rows] for a in self.A[1:]]
            found.dA, found.keep = ([a if a is None else a[:rows] for a in buffers] for buffers in (self.dA, self.keep))
            if self.dA:
                found.ones, found.losses, found.correct = self.ones[:, :rows], self.losses[:rows], self.correct[:rows]
            self._heads[rows, width] = found
        return found

    def over(self, tile: Any) -> "Workspace":
        """A workspace with `tile` as A[0] and the same buffers otherwise."""
        made = copy(self)
        made.A, made._heads = [tile, *self.A[1:]], {}
        return made

    @staticmethod
    def numbers_per_row(spec: Spec) -> int:
        """How many numbers a workspace has for each of its rows: A, dA, ones and losses."""
        return sum(spec.sizes) + sum(spec.sizes[1:-1]) + 2


def effective_spec(spec: Spec, X: Any) -> Spec:
    """The Spec by which to estimate work and memory: features of a sparse X that are 0 in a row do not count."""
    return replace(spec, sizes=(-(-X.nnz // X.shape[0]) or 1, *spec.sizes[1:])) if is_sparse(X) else spec


class Products(NamedTuple):
    """The matrix products of each layer, as functions without arguments.

    For small batches `train/bound.py` makes others, which are bound to their arrays once and for all steps.
    """

    forward: Sequence[Callable[[], Any]]  # Z from A and W
    backward: Sequence[Callable[[], Any]]  # db, dW and dA from dZ


class Network:
    """A Spec bound to the kernels of a backend. The parameters are arguments: `layers` are views into a flat vector.

    dropout : fraction of units dropped in each hidden layer in training; empty for none.
    scale : factor of the features; it is applied in the products of the first layer.
    """

    def __init__(self, spec: Spec, backend: Backend, dropout: Sequence[float] = (), scale: float = 1.0) -> None:
        self.spec, self.dropout, self.scale = spec, dropout, scale
        self.kernels, self._on_gpu = Kernels(backend), backend.on_gpu
        self._multiplies_bytes = not backend.on_gpu and compiled.multiplies_bytes()
        self.scales = [scale] + [1.0] * (len(spec.sizes) - 2)
        self._output = OUTPUTS[spec.output]

    def load(self, X: Any, rows: Any, work: Workspace) -> Workspace:
        """`work` with X[rows] as its tile: converted to its dtype, or as it is if the products take that.

        rows : None for all; a slice of a sparse matrix takes SciPy 50 µs.
        """
        as_it_lies = self._on_gpu and X.dtype == work.A[0].dtype and X.flags.c_contiguous
        if as_it_lies or self.takes_bytes(X) or is_sparse(X):
            return work.over(X if rows is None else X[rows])
        self.kernels.load_tile(X, slice(None) if rows is None else rows, work.A[0])
        return work

    def takes_bytes(self, X: Any) -> bool:
        """Whether X is uint8 and the products take it without conversion."""
        return self._multiplies_bytes and X.dtype == np.uint8

    def products(self, layers: Sequence[Layer], work: Workspace, gradients: Sequence[Layer] = ()) -> Products:
        """The products from the tile work.A[0] to the logits work.A[-1] and, if given, back to `gradients`."""
        A, dA, K = work.A, work.dA, self.kernels
        forward = [
            partial(K.dense_forward, A[i], W, A[i + 1], scale)
            for i, ((W, _), scale) in enumerate(zip(layers, self.scales, strict=True))
        ]
        backward = [
            partial(K.dense_backward, dZ, A[i], layers[i].W, work.ones, dW, db, dA[i], self.scales[i])
            for i, (dZ, (dW, db)) in enumerate(zip([*dA[1:], A[-1]], gradients, strict=False))
        ]
        return Products(forward, backward)

    def to_logits(
        self, products: Products, layers: Sequence[Layer], work: Workspace, keys: Any = None, ids: Any = None
    ) -> Any:
        """Overwrite A[1:] from the tile A[0]; return A[-1], the logits (n, n_outputs) without their bias.

        keys (n_hidden, 2) and the samples' ids (n,), both uint32, determine dropout's masks; without ids none is used.
        """
        A, last = work.A, len(work.A) - 1
        activation = getattr(self.kernels, self.spec.activation)
        for i, (multiply, (_, b)) in enumerate(zip(products.forward, layers, strict=True), start=1):
            multiply()
            if i < last:
                activation(A[i], b)
                if ids is not None:
                    self.kernels.dropout(A[i], work.keep[i], keys[i - 1], ids, self.dropout[i - 1])
        return A[last]

    def forward(self, layers: Sequence[Layer], work: Workspace) -> Any:
        """Overwrite A[1:] from the tile A[0]; return the logits A[-1] (n, n_outputs)."""
        Z = self.to_logits(self.products(layers, work), layers, work)
        self.kernels.identity(Z, layers[-1].b)
        return Z

    def predict(self, layers: Sequence[Layer], work: Workspace) -> Any:
        """The forward pass with the output activation: probabilities or, for a regression, values, (n, n_outputs)."""
        Z = self.to_logits(self.products(layers, work), layers, work)
        return self.activate(Z, layers[-1].b)

    def activate(self, Z: Any, b: Any = 0) -> Any:
        """Overwrite the logits Z (n, n_outputs), to which b is added first, with the outputs."""
        getattr(self.kernels, self._output.prediction)(Z, b)
        return Z

    def backward(self, products: Products, work: Workspace) -> None:
        """The backward pass: fill the products' gradients, from A after `to_logits` and dZ in A[-1]."""
        A, dA = work.A, work.dA
        derivative = getattr(self.kernels, f"{self.spec.activation}_backward")
        for below in reversed(range(len(products.backward))):
            products.backward[below]()
            if below:
                if self.dropout:
                    self.kernels.dropout_backward(A[below], dA[below], work.keep[below], self.dropout[below - 1])
                derivative(A[below], dA[below])

    def measure(self, Z: Any, y: Any, weight: Any, losses: Any) -> None:
        """Fill losses (n, 1) from logits Z (n, n_outputs); targets y and weight are as in `kernels/losses.py`."""
        getattr(self.kernels, self._output.loss)(Z, y, weight, losses)

    def _delta(self, Z: Any, b: Any, y: Any, weight: Any) -> None:
        getattr(self.kernels, f"{self._output.loss}_delta")(Z, b, y, weight)

    def loss_and_gradient(
        self,
        layers: Sequence[Layer],
        gradients: Sequence[Layer],
        work: Workspace,
        y: Any,
        weight: Any,
        *,
        count: bool = False,
        factor: Any = None,
        keys: Any = None,
        ids: Any = None,
    ) -> None:
        """Forward and backward over the tile in work.A[0]: fill `gradients`, work.losses and, if `count`, work.correct.

        y and weight are as in `kernels/losses.py`, keys and ids as in `to_logits`. factor (1,), if given, multiplies
        the gradients; it is applied to the last dZ, the smallest array.
        """
        products = self.products(layers, work, gradients)
        Z = self.to_logits(products, layers, work, keys, ids)
        self.kernels.identity(Z, layers[-1].b)
        if count:
            self.kernels.count_correct(Z, y, work.correct)
        self.measure(Z, y, weight, work.losses)
        self._delta(Z, 0, y, weight)
        if factor is not None:
            Z *= factor
        self.backward(products, work)

    def logits_and_gradient(
        self, products: Products, b: Any, work: Workspace, y: Any, weight: Any, logits: Any
    ) -> None:
        """What `loss_and_gradient` does after `to_logits`, but fill logits (n, n_outputs) instead of their losses.

        b (1, n_outputs) is the last layer's.
        """
        Z = work.A[-1]
        np.add(Z, b, out=logits)
        self._delta(Z, b, y, weight)
        self.backward(products, work)
