"""Which runs take their steps in C (`in_c.py`), and how a batch is cut there.

Each task takes a tile of samples through the network, and each thread gets as many tasks. No bit depends on the cut.
"""

from typing import Any

import numpy as np

from fcgpu import logits
from fcgpu.kernels import compiled
from fcgpu.kernels.dense import is_sparse
from fcgpu.network import Workspace
from fcgpu.optim import state_vectors
from fcgpu.params import Spec
from fcgpu.train.recipe import Recipe

# On two cores of a Zen 4, C took 0.6 to 0.95 of the time of tiles and lanes for batches of up to 2,048, and 0.55 to
# 0.85 for larger ones of few numbers, as 16,000 samples of 10 features and 30 units; with 20 MB it took 1.1. Beside two
# other busy programs it took 1.3 to 2. The lanes' first layer skips more zeros of pixels: for 4,096 digits, and for
# 1,200 in one batch, they were faster.
MOST, MOST_PIXELS = 2048, 1000  # samples of a batch; of all pixels in one
MOST_BYTES, FEW_BYTES = 16 << 20, 10 << 20  # of a batch's activations; with so few, the batch may be larger than MOST
THREAD_FLOP = 2_000_000  # operations of a step that each thread needs, some 20 µs
# Samples that each thread needs; pace.py finds out whether they pay. On two cores of a Xeon, of the time on one thread:
# batches of 32 of 784-128-64-10 0.87 in float32 and 0.75 in float64, of 16 1.0 and 0.77, of 8 1.1 and 0.75.
THREAD_SAMPLES = {"float32": 8, "float64": 4}
# Weights of a layer from which a step goes layer by layer (by_layer.h), on as many threads as its operations are worth.
# On two cores of a Xeon, of the time by samples: 784-2048-2048-10 in batches of 1 to 32 0.36 to 0.54 (but by samples on
# one thread), of 64 to 256 0.68 to 0.92; 784-512-512-10 0.8 to 1.0; 784-300-100-10 0.85 to 1.05, in float64 0.78 to
# 1.0; 784-256-256-10 0.94 to 1.15, in float64 0.8 to 1.15. More than two threads were not measured, here and above.
BY_LAYER = 225_000
# Samples of a batch from which the tile unit's products with pixels are faster. On two cores of a Xeon, of the time of
# other steps in C: 0.8 for 64 samples of 784-100-10, 0.7 for 128 and 0.6 for 1,024 of 784-128-64-10. It has steps of
# its own only in float32; in float64 steps in NumPy took 1.4 and 0.6 of the time, and 0.8 for 128 samples.
LEAST_TILED = {"float32": 64, "float64": 128}
# Each task reads all packed weights of the first layer. Where the L2 cache does not hold them, C took 0.6 to 0.85 of
# the time of NumPy's steps on the unit for 256 samples of 784-1024-10, 784-1024-1024-10 and 784-2048-2048-10, 0.88 to
# 1.05 for 512, and 0.97 to 1.1 for 1,024.
FAR_BYTES, MOST_FAR = 2 << 20, 256  # of the first layer's weights; samples of a batch with more of them
OUTPUTS = ("sigmoid", "softmax", "identity")  # in the order of their numbers in samples.h
RULES = ("gradient_descent", "momentum", "nesterov", "rmsprop", "adam", "adamw")  # as in steps.h


def is_for(samples: int, batch: int, spec: Spec, recipe: Recipe, X: Any, y: Any) -> bool:
    """Whether batches are small, and epoch.h supports the recipe, X (n, n_features) and y (n, ...)."""
    if not logits.supports(spec):
        return False
    dtype, pixels = np.dtype(recipe.dtype), X.dtype == np.uint8
    size = batch * Workspace.numbers_per_row(spec) * dtype.itemsize
    is_small = batch <= (MOST_PIXELS if pixels and batch == samples else MOST) and size <= MOST_BYTES
    return (
        not (is_sparse(X) or (on_tiles(batch, recipe, X) and not _has_tiled_steps(batch, spec, dtype)))
        and (is_small or (size <= FEW_BYTES and not pixels))
        and spec.output in OUTPUTS
        and (y.dtype.kind in "iu" if y.ndim == 1 else y.dtype == dtype)
    )


def on_tiles(batch: int, recipe: Recipe, X: Any) -> bool:
    """Whether the products with X are computed on the tile unit."""
    return X.dtype == np.uint8 and batch >= LEAST_TILED[recipe.dtype] and compiled.has_tile_unit()


def _has_tiled_steps(batch: int, spec: Spec, dtype: Any) -> bool:
    """Whether, on the tile unit, steps in C are there and as fast as those in NumPy."""
    n_in, n_out = spec.layer_sizes[0]
    return bool(dtype == np.float32 and (batch <= MOST_FAR or dtype.itemsize * n_in * n_out <= FAR_BYTES))


def rule(optimizer: str) -> int:
    """The number of an optimizer; those whose update is not in C share the last one, and are given the gradient."""
    return RULES.index(optimizer) if optimizer in RULES else len(RULES)


def threads(spec: Spec, batch: int, dtype: str, most: int) -> int:
    """How many threads a step is worth, of at most `most`."""
    worth = 6 * batch * spec.n_params // THREAD_FLOP
    if not by_layer(spec):
        worth = min(worth, batch // THREAD_SAMPLES[dtype])
    return min(most, max(1, worth), logits.MOST_THREADS)


def by_layer(spec: Spec) -> bool:
    """Whether a step goes layer by layer, and not by samples."""
    return max(n_in * n_out for n_in, n_out in spec.layer_sizes) >= BY_LAYER


def room_bytes(spec: Spec, batch: int, recipe: Recipe, tile: int, threads: int, tiles: bool) -> int:
    """Bytes of scratch memory for the steps; `tile` is the samples of a task, `tiles` whether they are `on_tiles`."""
    sizes, doubles, clipped = np.array(spec.sizes, np.intp), recipe.dtype == "float64", bool(recipe.gradient_clip)
    return int(compiled.native.steps_room(sizes, batch, tile, threads, doubles, clipped, tiles, by_layer(spec), False))


def work_bytes(spec: Spec, batch: int, recipe: Recipe, tile: int, threads: int, tiles: bool) -> int:
    """Bytes of the parameters, the optimizer's state, a batch that is converted, and the scratch memory."""
    vectors = 1 + state_vectors(recipe.optimizer, recipe.history_size) + (recipe.optimizer not in RULES)
    numbers = vectors * spec.n_params + batch * spec.sizes[0]
    return np.dtype(recipe.dtype).itemsize * numbers + room_bytes(spec, batch, recipe, tile, threads, tiles)
