"""The article's full-batch step, written out as it is there, and what it is compared with."""

from itertools import pairwise

import numpy as np


def parameters(sizes, random):
    """W (out, in) and b (out, 1) for each layer, float64, as the article keeps them."""
    return [(random.randn(o, i), np.zeros((o, 1))) for i, o in pairwise(sizes)]


def sigmoid(Z):
    return 1 / (1 + np.exp(-Z))


def step(layers, X, Y, learning_rate):
    """One gradient-descent step on X (n_features, n_samples) with one-hot Y (n_outputs, n_samples); returns the cost.

    A column is a sample, every layer is a sigmoid, the cost is the binary cross-entropy summed over samples.
    """
    m, activations = X.shape[1], [X]
    for W, b in layers:
        activations.append(sigmoid(np.dot(W, activations[-1]) + b))
    A = activations[-1]
    cost = -np.sum(Y * np.log(A) + (1 - Y) * np.log(1 - A))
    dZ, gradients = A - Y, []
    for number in reversed(range(len(layers))):
        below = activations[number]
        gradients.append((np.dot(dZ, below.T) / m, np.sum(dZ, axis=1, keepdims=True) / m))
        if number:
            dZ = np.dot(layers[number][0].T, dZ) * below * (1 - below)
    updated = [
        (W - learning_rate * dW, b - learning_rate * db)
        for (W, b), (dW, db) in zip(layers, reversed(gradients), strict=True)
    ]
    return cost, updated
