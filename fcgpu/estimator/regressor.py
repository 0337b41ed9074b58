"""MLPRegressor: scikit-learn's parameters and attributes, and more."""

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if

from fcgpu.errors import DataError
from fcgpu.estimator import arrays
from fcgpu.estimator.base import BaseMLP
from fcgpu.estimator.parameters import ForRegressor, check_partial_fit


class MLPRegressor(RegressorMixin, BaseMLP, ForRegressor):  # type: ignore[misc]
    """A multi-layer perceptron regressor with scikit-learn's interface, for a CPU or a GPU.

    Parameters, attributes and methods are those of sklearn.neural_network.MLPRegressor, including loss="poisson", with
    the same defaults and meaning; one random_state gives the same weights and batches in both. The additional
    parameters are those of `MLPClassifier`, without class_weight and output.

    As in scikit-learn, for several outputs the squared error is reported as the mean over the outputs, but its sum over
    them is minimised.

    Raises ConfigError or DataError (both are ValueError) for wrong parameters or data, DeviceError if the device cannot
    work, DivergenceError (a ValueError) if the loss is no longer finite.
    """

    _classifies = False

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> Self:
        """Fit to X (n_samples, n_features) and real targets y (n_samples,) or (n_samples, n_outputs).

        sample_weight : (n_samples,) numbers of 0 or more, or None.
        validation_data : (X, y) or (X, y, sample_weight), scored after each epoch; early stopping uses it instead of a
            split of X.

        Returns self. Raises as the class says.
        """
        return self._fit(X, y, sample_weight, validation_data=validation_data)  # type: ignore[no-any-return]

    @available_if(check_partial_fit)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on X and y, continuing with the optimizer state of the last call. Returns self.

        Only for solvers that use mini-batches, and not with the schedules "cosine" and "one_cycle". Raises as `fit`.
        """
        return self._fit(X, y, sample_weight, incremental=True)  # type: ignore[no-any-return]

    def predict(self, X: Any) -> Any:
        """The predicted values for X (n_samples, n_features): (n_samples,) or (n_samples, n_outputs)."""
        values, back = self._outputs(X, "predict")
        return back(self._decided(values))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination R² of the predictions for (X, y)."""
        values, _ = self._outputs(X, "score")
        return self._score_of(arrays.on_host(y), self._decided(arrays.on_host(values)), arrays.on_host(sample_weight))

    def _encoded(self, y: Any, *, first: bool, incremental: bool) -> Any:
        """Targets (n, n_outputs) float64."""
        if hasattr(y, "toarray"):
            raise DataError("y is a sparse matrix: expected dense targets, as y.toarray()")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.dtype.kind not in "buif":
            raise DataError(
                f"y has dtype {y.dtype}: expected real numbers; text and other labels are for MLPClassifier"
            )
        y = np.asarray(y, dtype=np.float64).reshape(len(y), -1)
        if self.loss == "poisson" and y.min() < 0:
            raise DataError(f"loss='poisson' needs y >= 0, y has {y.min():g}: expected counts of 0 or more")
        if first:
            self.n_outputs_ = y.shape[1]
        elif y.shape[1] != self.n_outputs_:
            raise DataError(f"y has {y.shape[1]} outputs; expected {self.n_outputs_}, as before: make a new estimator")
        return y

    def _weighted(self, y: Any, sample_weight: Any) -> Any:
        return sample_weight

    def _strata(self, y: Any) -> Any:
        return None

    _loop_classes = None

    def _model_classes(self) -> Any:
        return None

    @property
    def _output(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _reported(self, loss: float, penalty: float) -> float:
        """The loss as scikit-learn reports it: of the squared error the mean over outputs, not their sum."""
        return loss if self.loss == "poisson" else (loss - penalty) / self.n_outputs_ + penalty

    def _decided(self, values: Any) -> Any:
        return values[:, 0] if values.shape[1] == 1 else values

    def _score_of(self, y: Any, predicted: Any, sample_weight: Any) -> float:
        if not np.isfinite(predicted).all():
            return float("nan")
        return float(r2_score(y, predicted, sample_weight=sample_weight))
