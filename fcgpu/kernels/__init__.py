"""The formulas of training: a table of functions, with the same names and signatures on every backend.

`REFERENCE` is the specification: plain array functions. `kernels_for` binds them to a namespace, and replaces those
that have a fused variant: for CuPy, or in C for the CPU. A kernel writes into buffers that its caller passes in, and
returns None.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

from fcgpu.backend import Backend
from fcgpu.kernels import activations, compiled, dense, dropout, fused, losses, native, updates

REFERENCE: dict[str, Callable[..., None]] = {
    **{name: row.forward for name, row in activations.ACTIVATIONS.items()},
    **{f"{name}_backward": row.backward for name, row in activations.ACTIVATIONS.items() if row.backward},
    **losses.LOSSES,
    **{f.__name__: f for f in (dense.load_tile, dense.dense_forward, dense.dense_backward, losses.count_correct)},
    **{f.__name__: f for f in (dropout.dropout, dropout.dropout_backward)},
    **{f.__name__: f for f in (updates.add_l2, updates.clip_by_norm)},
    **{name: row.update for name, row in updates.UPDATES.items()},
}


def kernels_for(backend: Backend) -> Any:
    """A namespace of kernels bound to the backend: `K.sigmoid(Z, b)`, `K.dense_forward(A, W, Z)`, ...

    If its `multiplies_bytes` is True, the input A of a dense layer may be uint8.
    """
    table = {**REFERENCE, **(fused.FUSED if backend.on_gpu else native.faster(REFERENCE))}
    bound = {name: partial(function, xp=backend.xp) for name, function in table.items()}
    return SimpleNamespace(**bound, multiplies_bytes=not backend.on_gpu and compiled.multiplies_bytes())
