"""The samples of a run as its steps read them: on which device, in which order, as bytes or as floats."""

from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.kernels.native import is_plain, plain
from fcgpu.train.converted import Converted
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.staircase import Staircase, staircase
from fcgpu.train.stream import Stream, on_device


class Samples:
    """X (n, n_features), y, weights (n,) or None, and ids (n,) uint32 or None, for a plan.

    On a GPU they are on the device, or X is a `stream` of chunks from the host. On a CPU they may be in the order of
    `stairs`, a Staircase with `widths` (n,).
    `copied` is the number of bytes of X that were copied here, which the plan does not count.
    """

    def __init__(
        self, data: tuple[Any, Any, Any], ids: Any, *, recipe: Recipe, plan: Plan, backend: Backend, shuffled: bool
    ) -> None:
        (X, y, weights), self._plan, self.copied = data, plan, 0
        X = X if plan.chunk else on_device(X, backend)
        self.stairs = self.stream = self.widths = None
        if not backend.on_gpu:
            X = self._converted(X, np.uint8 if X.dtype == np.uint8 else recipe.dtype)
            if not plan.in_c and isinstance(X, np.ndarray | Converted):
                self.stairs = staircase(X, plan, recipe.epochs, drawn=shuffled)
        if self.stairs is not None:
            samples, self.widths = self.stairs.samples, self.stairs.widths
            X = self._kept(self.stairs)
            y, weights = y[samples], None if weights is None else weights[samples]
            ids = samples if ids is None else ids[samples]
        weights = None if weights is None else plain(weights, recipe.dtype)
        y = plain(y)  # a GPU's kernels that are whole programs take rows that follow each other
        if plan.chunk:
            ids = np.asarray(np.arange(plan.samples) if ids is None else ids, np.uint32) if recipe.dropout else None
            X = self.stream = Stream(X, (y, weights, ids), plan, backend)
            self.y, self.weights, self.ids = X.y, X.weights, X.ids
        else:
            self.y, self.weights = (None if a is None else backend.to_device(a) for a in (y, weights))
            self.ids = None if ids is None else backend.to_device(ids, dtype=np.uint32)
        self.X = X

    def _converted(self, X: Any, dtype: Any) -> Any:
        """X of that dtype and contiguous, if there is memory for it; tiles convert their part as well."""
        if is_plain(X, dtype):
            return X
        made = X if isinstance(X, Converted) else Converted(X, dtype)
        if isinstance(made.X, np.ndarray) and (kept := self._kept(made)) is not made:  # else a copy could be far larger
            return kept
        return made if self._plan.in_c else X

    def _kept(self, made: Staircase | Converted) -> Any:
        """A copy of the converted data if the budget allows it, else `made`, which converts them at every use."""
        if self._plan.bytes + self.copied + made.nbytes > self._plan.budget:
            return made
        self.copied += made.nbytes
        kept = made.copy(self._plan.threads)
        made.X = None  # frees its source, which may be a copy itself
        return kept
