"""The forward and backward pass of a step on a GPU, layer by layer: matrix products, and small kernels between them.

In half precision the parameters stay float32, and each step rounds a copy of them. Pixels are integers up to 255, which
every dtype here represents exactly. So they are not scaled; the first layer's products are multiplied by their scale.
"""

from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import device
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import Padded, Spec
from fcgpu.train.capture import Capture
from fcgpu.train.recipe import Recipe

# Multiplies dZ in float16, whose largest number is 65,504 and which loses digits below 6e-5 (Micikevicius et al. 2018).
# If the output classifies, |prediction - target| is at most 1, and 256 times that leaves a factor of 256 for growth in
# the backward pass. Errors of other outputs have no bound.
LOSS_SCALE = {True: 256.0, False: 1.0}


class Tile(NamedTuple):
    """Consecutive rows of a batch."""

    start: int  # index of the first one in the batch
    rows: device.Rows  # the input [X 1 0], with targets, weights and ids
    work: Any  # Buffers
    losses: Any  # partial sums of the loss
    rights: Any  # partial sums of the correct predictions


class Buffers(NamedTuple):
    """The buffers of the passes over some rows; lists have one entry per hidden layer."""

    A: list[Any]  # [g(Z) 1 0]
    dA: list[Any]
    keep: list[Any]  # dropout's masks
    Z: Any  # logits
    dZ: Any


class Layers:
    """The passes of a step: call `begin`, `forward` and `backward` for each tile, and `end`; together they fill
    `gradient` from `params`.

    products : a `Gemm` of cuBLAS, or a `Few` for `FewRows`. `operand` is the dtype of their operands. A tile is to be
    loaded as [load_scale X, one].
    """

    def __init__(
        self,
        spec: Spec,
        recipe: Recipe,
        vectors: tuple[Any, Any],
        products: Any,
        operand: Any,
        *,
        layout: Padded,
        scale: float,
        pixels: bool,
        count: bool,
        weighted: bool,
        capture: Capture,
        xp: Any,
    ) -> None:
        self.spec, self.xp, self.operand, self._products, self._capture = spec, xp, operand, products, capture
        self._params, gradient = vectors
        self._count, self._weighted, self._dropout = count, weighted, recipe.dropout_rates
        self._layout, self.dtype = layout, self._params.dtype
        self._copy = None if operand == self.dtype else xp.zeros((layout.size,), dtype=operand)
        self._M = layout.matrices(self._params if self._copy is None else self._copy)
        self._dM = layout.matrices(gradient)
        with np.errstate(over="ignore"):
            unscaled = pixels and np.isfinite(np.asarray(1 / scale).astype(operand))
        # Pixels are multiplied by W first and the product by the scale; the constant unit for b must then be 1 / scale.
        self.load_scale, self.one, first = (1.0, 1 / scale, scale) if unscaled else (scale, 1.0, 1.0)
        self._scales = [first] + [1.0] * (len(self._M) - 1)  # of the layers' products

    def loss_scale(self, samples: int) -> float:
        """Factor of dZ besides `share`, 1 / Σ weights. In float16 it cancels the division by the number of samples."""
        return samples * LOSS_SCALE[OUTPUTS[self.spec.output].classifies] if self.operand == np.float16 else 1.0

    def blocks(self, n: int) -> int:
        """Number of partial sums for n rows."""
        return device.blocks(n)

    def buffers(self, n: int) -> Buffers:
        xp, operand, sizes = self.xp, self.operand, self.spec.sizes[1:-1]
        hidden = [rows for rows, _ in self._layout.shapes[1:]]
        A, dA = ([xp.empty((n, rows), dtype=operand) for rows in hidden] for _ in range(2))
        keep = [xp.empty((n, size), dtype=bool) for size, _ in zip(sizes, self._dropout, strict=False)]
        Z = xp.empty((n, self._layout.shapes[-1][1]), dtype=self.dtype)
        return Buffers(A, dA, keep, Z, Z if operand == self.dtype else xp.zeros(Z.shape, dtype=operand))

    def part(self, work: Buffers, n: int) -> Buffers:
        """The buffers' first n rows."""
        A, dA, keep = ([a[:n] for a in arrays] for arrays in work[:3])
        return Buffers(A, dA, keep, work.Z[:n], work.dZ[:n])

    def begin(self) -> None:
        if self._copy is not None:
            device.cast(self._params, self._copy, xp=self.xp)

    def forward(self, tile: Tile, share: Any, loss_scale: float, key: Any) -> None:
        """From the tile's samples to the last layer's dZ; overwrite tile.losses and rights.

        share (1,) and loss_scale multiply dZ; key (2 layers,) is dropout's.
        """
        for i, its in enumerate(self._inputs(tile)[:-1]):
            self._layer(i, its, tile.work.A[i])
            if self._dropout:
                n, one = self.spec.sizes[i + 1], key[2 * i : 2 * i + 2]
                device.dropout(tile.work.A[i], n, tile.work.keep[i], one, tile.rows.ids, self._dropout[i], xp=self.xp)
        self._last(tile, share, loss_scale)

    def backward(self, tile: Tile, loss_scale: float) -> None:
        """Add the tile's gradient, divided by loss_scale, to `gradient`, or overwrite it for the first tile."""
        work, inputs, dZ = tile.work, self._inputs(tile), tile.work.dZ
        for i in reversed(range(len(self._M))):
            self._gradient(i, inputs[i], dZ, self._scales[i] / loss_scale, 1.0 if tile.start else 0.0)
            if i:  # no gradient of the samples
                self._through(i, dZ, work, inputs[i])
                dZ = work.dA[i - 1][:, : self._M[i - 1].shape[1]]

    def end(self) -> None:
        """Complete the gradient after the last tile."""

    def _inputs(self, tile: Tile) -> list[Any]:
        """What each layer multiplies by its [W; b]."""
        return [tile.rows.X, *tile.work.A]

    # What `FewRows` launches in another way

    def _layer(self, i: int, its: Any, A: Any) -> None:
        """A = [g(Z) 1 0], Z = [its 1] [W; b]."""
        M = self._M[i]
        self._products(its, M, A[:, : M.shape[1]], alpha=self._scales[i])
        device.activate(self.spec.activation, A, self.spec.sizes[i + 1], xp=self.xp)

    def _last(self, tile: Tile, share: Any, loss_scale: float) -> None:
        """The logits, and their loss and dZ."""
        work = tile.work
        self._products(self._inputs(tile)[-1], self._M[-1], work.Z, alpha=self._scales[-1])
        device.loss(
            OUTPUTS[self.spec.output].loss, tile.rows, share, self.spec.sizes[-1], loss_scale, self._weighted,
            self._count, work.Z, work.dZ, tile.losses, tile.rights, xp=self.xp,
        )  # fmt: skip

    def _gradient(self, i: int, its: Any, dZ: Any, alpha: float, beta: float) -> None:
        """[dW; db] = [A 1]ᵀ dZ."""
        self._products(its, dZ, self._dM[i], transposed_a=True, alpha=alpha, beta=beta)

    def _through(self, i: int, dZ: Any, work: Buffers, A: Any) -> None:
        """dA = dZ Wᵀ of layer i, overwritten with dA g'(Z)."""
        dA, n = work.dA[i - 1], self.spec.sizes[i]
        self._products(dZ, self._M[i], dA, transposed_b=True)
        if self._dropout:
            device.dropout_backward(A, dA, n, work.keep[i - 1], self._dropout[i - 1], xp=self.xp)
        device.derive(self.spec.activation, A, dA, n, xp=self.xp)
