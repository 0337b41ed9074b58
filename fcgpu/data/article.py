"""The article's three toy data sets, drawn from NumPy's legacy RandomState with the article's seed.

The article stores samples as columns; X here is the transpose.
"""

import numpy as np

from fcgpu.data.dataset import Dataset, dataset

SEED = 95


def two_layer() -> Dataset:
    """X (8, 3) float64 in [0, 1); the label is 1 if feature 0 is greater than feature 1, as for half of the samples."""
    X = np.random.RandomState(SEED).rand(3, 8).T.copy()
    return dataset(X, (X[:, 0] > X[:, 1]).astype(np.intp), name="two-layer")


def deep() -> Dataset:
    """X (2, 3) float64 in [0, 1), labels 0 and 1."""
    return dataset(np.random.RandomState(SEED).rand(3, 2).T.copy(), [0, 1], name="deep")


def multiclass() -> Dataset:
    """X (6, 3) float64 in [0, 1), labels 2 1 3 0 0 3."""
    random = np.random.RandomState(SEED)
    X = random.rand(3, 6).T.copy()
    return dataset(X, random.randint(0, 4, 6), name="multiclass")
