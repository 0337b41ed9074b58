"""The products of a small batch, bound to their arrays in advance, so that a step spends no time on shapes.

Large products are computed by all threads, in pieces that depend on the shapes alone. If the data are in the order of a
`Staircase`, a batch is cut into parts of the samples, the widest first, and the first layer's products use for each
part only as many features as it has.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels.blas import pieces, product
from fcgpu.network import Products, Workspace
from fcgpu.params import Layer


class Bound(NamedTuple):
    """Where to load each part's features, (n_rows, n_features) each; the workspace of the batch; its layers, with the
    rows of the first W that it needs; and the products.
    """

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
    """Bind the products of a batch that is cut into parts.

    cuts : (start, stop) of the parts' samples. widths : features of each part, in falling order.
    work, layers, gradients : of a batch with all features, which are multiplied by `scale`.
    subtract : subtract the gradient of the first W from W, instead of storing it.
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
        if low < high:  # features low to high, which only the samples up to stop have
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
