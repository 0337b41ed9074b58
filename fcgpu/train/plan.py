"""How a run is cut: tiles of rows, lanes of gradients, threads; what lies where; and the bytes, before they are taken.

A batch is cut into tiles, and tile t is added into lane t mod lanes. Tiles and lanes decide the order of every sum, so
they decide the bits of the result; they depend on the network, the batch and the memory budget, never on the number of
threads. Threads only decide which lanes run side by side.

On a GPU there is one lane, the tile is the batch where that fits, and the features lie on the device in their stored
type. Where memory is short tiles are halved first; where that does not help the features stay on the host, and go
through the device in chunks (`train/stream.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fcgpu.backend import Backend, Work, cpu_count
from fcgpu.errors import ConfigError, DeviceError
from fcgpu.kernels.device import WIDTH
from fcgpu.network import Workspace
from fcgpu.optim.first_order import state_arrays
from fcgpu.params import Padded, Spec
from fcgpu.train.recipe import Recipe

# Chosen on a 2-core Xeon with 2 MB of L2 a core, 784-128-64-10, float32: tiles of 512 to 1,024 rows were within 3 % of
# each other, 256 and 2,048 rows 5 to 15 % slower.
TILE_ROWS = 2048
TILE_BYTES = 8 << 20  # of workspace: wide inputs get fewer rows
SMALL_TILE = 64  # rows below which a product is mostly overhead
LANES = 16
LANE_BYTES = 128 << 20  # of gradients: a large network gets fewer lanes
LANE_FLOP = 2e8  # multiplications and additions under which a lane is not worth a thread's start, some 50 µs

# Not measured yet, from counts: a tile of 784-128-64-10 is some 30 launches of about 5 µs, so above GPU_TILE_ROWS they
# are few beside its products, and below GPU_SMALL_TILE reading the features from the host again may be cheaper.
GPU_TILE_ROWS = 1 << 16
GPU_SMALL_TILE = 1 << 12
AHEAD = 1024  # steps, about, whose learning rates, and dropout's keys, a GPU knows
CHUNK_BYTES = 64 << 20  # of features that go to the device at once; there are two chunks there, and two on the host


@dataclass(frozen=True)
class Plan:
    """Rows per update, rows per tile, gradient accumulators, threads, and bytes.

    `note` says in words why it is not the plan of choice, where memory ran out although it should have been enough.
    """

    samples: int
    batch: int
    tile: int
    lanes: int
    threads: int
    data_bytes: int  # the samples, as far as they lie where the run computes
    work_bytes: int  # parameters, gradients, optimizer state and workspaces
    budget: int
    chunk: int = 0  # rows of X that go through the GPU at a time; 0 where all of it lies where the run computes
    note: str = ""

    @property
    def bytes(self) -> int:
        return self.data_bytes + self.work_bytes

    @property
    def remedy(self) -> str:
        """What to do where even that is not there."""
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
) -> Plan:
    """The plan for X (n_samples, n_features) and y (n_samples, ...), within `memory_budget` bytes (None: what is free).

    The data count as they will lie on the device, X in its stored type; `weighted` where samples have weights; `beside`
    are bytes of other samples that lie there where X does. Where the budget is short the tile shrinks first, on the CPU
    then the lanes, on a GPU the features stay on the host; then the tile shrinks again.
    Raises ConfigError for a batch larger than the data or a thread count below 1; DeviceError, with the least that
    would do, for a budget that nothing fits.
    """
    X, y = data
    n = X.shape[0]
    rows = n if recipe.batch == "full" else int(recipe.batch)
    if rows > n:
        raise ConfigError(f'batch={rows} is more than the {n} samples; use batch="full"')
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads}: expected 1 or more")
    size, row_bytes = np.dtype(recipe.dtype).itemsize, X.dtype.itemsize * X.shape[1]
    there = not backend.on_gpu or backend.holds(X)  # in memory already: what is free is free for the rest
    counted = X.nbytes + y.nbytes if there else 0
    budget = backend.memory() + counted if memory_budget is None else memory_budget
    small = y.nbytes + n * (size * weighted + 4 * bool(recipe.dropout))  # of every sample, beside its features
    if backend.on_gpu and recipe.shuffle and rows < n:
        small += 8 * n  # the order

    def sized(cut: Plan) -> Plan:
        features = 2 * cut.chunk * row_bytes if cut.chunk else X.nbytes + beside
        return with_work(replace(cut, data_bytes=features + small), spec, recipe, backend)

    whole = Plan(n, rows, rows, 1, 1, 0, 0, budget)
    cuts = _gpu_cuts(whole, row_bytes, movable=not there) if backend.on_gpu else _cpu_cuts(whole, spec, size, threads)
    fitted = whole
    for cut in cuts:
        fitted = sized(cut)
        if fitted.bytes <= budget:
            return fitted
    raise DeviceError(
        f"memory budget of {readable(budget)} is too small; this network and data need at least "
        f"{readable(fitted.bytes)} on {backend.device}: raise the budget, or use a smaller network or dtype"
    )


def with_work(cut: Plan, spec: Spec, recipe: Recipe, backend: Backend) -> Plan:
    """The plan with its work_bytes: vectors of the parameters' length, workspaces, the history of the losses.

    What a GPU's libraries take for themselves is not in it: up to 32 MiB of cuBLAS and the kernels' own code.
    """
    size, history = np.dtype(recipe.dtype).itemsize, 24 * recipe.epochs
    state = 2 * recipe.history_size + 4 if recipe.optimizer == "lbfgs" else state_arrays(recipe.optimizer)
    chosen = bool(recipe.alpha) + (recipe.optimizer == "adamw") + recipe.early_stopping
    masks = sum(recipe.hidden) if recipe.dropout else 0
    if not backend.on_gpu:
        vectors = 1 + state + chosen + cut.lanes + cut.threads + 2  # 2: temporaries of the update
        row = size * Workspace.values(spec) + masks + 1
        return replace(cut, work_bytes=size * vectors * spec.n_params + cut.threads * cut.tile * row + history)
    operand = 2 if recipe.precision in ("float16", "bfloat16") else size
    layout = Padded(spec, WIDTH)
    (first, _), *hidden = layout.shapes
    n_out = layout.shapes[-1][1]
    vectors = size * (2 + state + chosen) + (operand if operand < size else 0)
    if recipe.optimizer == "lbfgs":
        vectors += 2 * size  # temporaries of an iteration
    row = operand * (first + 2 * sum(rows for rows, _ in hidden)) + (size + operand) * n_out + masks
    ahead = max(AHEAD, cut.steps_per_epoch) * (size + (8 * len(recipe.hidden) if recipe.dropout else 0))
    return replace(cut, work_bytes=vectors * layout.size + cut.tile * row + history + ahead)


def work_of(spec: Spec, batch: int) -> Work:
    """One update from `batch` samples: two products of the first layer, three of the others, and 5 launches a layer and
    one more, as the device double of the tests counts them.
    """
    first, *others = (2 * n_in * n_out for n_in, n_out in spec.layer_sizes)
    return Work(float(batch * (2 * first + 3 * sum(others))), 1 + 5 * len(spec.layer_sizes))


def readable(n: float) -> str:
    """Bytes as people write them."""
    if n < 1024:
        return f"{n:.0f} byte{'s' if n != 1 else ''}"
    power = next((p for p in (1, 2) if n < 1023.95 * 1024**p), 3)  # 1023.95 would be shown as 1,024.0
    return f"{n / 1024**power:,.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def _cpu_cuts(whole: Plan, spec: Spec, size: int, threads: int | None) -> Iterator[Plan]:
    """From the fastest to the one that needs least."""
    flop = 6.0 * spec.n_params * whole.batch
    lanes = int(max(1, min(LANES, LANE_BYTES // (size * spec.n_params), flop // LANE_FLOP, whole.batch)))
    rows = max(32, min(TILE_ROWS, TILE_BYTES // (size * Workspace.values(spec))))
    rounds = max(1, round(whole.batch / (lanes * rows)))  # tiles a lane; all of one size, so that lanes end together
    tile, threads = -(-whole.batch // (lanes * rounds)), threads or cpu_count()
    while True:
        yield replace(whole, lanes=lanes, tile=tile, threads=min(threads, lanes))
        if tile > SMALL_TILE or lanes == 1 < tile:
            tile = half(tile)
        elif lanes > 1:
            lanes //= 2
        else:
            return


def _gpu_cuts(whole: Plan, row_bytes: int, *, movable: bool) -> Iterator[Plan]:
    """From the fastest to the one that needs least; X can stay on the host where it is `movable`."""
    tile = min(whole.batch, GPU_TILE_ROWS)
    yield replace(whole, tile=tile)
    while tile > (GPU_SMALL_TILE if movable else 1):
        tile = half(tile)
        yield replace(whole, tile=tile)
    if not movable:
        return
    rows = max(1, CHUNK_BYTES // row_bytes)
    tile = min(whole.batch, GPU_TILE_ROWS, rows)
    batches = min(rows, whole.samples) // whole.batch  # whole ones in a chunk; else a chunk is a tile
    while batches > 1:
        yield replace(whole, tile=tile, chunk=batches * whole.batch)
        batches //= 2
    yield replace(whole, tile=tile, chunk=tile)
    while tile > 1:
        tile = half(tile)
        yield replace(whole, tile=tile, chunk=tile)


def half(tile: int) -> int:
    return -(-tile // 2)
