"""Steps on small batches in C: passes and update, for many batches in one call, on a team of threads.

`kernels/epoch.h` has the formulas, `call_steps.h` the order of the numbers that it is given. `cpu.py` does the same in
NumPy, and all that this does not support.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.kernels import Kernels, compiled, dropout
from fcgpu.logits import ACTIVATIONS
from fcgpu.params import Spec, aligned, in_lines
from fcgpu.train import plan_c
from fcgpu.train.converted import Converted
from fcgpu.train.pace import Pace
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.samples import Samples

NO_RATE = np.zeros(1)  # of a step that only computes the gradient
THREADED = 9216  # entries of a matrix from which OpenBLAS's gemv uses threads
CALL = 1 << 16  # samples of a call: it looks at all their indices and labels before its first step


class InC:
    """The steps of a run for which `plan_c.is_for` is true, with the methods and attributes of `OnCpu`."""

    resident, how, uses_blas = 0, "", False

    def __init__(
        self, spec: Spec, samples: Samples, plan: Plan, backend: Backend, recipe: Recipe, *, scale: float, count: bool
    ) -> None:
        self.plan, self.recipe, self._scale = plan, recipe, scale
        self.params, self.kernels = aligned(spec.n_params, recipe.dtype), Kernels(backend)
        self.history = np.zeros((recipe.epochs, 3))
        self.updates = self.evaluated = 0
        self._drops, ids = np.array(recipe.dropout_rates), None
        if self._drops.size:
            ids = np.arange(plan.samples, dtype=np.uint32) if samples.ids is None else samples.ids
        self._data: tuple[Any, ...] = samples.X, samples.y, samples.weights, ids
        self._sizes = np.array(spec.sizes, np.intp)
        threads = plan_c.threads(spec, plan.batch, recipe.dtype, plan.threads)
        self._pace = Pace(threads)
        tiles = plan_c.on_tiles(plan.batch, recipe, samples.X)
        self._room = aligned(plan_c.room_bytes(spec, plan.batch, recipe, plan.tile, threads, tiles), np.uint8)
        kinds = (
            ACTIVATIONS.index(spec.activation), plan_c.OUTPUTS.index(spec.output), count,
            plan_c.rule(recipe.optimizer),
        )  # fmt: skip
        cut = plan.batch, plan.tile, threads
        self._wholes = np.array([*cut, *kinds, plan.samples, tiles, plan_c.by_layer(spec)], np.int64)
        self._sums = np.zeros(3)  # of an epoch: loss without penalty, penalty, correct predictions

    def begin(self, rule: Any) -> None:
        self.rule = rule
        given, recipe = rule.hyperparameters, self.recipe
        beta_1 = next((given[key] for key in ("beta_1", "momentum", "rho") if key in given), 0.0)
        others = (given.get("beta_2", 0.0), given.get("epsilon", 0.0), "weight_decay" in given and recipe.weight_decay)
        self._moments = getattr(rule.state, "m", None), getattr(rule.state, "v", None)
        self._t = getattr(rule.state, "t", np.zeros(1))  # the rule's steps
        self._reals = np.array([self._scale, recipe.alpha, beta_1, *others, recipe.gradient_clip, 0.0, 0.0])

    def epoch(self, number: int, rates: Callable[[int], Sequence[float]], order: Any) -> None:
        learning_rates, done = np.array(rates(self.plan.steps_per_epoch)), 0
        keys = self._keys(len(learning_rates)) if self._drops.size else None
        if order is not None:  # whatever indexes an array may have been drawn
            order = np.arange(self.plan.samples)[order]
        self._sums.fill(0)
        while done < len(learning_rates):  # between calls Python looks for signals
            converts = isinstance(self._data[0], Converted)  # a batch at a time: there is no memory for more
            last = done + (1 if converts else max(1, CALL // self.plan.batch))
            rows = slice(done * self.plan.batch, last * self.plan.batch)
            if converts or order is None:
                data, indices = self._at(rows if order is None else order[rows]), None
            else:
                data, indices = self._data, order[rows]
            done += self._call(data, indices, learning_rates[done:last], keys if keys is None else keys[done:last])
        self._write(number)
        self.updates += done
        self.evaluated += self.plan.samples

    def _call(self, data: Any, indices: Any, rates: Any, keys: Any = None) -> int:
        """Take steps with samples of `data`, those of `indices` or else the first. Returns how many were taken."""
        X, *others, ids = data
        self._wholes[2], longest = self._pace.next()
        self._reals[-2:] = self._t.item(), longest
        made: int = compiled.native.steps(
            X, indices, *others, self.params, *self._moments, rates, self._sums, self._sizes, self._room,
            self._wholes, self._reals, ids, keys, self._drops,
        )  # fmt: skip
        self._pace.made(made)
        self._t += made
        return made

    def _write(self, number: int) -> None:
        loss, penalty, correct = self._sums
        self.history[number] = loss + penalty, penalty, correct

    def _keys(self, steps: int) -> Any:
        """dropout's keys of the next steps: (steps, hidden layers, 2)."""
        made = np.empty((steps, len(self._drops), 2), np.uint32)
        for i in range(steps):
            made[i] = dropout.keys(self.recipe.seed, self.updates + i, len(self._drops))
        return made

    def _at(self, rows: Any) -> tuple[Any, ...]:
        return tuple(a if a is None else a[rows] for a in self._data)

    def close(self) -> None:
        """Nothing is held but memory."""

    def inside(self, vectors: Any) -> Any:
        return vectors

    def outside(self, vectors: Any) -> Any:
        return in_lines(vectors)


class FullBatchInC(InC):
    """The same for the optimizers of the full batch, which are in Python: C computes the loss and its gradient."""

    def begin(self, rule: Any) -> None:
        recipe, vector = self.recipe, aligned(self.params.size, self.recipe.dtype)
        self.rule, self._gradient, self._moments, self._t = rule, vector, (vector, None), np.zeros(1)
        self._reals = np.array([self._scale, recipe.alpha, *np.zeros(7)])
        self._data = self._at(slice(None))  # converted once
        pairs = getattr(rule, "history_size", 0)
        self.uses_blas = 2 * pairs * vector.size >= THREADED  # setting its threads takes as long as a small step

    def epoch(self, number: int, rates: Callable[[int], Sequence[float]], order: Any) -> None:
        if self.rule.learning_rate is not None:
            self.rule.learning_rate.fill(*rates(1))
        self.rule.step(self.params, self._gradient, self._evaluate)
        if self.rule.strayed:
            self._evaluate()  # the penalty and the correct predictions must be those at params
        self._write(number)
        self.updates += 1

    def _evaluate(self) -> float:
        self._sums.fill(0)
        self._call(self._data, None, NO_RATE)
        self.evaluated += self.plan.samples
        return float(self._sums[0] + self._sums[1])
