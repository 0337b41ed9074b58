"""The passes of a step on a GPU's tensor cores: two products with the pixels, and one kernel for all between them.

A pixel is an integer up to 255, which bfloat16 represents exactly, and a float32 is the sum of three bfloat16 pieces: 8
bits, the next 8 bits, and the rest. So in every precision the first layer's products are bfloat16 products, with as
many pieces of the other factor as the precision needs, side by side:
    Z = Z1 + Z2 + Z3   with   [Z1 Z2 Z3] = [X 1] [M1 M2 M3]   and   [scale W; b] = M1 + M2 + M3,
    [dW; db]   from   [X 1]ᵀ [dZ1 dZ2 dZ3].
From Z of the first layer to its dZ, `kernels/middle.py` works tile by tile in shared memory.
"""

from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import device
from fcgpu.kernels.middle import Middle
from fcgpu.kernels.products import Products
from fcgpu.params import Padded
from fcgpu.train.layers import Tile


class Buffers(NamedTuple):
    """The pieces of Z and dZ side by side, (rows, pieces * columns): Z in float32, or in bfloat16 if there is only one
    piece, dZ in bfloat16.
    """

    Z: Any
    dZ: Any


class OnChip:
    """Same interface as `Layers`; for pixels, and batches of one tile."""

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
        """Compile and load the kernel. Raises what CuPy and the driver raise."""
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
