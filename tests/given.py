"""Random models and samples that several test files use."""

import numpy as np

import fcgpu
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import initial


def model(activation="tanh", output="softmax", sizes=(20, 16, 8, 3), dtype="float32", **changes):
    """A Model with biases other than 0 and the scale of pixels; its classes are 0, 1, ... if it has some."""
    spec = fcgpu.Spec(sizes, activation, output, "glorot")
    params = initial(spec, 3)
    for _, b in spec.layers(params):
        b += np.linspace(-0.5, 0.5, b.size)
    classes = tuple(range(max(2, sizes[-1]))) if OUTPUTS[output].classifies else None
    return fcgpu.Model(spec, params.astype(dtype), **({"classes": classes, "scale": 1 / 255} | changes))


def samples(kind="three classes", stored="float64", n=60):
    """A Dataset of 5 features around a centre for each of three classes, as floats or pixels; targets of any kind."""
    random = np.random.default_rng(3)
    y = np.arange(n) % 3
    X = random.normal(0, 1, (n, 5)) + 2 * random.normal(0, 1, (3, 5))[y]
    if stored == "uint8":
        X = np.clip(40 * X + 128, 0, 255).astype(np.uint8)
    targets = {"three classes": y, "two classes": y % 2, "one number": X[:, 0] / 3, "two numbers": X[:, :2] / 3}
    return fcgpu.dataset(X, targets[kind], scale=1 / 255 if stored == "uint8" else 1.0)
