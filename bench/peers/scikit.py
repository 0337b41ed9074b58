"""scikit-learn's MLPClassifier through partial_fit, which makes one pass in batches; its check for NaN is off.

For an indicator matrix of labels it fits sigmoid outputs with the binary cross-entropy.
"""

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from bench import clocks

TITLE = "scikit-learn"
PACKAGES = ("scikit-learn", "numpy")
CLOCKS = {"cpu": clocks.host}


def setup(work):
    X, Y = work.features(), work.one_hot(np.int64)
    model = _model(work, X[: work.batch], Y[: work.batch])
    sklearn.set_config(assume_finite=True)

    def step():
        model.partial_fit(X, Y)
        return model.loss_

    return step


def setup_predict(work):
    """Predict one class of ten: softmax outputs instead of sigmoids, with the same argmax."""
    X = work.features()
    model = _model(work, X[:100], work.y[:100])
    sklearn.set_config(assume_finite=True)
    return lambda: model.predict(X)


def _model(work, X, y):
    model = MLPClassifier(
        [W.shape[1] for W, _ in work.start[:-1]],
        activation="logistic",
        solver="sgd",
        alpha=0,
        batch_size=work.batch,
        learning_rate_init=work.learning_rate,
        momentum=0,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
    )
    classes = np.arange(work.start[-1][0].shape[1])
    model.set_params(batch_size=len(X)).partial_fit(X, y, classes=classes)  # allocates the weights, which are set below
    model.set_params(batch_size=work.batch)
    for W, b, (W0, b0) in zip(model.coefs_, model.intercepts_, work.start, strict=True):
        W[...], b[...] = W0, b0[0]
    return model
