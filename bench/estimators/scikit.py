"""sklearn.neural_network.MLPClassifier."""

import numpy as np
from sklearn.neural_network import MLPClassifier

from bench import clocks
from bench.estimators import fit_and_score

TITLE = "scikit-learn"
PACKAGES = ("scikit-learn", "numpy")
CLOCKS = {"cpu": clocks.host}


def setup(work):
    return fit_and_score(MLPClassifier, work, np.float64)


def setup_single(work):
    return fit_and_score(MLPClassifier, work, np.float32)
