"""Training as most people do it: standardised float features, relu, softmax, Adam. One file for each peer, as in
bench/peers, with the same digits and initial weights, in file order.
"""

import numpy as np

RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8  # each library's own defaults


def standardised(work):
    """float32 (n, n_features) of mean 0 and standard deviation 1; constant features are 0."""
    X = work.features(np.float64)
    spread = X.std(axis=0)
    return np.ascontiguousarray((X - X.mean(axis=0)) / np.where(spread > 0, spread, 1), dtype=np.float32)
