"""The estimators' parameters: their defaults, validation, and translation to a Recipe."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from fcgpu.errors import ConfigError
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.optim import FULL_BATCH, NOT_FOR_FULL_BATCH, OPTIMIZERS
from fcgpu.params import INITS
from fcgpu.suggest import choices
from fcgpu.train.kinds import COUNT, FLAG, FRACTION, WHOLE, Kind, as_python
from fcgpu.train.recipe import KEYS, Recipe

ACTIVATIONS = {"logistic": "sigmoid", **{name: name for name in HIDDEN_ACTIVATIONS if name != "sigmoid"}}
SCHEDULES = {
    "constant": "constant", "invscaling": "inverse_scaling", "adaptive": "adaptive", "cosine": "cosine",
    "one_cycle": "one_cycle",
}  # fmt: skip
NEED_AN_END = ("cosine", "one_cycle")  # schedules that partial_fit cannot follow
FOR_SGD_ONLY = ("invscaling", "adaptive")  # scikit-learn's names; its other solvers treat them as "constant"
SCIPYS_MEMORY = 10

# Parameter of the estimator: the recipe's key, which also validates it.
KEY_OF = {"hidden_layer_sizes": "hidden", "learning_rate_init": "learning_rate", "max_iter": "epochs"}
KEY_OF |= {
    name: name
    for name in (
        "alpha", "beta_1", "beta_2", "dropout", "early_stopping", "epsilon", "gradient_clip", "max_fun", "momentum",
        "power_t", "rho", "shuffle", "tol", "warmup", "weight_decay",
    )
}  # fmt: skip
FLAGS = ("nesterovs_momentum", "warm_start", "progress")
CHOICES: dict[str, Collection[str]] = {
    "activation": ACTIVATIONS,
    "solver": ("lbfgs", "sgd", "adam", *(name for name in OPTIMIZERS if name not in ("lbfgs", "adam"))),
    "learning_rate": SCHEDULES,
    "dtype": ("auto", "float32", "float64"),
    "init": ("auto", *(name for name in INITS if name != "article")),
    "output": ("auto", "softmax", "sigmoid"),
    "loss": ("squared_error", "poisson"),
}


@dataclass(eq=False, repr=False, kw_only=True)
class Shared:
    """The parameters that both estimators have, each an attribute of its name, as scikit-learn wants them.

    They are no fields of BaseMLP, because mypy does not check the arguments of a dataclass with a base that it does not
    know, such as BaseEstimator.
    """

    solver: str = "adam"
    alpha: float = 0.0001
    batch_size: int | str = "auto"
    learning_rate: str = "constant"
    learning_rate_init: float = 0.001
    power_t: float = 0.5
    max_iter: int = 200
    shuffle: bool = True
    random_state: Any = None
    tol: float = 1e-4
    verbose: bool = False
    warm_start: bool = False
    momentum: float = 0.9
    nesterovs_momentum: bool = True
    early_stopping: bool = False
    validation_fraction: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_iter_no_change: float = 10
    max_fun: int = 15000
    dropout: Any = 0.0
    init: str = "auto"
    rho: float = 0.9
    weight_decay: float = 0.01
    gradient_clip: float = 0.0
    warmup: int = 0
    monitor: Any = None
    callbacks: Any = None
    progress: bool = False
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None


@dataclass(eq=False, repr=False)
class ForClassifier(Shared):
    hidden_layer_sizes: Any = (100,)
    activation: str = "relu"
    class_weight: Any = field(default=None, kw_only=True)
    output: str = field(default="auto", kw_only=True)


@dataclass(eq=False, repr=False)
class ForRegressor(Shared):
    loss: str = "squared_error"
    hidden_layer_sizes: Any = (100,)
    activation: str = "relu"


def settings_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters of an estimator in plain Python types. Raises ConfigError, a ValueError, for an invalid one."""
    settings = {name: as_python(value) for name, value in parameters.items()}
    sizes = settings["hidden_layer_sizes"]
    settings["hidden_layer_sizes"] = (sizes,) if isinstance(sizes, int) else sizes
    for name, key in KEY_OF.items():
        settings[name] = _tested(name, settings[name], KEYS[key].metadata["kind"])
    for name in FLAGS:
        settings[name] = _tested(name, settings[name], FLAG)
    for name, known in CHOICES.items():
        if name in settings and settings[name] not in tuple(known):
            raise ConfigError(f"{name}={settings[name]!r}: {choices(settings[name], known)}")
    size, patience = settings["batch_size"], settings["n_iter_no_change"]
    if size not in ("auto", "full"):
        words = '"auto", "full" or a whole number of 1 or more'
        settings["batch_size"] = _tested("batch_size", size, Kind(words, COUNT.parse))
    if patience != math.inf:
        _tested("n_iter_no_change", patience, COUNT)
    _tested("validation_fraction", settings["validation_fraction"], FRACTION)  # 0 only without early_stopping
    rates, hidden = as_python(parameters["dropout"]), settings["hidden_layer_sizes"]
    if isinstance(rates, list | tuple) and len(rates) != len(hidden):
        raise ConfigError(
            f"dropout={list(rates)} with hidden_layer_sizes={hidden}: expected one number, or one a hidden layer"
        )
    _tested("max_fun", settings["max_fun"], COUNT)
    if not isinstance(settings["verbose"], bool):
        _tested("verbose", settings["verbose"], Kind("True, False or a whole number of 0 or more", WHOLE.parse))
    if settings["threads"] is not None:
        _tested("threads", settings["threads"], COUNT)
    if not isinstance(settings["device"], str):
        raise ConfigError(f"device={settings['device']!r}: expected auto, cpu, cuda or cuda:N")
    calls = settings["callbacks"]
    if calls is not None and not (isinstance(calls, list | tuple) and all(map(callable, calls))):
        raise ConfigError(f"callbacks={calls!r}: expected a list of functions of an event")
    _go_together(settings)
    return settings


def _go_together(settings: dict[str, Any]) -> None:
    solver = settings["solver"]
    if solver in FULL_BATCH:
        for name in NOT_FOR_FULL_BATCH:
            if name in settings and settings[name] != KEYS[name].default:
                raise ConfigError(f"solver={solver!r} with {name}={settings[name]!r}: leave {name} out, or use 'adam'")
        if settings["learning_rate"] not in ("constant", *FOR_SGD_ONLY):
            raise ConfigError(f"solver={solver!r} follows no schedule: use learning_rate='constant'")
    for name, user in {"rho": "rmsprop", "weight_decay": "adamw"}.items():
        if solver != user and settings[name] != KEYS[name].default:
            raise ConfigError(f"{name}={settings[name]!r} with solver={solver!r}: it is for {user!r}, leave it out")
    if settings["monitor"] is not None and not settings["early_stopping"]:
        raise ConfigError(f"monitor={settings['monitor']!r} needs early_stopping=True, which uses it")


def check_partial_fit(estimator: Any) -> bool:
    """True if the estimator has partial_fit; else raise AttributeError, as scikit-learn's `available_if` expects."""
    if estimator.solver in FULL_BATCH:
        raise AttributeError(
            f"partial_fit is only available for stochastic optimizers. {estimator.solver} is not stochastic."
        )
    if estimator.learning_rate in NEED_AN_END:
        raise AttributeError(
            f"partial_fit does not support learning_rate={estimator.learning_rate!r}, which must know its end"
        )
    return True


def batch_of(settings: dict[str, Any], n: int) -> str | int:
    """The recipe's `batch` for n samples."""
    size = settings["batch_size"]
    if size == "full" or settings["solver"] in FULL_BATCH:
        return "full"
    return int(min(200 if size == "auto" else size, n))


def recipe_of(settings: dict[str, Any], n: int, *, output: str, epochs: int, dtype: str, seed: int) -> Recipe:
    """The Recipe for parameters that `settings_of` returned, and n samples."""
    solver, schedule = settings["solver"], settings["learning_rate"]
    stochastic = solver not in FULL_BATCH
    if schedule in FOR_SGD_ONLY and solver == "adam":
        schedule = "constant"
    patience = settings["n_iter_no_change"] if stochastic or settings["early_stopping"] else math.inf
    if schedule == "adaptive" and patience == math.inf:
        schedule = "constant"  # the rate drops when patience runs out, which it never does
    if solver == "sgd":
        solver = "nesterov" if settings["nesterovs_momentum"] else "momentum"
    keys = {key: settings[name] for name, key in KEY_OF.items()}
    return Recipe(
        **{
            **keys,
            "name": "scikit-learn",
            "activation": ACTIVATIONS[settings["activation"]],
            "output": output,
            "optimizer": solver,
            "schedule": SCHEDULES[schedule] if stochastic else "",
            "batch": batch_of(settings, n),
            "epochs": epochs,
            "n_iter_no_change": 0 if patience == math.inf else patience,
            "history_size": SCIPYS_MEMORY,
            "max_fun": keys["max_fun"] if solver == "lbfgs" else 0,
            "dtype": dtype,
            "seed": seed,
            **({} if settings["init"] == "auto" else {"init": settings["init"]}),
        }
    )


def _tested(name: str, value: Any, kind: Kind) -> Any:
    try:
        return kind.parse(value)
    except (ValueError, OverflowError):
        raise ConfigError(f"{name}={value!r}: expected {kind.words}") from None
