"""What a network is, and its parameters: one flat vector, layer-major, with W and b as views into it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fcgpu.errors import ConfigError
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.formulas import WIDTH
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.text import round_up
from fcgpu.suggest import choices

LINE = 64  # bytes of a cache line, and of the longest vector register


class Layer(NamedTuple):
    W: Any  # (..., n_in, n_out)
    b: Any  # (..., 1, n_out)


@dataclass(frozen=True)
class Spec:
    """The description of a fully-connected network. `fcgpu recipes --keys` lists the names that are known.

    sizes : (n_features, hidden..., n_outputs), such as (784, 128, 64, 10).
    activation : of the hidden layers.
    output : activation of the last layer; it determines the loss.
    init : how initial weights are drawn.

    Raises ConfigError for fewer than two sizes or one below 1, for an unknown name, and for a softmax of one output.
    """

    sizes: tuple[int, ...]
    activation: str = "relu"
    output: str = "softmax"
    init: str = "he"

    def __post_init__(self) -> None:
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ConfigError(f"sizes={list(self.sizes)}: expected at least an input and an output, each 1 or more")
        for key, value, known in (
            ("activation", self.activation, HIDDEN_ACTIVATIONS),
            ("output", self.output, OUTPUTS),
            ("init", self.init, INITS),
        ):
            if value not in known:
                raise ConfigError(f"{key}={value!r} is not known; {choices(value, known)}")
        if self.output == "softmax" and self.sizes[-1] < 2:
            raise ConfigError("output='softmax' with 1 output is always 1; use output='sigmoid', or 2 outputs or more")

    @property
    def n_params(self) -> int:
        """Number of weights and biases."""
        return sum((n_in + 1) * n_out for n_in, n_out in self.layer_sizes)

    @property
    def layer_sizes(self) -> tuple[tuple[int, int], ...]:
        """(n_in, n_out) of each layer."""
        return tuple(pairwise(self.sizes))

    @property
    def in_words(self) -> str:
        """Such as "784-128-64-10, relu, softmax"; without hidden layers no activation."""
        names = (self.activation, self.output) if len(self.sizes) > 2 else (self.output,)
        return ", ".join(("-".join(map(str, self.sizes)), *names))

    def layers(self, flat: Any) -> list[Layer]:
        """Views of W (..., n_in, n_out) and b (..., 1, n_out) into a flat vector (..., n_params), layer by layer."""
        lead, views, at = flat.shape[:-1], [], 0
        for n_in, n_out in self.layer_sizes:
            end = at + n_in * n_out
            W = flat[..., at:end].reshape(*lead, n_in, n_out)
            b = flat[..., end : end + n_out].reshape(*lead, 1, n_out)
            views.append(Layer(W, b))
            at = end + n_out
        return views


def aligned(n: int, dtype: Any) -> Any:
    """n zeros on the host, aligned to cache lines and vector registers."""
    size = n * np.dtype(dtype).itemsize
    memory = np.zeros(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype)


def in_lines(a: Any) -> Any:
    """A copy of the host array, aligned as `aligned` does."""
    copy = aligned(a.size, a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


class Padded:
    """The layout of the flat vector on a GPU: for each layer one matrix [W; b], padded with zeros.

    shapes : of the matrices: n_in + 1 and n_out, each rounded up to a multiple of WIDTH. size : of the vector.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.shapes = tuple((round_up(n_in + 1, WIDTH), round_up(n_out, WIDTH)) for n_in, n_out in spec.layer_sizes)
        self.size = sum(rows * columns for rows, columns in self.shapes)

    def matrices(self, flat: Any) -> list[Any]:
        """Views of the layers' matrices into a flat vector (..., size)."""
        views, at = [], 0
        for rows, columns in self.shapes:
            views.append(flat[..., at : at + rows * columns].reshape(*flat.shape[:-1], rows, columns))
            at += rows * columns
        return views

    def padded(self, vectors: Any) -> Any:
        """Convert parameters, or vectors like them, (..., n_params) on the host to this layout, (..., size)."""
        made = np.zeros((*vectors.shape[:-1], self.size), dtype=vectors.dtype)
        for there, here in self._pairs(made, vectors):
            there[...] = here
        return made

    def packed(self, vectors: Any) -> Any:
        """The inverse of `padded`: (..., n_params) from (..., size), on the host."""
        made = np.empty((*vectors.shape[:-1], self.spec.n_params), dtype=vectors.dtype)
        for there, here in self._pairs(vectors, made):
            here[...] = there
        return made

    def _pairs(self, padded: Any, packed: Any) -> Iterator[tuple[Any, Any]]:
        for M, (W, b) in zip(self.matrices(padded), self.spec.layers(packed), strict=True):
            n_in, n_out = W.shape[-2:]
            yield M[..., :n_in, :n_out], W
            yield M[..., n_in : n_in + 1, :n_out], b


def initial(spec: Spec, seed: int) -> Any:
    """Initial parameters (n_params,) float64 on the host: weights drawn by `spec.init`, biases 0.

    They are drawn layer by layer from Generator(PCG64(seed)) on the host, so a seed gives the same weights on every
    backend and in every dtype. "article" draws from the legacy RandomState(seed) instead.
    """
    legacy, flat = spec.init == "article", np.zeros(spec.n_params)
    random: Any = np.random.RandomState(seed) if legacy else np.random.Generator(np.random.PCG64(seed))
    for layer in spec.layers(flat):
        layer.W[...] = INITS[spec.init](random, *layer.W.shape)
    return flat


def weights_only(spec: Spec, value: float) -> Any:
    """(n_params,) float64: `value` where the flat vector holds a weight, 0 where it holds a bias."""
    flat = np.zeros(spec.n_params)
    for layer in spec.layers(flat):
        layer.W[...] = value
    return flat


def _glorot(random: Any, n_in: int, n_out: int) -> Any:
    limit = math.sqrt(6 / (n_in + n_out))
    return random.uniform(-limit, limit, (n_in, n_out))


INITS: dict[str, Callable[[Any, int, int], Any]] = {
    "zeros": lambda random, n_in, n_out: 0.0,
    "uniform": lambda random, n_in, n_out: random.random((n_in, n_out)),  # [0, 1)
    "normal": lambda random, n_in, n_out: random.standard_normal((n_in, n_out)),
    # Glorot and Bengio 2010; He et al. 2015; LeCun et al. 1998
    "glorot": _glorot,
    "he": lambda random, n_in, n_out: math.sqrt(2 / n_in) * random.standard_normal((n_in, n_out)),
    "lecun": lambda random, n_in, n_out: math.sqrt(1 / n_in) * random.standard_normal((n_in, n_out)),
    # The article's weights are (out, in), drawn in that order.
    "article": lambda random, n_in, n_out: random.randn(n_out, n_in).T,
}
