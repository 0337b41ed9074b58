"""The cluster kernel's steps, compiled from the same source as for a GPU, and the same steps in NumPy."""

import re

import numpy as np
from kernel_cases import whole
from raw_double import launch

from fcgpu.kernels import REFERENCE, cluster
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.updates import UPDATES
from fcgpu.params import Padded, Spec, initial, weights_only

BY_LOSS = {row.loss: name for name, row in OUTPUTS.items()}


def call(text, arguments, seed=0):
    sizes = (int(re.search(rf"constexpr int {name} = (\d+);", text)[1]) for name in ("BLOCKS", "THREADS", "TOTAL"))
    launch(text, cluster.NAME, *sizes, arguments, seed)


class Problem:
    """Random data, parameters and other arguments of a launch."""

    def __init__(self, shape, samples=None, *, alpha=0.0, ordered=True, options=None, seed=0):
        random = np.random.default_rng(seed)
        self.shape, self.alpha = shape, alpha
        n = samples or 3 * shape.batch
        output = BY_LOSS[shape.loss]
        self.spec = Spec(shape.sizes, shape.activation, output, "lecun")
        self.layout = Padded(self.spec)
        whole = np.issubdtype(shape.features, np.integer)
        X = random.integers(0, 256, (n, shape.sizes[0])) if whole else random.normal(0, 1, (n, shape.sizes[0]))
        self.X, self.scale = X.astype(shape.features), 1 / 255 if whole else 0.5
        k = shape.sizes[-1]
        if shape.dense:
            y = random.dirichlet(np.ones(k), n) if shape.loss == "cross_entropy" else random.random((n, k))
        else:
            y = random.integers(0, max(2, k), n)
        self.y = y.astype(shape.targets)
        self.order = random.permutation(n) if ordered else None
        self.every = -(-n // shape.batch)
        self.rates = 0.1 / (1 + np.arange(2 * self.every)).astype(shape.dtype)
        self.options = {**UPDATES[shape.rule].defaults, **(options or {})}
        self.flat = initial(self.spec, seed) + 0.1 * random.normal(0, 1, self.spec.n_params)
        state = UPDATES[shape.rule].state._fields
        self.state = [abs(random.normal(0, 0.01, self.spec.n_params)) for name in state if name != "t"]
        self.t = 3.0

    def cluster(self, *runs, seed=0, broken=None):
        """Results after launches of (times, rows): packed parameters and state; totals; history; at, t and rate."""
        dtype, n, text = self.shape.dtype, len(self.X), cluster.text(self.shape)
        if broken:  # (a part of the kernel's source, its replacement)
            assert broken[0] in text
            text = text.replace(*broken)
        vectors = [self.layout.padded(v).astype(dtype) for v in (self.flat, *self.state)]
        totals, history, at = np.zeros(3), np.zeros((2, 3)), np.zeros(1, np.int64)
        t, rate, first = np.full(1, self.t), np.zeros(1, dtype), np.zeros(1, np.int64)
        arrays = cluster.Vectors(
            self.X, self.y, self.order, vectors[0], tuple(vectors[1:]), self.rates, first, totals, history, at, t, rate
        )
        for times, rows in runs:
            arguments = cluster.arguments(
                arrays, self.every, self.shape.batch, rows, times, self.scale, rows / n, self.alpha,
                cluster.numbers_of(self.shape.rule, self.options),
            )  # fmt: skip
            call(text, arguments, seed)
        for v in vectors if broken is None else ():
            assert np.array_equal(self.layout.padded(self.layout.packed(v)), v)  # padding stays 0
        return [self.layout.packed(v) for v in vectors], totals, history, (at[0], t[0], rate[0])

    def reference(self, *runs):
        """The same in float64, by the reference kernels."""
        K, spec, n = REFERENCE, self.spec, len(self.X)
        flat, state = self.flat.copy(), [s.copy() for s in self.state]
        flat, state = (self._rounded(flat), [self._rounded(s) for s in state])
        alphas = weights_only(spec, self.alpha)
        row, t = UPDATES[self.shape.rule], np.full(1, self.t)
        kept = row.state(*state, t) if "t" in row.state._fields else row.state(*state)
        options = {k: v for k, v in self.options.items() if k != "weight_decay"}
        if "weight_decay" in self.options:
            options["weight_decay"] = weights_only(spec, self.options["weight_decay"])
        totals, history, done = np.zeros(3), np.zeros((2, 3)), 0
        for times, rows in runs:
            for _ in range(times):
                at = done % self.every * self.shape.batch + np.arange(rows)
                at = at if self.order is None else self.order[at]
                A, y = [self.X[at] * self.scale], self.y[at]
                layers = spec.layers(flat)
                for W, b in layers[:-1]:
                    Z = A[-1] @ W
                    K[spec.activation](Z, b, xp=np)
                    A.append(Z)
                Z, losses, right = A[-1] @ layers[-1].W + layers[-1].b, np.zeros((rows, 1)), np.zeros(rows, bool)
                if self.shape.count:
                    K["count_correct"](Z, y, right, xp=np)
                whole(K, self.shape.loss)(Z, y, 1 / rows, losses, xp=np)
                gradient = np.zeros_like(flat)
                dZ = Z
                for i in reversed(range(len(layers))):
                    its = spec.layers(gradient)[i]
                    its.W[...], its.b[...] = A[i].T @ dZ, dZ.sum(axis=0)
                    if i:
                        dZ = dZ @ layers[i].W.T
                        if spec.activation != "identity":
                            K[f"{spec.activation}_backward"](A[i], dZ, xp=np)
                gradient += alphas * flat / rows
                penalty = 0.5 * (alphas * flat * flat).sum() / rows
                totals = np.array([losses.sum() + penalty, penalty, right.sum()])
                history[done // self.every] += totals * [rows / n, rows / n, 1]
                K[self.shape.rule](flat, gradient, kept, self.rates[done : done + 1].astype(float), xp=np, **options)
                done += 1
        return [flat, *(getattr(kept, name) for name in row.state._fields if name != "t")], totals, history

    def _rounded(self, vector):
        return vector.astype(self.shape.dtype).astype(float)
