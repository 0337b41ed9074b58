"""scikit-learn's MLPClassifier through partial_fit, which makes one pass in batches; its check for NaN is off."""

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from bench.adam import RATE, standardised
from bench.peers import scikit

TITLE, PACKAGES, CLOCKS = scikit.TITLE, scikit.PACKAGES, scikit.CLOCKS


def setup(work):
    X, y = standardised(work), work.y
    hidden, classes = [W.shape[1] for W, _ in work.start[:-1]], np.arange(work.start[-1][0].shape[1])
    model = MLPClassifier(hidden, alpha=0, batch_size=work.batch, learning_rate_init=RATE, shuffle=False)
    model.partial_fit(X[: work.batch], y[: work.batch], classes=classes)  # allocates the weights, which are set below
    del model._optimizer  # and its state, which begins anew
    for W, b, (W0, b0) in zip(model.coefs_, model.intercepts_, work.start, strict=True):
        W[...], b[...] = W0, b0[0]
    sklearn.set_config(assume_finite=True)

    def step():
        model.partial_fit(X, y)
        return model.loss_

    return step
