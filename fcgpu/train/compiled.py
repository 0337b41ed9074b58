"""Steps on small batches in C: passes and update, for many batches in one call, on a team of threads.

`kernels/epoch.h` has the formulas. `cpu.py` does the same in NumPy, and all that this does not support.
"""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.kernels import compiled, kernels_for
from fcgpu.params import Spec, aligned
from fcgpu.train.pixels import Pixels
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.small import LEAST_BYTES, is_small

SAMPLES = 16  # most samples of a task; 32 were as fast
THREAD_SAMPLES = 32  # a thread more needs so many: with fewer, handing over the parameters takes as long as it saves
SLICE, TRIAL, EVERY = 0.05, 0.01, 1.0  # seconds of a call; of one that tries another number of threads; between those
MOST_LAYERS, MOST_THREADS, MOST_OUTPUTS = 64, 64, 2048  # as in native.c; the input counts as a layer
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "identity")  # in the order of their numbers in epoch.h
OUTPUTS = ("sigmoid", "softmax", "identity")
RULES = ("gradient_descent", "momentum", "nesterov", "rmsprop", "adam", "adamw")


def are_for(plan: Plan, spec: Spec, recipe: Recipe, X: Any, y: Any) -> bool:
    """Whether batches are small, and epoch.h supports the recipe, X (n, n_features) and y (n, ...)."""
    if not (hasattr(compiled.native, "steps") and is_small(plan) and isinstance(X, np.ndarray | Pixels)):
        return False
    on_tile_unit = X.dtype == np.uint8 and compiled.multiplies_bytes() and plan.batch >= LEAST_BYTES
    return (
        not on_tile_unit
        and len(spec.sizes) <= MOST_LAYERS
        and spec.sizes[-1] <= MOST_OUTPUTS
        and not (recipe.dropout or recipe.gradient_clip)
        and spec.activation in ACTIVATIONS
        and spec.output in OUTPUTS
        and recipe.optimizer in RULES
        and X.dtype in (np.uint8, np.dtype(recipe.dtype))
        and (isinstance(X, Pixels) or X.strides[1] == X.itemsize)
        and (y.dtype.kind in "iu" if y.ndim == 1 else y.dtype == recipe.dtype)
    )


class Pace:
    """Whether all threads are faster than one; no bit of the result depends on it.

    They often are not where another program runs on one of the processors, or where these share no cache.
    """

    def __init__(self, threads: int) -> None:
        self._choices = {1, threads}
        self._seconds = dict.fromkeys(self._choices, 0.0)  # of a step, when last tried
        self._now, self._looked = threads, perf_counter()

    def next(self) -> tuple[int, float]:
        """How many threads to use next, and for how long."""
        best = min(self._choices, key=lambda threads: (self._seconds[threads], -threads))
        trial = len(self._choices) > 1 and perf_counter() - self._looked > EVERY
        if trial:
            (best,) = self._choices - {best}
            self._looked = perf_counter()
        self._now = best
        return best, TRIAL if trial or not self._seconds[best] else SLICE

    def took(self, seconds: float) -> None:
        """A step took so long."""
        self._seconds[self._now] = seconds


class Compiled:
    """The steps of a run for which `are_for` is true, with the methods and attributes of `OnCpu`."""

    resident, how = 0, ""

    def __init__(
        self,
        spec: Spec,
        data: tuple[Any, Any, Any],
        plan: Plan,
        backend: Backend,
        recipe: Recipe,
        *,
        scale: float,
        count: bool,
    ) -> None:
        self.plan, self.recipe, self._scale, self._count = plan, recipe, scale, count
        self._data = data
        self.params, self.kernels = aligned(spec.n_params, recipe.dtype), kernels_for(backend)
        self.history = np.zeros((recipe.epochs, 3))
        self.steps = self.samples = 0
        self._sizes = np.array(spec.sizes, np.intp)
        tasks = 2 * -(-plan.batch // (2 * SAMPLES))
        some = -(-plan.batch // tasks)
        threads = min(plan.threads, max(1, plan.batch // THREAD_SAMPLES), MOST_THREADS)
        self._pace = Pace(threads)
        room = compiled.native.steps_room(self._sizes, plan.batch, some, threads, self.params.dtype == np.float64)
        self._room = aligned(room, np.uint8)
        kinds = ACTIVATIONS.index(spec.activation), OUTPUTS.index(spec.output), count, RULES.index(recipe.optimizer)
        self._wholes = np.array([plan.batch, some, threads, *kinds, plan.samples], np.int64)

    def begin(self, rule: Any) -> None:
        self.rule = rule
        given, state = rule.hyperparameters, rule.state
        first = next((given[key] for key in ("momentum", "rho", "beta_1") if key in given), 0.0)
        decay = self.recipe.weight_decay if "weight_decay" in given else 0.0
        self._moments = getattr(state, "m", None), getattr(state, "v", None)
        self._steps_of_rule = getattr(state, "t", np.zeros(1))
        self._reals = np.array([
            self._scale, self.recipe.alpha, first, given.get("beta_2", 0.0), given.get("epsilon", 0.0), decay, 0.0, 0.0,
        ])  # fmt: skip

    def epoch(self, number: int, rates: Callable[[int], Sequence[float]], drawn_by: Any, order: Any) -> None:
        its, sums, done = np.array(rates(self.plan.steps_per_epoch)), np.zeros(3), 0
        while done < len(its):  # between calls Python looks for signals
            rows, steps = slice(done * self.plan.batch, None), len(its) - done
            if isinstance(self._data[0], Pixels):  # converted a batch at a time: there is no memory for more
                rows, steps = slice(rows.start, rows.start + self.plan.batch), 1
                (X, y, weights), named = self._at(rows if order is None else order[rows]), None
            elif order is None:
                (X, y, weights), named = self._at(rows), None
            else:
                (X, y, weights), named = self._data, order[rows]
            self._wholes[2], longest = self._pace.next()
            self._reals[-2:] = self._steps_of_rule.item(), longest
            began = perf_counter()
            made = compiled.native.steps(
                X, named, y, weights, self.params, *self._moments, its[done : done + steps], sums, self._sizes,
                self._room, self._wholes, self._reals,
            )  # fmt: skip
            self._pace.took((perf_counter() - began) / made)
            done += made
            self._steps_of_rule += made
        self.history[number] = sums[0] + sums[1], sums[1], sums[2]
        self.steps += done
        self.samples += self.plan.samples

    def _at(self, rows: Any) -> list[Any]:
        return [a if a is None else a[rows] for a in self._data]

    def close(self) -> None:
        """Nothing is held but memory."""

    def inside(self, vectors: Any) -> Any:
        return vectors

    def outside(self, vectors: Any) -> Any:
        return np.array(vectors)
