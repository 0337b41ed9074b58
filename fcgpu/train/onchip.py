"""The passes of a step on a GPU's tensor cores: two products with the pixels, and all between them in one launch.

A pixel is a whole number up to 255, which bfloat16 holds, and a float32 is the sum of three bfloat16: of 8 bits, of the
next 8, and of the rest. So the first layer's products are tensor products of bfloat16 in every precision, with as many
pieces of the other factor as the precision asks for, side by side:
    Z = [X 1] [scale W; b]   by   Z1 + Z2 + Z3 = [X 1] [M1 M2 M3],   and   [dW; db]   by   [X 1]ᵀ [dZ1 dZ2 dZ3].
What lies between, from Z of the first layer to its dZ, `kernels/middle.py` does tile by tile without leaving the chip.
"""

from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import device
from fcgpu.kernels.middle import Middle
from fcgpu.kernels.products import Products
from fcgpu.params import Padded
from fcgpu.train.layers import Tile


class Buffers(NamedTuple):
    """Of some rows: the pieces of Z side by side (rows, pieces * columns), in float32 but where there is only one, and
    those of dZ, in bfloat16.
    """

    Z: Any
    dZ: Any


class OnChip:
    """As `Layers`, of batches in one tile, of pixels."""

    load_scale, one = 1.0, 1.0

    def __init__(
        self,
        layout: Padded,
        pieces: int,
        vectors: tuple[Any, Any],
        products: Products,
        targets: Any,
        batch: int,
        *,
        scale: float,
        count: bool,
        weighted: bool,
        xp: Any,
    ) -> None:
        from ml_dtypes import bfloat16

        self.operand, self.xp, self._products = np.dtype(bfloat16), xp, products
        self._params, self._gradient = vectors
        self._scale, self._features = scale, layout.spec.sizes[0]
        self._M, self._dM = (layout.matrices(v)[0] for v in vectors)
        rows, self._columns = self._M.shape
        self._pieces, self._stored = pieces, self.operand if pieces == 1 else self._M.dtype
        self._middle = Middle(
            layout, pieces, targets, batch, weighted=weighted, count=count, stored=self._stored, xp=xp
        )
        self._parts = xp.empty((rows, self._pieces, self._columns), dtype=self.operand)
        self._dparts = xp.empty(self._parts.shape, dtype=self._M.dtype)

    def compile(self) -> None:
        """Raises whatever keeps the kernel from being compiled and loaded."""
        self._middle.compile()

    def loss_scale(self, samples: int) -> float:
        return 1.0

    def blocks(self, n: int) -> int:
        return int(self._middle.blocks)

    def buffers(self, n: int) -> Buffers:
        shape = (n, self._pieces * self._columns)
        return Buffers(self.xp.empty(shape, dtype=self._stored), self.xp.empty(shape, dtype=self.operand))

    def part(self, work: Buffers, n: int) -> Buffers:
        return Buffers(work.Z[:n], work.dZ[:n])

    def begin(self) -> None:
        device.split(self._M, self._features, self._scale, self._parts, xp=self.xp)

    def run(self, tile: Tile, share: Any, loss_scale: float, key: Any) -> None:
        side_by_side = len(self._parts), -1
        Z, dZ = tile.work
        self._products(tile.rows.X, self._parts.reshape(side_by_side), Z)
        self._middle(Z, self._params, tile.rows, share, dZ, self._gradient, tile.losses, tile.rights)
        self._products(tile.rows.X, dZ, self._dparts.reshape(side_by_side), transposed_a=True)

    def end(self) -> None:
        device.merge(self._dparts, self._features, self._scale, self._dM, xp=self.xp)
