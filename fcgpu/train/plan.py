"""The plan of a run: tiles of rows, lanes of gradients, threads, and the memory needed, before it is allocated.

A batch is cut into tiles, and tile t is added into lane t mod lanes. Tiles and lanes determine the order of every sum,
and so the bits of the result; on the CPU they depend on the network, the batch and the number of samples alone. The
number of threads only determines which lanes are filled at the same time. A small memory budget reduces the threads,
and the lanes that are in memory at once.

On a GPU there is one lane; `plan_gpu.py` plans what is kept on the device.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fcgpu import logits
from fcgpu.backend import Backend, Work
from fcgpu.errors import DeviceError
from fcgpu.host import cpu_count, readable
from fcgpu.kernels.dense import is_sparse
from fcgpu.network import Workspace, effective_spec
from fcgpu.optim import state_vectors
from fcgpu.params import Spec
from fcgpu.train import plan_c, plan_gpu
from fcgpu.train.pixels import is_mapped
from fcgpu.train.recipe import Recipe

# Chosen on a 2-core Xeon with 2 MB of L2 a core, 784-128-64-10, float32: tiles of 512 to 1,024 rows were within 3 % of
# each other, 256 and 2,048 rows 5 to 15 % slower.
TILE_ROWS = 2048
TILE_BYTES = 8 << 20  # of workspace: wide inputs get fewer rows
# Narrow networks get more, for which Python needs less time: a step with 10-5-3 took 0.53 to 0.87 of the time of 2,048
# rows, 30-20-20-3 in float32 0.75, others 0.96 to 1.08. That was on a Zen 4 with 1 MB of L2 a core, and two threads.
NARROW_ROWS, NARROW_BYTES = 8192, 2 << 20
LANES = 16
LANE_BYTES = 128 << 20  # of gradients: a large network gets fewer lanes
# Operations in the time that a lane costs, which is to wake a thread and to add a gradient: n lanes take as long as
# flop / n + n LANE_FLOP, least for n = √(flop / LANE_FLOP). On two cores of a Zen 4 two lanes took 0.55 to 0.75 of the
# time of one from four times as many operations on.
LANE_FLOP = 2e7
LANE_ROWS = 500  # a batch of fewer has one lane, of more at most one for so many, or two
# Operations per number in a workspace from which a network is wide: nearly all time is spent in products, and adding up
# the gradients of two lanes takes as long as 20 samples. With 784-512-512-10, which has 1,400, one tile takes 0.9 of
# the time of two lanes for a batch of 128, 1.1 for 256 and 1.3 for 512; with 784-256-10, which has 930, 1.2 for 512.
# That was on two threads; eight can share one tile's products, and only two of them two lanes.
WIDE = 1200
WIDE_LANE_ROWS = 256
ORDER_BYTES = 32  # of a sample in a drawn order on the CPU: the first order, this one, and its indices as it is used
PASSES, CACHED = 6, 1 << 19  # over the parameters in a step; bytes of them that stay in a core's cache


@dataclass(frozen=True)
class Plan:
    """How a run is cut, and the bytes that it needs."""

    samples: int
    batch: int  # rows per update
    tile: int  # rows per tile
    lanes: int  # gradient accumulators
    threads: int
    data_bytes: int  # of the samples, if they are in the memory of the device that computes
    work_bytes: int  # of parameters, gradients, optimizer state and workspaces
    budget: int  # bytes
    held: int = 1  # lanes that are in memory at once, at least 2 if there are several; they are used in turn
    chunk: int = 0  # rows of X that go through the GPU at a time; 0 if all of X is on the device
    note: str = ""  # if memory ran out: why this is not the plan that was made first
    in_c: bool = False  # whether the steps are taken in C; then there are no lanes, and a tile is what a task takes
    why_layers: str = ""  # why a GPU's step goes layer by layer; "" if it does not

    @property
    def loads_ahead(self) -> bool:
        """Whether a GPU loads the next batch while it computes one."""
        return self.tile == self.batch <= self.samples // 2 and not self.chunk

    @property
    def at_once(self) -> int:
        """Lanes that are filled at the same time."""
        return min(self.threads, self.lanes)

    @property
    def bytes(self) -> int:
        return self.data_bytes + self.work_bytes

    @cached_property
    def remedy(self) -> str:
        """For an error message: what to do if memory runs out with this plan."""
        return f"this network and data need at least {readable(self.bytes)}; free its memory, or use a smaller network"

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // self.batch)


def plan(
    spec: Spec,
    data: tuple[Any, Any],
    recipe: Recipe,
    backend: Backend,
    *,
    threads: int | None = None,
    memory_budget: int | None = None,
    weighted: bool = False,
    beside: int = 0,
    taken: Any = None,
) -> Plan:
    """The plan for X (n_samples, n_features) and y (n_samples, ...), within `memory_budget` bytes (None: what is free).

    X counts with its stored dtype; on the CPU it does not count if it is mapped from disk.
    weighted : whether samples have weights. beside : bytes of other samples, such as held-out ones, beside X.
    taken : X as the steps on the CPU take it, such as Pixels; None for X itself.

    If the budget is short, first fewer lanes are held and then fewer threads used; on a GPU the tile shrinks, and then
    X stays on the host. Raises DeviceError, with the bytes needed, if no plan fits the budget.
    """
    X, y = data
    n = X.shape[0]
    batch = recipe.batch_of(n)
    resident = y.nbytes + (0 if is_mapped(X) and not backend.on_gpu else X.nbytes)
    there = not backend.on_gpu or backend.holds(X)  # in memory already, hence not in what is free
    budget = memory_budget
    if budget is None:
        budget = backend.memory() + (resident if there else 0)
    order = ORDER_BYTES * n if recipe.shuffle and batch < n else 0
    whole = Plan(n, batch, batch, 1, 1, resident + order, 0, budget)
    if backend.on_gpu:
        small = y.nbytes + n * plan_gpu.sample_bytes(recipe, weighted=weighted)
        cuts = _on_gpu(whole, spec, X, recipe, small, beside, movable=not there, xp=backend.xp)
    else:
        cuts = _on_cpu(whole, spec, X, (X if taken is None else taken, y), recipe, threads or cpu_count())
    for cut in cuts:
        if cut.bytes <= budget:
            return cut
    npy = "" if is_mapped(X) or backend.on_gpu else "save the data as .npy, which can stay on disk, "
    raise DeviceError(
        f"memory budget of {readable(budget)} is too small; this network and data need at least "
        f"{readable(cut.bytes)} on {backend.device}: raise the budget, {npy}or use a smaller network or dtype"
    )


def work_of(spec: Spec, batch: int, steps: int = 1) -> Work:
    """The Work of `steps` updates from `batch` samples each.

    It counts two products for the first layer and three for each other one, 5 launches per layer and one more, the
    number that the tests' simulated GPU counts, and PASSES over all parameters beyond CACHED bytes.
    """
    first, *others = (2 * n_in * n_out for n_in, n_out in spec.layer_sizes)
    flop, moved = float(batch * (2 * first + 3 * sum(others))), PASSES * max(0, 4 * spec.n_params - CACHED)
    return Work(flop, 1 + 5 * len(spec.layer_sizes), steps, moved)


def _cut_for_cpu(whole: Plan, spec: Spec, effective: Spec, size: int) -> Plan:
    flop, numbers = 6.0 * effective.n_params, Workspace.numbers_per_row(effective)  # of a sample: 3 products
    is_wide = flop > WIDE * numbers
    if is_wide and whole.batch < 2 * WIDE_LANE_ROWS and whole.batch <= whole.samples // 2:
        return whole  # one tile: the threads share each product
    lane_rows = WIDE_LANE_ROWS if is_wide else LANE_ROWS
    most = max(2, whole.batch // lane_rows) if is_wide or whole.batch >= lane_rows else 1
    worth = min(most, math.sqrt(flop * whole.batch / LANE_FLOP))
    lanes = int(max(1, min(LANES, LANE_BYTES // (size * spec.n_params), worth, whole.batch)))
    lanes = 1 << lanes.bit_length() - 1  # a power of two, so that 2, 4, ... threads get equal work
    row = size * numbers
    rows = max(32, min(TILE_ROWS, TILE_BYTES // row), min(NARROW_ROWS, NARROW_BYTES // row))
    rounds = max(1, round(whole.batch / (lanes * rows)))  # tiles per lane, all of one size, so that lanes end together
    return replace(whole, lanes=lanes, held=lanes, tile=-(-whole.batch // (lanes * rounds)))


def _on_gpu(
    whole: Plan, spec: Spec, X: Any, recipe: Recipe, small: int, beside: int, *, movable: bool, xp: Any
) -> Iterator[Plan]:
    row = X.dtype.itemsize * X.shape[1]
    order = 8 * whole.samples if recipe.shuffle and whole.batch < whole.samples else 0
    for tile, chunk in plan_gpu.cuts(whole.samples, whole.batch, row, movable=movable):
        data = small + (2 * chunk * row if chunk else X.nbytes + beside + order)
        why = plan_gpu.why_layers(spec, recipe, cut=tile < whole.batch, xp=xp)
        made = replace(whole, tile=tile, chunk=chunk, data_bytes=data, why_layers=why)
        work = plan_gpu.work_bytes(
            spec, recipe, tile, whole.steps_per_epoch, pixels=X.dtype.itemsize == 1, layers=bool(why),
            ahead=made.loads_ahead, xp=xp,
        )  # fmt: skip
        yield replace(made, work_bytes=work)


def _on_cpu(whole: Plan, spec: Spec, X: Any, taken: tuple[Any, Any], recipe: Recipe, threads: int) -> Iterator[Plan]:
    if plan_c.is_for(whole.samples, whole.batch, spec, recipe, *taken):
        tiles = plan_c.on_tiles(whole.batch, recipe, taken[0])
        for most in dict.fromkeys((threads, 1)):
            used = plan_c.threads(spec, whole.batch, recipe.dtype, most)
            tile = logits.TILE if tiles else logits.tile(spec, whole.batch, recipe.dtype, used)
            work = plan_c.work_bytes(spec, whole.batch, recipe, tile, used, tiles)
            yield replace(whole, in_c=True, threads=most, tile=tile, work_bytes=work)
        return
    size, row = np.dtype(recipe.dtype).itemsize, X.dtype.itemsize * X.shape[1]
    effective = effective_spec(spec, X)
    if is_sparse(X):
        row = size * effective.sizes[0]
    cut = replace(_cut_for_cpu(whole, spec, effective, size), threads=threads)
    while True:
        yield _sized(cut, spec, effective, size, row, recipe)
        if cut == (cut := _fewer_at_once(cut)):
            return


def _fewer_at_once(cut: Plan) -> Plan:
    """The cut with fewer lanes held, down to one per thread and one for the sum; then with fewer threads."""
    threads = cut.threads if cut.held > cut.at_once + 1 else max(1, cut.at_once - 1)
    return replace(cut, threads=threads, held=min(cut.lanes, max(threads + 1, cut.held // 2)))


def _sized(cut: Plan, spec: Spec, effective: Spec, size: int, row: int, recipe: Recipe) -> Plan:
    """The plan with its work_bytes: vectors of n_params numbers, a workspace and a scratch gradient per thread, and for
    each row of a tile the `row` bytes of a copy of its stored features.
    """
    temporaries = 2  # of the update
    vectors = 1 + state_vectors(recipe.optimizer, recipe.history_size) + cut.held + cut.at_once + temporaries
    work = cut.at_once * cut.tile * (size * Workspace.numbers_per_row(effective) + row)
    return replace(cut, work_bytes=size * vectors * spec.n_params + work)
