"""The smallest batches on the CPU: forward and backward pass are one call of C, which skips pixels that are zero.

For ten samples Python's overhead between two products is as long as the products. `kernels/passes.h` has the formulas;
what it does not support is computed by `SmallBatches`.
"""

from typing import Any

import numpy as np

from fcgpu.kernels import compiled
from fcgpu.params import Spec, aligned
from fcgpu.train.pixels import Pixels
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.small import SmallBatches, is_small

MOST = 32  # samples; with 48 digits `SmallBatches` is as fast, with 64 it is faster
MOST_LAYERS = 64  # as in native.c; the input counts
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "identity")  # in the order of their numbers in passes.h
SOFTMAX = {"sigmoid": False, "softmax": True}  # supported outputs, and whether they are a softmax


def are_for(plan: Plan, spec: Spec, recipe: Recipe, X: Any) -> bool:
    """Whether the batches are small enough, and passes.h supports the network and the features."""
    rows_in_one_piece = isinstance(X, Pixels) or (isinstance(X, np.ndarray) and X.strides[1] == X.itemsize)
    return (
        hasattr(compiled.native, "passes")
        and is_small(plan)
        and plan.batch <= MOST
        and len(spec.sizes) <= MOST_LAYERS
        and not recipe.dropout
        and spec.activation in ACTIVATIONS
        and spec.output in SOFTMAX
        and rows_in_one_piece
        and X.dtype in (np.uint8, np.dtype(recipe.dtype))
    )


class Passes(SmallBatches):
    """`SmallBatches` for a run for which `are_for` is true; its features are in the data's own order."""

    def __init__(self, spec: Spec, *args: Any, **options: Any) -> None:
        super().__init__(spec, *args, **options)
        self._sizes = np.array(spec.sizes, np.intp)
        self._kinds = ACTIVATIONS.index(spec.activation), SOFTMAX[spec.output]
        bytes_needed = compiled.native.passes_room(self._sizes, self.plan.batch, self.params.dtype == np.float64)
        self._room = aligned(bytes_needed, np.uint8)

    def _fill_all(self, rows: Any, n_rows: int, y: Any, weight: Any, logits: Any) -> None:
        there = isinstance(self.X, np.ndarray) and not isinstance(rows, slice)
        X, indices = (self.X, rows) if there else (self.X[rows], None)
        if not compiled.native.passes(
            X, indices, self.net.scale, self._sizes, *self._kinds, self.params, self.gradient, self._subtracts,
            logits, y, weight, self._room,
        ):  # fmt: skip
            super()._fill_all(rows, n_rows, y, weight, logits)
