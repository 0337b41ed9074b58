"""The forward and backward pass of a step on a GPU, layer by layer: for each a matrix product and one or two kernels.

In half precision the parameters stay float32, and each step rounds a copy of them. Pixels are integers up to 255, which
every dtype here represents exactly. So they are not scaled; the first layer's products are multiplied by their scale.
"""

from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import device
from fcgpu.kernels.formulas import kernel
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.products import Products
from fcgpu.params import Padded, Spec
from fcgpu.train.recipe import Recipe

# Multiplies dZ in float16, whose largest number is 65,504 and which loses digits below 6e-5. If the output classifies,
# |prediction - target| is at most 1, and 256 times that leaves a factor of 256 for growth in the backward pass. Errors
# of other outputs have no bound.
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
    """The passes of a step: call `begin`, `run` for each tile, and `end`; together they fill `gradient` from `params`.

    `operand` is the dtype of the products' operands. A tile is to be loaded as [load_scale X, one].
    """

    def __init__(
        self,
        spec: Spec,
        recipe: Recipe,
        vectors: tuple[Any, Any],
        products: Products,
        operand: Any,
        *,
        layout: Padded,
        scale: float,
        pixels: bool,
        count: bool,
        weighted: bool,
        xp: Any,
    ) -> None:
        self.spec, self.xp, self.operand, self._products = spec, xp, operand, products
        self._params, gradient = vectors
        self._count, self._weighted, self._dropout = count, weighted, recipe.dropout_of(spec)
        self._layout, self.dtype = layout, self._params.dtype
        self._copy = None if operand == self.dtype else xp.zeros((layout.size,), dtype=operand)
        self._M = layout.matrices(self._params if self._copy is None else self._copy)
        self._dM = layout.matrices(gradient)
        with np.errstate(over="ignore"):
            whole = pixels and np.isfinite(np.asarray(1 / scale).astype(operand))
        # Pixels are multiplied by W first and the product by the scale; the constant unit for b must then be 1 / scale.
        self.load_scale, self.one, self._scale = (1.0, 1 / scale, scale) if whole else (scale, 1.0, 1.0)

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
            kernel("cast", self.xp)(self._params, self._copy)

    def run(self, tile: Tile, share: Any, loss_scale: float, key: Any) -> None:
        """Add the tile's gradient to `gradient`, or overwrite it for the first tile; overwrite tile.losses and rights.

        share (1,) and loss_scale multiply dZ, and the gradient is divided by loss_scale; key (2 layers,) is dropout's.
        """
        self._forward(tile, key)
        device.loss(
            OUTPUTS[self.spec.output].loss, tile.rows, share, self.spec.sizes[-1], loss_scale, self._weighted,
            self._count, tile.work.Z, tile.work.dZ, tile.losses, tile.rights, xp=self.xp,
        )  # fmt: skip
        self._backward(tile, loss_scale)

    def end(self) -> None:
        """Nothing to do: the gradient is complete. `OnChip` needs it."""

    def _forward(self, tile: Tile, key: Any) -> None:
        """Z = [A 1] [W; b], A = g(Z), from the tile's samples to its logits."""
        product, work = self._products, tile.work
        inputs = [tile.rows.X, *work.A]
        for i, M in enumerate(self._M):
            alpha = self._scale if i == 0 else 1.0
            if i == len(work.A):
                product(inputs[i], M, work.Z, alpha=alpha)
                return
            A, n = work.A[i], self.spec.sizes[i + 1]
            product(inputs[i], M, A[:, : M.shape[1]], alpha=alpha)
            device.activate(self.spec.activation, A, n, xp=self.xp)
            if self._dropout:
                its = key[2 * i : 2 * i + 2]
                device.dropout(A, n, work.keep[i], its, tile.rows.ids, self._dropout[i], xp=self.xp)

    def _backward(self, tile: Tile, loss_scale: float) -> None:
        """[dW; db] = [A 1]ᵀ dZ, summed over the tiles; dA = dZ Wᵀ; dZ = dA g'(A)."""
        product, work, dZ = self._products, tile.work, tile.work.dZ
        inputs, beta = [tile.rows.X, *work.A], 1.0 if tile.start else 0.0
        for i in reversed(range(len(self._M))):
            M, dA = self._M[i], work.dA[i - 1] if i else None  # no gradient of the samples
            alpha = (1.0 if i else self._scale) / loss_scale
            product(inputs[i], dZ, self._dM[i], transposed_a=True, alpha=alpha, beta=beta)
            if dA is not None:
                product(dZ, M, dA, transposed_b=True)
                n = self.spec.sizes[i]
                if self._dropout:
                    device.dropout_backward(inputs[i], dA, n, work.keep[i - 1], self._dropout[i - 1], xp=self.xp)
                device.derive(self.spec.activation, inputs[i], dA, n, xp=self.xp)
                dZ = dA[:, : self._M[i - 1].shape[1]]
