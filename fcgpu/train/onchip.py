"""The passes of a step on a GPU's tensor cores: two products with the samples, and one kernel for all between them.

From Z of the first layer to its dZ, `kernels/middle.py` works tile by tile in shared memory. The products are those of
the recipe's precision,
    Z = [X 1] [W; b]   and   [dW; db] = [X 1]ᵀ dZ,
unless the features are pixels. A pixel is an integer up to 255, which bfloat16 represents exactly, and a float32 is the
sum of three bfloat16 pieces: 8 bits, the next 8 bits, and the rest. So with pixels they are bfloat16 products in every
precision, with as many pieces of the other factor as the precision needs, side by side:
    Z = Z1 + Z2 + Z3   with   [Z1 Z2 Z3] = [X 1] [M1 M2 M3]   and   [scale W; b] = M1 + M2 + M3,
    [dW; db]   from   [X 1]ᵀ [dZ1 dZ2 dZ3].
"""

from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import device
from fcgpu.kernels.middle import Middle
from fcgpu.params import Padded
from fcgpu.train.layers import Tile


class Buffers(NamedTuple):
    """Z and dZ (rows, columns), or their pieces side by side, (rows, pieces * columns). Z is float32, or bfloat16 if
    there is only one piece; pieces of dZ are bfloat16.
    """

    Z: Any
    dZ: Any


class OnChip:
    """Same interface as `Layers`; for batches of one tile.

    pieces : that the precision needs. products : a `Gemm` of cuBLAS, or a `Few` if the features are not `pixels`.
    operand : dtype of the products' operands if the features are not `pixels`.
    """

    def __init__(
        self,
        layout: Padded,
        pieces: int,
        vectors: tuple[Any, Any],
        products: Any,
        targets: Any,
        batch: int,
        operand: Any,
        *,
        scale: float,
        pixels: bool,
        count: bool,
        weighted: bool,
        xp: Any,
    ) -> None:
        from ml_dtypes import bfloat16

        self.xp, self._products = xp, products
        self._params, self._gradient = vectors
        self._M, self._dM = (layout.matrices(v)[0] for v in vectors)
        self._features = layout.spec.sizes[0]
        # Pixels are multiplied by W first and the product by the scale, other features by the scale first.
        self.load_scale, self.one, self._scale = (1.0, 1.0, scale) if pixels else (scale, 1.0, 1.0)
        self.operand = np.dtype(bfloat16) if pixels else np.dtype(operand)
        in_pieces = self.operand == bfloat16
        self._stored = self.operand if pieces == 1 else self._M.dtype
        self._middle = Middle(
            layout, pieces, targets, batch, weighted=weighted, count=count, stored=self._stored, whole=not in_pieces,
            xp=xp,
        )  # fmt: skip
        shape = len(self._M), pieces, self._M.shape[1]
        self._parts = xp.empty(shape, dtype=self.operand) if in_pieces else None
        self._dparts = xp.empty(shape, dtype=self._M.dtype) if pixels else None

    def compile(self) -> None:
        """Compile and load the kernel. Raises what CuPy and the driver raise."""
        self._middle.compile()

    def loss_scale(self, samples: int) -> float:
        return 1.0

    def blocks(self, n: int) -> int:
        return int(self._middle.blocks)

    def buffers(self, n: int) -> Buffers:
        shape = (n, _side_by_side(self._M, self._parts).shape[1])
        made = self._M.dtype if self._parts is None else self.operand
        return Buffers(self.xp.empty(shape, dtype=self._stored), self.xp.empty(shape, dtype=made))

    def part(self, work: Buffers, n: int) -> Buffers:
        return Buffers(work.Z[:n], work.dZ[:n])

    def begin(self) -> None:
        if self._parts is not None:
            device.split(self._M, self._features, self._scale, self._parts, xp=self.xp)

    def forward(self, tile: Tile, share: Any, loss_scale: float, key: Any) -> None:
        Z, dZ = tile.work
        self._products(tile.rows.X, _side_by_side(self._M, self._parts), Z)
        self._middle(Z, self._params, tile.rows, share, dZ, self._gradient, tile.losses, tile.rights)

    def backward(self, tile: Tile, loss_scale: float) -> None:
        self._products(tile.rows.X, tile.work.dZ, _side_by_side(self._dM, self._dparts), transposed_a=True)

    def end(self) -> None:
        if self._dparts is not None:
            device.merge(self._dparts, self._features, self._scale, self._dM, xp=self.xp)


def _side_by_side(M: Any, parts: Any) -> Any:
    """The parts (rows, pieces, columns) of a matrix as a matrix; M itself if it is not in parts."""
    return M if parts is None else parts.reshape(len(parts), -1)
