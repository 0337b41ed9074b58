"""The outputs of a network for many samples: on a CPU in C where it can, else tile by tile to bound memory."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.host import cpu_count
from fcgpu.kernels import compiled
from fcgpu.kernels.dense import is_sparse
from fcgpu.logits import logits, supports
from fcgpu.network import Network, Workspace, in_effect
from fcgpu.params import Layer, Spec
from fcgpu.workers import Workers

TILE_BYTES = 4 << 20  # of a tile's buffers on the CPU: about what a core's caches hold
GPU_TILE_BYTES, FEW_BYTES = 256 << 20, 16 << 20  # for the latter a GPU is not asked what it has left

Compute = Callable[[Network, Sequence[Layer], Workspace], Any]


def in_tiles(
    compute: Compute, spec: Spec, params: Any, X: Any, backend: Backend, threads: int | None, scale: float = 1.0
) -> Any:
    """The results (n, n_outputs) of compute(net, layers, work) for X (n, n_features), tile by tile to bound memory.

    params (n_params,) must be on the device. The result is on the device if X is, else on the host. Nothing is checked.
    """

    def in_tiles_of(tile: int) -> Any:
        with backend.current():
            return _in_tiles(compute, spec, params, X, backend, threads, scale, tile)

    row = params.dtype.itemsize * Workspace.values(in_effect(spec, X))
    on_tile_unit = X.dtype == np.uint8 and compiled.has_tile_unit()
    if not (backend.on_gpu or on_tile_unit or is_sparse(X)) and supports(spec):
        Z = logits(spec, params, X, scale, threads)
        return Z if compute is Network.forward else Network(spec, backend).prediction(Z)
    if not backend.on_gpu:
        return in_tiles_of(max(16, TILE_BYTES // row))
    row += X.dtype.itemsize * X.shape[1]
    most = FEW_BYTES if row * X.shape[0] <= FEW_BYTES else min(GPU_TILE_BYTES, backend.memory() // 2)
    tile = min(X.shape[0], max(1, most // row))
    while tile > 1:
        try:
            return in_tiles_of(tile)
        except Exception as error:
            if not backend.ran_out(error):
                raise
        backend.give_back()
        tile = -(-tile // 2)
    return in_tiles_of(1)


def _in_tiles(
    compute: Compute, spec: Spec, params: Any, X: Any, backend: Backend, threads: int | None, scale: float, tile: int
) -> Any:
    net, xp, dtype, n = Network(spec, backend, scale=scale), backend.xp, params.dtype, X.shape[0]
    layers = spec.layers(params)
    workers = Workers(1 if backend.on_gpu else threads or cpu_count())
    tile = min(n, tile)
    n_tiles = -(-n // tile)
    free = deque(Workspace(spec, tile, dtype, xp, backward=False) for _ in range(min(workers.threads, n_tiles)))
    resident = backend.holds(X)

    def answer(rows: slice, whole: Workspace) -> Any:
        part = X[rows] if resident else backend.to_device(X[rows])
        return compute(net, layers, net.load(part, slice(None), whole.head(rows.stop - rows.start, spec.sizes[0])))

    if resident and n_tiles == 1:
        return answer(slice(0, n), free.pop())
    out = (xp if resident else np).empty((n, spec.sizes[-1]), dtype)

    def one(i: int) -> None:
        rows, whole = slice(i * tile, min(n, (i + 1) * tile)), free.pop()
        out[rows] = answer(rows, whole) if resident else backend.to_host(answer(rows, whole))
        free.append(whole)

    try:
        with nullcontext() if backend.on_gpu else workers.quiet():  # on a GPU no product is BLAS's
            workers.run(one, n_tiles)
    finally:
        workers.close()
    return out
