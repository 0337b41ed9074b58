"""The errors of fcgpu. A message names the value, the expectation and the remedy; for a file, its path and place.

The command line prints any of them as one line on standard error, and exits with code 2.
"""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

SYNONYMS = {  # a name here, and those of the same thing in scikit-learn, PyTorch and Keras
    "alpha": "l2 reg regularization",
    "batch": "batch_size",
    "constant": "none",
    "cross_entropy": "categorical_crossentropy sparse_categorical_crossentropy",
    "epochs": "max_iter n_epochs num_epochs",
    "gradient_clip": "clipnorm max_grad_norm max_norm",
    "gradient_descent": "sgd",
    "hidden": "hidden_layer_sizes hidden_sizes layers units",
    "identity": "linear mse regression",
    "init": "initialization initializer kernel_initializer",
    "learning_rate": "lr learning_rate_init",
    "n_iter_no_change": "patience",
    "optimizer": "solver",
    "schedule": "scheduler",
    "seed": "random_state",
    "sigmoid": "binary_crossentropy logistic",
    "softmax": "categorical_crossentropy sparse_categorical_crossentropy",
    "squared_error": "mse mean_squared_error",
    "validation_fraction": "validation_split",
}


class FcgpuError(Exception):
    """Base of every error that fcgpu raises on purpose."""


class DataError(FcgpuError, ValueError):
    """Features, labels or a data file are not valid."""


class ConfigError(FcgpuError, ValueError):
    """A recipe, a Spec or an argument is not valid."""


class DeviceError(FcgpuError):
    """The requested device cannot be used, or does not have enough memory."""


class DeviceMemoryError(DeviceError):
    """A GPU ran out of memory."""


class DivergenceError(FcgpuError, ValueError):
    """The loss, the parameters or the outputs are no longer finite."""


class CheckpointError(FcgpuError):
    """A file of a run, such as a model or checkpoint, cannot be written, or is missing, damaged or another one's."""


class MissingExtraError(FcgpuError, ImportError):
    """A feature needs an optional package that is not installed; the message says how to install it."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f'{feature} needs {package}, which is not installed: pip install "fcgpu[{extra}]"')


def first_line(error: Exception) -> str:
    """Type and first line of another library's error; CUDA's first line says what happened."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def whole(name: str, value: Any) -> int | None:
    """`value` as an int, or None if it is None. Raises ConfigError unless it is a whole number of 1 or more."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        unit = " of bytes" if name == "memory_budget" else ""
        raise ConfigError(f"{name}={value!r}: expected a whole number{unit} of 1 or more, or None")
    return None if value is None else int(value)


def choices(value: object, known: Iterable[str]) -> str:
    """The end of an error message about `value`: a suggestion of the nearest known name, else a list of all."""
    names = list(known)
    return nearest(value, names) or "choose from " + ", ".join(names)


def nearest(value: object, known: Iterable[str]) -> str:
    """A question whether the nearest known name was meant, or that of the same thing; "" if there is none."""
    from difflib import get_close_matches

    word, names = str(value).lower(), list(known)
    theirs = word.replace("-", "_")  # as a key, not as an option
    same = [name for name in names if theirs in SYNONYMS.get(name.replace("-", "_"), "").split()]
    near = same or get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else ""
