"""One program for both libraries, which differs only in its import: MLPClassifier.fit, five epochs of Adam.

One `step()` fits, scores, and returns the accuracy on the 10,000 test digits, which is compared with the reference's.
"""

import warnings

import numpy as np

import fcgpu

ARGUMENTS = {"hidden_layer_sizes": (128, 64), "solver": "adam", "batch_size": 200, "max_iter": 5, "random_state": 0}


def fit_and_score(classifier, work, dtype):
    """Returns `step`; `classifier` is MLPClassifier, or a partial of it."""
    from sklearn.exceptions import ConvergenceWarning  # here: this package is also listed where scikit-learn is missing

    test = fcgpu.load("mnist")
    X, X_test = work.features(dtype), np.multiply(test.X_test, test.scale, dtype=dtype)

    def step():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after five epochs on purpose
            return classifier(**ARGUMENTS).fit(X, work.y).score(X_test, test.y_test)

    return step
