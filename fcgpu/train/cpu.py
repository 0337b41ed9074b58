"""Steps on a CPU in NumPy: an update from each batch of an epoch. `in_c.py` has the same in C, `gpu.py` on a GPU."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.kernels.dense import is_sparse
from fcgpu.params import Spec, in_lines
from fcgpu.train.evaluate import Evaluate
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.samples import Samples
from fcgpu.train.small import SmallBatches, is_small
from fcgpu.workers import Workers


class OnCpu:
    """The steps of a run on a CPU: `begin` prepares them for an optimizer, `epoch` runs them.

    `params` : (n_params,) flat vector, the first W in the order of the samples' staircase.
    `history` : (epochs, 3) float64: over each epoch the mean loss with the penalty, the penalty in it, and the number
        of correct predictions, each before its batch's update.
    `updates` : made so far. `evaluated` : samples that the loss was computed for so far.
    """

    resident, how = 0, ""  # as in OnGpu
    uses_blas = True

    def __init__(
        self,
        spec: Spec,
        samples: Samples,
        plan: Plan,
        backend: Backend,
        recipe: Recipe,
        workers: Workers,
        *,
        scale: float,
        count: bool,
    ) -> None:
        self.spec, self.plan, self.recipe, self._stairs = spec, plan, recipe, samples.stairs
        evaluate = SmallBatches if is_small(plan) and not is_sparse(samples.X) else Evaluate
        weights = None if samples.weights is None else samples.weights.reshape(-1, 1)
        self._evaluate: Evaluate = evaluate(
            spec, (samples.X, samples.y, weights), plan, backend, workers, recipe,
            scale=scale, count=count, ids=samples.ids, widths=samples.widths,
        )  # fmt: skip
        self.params, self.kernels = self._evaluate.params, self._evaluate.net.kernels
        self.history = np.zeros((recipe.epochs, 3))
        self.updates = self.evaluated = 0

    def begin(self, rule: Any) -> None:
        """Prepare the steps of `rule`, the optimizer."""
        self.rule = rule
        if self.recipe.optimizer == "gradient_descent" and not (self.recipe.alpha or self.recipe.gradient_clip):
            self._evaluate.descend(rule)  # saves a pass over the parameters

    def epoch(self, number: int, rates: Callable[[int], Sequence[float]], order: Any) -> None:
        """Train on every batch once, and fill row `number` of the history.

        rates(n) returns the learning rates of the next n steps. order (n_samples,); None for the order of the data.
        """
        at, n, size = self._evaluate, self.plan.samples, self.plan.batch
        if order is not None and self._stairs is not None:
            order = self._stairs.batches(order, size)
        loss, penalty, correct = (self.history[number, i : i + 1] for i in range(3))
        learning_rate, set_to = self.rule.learning_rate, None
        measures, regularised = not at.kept, self.recipe.alpha
        for start, rate in zip(range(0, n, size), rates(self.plan.steps_per_epoch), strict=True):
            if learning_rate is not None and rate != set_to:
                learning_rate.fill(rate)
                set_to = rate
            stop = min(start + size, n)
            portion = (stop - start) / n
            measured = self._step(slice(start, stop) if order is None else order[start:stop], stop - start)
            if measures or regularised:
                loss += measured * portion
            if regularised:
                penalty += at.penalty * portion
            if measures:
                correct += at.correct
        if at.kept:
            measured, right = at.kept.measured()
            loss += measured
            correct += right

    def close(self) -> None:
        """Nothing is held but memory."""

    def inside(self, vectors: Any) -> Any:
        """Parameters, or vectors like them (..., n_params), in the layout of `params`; other arrays as they are."""
        if self._stairs is None or vectors.shape[-1:] != (self.spec.n_params,):
            return vectors
        return self._stairs.inside(self.spec, vectors)

    def outside(self, vectors: Any) -> Any:
        """The inverse of `inside`: a copy in the public layout."""
        if self._stairs is None or vectors.shape[-1:] != (self.spec.n_params,):
            return in_lines(vectors)
        return self._stairs.outside(self.spec, vectors)

    def _step(self, rows: Any, n_rows: int) -> Any:
        """Update the parameters from one batch; return its loss with the penalty, as the rule's `step` returned it."""
        at = self._evaluate
        at.begin(self.updates)
        self.updates += 1
        evaluate = partial(self._loss_and_gradient, rows, n_rows)
        loss = self.rule.step(at.params, at.gradient, evaluate)
        if self.rule.strayed:
            evaluate()  # the penalty and the correct predictions must be those at params
        return loss

    def _loss_and_gradient(self, rows: Any, n_rows: int) -> Any:
        self.evaluated += n_rows
        return self._evaluate(rows, n_rows)
