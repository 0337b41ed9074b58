"""A network's forward and backward pass over one tile of samples: the equations in order, and nothing else.

    forward   Z = A W + b,  A = g(Z)
    loss      from the logits Z of the last layer, which it overwrites with dZ
    backward  dW = Aᵀ dZ,  db = Σ dZ,  dA = dZ Wᵀ,  dZ = dA g'(Z)

With dropout, in training only, a hidden A is masked after g, and its dA before g'.

What stays out on purpose: where the tile came from, threads, optimizers. `train/step.py` deals tiles and sums up.
"""

from collections.abc import Sequence
from typing import Any

from fcgpu.backend import Backend
from fcgpu.kernels import kernels_for
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import Layer, Spec


class Workspace:
    """Every buffer that a pass over up to `rows` samples writes, allocated once.

    A[0] is the tile (rows, n_features), A[l] the output of layer l, A[-1] the logits; dA[l] is the gradient of A[l] and
    keep[l] the mask of its dropout, where there is one.
    """

    def __init__(
        self, spec: Spec, rows: int, dtype: Any, xp: Any, *, backward: bool = True, dropout: Sequence[float] = ()
    ) -> None:
        self.rows = rows
        self.A = [xp.empty((rows, n), dtype=dtype) for n in spec.sizes]
        self.dA = [None, *(xp.empty((rows, n), dtype=dtype) for n in spec.sizes[1:-1])] if backward else []
        self.keep = [None, *(xp.empty((rows, n), dtype=bool) for n, _ in zip(spec.sizes[1:-1], dropout, strict=False))]
        self.ones = xp.ones((1, rows), dtype=dtype)
        self.losses = xp.empty((rows, 1), dtype=dtype)
        self.correct = xp.empty((rows,), dtype=bool)
        self._heads: dict[tuple[int, int], Workspace] = {(rows, spec.sizes[0]): self}

    def head(self, rows: int, width: int) -> "Workspace":
        """The same buffers, the first `rows` rows of each and `width` features: for a tile that is not a full one."""
        if (rows, width) not in self._heads:
            head = object.__new__(Workspace)
            head.rows = rows
            head.A = [self.A[0][:rows, :width], *(a[:rows] for a in self.A[1:])]
            head.dA, head.keep = ([a if a is None else a[:rows] for a in buffers] for buffers in (self.dA, self.keep))
            head.ones, head.losses, head.correct = self.ones[:, :rows], self.losses[:rows], self.correct[:rows]
            self._heads[rows, width] = head
        return self._heads[rows, width]

    @staticmethod
    def values(spec: Spec) -> int:
        """Numbers a workspace holds for each row."""
        return sum(spec.sizes) + sum(spec.sizes[1:-1]) + 2


class Network:
    """A spec bound to the kernels of a backend. Parameters are arguments: `layers` are views into a flat vector.

    dropout is empty, or the share of units dropped in each hidden layer while training.
    """

    def __init__(self, spec: Spec, backend: Backend, dropout: Sequence[float] = ()) -> None:
        self.spec, self.dropout = spec, dropout
        self.kernels = K = kernels_for(backend)
        n_hidden = len(spec.sizes) - 2
        self._activations = [getattr(K, spec.activation)] * n_hidden + [K.identity]
        self._derivative = getattr(K, f"{spec.activation}_backward")
        self._loss = getattr(K, OUTPUTS[spec.output].loss)
        self._prediction = getattr(K, OUTPUTS[spec.output].prediction)

    def forward(self, layers: Sequence[Layer], A: Sequence[Any], after: Any = None) -> Any:
        """Overwrite A[1:] from the tile A[0]; return the logits A[-1] (n, n_outputs).

        `after(i)`, where given, is called when A[i] of a hidden layer is done.
        """
        for i, ((W, b), activation) in enumerate(zip(layers, self._activations, strict=True), start=1):
            self.kernels.dense_forward(A[i - 1], W, A[i])
            activation(A[i], b)
            if after and i < len(layers):
                after(i)
        return A[-1]

    def predict(self, layers: Sequence[Layer], A: Sequence[Any]) -> Any:
        """The forward pass through the output: probabilities, or for the identity the values (n, n_outputs)."""
        Z = self.forward(layers, A)
        self._prediction(Z, 0)
        return Z

    def loss(self, Z: Any, y: Any, weight: Any, losses: Any) -> None:
        """Overwrite losses (n, 1) with weight * loss, and the logits Z with dZ."""
        self._loss(Z, y, weight, losses)

    def gradient(self, layers: Sequence[Layer], gradients: Sequence[Layer], work: Workspace) -> None:
        """Overwrite `gradients` with dW and db of every layer, from A after `forward` with dZ in A[-1] after `loss`."""
        A, dA, dZ = work.A, work.dA, work.A[-1]
        for below in reversed(range(len(layers))):
            self.kernels.dense_backward(dZ, A[below], layers[below].W, work.ones, *gradients[below], dA[below])
            if below:
                if self.dropout:
                    self.kernels.dropout_backward(A[below], dA[below], work.keep[below], self.dropout[below - 1])
                self._derivative(A[below], dA[below])
                dZ = dA[below]

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
        """All passes over the tile in work.A[0]: fills `gradients`, work.losses and, to count, work.correct.

        factor (1,), where given, multiplies the gradients, at their root: the last dZ is the smallest array there is.
        With dropout, keys (n_hidden, 2) and the samples' ids (n,), both uint32, decide the masks.
        """

        def drop(i: int) -> None:
            self.kernels.dropout(work.A[i], work.keep[i], keys[i - 1], ids, self.dropout[i - 1])

        Z = self.forward(layers, work.A, drop if self.dropout else None)
        if count:
            self.kernels.count_correct(Z, y, work.correct)
        self.loss(Z, y, weight, work.losses)
        if factor is not None:
            Z *= factor
        self.gradient(layers, gradients, work)
