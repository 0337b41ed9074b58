"""Many steps of small batches in one launch of `kernels/cluster.py`, if GPU, network and recipe allow it."""

from typing import Any

from fcgpu.errors import first_line
from fcgpu.kernels import cluster
from fcgpu.kernels.device import Now, Place, Rows, Tables
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.text import C_TYPES
from fcgpu.params import Spec
from fcgpu.train.capture import Capture, Steps
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe

LONGEST = 1 << 14  # most steps in a launch, so that none takes a second


class Cluster:
    """The cluster kernel of a run. `why` says why it is not used; it is "" if it is."""

    def __init__(
        self,
        capture: Capture,
        *,
        spec: Spec,
        recipe: Recipe,
        plan: Plan,
        samples: Rows,
        place: Place,
        tables: Tables,
        now: Now,
        params: Any,
        rule: Any,
        weighted: bool,
        count: bool,
        scale: float,
    ) -> None:
        self._capture, self._plan, self._place, self._scale, self._alpha = capture, plan, place, scale, recipe.alpha
        self._shapes: list[cluster.Shape] = []
        self._kernel: Any = None
        self._made: dict[tuple[int, int], Any] = {}  # kernel arguments, by (rows, times)
        self.why = why_not(capture.xp, spec, recipe, plan, samples, weighted)
        if self.why:
            return
        options = dict(rule.hyperparameters)
        if "weight_decay" in options:
            options["weight_decay"] = recipe.weight_decay  # the kernel takes a number; rule has a vector
        self._numbers = cluster.numbers_of(recipe.optimizer, options)
        state = tuple(getattr(rule.state, name) for name in rule.state._fields if name != "t")
        self._arrays = cluster.Vectors(
            samples.X, samples.y, place.order, params, state, tables.rates, tables.first, now.totals, now.history,
            now.at, now.t, now.rate,
        )  # fmt: skip
        shape = cluster.Shape(
            spec.sizes, spec.activation, OUTPUTS[spec.output].loss, recipe.optimizer, params.dtype.name,
            samples.X.dtype.name, samples.y.dtype.name, samples.y.ndim == 2, count, bool(recipe.alpha), plan.batch,
        )  # fmt: skip
        most = int(capture.xp.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])
        self._shapes = cluster.fitting(shape, most, samples.X.size)
        if not self._shapes:
            self.why = f"network and batch do not fit into {most} bytes of shared memory a block"

    def steps(self, rows: int, otherwise: Steps) -> Any:
        """A runner of steps with `rows` samples each: the kernel, or `otherwise` if it is not used."""
        return otherwise if self.why else InCluster(self, rows, otherwise)

    def launch(self, rows: int, times: int) -> bool:
        """Launch `times` steps of `rows` samples; return whether that succeeded."""
        while self._shapes:
            shape = self._shapes[0]
            try:
                if self._kernel is None:
                    self._kernel = cluster.kernel(shape, self._capture.xp, self._capture.xp.cuda.Device().id)
                self._kernel((shape.blocks,), (shape.threads,), self._arguments(rows, times), shared_mem=shape.bytes)
            except Exception as error:  # from the compiler or the driver, before any step has run
                self._capture.lost, self._kernel = f"no cluster of blocks: {first_line(error)}", None
                self._shapes.pop(0)
            else:
                self._capture.lost, self._capture.blocks = "", shape.blocks
                return True
        return False

    def _arguments(self, rows: int, times: int) -> Any:
        if (rows, times) not in self._made:
            self._made[rows, times] = cluster.arguments(
                self._arrays, self._place.steps, self._place.batch, rows, times, self._scale, rows / self._plan.samples,
                self._alpha, self._numbers,
            )  # fmt: skip
        return self._made[rows, times]


class InCluster:
    """Runs steps by the cluster kernel, with the interface of `Steps`."""

    def __init__(self, cluster: Cluster, rows: int, otherwise: Steps) -> None:
        self._cluster, self._rows, self._otherwise = cluster, rows, otherwise

    def run(self, times: int) -> None:
        """Launch `times` steps of one epoch, inside `capture.on_stream()`."""
        while times:
            now = min(times, LONGEST)
            if not self._cluster.launch(self._rows, now):
                self._otherwise.run(times)
                return
            times -= now


def why_not(xp: Any, spec: Spec, recipe: Recipe, plan: Plan, samples: Rows, weighted: bool) -> str:
    """Why the cluster kernel does not support this run; "" if it does, as far as is known before its size is."""
    hidden, outputs = spec.sizes[1:-1], spec.sizes[-1]
    reasons = {
        "the features come from the host in chunks": bool(plan.chunk),
        "it needs a hidden layer": not hidden,
        f"it takes {cluster.MOST_OUTPUTS} outputs at most": outputs > cluster.MOST_OUTPUTS,
        f"it takes {cluster.MOST_ROWS} rows at most": plan.batch > cluster.MOST_ROWS,
        "it has no dropout": bool(recipe.dropout_rates),
        "it has no sample weights": weighted,
        "it has no gradient_clip": bool(recipe.gradient_clip),
        f"it has no {recipe.optimizer}": recipe.optimizer not in cluster.RULES,
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    if int(xp.cuda.Device().compute_capability) < 90:
        return "it needs a GPU of compute capability 9.0 (Hopper) or later"
    for array in (samples.X, samples.y):
        if array.dtype.name not in C_TYPES or array.data.ptr % 16 or not array.flags.c_contiguous:
            return f"it cannot read arrays of {array.dtype} as they lie in memory"
    return ""
