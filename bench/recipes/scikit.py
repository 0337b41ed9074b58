"""scikit-learn: MLPClassifier with Adam, an epoch a call of partial_fit. It has no schedule for Adam."""

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from bench import clocks

TITLE = "scikit-learn"
PACKAGES = ("scikit-learn", "numpy")
CLOCKS = {"cpu": clocks.host}
EPOCHS = 60
OPTIONS = {"batch_size": 200, "learning_rate_init": 0.001}
RECIPE = "relu, softmax; Adam 0.001, batches of 200 (its defaults), float32"


def train(data, seed):
    sklearn.set_config(assume_finite=True)
    X = np.multiply(data.X, data.scale, dtype=np.float32)
    model = MLPClassifier((128, 64), alpha=0, random_state=seed, **OPTIONS)
    for _ in range(EPOCHS):
        model.partial_fit(X, data.y, classes=np.arange(10))
        yield lambda X: model.predict(np.multiply(X, data.scale, dtype=np.float32))
