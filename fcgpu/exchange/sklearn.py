"""Converts a Model to scikit-learn's own fitted MLP, and back. Needs the extra `sklearn`."""

import math
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from fcgpu.data.labels import array_of, as_classes
from fcgpu.errors import ConfigError
from fcgpu.exchange import flat
from fcgpu.model import Model, expect_model
from fcgpu.params import Spec

ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}  # scikit-learn's: ours
OUTPUTS = {"identity": "identity", "logistic": "sigmoid", "softmax": "softmax", "exp": "exp"}
LOSSES = {"identity": "squared_error", "exp": "poisson"}  # a regressor's loss, by our output


def from_sklearn(estimator: Any) -> Model:
    """The Model of a fitted sklearn.neural_network.MLPClassifier or MLPRegressor.

    The parameters are copied in their dtype. A multilabel classifier becomes a model without classes, whose values are
    the probability of each label.
    Raises ConfigError for another estimator, DataError for labels that are not whole numbers or text; scikit-learn's
    NotFittedError for an estimator that is not fitted.
    """
    if not isinstance(estimator, MLPClassifier | MLPRegressor):
        raise ConfigError(
            f"{type(estimator).__name__}: expected a fitted MLPClassifier or MLPRegressor of sklearn.neural_network "
            "(a fitted estimator of fcgpu has its model as model_)"
        )
    check_is_fitted(estimator)
    sizes = (estimator.n_features_in_, *(W.shape[1] for W in estimator.coefs_))
    spec = Spec(sizes, ACTIVATIONS[estimator.activation], OUTPUTS[estimator.out_activation_])
    one_label = isinstance(estimator, MLPClassifier) and not estimator._label_binarizer.y_type_.startswith("multilabel")
    params = flat(zip(estimator.coefs_, estimator.intercepts_, strict=True))
    names = tuple(getattr(estimator, "feature_names_in_", ())) or None
    return Model(spec, params, as_classes(estimator.classes_, "classes_") if one_label else None, feature_names=names)


def to_sklearn(model: Model) -> Any:
    """A fitted sklearn.neural_network.MLPClassifier or MLPRegressor with the predictions of `model`.

    It takes unscaled features in the dtype of `model.params`: the scale is multiplied into the first weights, which are
    copies. It can be trained further with `partial_fit` or `warm_start`. A model with output "sigmoid" and without
    classes becomes a multilabel classifier.
    Raises ConfigError if `model` is not a Model, and for what scikit-learn cannot express: leaky_relu, one sigmoid for
    each of several classes, a softmax of two classes, a single sigmoid without classes, and labels that are not in
    ascending order.
    """
    expect_model(model)
    spec = model.spec
    activation = next((theirs for theirs, ours in ACTIVATIONS.items() if ours == spec.activation), None)
    if activation is None and len(spec.sizes) > 2:
        raise ConfigError(f"activation={spec.activation!r} is not in scikit-learn: expected {', '.join(ACTIVATIONS)}")
    given = {"hidden_layer_sizes": spec.sizes[1:-1], "activation": activation or "relu"}
    if spec.output in LOSSES:
        made = MLPRegressor(loss=LOSSES[spec.output], **given)
    else:
        made = MLPClassifier(**given)
        made._label_binarizer = _binarizer(model)
        made.classes_ = made._label_binarizer.classes_
    layers = [(W.copy(), b[0].copy()) for W, b in spec.layers(model.params)]
    layers[0][0][...] *= model.scale
    made.coefs_, made.intercepts_ = ([layer[i] for layer in layers] for i in (0, 1))
    made.n_features_in_, made.n_layers_, made.n_outputs_ = spec.sizes[0], len(spec.sizes), spec.sizes[-1]
    made.out_activation_ = next(theirs for theirs, ours in OUTPUTS.items() if ours == spec.output)
    # attributes that further training needs
    made.n_iter_, made.t_, made.loss_curve_, made._no_improvement_count = 0, 0, [], 0
    made.best_loss_, made.validation_scores_, made.best_validation_score_ = math.inf, None, None
    made._random_state = np.random.mtrand._rand
    return made


def _binarizer(model: Model) -> Any:
    """scikit-learn's LabelBinarizer for the model's classes. Raises ConfigError if there is none."""
    n_outputs = model.spec.sizes[-1]
    if model.classes is None:
        if n_outputs < 2:
            raise ConfigError("one sigmoid without classes is not in scikit-learn: expected two classes, or 2 outputs")
        return LabelBinarizer().fit(np.eye(n_outputs, dtype=int))
    classes = array_of(model.classes)
    if not np.array_equal(classes, np.unique(classes)):
        raise ConfigError(f"classes={list(model.classes)}: expected them in ascending order, as scikit-learn has them")
    if model.spec.output == "sigmoid" and n_outputs > 1:
        raise ConfigError(
            f"a sigmoid for each of {n_outputs} classes is not in scikit-learn: expected output='softmax', or a "
            "single sigmoid for two classes"
        )
    if n_outputs == 2:
        raise ConfigError("a softmax of two classes is not in scikit-learn: expected a single sigmoid")
    return LabelBinarizer().fit(classes)
