"""fcgpu through its public API, the generator of events: NumPy on a CPU, CuPy on a GPU."""

import numpy as np

import fcgpu
from bench import clocks
from bench.cases import SEED

TITLE = "fcgpu"
PACKAGES = ("fcgpu", "numpy", "cupy-cuda12x", "cupy-cuda13x", "nvmath-python")
CLOCKS = {"cpu": clocks.host, "cuda": clocks.cupy_events}
PASSES = 10_000  # more than any measurement needs


def setup(work):
    """SEED draws the same initial weights as work.start."""
    return steps(
        work,
        fcgpu.dataset(work.X, work.y, scale=work.scale),
        activation="sigmoid",
        output="sigmoid",
        init="glorot",
        seed=SEED,
        optimizer="gradient_descent",
        learning_rate=work.learning_rate,
        precision=work.precision,
    )


def steps(work, data, **recipe):
    """One run; each call advances it by an epoch."""
    hidden = tuple(W.shape[1] for W, _ in work.start[:-1])
    order = {"batch": work.batch, "shuffle": False, "schedule": "constant", "epochs": PASSES}
    events = fcgpu.train(data, device=work.device, hidden=hidden, **order, **recipe)
    next(events)  # Started: everything is allocated

    def step():
        event = next(events)
        return lambda: event.loss

    return step


def setup_predict(work):
    sizes = (work.start[0][0].shape[0], *(W.shape[1] for W, _ in work.start))
    spec = fcgpu.Spec(sizes, "sigmoid", "sigmoid", "glorot")
    params = np.zeros(spec.n_params, np.float32)
    for layer, (W, b) in zip(spec.layers(params), work.start, strict=True):
        layer.W[...], layer.b[...] = W, b
    model = fcgpu.Model(spec, params, tuple(range(sizes[-1])), work.scale)
    return lambda: model.predict(work.X, device=work.device)
