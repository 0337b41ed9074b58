"""The outputs of a network for many samples: on a CPU in C where it can, else tile by tile to bound memory."""

from collections import deque
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.host import cpu_count
from fcgpu.kernels.dense import is_sparse
from fcgpu.logits import logits, supports
from fcgpu.network import Network, Workspace, effective_spec
from fcgpu.params import Spec
from fcgpu.workers import Workers

TILE_BYTES = 4 << 20  # of a tile's buffers on the CPU: about what a core's caches hold
GPU_TILE_BYTES, FEW_BYTES = 256 << 20, 16 << 20  # for the latter a GPU is not asked what it has left


def outputs(
    spec: Spec, params: Any, X: Any, backend: Backend, threads: int | None, scale: float = 1.0, *, activate: bool
) -> Any:
    """The logits (n, n_outputs) of scale X (n, n_features), or if `activate` what the output activation makes of them.

    params (n_params,) must be on the device. The result is on the device if X is, else on the host. Nothing is checked.
    """
    if not (backend.on_gpu or is_sparse(X)) and supports(spec):
        Z = logits(spec, params, X, scale, threads)
        return Network(spec, backend).activate(Z) if activate else Z
    in_tiles = partial(_in_tiles, Network(spec, backend, scale=scale), params, X, backend, threads, activate=activate)
    row = params.dtype.itemsize * Workspace.numbers_per_row(effective_spec(spec, X))
    if not backend.on_gpu:
        return in_tiles(max(16, TILE_BYTES // row))
    row += X.dtype.itemsize * X.shape[1]
    most = FEW_BYTES if row * X.shape[0] <= FEW_BYTES else min(GPU_TILE_BYTES, backend.memory() // 2)
    tile = min(X.shape[0], max(1, most // row))
    with backend.current():
        while True:
            try:
                return in_tiles(tile)
            except Exception as error:
                if tile == 1 or not backend.ran_out(error):
                    raise
            backend.give_back()
            tile = -(-tile // 2)


def _in_tiles(
    net: Network, params: Any, X: Any, backend: Backend, threads: int | None, tile: int, *, activate: bool
) -> Any:
    spec, xp, dtype, n = net.spec, backend.xp, params.dtype, X.shape[0]
    layers, compute = spec.layers(params), net.predict if activate else net.forward
    workers = Workers(1 if backend.on_gpu else threads or cpu_count())
    tile = min(n, tile)
    n_tiles = -(-n // tile)
    room = effective_spec(spec, X)  # a sparse tile needs no buffer
    free = deque(Workspace(room, tile, dtype, xp, backward=False) for _ in range(min(workers.threads, n_tiles)))
    resident = backend.holds(X)

    def answer(rows: slice, whole: Workspace) -> Any:
        part = X[rows] if resident else backend.to_device(X[rows])
        return compute(layers, net.load(part, None, whole.head(rows.stop - rows.start, spec.sizes[0])))

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
