"""The products of a small batch, each a call that knows its arrays: a step makes them without a look at any shape.

Large ones are made on all threads, in pieces that follow from the shapes. In the first layer each part of the samples
is as wide as it is: the samples of a batch go by their width, the widest first.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels.blas import pieces, product
from fcgpu.network import Products, Workspace
from fcgpu.params import Layer


class Bound(NamedTuple):
    """Where the features of each part go (n_rows, n_features), the workspace of them all, and what follows."""

    tiles: Sequence[Any]
    work: Workspace
    layers: Sequence[Layer]
    products: Products


def bind(
    work: Workspace,
    layers: Sequence[Layer],
    gradients: Sequence[Layer],
    cuts: Sequence[tuple[int, int]],
    widths: Sequence[int],
    scale: float,
    threads: int,
    *,
    subtract: bool,
) -> Bound:
    """For parts of the samples, `cuts`, and their `widths`, which fall; features are multiplied by `scale`.

    work, layers, gradients : of a batch with all features. The gradient of the first W is filled with what it is, or
    subtracted from W.
    """
    (first, *others), (first_gradient, *other_gradients) = layers, gradients
    n, widest = cuts[-1][1], widths[0]
    tiles, work = [work.A[0][slice(*cut)] for cut in cuts], work.head(n, widest)
    A, dZ, make = work.A, [*work.dA[1:], work.A[-1]], partial(product, threads=threads)

    parts = [
        (tile[:, :width], first.W[:width], A[1][slice(*cut)])
        for tile, cut, width in zip(tiles, cuts, widths, strict=True)
    ]
    forward = [make(parts if len(parts) > 1 else pieces(*parts[0]), scale)]
    dW, alpha, beta = (first.W, -scale, 1.0) if subtract else (first_gradient.W, scale, 0.0)
    calls: list[Callable[[], Any]] = [partial(np.dot, work.ones, dZ[0], first_gradient.b)]
    for (_, stop), high, low in zip(cuts, widths, [*widths[1:], 0], strict=True):
        if low < high:  # features that the samples up to stop have
            calls.append(make(pieces(A[0][:stop, low:high].T, dZ[0][:stop], dW[low:high]), alpha, beta))
    backward = [partial(_all, calls)]

    for i, (layer, gradient) in enumerate(zip(others, other_gradients, strict=True), 1):
        forward.append(make(pieces(A[i], layer.W, A[i + 1])))
        both = make([*pieces(dZ[i], layer.W.T, work.dA[i]), *pieces(A[i].T, dZ[i], gradient.W)])
        backward.append(partial(_all, [partial(np.dot, work.ones, dZ[i], gradient.b), both]))
    return Bound(tiles, work, [Layer(first.W[:widest], first.b), *others], Products(forward, backward))


def _all(calls: Sequence[Callable[[], Any]]) -> None:
    for call in calls:
        call()
