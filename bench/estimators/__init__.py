"""The same program for both libraries, but for its import: MLPClassifier.fit on the digits, five epochs of Adam.

One `step()` fits and scores, and returns the accuracy on the 10,000 test digits, which all must meet.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import fcgpu

ARGUMENTS = {"hidden_layer_sizes": (128, 64), "solver": "adam", "batch_size": 200, "max_iter": 5, "random_state": 0}


def fit_and_score(classifier, work, dtype):
    """The step. classifier : MLPClassifier, or one with more of its arguments."""
    test = fcgpu.load("mnist")
    X, X_test = work.features(dtype), np.multiply(test.X_test, test.scale, dtype=dtype)

    def step():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # five epochs are what was asked for
            return classifier(**ARGUMENTS).fit(X, work.y).score(X_test, test.y_test)

    return step
