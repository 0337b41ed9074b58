"""The formulas of training: a table of functions, with the same names and signatures on every backend.

`REFERENCE` is the specification: plain array functions. `Kernels` binds them to a backend, and replaces those that have
a faster variant: in C for the CPU, or fused for CuPy, for predictions; a GPU's training steps launch the kernels of
`device.py`. A kernel writes into buffers that its caller passes in, and returns None.
"""

from collections.abc import Callable
from functools import partial

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


class Kernels:
    """The kernels bound to a backend, each when first asked for: `K.sigmoid(Z, b)`, `K.dense_forward(A, W, Z)`."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self._compiled = backend, compiled.native is not None

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in REFERENCE:
            raise AttributeError(f"no kernel is called {name!r}")
        kernel = REFERENCE[name]
        if self._backend.on_gpu:
            kernel = fused.ACTIVATIONS.get(name, kernel)
        elif self._compiled:
            kernel = native.faster(name, kernel)
        bound = partial(kernel, xp=self._backend.xp)
        setattr(self, name, bound)
        return bound
