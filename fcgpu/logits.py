"""The logits of samples in C, for a CPU: `network.py`'s forward pass, tile by tile, in one call of `kernels/samples.h`.

No bit depends on the tiles or the threads, so a sample has the same logits alone and among others.
"""

from typing import Any

import numpy as np

from fcgpu.host import cpu_count
from fcgpu.kernels import compiled
from fcgpu.kernels.native import is_plain, plain
from fcgpu.params import LINE, Spec, aligned

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu", "identity")  # in the order of their numbers in samples.h
MOST_LAYERS, MOST_THREADS, MOST_OUTPUTS = 64, 64, 2048  # as in steps.h, team.h, elementwise.h; the input is a layer
LARGEST = 1 << 24  # units of a layer, as in call_steps.h
TILE = 32  # samples of a task, at most; on the tile unit always, because that is how deep a tile is
WIDE, WIDE_TILE = 4 << 20, 128  # bytes of a layer's weights; what TILE is if a layer has more of them
# Samples of a task: where there are fewer for each thread, the threads share the columns of each layer. So they do in
# wide layers with up to WIDE_TILE: on a Xeon 8 to 64 of 784-2048-2048-3 took 0.73 to 0.97 of the time of two tasks.
LEAST = 4
# Bytes of the first layer's weights up to which the tile unit multiplies pixels. It has to pack them first: on a Xeon
# one sample of 784-128-64-10 took twice the time that it takes without it, 100 took as long, and 10,000 0.7 of it; of
# 784-512-512-10 2.9, 1.2 and 0.8.
TILED = 1 << 20
# Samples from which the weights are packed first: weights that begin with a cache line, and others, such as unpickled
# ones. On a Xeon 1,000 samples of three layers of 1,000 units then took 0.8 of the time, and 200 of some networks 1.1;
# with the others 0.7 and 0.9.
PACKED, UNALIGNED_PACKED = 500, 200
START = 10_000_000  # samples times bytes of the parameters, for a thread more: to start it takes some 30 µs
BYTES = 64 << 20  # of the layers' values for the samples of a call: between calls Python looks for signals


def supports(spec: Spec) -> bool:
    """Whether the passes in C are compiled, and know such a network."""
    return (
        hasattr(compiled.native, "logits")
        and len(spec.sizes) <= MOST_LAYERS
        and max(spec.sizes) <= LARGEST
        and spec.sizes[-1] <= MOST_OUTPUTS
        and spec.activation in ACTIVATIONS
    )


def is_wide(spec: Spec, dtype: Any) -> bool:
    """Whether a layer's weights have more bytes than WIDE."""
    return bool(np.dtype(dtype).itemsize * max(n_in * n_out for n_in, n_out in spec.layer_sizes) > WIDE)


def on_tiles(spec: Spec, dtype: Any, X: Any) -> bool:
    """Whether predictions multiply pixels by the tile unit. It does not depend on how many samples there are, because
    their bits must not.
    """
    n_in, n_out = spec.layer_sizes[0]
    pixels = X.dtype == np.uint8 and dtype == np.float32
    return pixels and 4 * n_in * n_out <= TILED and compiled.has_tile_unit()


def tile(spec: Spec, n: int, dtype: Any, threads: int) -> int:
    """Samples of a task, of n: as far as n allows, all tasks are of one size and each thread gets as many."""
    rounds = -(-n // (threads * (WIDE_TILE if is_wide(spec, dtype) else TILE)))
    return -(-n // (threads * rounds))


def logits(spec: Spec, params: Any, X: Any, scale: float, threads: int | None) -> Any:
    """Logits (n, n_outputs), in the dtype of params (n_params,), of scale X (n, n_features) of any dtype.

    threads : at most; None for all processors. Little work has fewer.
    """
    n, dtype = X.shape[0], np.uint8 if X.dtype == np.uint8 else params.dtype
    worth = min(max(n, LEAST) * params.nbytes // START, MOST_THREADS)  # few samples take as long: memory is waited for
    used = min(worth, threads or cpu_count()) if worth > 1 else 1
    tiles = on_tiles(spec, params.dtype, X)
    if tiles:
        rows, used = TILE, min(used, -(-n // TILE))
    else:
        are_few = n < LEAST * used or (n <= WIDE_TILE and is_wide(spec, params.dtype))
        rows = n if are_few else tile(spec, n, params.dtype, used)
    batch = rows * used if rows < n else rows
    out = np.empty((n, spec.sizes[-1]), params.dtype)
    sizes, number = np.array(spec.sizes, np.intp), ACTIVATIONS.index(spec.activation)
    params = plain(params)
    packed = n >= PACKED or (n >= UNALIGNED_PACKED and params.ctypes.data % LINE != 0)
    doubles = params.dtype == np.float64
    bytes_needed = compiled.native.steps_room(sizes, batch, rows, used, doubles, False, tiles, False, packed)
    room = aligned(int(bytes_needed), np.uint8)
    step = max(rows, BYTES // (sum(spec.sizes) * params.itemsize))
    for start in range(0, n, step):
        part = X[start : start + step]
        part = part if is_plain(part, dtype) else plain(part, dtype)
        compiled.native.logits(
            part, params, out[start : start + step], sizes, room, rows, used, number, scale, tiles, packed
        )
    return out
