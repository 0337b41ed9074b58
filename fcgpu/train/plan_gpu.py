"""Plans for a GPU's memory, from the fastest to the one that needs least.

If it fits, the tile is the batch, and the features are on the device in their stored dtype. If memory is short, tiles
are halved first. If that is not enough, the features stay on the host and go through the device in chunks
(`stream.py`). A chunk is several batches or, if a batch is cut, one tile.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fcgpu.backend import INSTALL
from fcgpu.errors import ConfigError
from fcgpu.kernels import middle_cut
from fcgpu.optim import state_vectors
from fcgpu.params import Padded, Spec
from fcgpu.train.recipe import Recipe

# On an H100 a full batch of 60,000 was fastest in one tile. Layer by layer, two tiles took 1.05 times as long in
# float32 and 1.2 times in bfloat16; sixteen tiles took 2 and 4 times as long. Below GPU_SMALL_TILE it may be cheaper to
# read the features from the host again; that is not measured.
GPU_TILE_ROWS = 1 << 16
GPU_SMALL_TILE = 1 << 12
CHUNK_BYTES = 64 << 20  # of a chunk of features; there are two buffers for chunks on the device, and two on the host
PIECES = {"bfloat16": 1, "tf32": 2, "float32": 3}  # bfloat16 pieces, of 8 bits each: tf32 has 11 bits, float32 24
AHEAD = 1024  # for about this many steps the device gets learning rates and dropout's keys ahead


def cuts(samples: int, batch: int, row_bytes: int, *, movable: bool) -> Iterator[tuple[int, int]]:
    """Yield (rows of a tile, rows of a chunk); the latter is 0 if all features are on the device. If they are not
    `movable`, because they are on the device already, there are no chunks.
    """
    tile = min(batch, GPU_TILE_ROWS)
    yield tile, 0
    while tile > (GPU_SMALL_TILE if movable else 1):
        tile = half(tile)
        yield tile, 0
    if not movable:
        return
    rows = max(1, CHUNK_BYTES // row_bytes)
    tile = min(batch, GPU_TILE_ROWS, rows)
    batches = min(rows, samples) // batch
    while batches > 1:
        yield tile, batches * batch
        batches //= 2
    yield tile, tile
    while tile > 1:
        tile = half(tile)
        yield tile, tile


def sample_bytes(recipe: Recipe, *, weighted: bool) -> int:
    """Bytes of a sample besides its features and target: its weight, and its id for dropout."""
    return np.dtype(recipe.dtype).itemsize * weighted + 4 * bool(recipe.dropout)


def why_layers(spec: Spec, recipe: Recipe, *, cut: bool, xp: Any) -> str:
    """Why a step must go layer by layer (`layers.py`) and cannot use `onchip.py`; "" if it can.

    cut : whether a batch is cut into several tiles.
    """
    if recipe.dtype != "float32" or recipe.precision not in PIECES:
        return f"bfloat16 products cannot replace those of {recipe.dtype}, precision {recipe.precision}"
    if recipe.dropout_rates:
        return "there is dropout"
    if cut:
        return "a batch is cut into tiles"
    device = xp.cuda.Device()
    if int(device.compute_capability) < 80:
        return "tensor cores take bfloat16 from compute capability 8.0 (Ampere) on"
    try:
        import ml_dtypes  # noqa: F401
    except ModuleNotFoundError:
        return "ml_dtypes is not installed"
    return middle_cut.why_not(spec.sizes, PIECES[recipe.precision], device.attributes)


def operand_of(precision: str, dtype: Any, xp: Any) -> Any:
    """The dtype of the products' operands. Raises ConfigError for a precision that this GPU lacks."""
    capability = int(xp.cuda.Device().compute_capability)
    if precision in ("tf32", "bfloat16") and capability < 80:
        raise ConfigError(
            f"precision={precision!r} needs a GPU of compute capability 8.0 (Ampere) or later, and this one has "
            f"{capability / 10:.1f}: use precision='float16' or 'float32'"
        )
    if precision == "bfloat16":
        try:
            from ml_dtypes import bfloat16
        except ModuleNotFoundError:
            raise ConfigError(f"precision='bfloat16' needs ml_dtypes: {INSTALL}") from None
        return np.dtype(bfloat16)
    return np.dtype(np.float16) if precision == "float16" else dtype


def work_bytes(
    spec: Spec, recipe: Recipe, tile: int, steps: int, *, pixels: bool, layers: bool, ahead: bool, xp: Any
) -> int:
    """Bytes of the vectors of n_params numbers, a tile's buffers, the rates and keys sent ahead, and the history.

    steps : per epoch. pixels : whether the features are 8-bit integers. layers : whether a step goes layer by layer.
    ahead : whether a second batch is loaded meanwhile.
    The memory of CUDA's libraries is not counted: up to 32 MiB of cuBLAS, and the kernels' code.
    """
    size, layout = np.dtype(recipe.dtype).itemsize, Padded(spec)
    operand = 2 if recipe.precision in ("float16", "bfloat16") else size
    lbfgs = recipe.optimizer == "lbfgs"
    temporaries = 2 * lbfgs
    chosen = bool(recipe.alpha) + (recipe.optimizer == "adamw") + recipe.early_stopping
    vectors = size * (2 + state_vectors(recipe.optimizer, recipe.history_size) + temporaries + chosen) + operand * (
        operand < size and layers
    )
    (first, columns), *hidden = layout.shapes
    if layers:
        masks = sum(spec.sizes[1:-1]) if recipe.dropout else 0
        row = operand * (first + 2 * sum(rows for rows, _ in hidden)) + (size + operand) * layout.shapes[-1][1] + masks
        more = 0
    else:
        pieces, device = PIECES[recipe.precision], xp.cuda.Device().attributes
        blocks = middle_cut.blocks_of(middle_cut.cut_of(spec.sizes, pieces, tile, device), tile, device)
        more = 4 * blocks * (layout.size - first * columns)
        if pixels:
            row = 2 * first + ((2 if pieces == 1 else 4) + 2) * pieces * columns
            more += (2 + 4) * pieces * first * columns
        else:
            row = operand * (first + 2 * columns)
            more += 2 * first * columns * (operand == 2)
    if ahead:
        row += first * (2 if pixels and not layers else operand)
    sent = max(AHEAD, steps) * (size + (8 * len(spec.sizes[1:-1]) if recipe.dropout else 0))
    return vectors * layout.size + tile * row + more + sent + 24 * recipe.epochs


def half(tile: int) -> int:
    return -(-tile // 2)
