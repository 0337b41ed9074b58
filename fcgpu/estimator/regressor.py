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
from fcgpu.estimator.parameters import check_partial_fit


class MLPRegressor(RegressorMixin, BaseMLP):  # type: ignore[misc]
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

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: Any = 0.0,
        init: str = "auto",
        rho: float = 0.9,
        weight_decay: float = 0.01,
        gradient_clip: float = 0.0,
        warmup: int = 0,
        monitor: Any = None,
        callbacks: Any = None,
        progress: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.init = init
        self.rho = rho
        self.weight_decay = weight_decay
        self.gradient_clip = gradient_clip
        self.warmup = warmup
        self.monitor = monitor
        self.callbacks = callbacks
        self.progress = progress
        self.device = device
        self.dtype = dtype
        self.threads = threads

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> Self:
        """Fit to X (n_samples, n_features) and real targets y (n_samples,) or (n_samples, n_outputs).

        sample_weight : (n_samples,) numbers of 0 or more, or None.
        validation_data : (X, y) or (X, y, sample_weight), scored after each epoch; early stopping uses it, too.

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
