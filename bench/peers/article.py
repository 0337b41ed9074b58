"""The article's NumPy code as published: one column for each sample, float64, every result a new array."""

from itertools import pairwise

import numpy as np

from bench import clocks

TITLE = "article's NumPy"
PACKAGES = ("numpy",)
CLOCKS = {"cpu": clocks.host}


def setup(work):
    X, Y = np.ascontiguousarray(work.features(np.float64).T), np.ascontiguousarray(work.one_hot(np.float64).T)
    layers = _layers(work)

    def step():
        nonlocal layers
        total = 0.0
        for start in range(0, X.shape[1], work.batch):
            columns = slice(start, start + work.batch)
            cost, layers = update(layers, X[:, columns], Y[:, columns], work.learning_rate)
            total += cost
        return total / X.shape[1]

    return step


def setup_predict(work):
    X, layers = np.ascontiguousarray(work.features(np.float64).T), _layers(work)
    return lambda: np.argmax(forward(layers, X)[-1], axis=0)


def sigmoid(Z):
    return 1 / (1 + np.exp(-Z))


def forward(layers, X):
    """The activations of all layers, X first; W (n_out, n_in), b (n_out, 1), X (n_features, n_samples)."""
    activations = [X]
    for W, b in layers:
        activations.append(sigmoid(np.dot(W, activations[-1]) + b))
    return activations


def update(layers, X, Y, learning_rate):
    """One step of gradient descent on one-hot Y (n_outputs, n_samples); returns (cost summed over samples, layers)."""
    m, activations = X.shape[1], forward(layers, X)
    A = activations[-1]
    cost = -np.sum(Y * np.log(A) + (1 - Y) * np.log(1 - A))
    dZ, gradients = A - Y, []
    for (W, _), (below, _) in zip(reversed(layers), reversed(list(pairwise(activations))), strict=True):
        gradients.append((np.dot(dZ, below.T) / m, np.sum(dZ, axis=1, keepdims=True) / m))
        if below is not X:
            dZ = np.dot(W.T, dZ) * below * (1 - below)
    return cost, [
        (W - learning_rate * dW, b - learning_rate * db)
        for (W, b), (dW, db) in zip(layers, reversed(gradients), strict=True)
    ]


def _layers(work):
    return [(W.T.copy(), b.T.copy()) for W, b in work.start]
