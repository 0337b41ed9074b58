"""MLPClassifier: scikit-learn's parameters and attributes, with additional ones."""

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.metaestimators import available_if

from fcgpu.backend import as_numpy, gpu_of, namespace_of
from fcgpu.data.labels import as_classes, shown
from fcgpu.errors import ConfigError, DataError
from fcgpu.estimator import arrays, labels
from fcgpu.estimator.base import BaseMLP
from fcgpu.estimator.parameters import ForClassifier, check_partial_fit
from fcgpu.model import FEW_LOGITS, of_both


class MLPClassifier(ClassifierMixin, BaseMLP, ForClassifier):  # type: ignore[misc]
    """A multi-layer perceptron classifier with scikit-learn's interface, for a CPU or a GPU.

    Parameters, attributes and methods are those of sklearn.neural_network.MLPClassifier, with the same defaults and
    meaning; one random_state gives the same weights and batches in both. Additional values and parameters:

    solver : also "nesterov", "momentum", "gradient_descent", "rmsprop", "adamw" and "rprop" (iRprop+, full batch).
    activation : also "leaky_relu".
    batch_size : also "full". "lbfgs" and "rprop" always use the full batch.
    learning_rate : also "cosine" and "one_cycle", for every solver but "lbfgs" and "rprop".
    class_weight : None, a dict from label to weight, or "balanced".
    dropout : fraction of hidden units dropped in training; one number, or one per hidden layer.
    output : "auto", "softmax", or "sigmoid" (one-vs-rest; predict_proba is normalised to a sum of 1). "auto" is softmax
        for three or more classes, else sigmoid.
    init : "auto" draws as scikit-learn does; else "zeros", "uniform", "normal", "glorot", "he" or "lecun".
    rho : decay of the mean squared gradient, for "rmsprop".
    weight_decay : decoupled weight decay, for "adamw".
    gradient_clip : largest norm of the gradient; 0 for no limit.
    warmup : epochs over which the learning rate rises linearly from 0.
    monitor : what early_stopping watches: None for the validation score, "loss" for the validation loss, the name of a
        scikit-learn scorer, or a callable scorer(estimator, X, y). The parameters of the best epoch are kept.
    callbacks : list of functions that are called with each event of the training loop (fcgpu.Started, EpochEnded,
        Finished). If one returns True, training stops.
    progress : whether to show a progress line on standard error.
    device : "auto" (where X is; else the GPU, if it works and is expected to finish first, or the CPU), "cpu", "cuda"
        or "cuda:N".
    dtype : "float32", "float64", or "auto": float32 for an X of float32 or of 16 bits or fewer, else float64.
    threads : CPU threads; None for all processors, or OMP_NUM_THREADS if that is less. They change no bit of the
        result.

    Additional attributes:

    validation_losses_ : list of the validation loss after each epoch, beside validation_scores_; or None.
    device_ : the device that it was trained on.
    model_ : the network as an fcgpu.Model, for fcgpu.save_model and others.

    X (n_samples, n_features) is a NumPy array, a DataFrame, a sparse matrix, a CuPy array or any array with DLPack. A
    CuPy array stays on its GPU, and predictions for it are CuPy arrays.

    Raises ConfigError or DataError (both are ValueError) for wrong parameters or data, DeviceError if the device cannot
    work, DivergenceError (a ValueError) if the loss is no longer finite.
    """

    _classifies = True
    _multilabel = False  # as fit finds it

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> Self:
        """Fit to X (n_samples, n_features) and y (n_samples,) labels, or (n_samples, n_labels) of 0 and 1 (multilabel).

        sample_weight : (n_samples,) numbers of 0 or more, or None.
        validation_data : (X, y) or (X, y, sample_weight), scored after each epoch; early stopping uses it instead of a
            split of X.

        Returns self. Raises as the class says.
        """
        return self._fit(X, y, sample_weight, validation_data=validation_data)  # type: ignore[no-any-return]

    @available_if(check_partial_fit)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch on X and y, continuing with the optimizer state of the last call. Returns self.

        classes : all labels, required in the first call. Only for solvers that use mini-batches, and not with the
        schedules "cosine" and "one_cycle". Raises as `fit`.
        """
        if self.class_weight == "balanced":
            raise ConfigError(
                "class_weight='balanced' with partial_fit: part of the data does not show how common classes are; give "
                "a dict of the weights that sklearn.utils.class_weight.compute_class_weight finds for all of the data"
            )
        if classes is not None:
            classes = arrays.on_host(classes)
            if np.ndim(classes) != 1:
                raise DataError(f"classes={classes!r}: expected a list or an array (n_classes,) of all labels")
            classes = labels.distinct(classes)
        if not hasattr(self, "classes_"):
            if classes is None:
                raise DataError("classes=None in the first call of partial_fit: expected all labels that will come")
            self._all_classes = classes
        elif classes is not None and not np.array_equal(classes, self.classes_):
            raise DataError(
                f"classes={labels.in_words(classes)} is not the same as on last call to partial_fit, "
                f"was: {labels.in_words(self.classes_)}"
            )
        return self._fit(X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Any:
        """The label of each sample, (n_samples,); for multilabel problems (n_samples, n_labels) of 0 and 1."""
        P, back = self._outputs(X, "predict")
        return back(self._decided(P))

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, (n_samples, n_classes) in the order of classes_, in the dtype of training.

        For multilabel problems the probability of each label, which need not sum to 1.
        """
        P, back = self._probabilities(X, "predict_proba")
        return back(P)

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithm of `predict_proba`."""
        P, back = self._probabilities(X, "predict_log_proba")
        with gpu_of(P), np.errstate(divide="ignore"):
            return back(namespace_of(P).log(P))

    def _probabilities(self, X: Any, method: str) -> tuple[Any, Any]:
        P, back = self._outputs(X, method)
        if self.n_outputs_ == 1:
            P = of_both(P)
        elif self.out_activation_ == "logistic" and not self._multilabel and P.shape[1] == len(self.classes_):
            with gpu_of(P):
                P /= namespace_of(P).sum(P, axis=1, keepdims=True)
        return P, back

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy on (X, y): the fraction of samples whose label, or every label if multilabel, is correct."""
        P, _ = self._outputs(X, "score")
        predicted = as_numpy(self._decided(P))
        return self._score_of(arrays.on_host(y), predicted, arrays.on_host(sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _encoded(self, y: Any, *, first: bool, incremental: bool) -> Any:
        """Class indices (n,), or for multilabel problems floats (n, n_labels). Sets classes_ and n_outputs_."""
        plain = incremental and not first and arrays.is_plain_target(y) and y.dtype.kind in "iu"
        y, kind = (y, "multiclass") if plain else labels.checked(y, type(self).__name__)
        multilabel = kind == "multilabel-indicator"
        if first:
            self._multilabel = multilabel
            known = np.arange(y.shape[1]) if multilabel else labels.distinct(y)
            self.classes_ = getattr(self, "_all_classes", known) if incremental and not multilabel else known
            self.n_outputs_ = self._count_outputs()
        elif multilabel != self._multilabel or (multilabel and y.shape[1] != len(self.classes_)):
            known = f"{len(self.classes_)} {'labels of 0 and 1' if self._multilabel else 'classes'}, as before"
            raise DataError(f"y is {kind} of shape {y.shape}; expected {known}: make a new estimator")
        if multilabel:
            return y.astype(np.float64)
        return labels.indices(y, self.classes_, complete=not (first or incremental))

    def _count_outputs(self) -> int:
        if self.output == "softmax" and (self._multilabel or len(self.classes_) < 2):
            raise ConfigError("output='softmax' needs 2 or more classes and one label a sample: use output='sigmoid'")
        one = self._output == "sigmoid" and len(self.classes_) <= 2 and not self._multilabel
        return 1 if one else len(self.classes_)

    @property
    def _output(self) -> str:
        one_of_many = not self._multilabel and len(self.classes_) > 2
        return self.output if self.output != "auto" else "softmax" if one_of_many else "sigmoid"

    def _weighted(self, y: Any, sample_weight: Any) -> Any:
        return labels.weights(y, self.class_weight, sample_weight)

    def _strata(self, y: Any) -> Any:
        """Labels to stratify the split by: only those of two classes, as in scikit-learn."""
        if len(self.classes_) > 2 or self._multilabel:
            return None
        if (counts := np.bincount(y)).min() < 2:
            raise DataError(
                f"y has label {self.classes_[counts.argmin()]} only once: early stopping splits two classes in equal "
                "shares and needs two samples of each; give validation_data"
            )
        return y

    @property
    def _loop_classes(self) -> Any:
        return None if self._multilabel else tuple(range(max(2, len(self.classes_))))

    def _model_classes(self) -> Any:
        if self._multilabel:
            return None
        if len(self.classes_) < 2:
            raise DataError(f"every label is {shown(tuple(self.classes_))}; a Model tells at least two classes apart")
        return as_classes(self.classes_, type(self).__name__)

    def _reported(self, loss: float, penalty: float) -> float:
        return loss

    def _decided(self, P: Any) -> Any:
        """The labels by probabilities P, on the host; those of multilabel problems where P is, if they are many."""
        P = as_numpy(P) if P.size <= FEW_LOGITS else P
        with gpu_of(P):
            if self._multilabel:
                return (P > 0.5).astype(int)
            index = (P[:, 0] > 0.5).astype(np.intp) if self.n_outputs_ == 1 else P.argmax(axis=1)
        return self.classes_[np.minimum(as_numpy(index), len(self.classes_) - 1)]

    def _score_of(self, y: Any, predicted: Any, sample_weight: Any) -> float:
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))
