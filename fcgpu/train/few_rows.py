"""The passes of a step for batches of few rows: a layer is one launch in each direction, by `kernels/few.py`."""

from typing import Any

import numpy as np

from fcgpu.kernels import few
from fcgpu.kernels.few import Few
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import Padded
from fcgpu.train.layers import Buffers, Layers, Tile
from fcgpu.train.plan_gpu import PIECES
from fcgpu.train.recipe import Recipe


class FewRows(Layers):
    """The same as `Layers`, for batches of one tile; its products are `own_products`."""

    def blocks(self, n: int) -> int:
        return few.blocks(n) if self.spec.sizes[-1] <= few.MOST_OUTPUTS else super().blocks(n)

    def buffers(self, n: int) -> Buffers:
        made = super().buffers(n)
        made.dZ.fill(0)  # the columns after the outputs stay 0
        return made

    def _layer(self, i: int, its: Any, A: Any) -> None:
        self._products.forward(its, self._M[i], A, self.spec.sizes[i + 1], self._scales[i])

    def _last(self, tile: Tile, share: Any, loss_scale: float) -> None:
        if self.spec.sizes[-1] > few.MOST_OUTPUTS:
            super()._last(tile, share, loss_scale)
            return
        A, dZ = self._inputs(tile)[-1], tile.work.dZ
        self._products.last(A, self._M[-1], tile.rows, share, dZ, tile.losses, tile.rights, self._scales[-1])

    def _gradient(self, i: int, its: Any, dZ: Any, alpha: float, beta: float) -> None:
        with self._capture.beside():
            super()._gradient(i, its, dZ, alpha, beta)

    def end(self) -> None:
        self._capture.join()

    def _through(self, i: int, dZ: Any, work: Buffers, A: Any) -> None:
        self._products.backward(dZ, self._M[i], A, work.dA[i - 1], self.spec.sizes[i])


def own_products(
    layout: Padded, recipe: Recipe, operand: Any, targets: Any, batch: int, *, weighted: bool, count: bool, xp: Any
) -> Few | None:
    """The products of a run that are small enough for own kernels; None if they are not, or GPU or recipe need others.

    operand : dtype of the products' operands. targets : an array like y.
    """
    spec, device = layout.spec, xp.cuda.Device()
    if (
        operand != np.float32
        or recipe.dropout_rates
        or recipe.precision not in PIECES
        or int(device.compute_capability) < 80
        or device.attributes["MaxSharedMemoryPerBlockOptin"] < few.bytes_of(PIECES[recipe.precision])
        or not all(few.are_few(batch, *shape) for shape in layout.shapes)
    ):
        return None
    return Few(
        spec.activation, OUTPUTS[spec.output].loss, spec.sizes[-1], PIECES[recipe.precision], targets,
        weighted=weighted, count=count, xp=xp,
    )  # fmt: skip
