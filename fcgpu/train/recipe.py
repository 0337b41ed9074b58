"""The recipe: everything that determines a run's numbers, and the only schema for it.

A recipe is a flat TOML file. Its keys are the fields of Recipe, and the options of `fcgpu train` have the same names.
Device, threads and memory are not part of it: they belong to the machine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.errors import ConfigError, choices, nearest
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.updates import UPDATES
from fcgpu.optim import FULL_BATCH, LBFGS, OPTIMIZERS
from fcgpu.optim.schedules import SCHEDULES
from fcgpu.params import INITS, Spec

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
MAX_FILE = 1 << 20  # bytes of a recipe that are read


@dataclass(frozen=True)
class Kind:
    """What a key accepts: a description in words, and a function that returns the value in its type or raises
    ValueError.
    """

    words: str
    parse: Callable[[Any], Any]


def _key(default: Any, kind: Kind, help: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help})


def plain(value: Any) -> Any:
    """Convert NumPy scalars, arrays and dtypes, such as grid searches pass, to Python's own types."""
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if hasattr(value, "tolist") and getattr(value, "ndim", 2) < 2:
        return plain(value.tolist())
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def _one_of(names: Any) -> Kind:
    def parse(value: Any) -> Any:
        if value not in tuple(names):
            raise ValueError(nearest(value, filter(None, names)))
        return value

    return Kind("one of " + ", ".join(filter(None, names)), parse)


def _number(words: str, legal: Callable[[float], bool], *, whole: bool = False) -> Kind:
    def parse(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError
        if not math.isfinite(value) or not legal(value):
            raise ValueError
        return value if whole else float(value)

    return Kind(words, parse)


def _sizes(words: str, lengths: Callable[[int], bool]) -> Kind:
    def parse(value: Any) -> Any:
        if not isinstance(value, list | tuple) or not lengths(len(value)):
            raise ValueError
        return tuple(COUNT.parse(v) for v in value)

    return Kind(words, parse)


def _parse_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError
    value.encode()  # ValueError for a lone surrogate, which Python makes of a file name that is not UTF-8
    return value


def _parse_flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _parse_rates(value: Any) -> Any:
    given = value if isinstance(value, list | tuple) else (value,)
    rates = tuple(FRACTION.parse(v) for v in given)
    return rates if any(rates) else ()


def _parse_batch(value: Any) -> Any:
    return value if value == "full" else COUNT.parse(value)


TEXT = Kind("text in UTF-8", _parse_text)
FLAG = Kind("true or false", _parse_flag)
COUNT = _number("a whole number of 1 or more", lambda v: v >= 1, whole=True)
EPOCHS = _number("a whole number of 1 or more, up to 10 million", lambda v: 1 <= v <= 10_000_000, whole=True)
WHOLE = _number("a whole number of 0 or more", lambda v: v >= 0, whole=True)
POSITIVE = _number("a number above 0", lambda v: v > 0)
NOT_NEGATIVE = _number("a number of 0 or more", lambda v: v >= 0)
UNIT = _number("a number from 0 to 1", lambda v: 0 <= v <= 1)
FRACTION = _number("a number from 0 up to, not including, 1", lambda v: 0 <= v < 1)
SHARE = _number("a number between 0 and 1", lambda v: 0 < v < 1)
BATCH = Kind('"full" or a whole number of 1 or more', _parse_batch)
HIDDEN = _sizes("a list of whole numbers of 1 or more, as [128, 64]; [] for none", lambda n: True)
RATES = Kind("a number from 0 up to, not including, 1, or a list of them, one a hidden layer", _parse_rates)
IMAGE = _sizes("[height, width], each 1 or more; [] for the pictures' own size", lambda n: n in (0, 2))


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run. Every field is a key of the TOML file and an option of `fcgpu train`.

    `fcgpu recipes --keys` describes each field. Recipe(**keys) raises ConfigError for a value that its key does not
    accept, and for values that contradict one another.
    """

    name: str = _key("custom", TEXT, "what the run is called")
    description: str = _key("", TEXT, "one line for `fcgpu recipes`")
    data: str = _key("", TEXT, "a data set's name or a path; empty where it is given on the command line")
    image_size: tuple[int, ...] = _key((), IMAGE, "resize pictures of an image folder to [height, width]")
    scale: float = _key(0.0, NOT_NEGATIVE, "multiply features by this; 0 for the data's own scale, 1/255 for pixels")
    hidden: tuple[int, ...] = _key((128, 64), HIDDEN, "sizes of the hidden layers")
    activation: str = _key("relu", _one_of(HIDDEN_ACTIVATIONS), "of the hidden layers")
    output: str = _key("softmax", _one_of(OUTPUTS), "activation of the last layer; it decides the loss")
    loss: str = _key("", _one_of(["", *(row.loss for row in OUTPUTS.values())]), "empty, or the output's own loss")
    init: str = _key("he", _one_of(INITS), "how weights are drawn; biases start at 0")
    optimizer: str = _key("adam", _one_of(OPTIMIZERS), "the update rule")
    learning_rate: float = _key(0.001, POSITIVE, "step size before the schedule")
    momentum: float = _key(0.9, UNIT, "for momentum and nesterov")
    beta_1: float = _key(0.9, FRACTION, "decay of the mean gradient, for adam and adamw")
    beta_2: float = _key(0.999, FRACTION, "decay of the mean squared gradient, for adam and adamw")
    rho: float = _key(0.9, FRACTION, "decay of the mean squared gradient, for rmsprop")
    epsilon: float = _key(1e-8, POSITIVE, "added to the root of the mean squared gradient, for adam, adamw, rmsprop")
    weight_decay: float = _key(0.01, NOT_NEGATIVE, "decoupled decay of the weights, for adamw")
    history_size: int = _key(20, COUNT, "steps that lbfgs remembers")
    max_fun: int = _key(0, WHOLE, "most evaluations of the loss, for lbfgs; 0 for no limit")
    schedule: str = _key("constant", _one_of(SCHEDULES), "how the learning rate changes")
    warmup: int = _key(0, WHOLE, "epochs over which the learning rate rises from 0, before and beside the schedule")
    step_size: int = _key(10, COUNT, "epochs between two drops, for the step schedule")
    gamma: float = _key(0.5, POSITIVE, "factor of a drop, for the step schedule")
    power_t: float = _key(0.5, NOT_NEGATIVE, "exponent of the inverse_scaling schedule")
    alpha: float = _key(
        0.0, NOT_NEGATIVE, "adds alpha/2 times the squared weights, over the batch's samples, to the loss"
    )
    dropout: tuple[float, ...] = _key((), RATES, "share of hidden units that are dropped in training")
    gradient_clip: float = _key(0.0, NOT_NEGATIVE, "greatest norm of a gradient; 0 for no limit")
    early_stopping: bool = _key(False, FLAG, "hold samples out, watch their loss, and keep the best parameters")
    validation_fraction: float = _key(0.1, SHARE, "share of the samples that early_stopping holds out")
    n_iter_no_change: int = _key(0, WHOLE, "stop after more than this many epochs without improvement; 0 for never")
    tol: float = _key(1e-4, NOT_NEGATIVE, "what counts as improvement of the loss; for lbfgs, the gradient to stop at")
    batch: str | int = _key("full", BATCH, "samples per update")
    shuffle: bool = _key(True, FLAG, "draw mini-batches in a new order each epoch; else in the data's order")
    epochs: int = _key(100, EPOCHS, "passes over the data")
    seed: int = _key(0, WHOLE, "of the weights and of the order")
    dtype: str = _key("float32", _one_of(["float32", "float64"]), "type of parameters and arithmetic")
    precision: str = _key(
        "float32", _one_of(PRECISIONS), "of the products on a GPU; parameters, sums and loss stay float32"
    )
    cost_every: int = _key(0, WHOLE, "print the cost, the loss summed over samples, every N epochs; 0 for never")
    check: str = _key("test", _one_of(["test", "train"]), "which samples the closing check of ten shows")

    def __post_init__(self) -> None:
        for f in fields(self):
            kind, value = f.metadata["kind"], getattr(self, f.name)
            try:
                object.__setattr__(self, f.name, kind.parse(plain(value)))
            except (ValueError, OverflowError) as error:  # OverflowError: an integer beyond the range of float
                why = f" ({error})" if str(error) else ""
                given = list(value) if isinstance(value, tuple) else value
                raise ConfigError(f"{f.name}={given!r}: expected {kind.words}{why}") from None
        legal = OUTPUTS[self.output].loss
        if self.loss and self.loss != legal:
            partner = next(name for name, row in OUTPUTS.items() if row.loss == self.loss)
            raise ConfigError(
                f"output={self.output!r} with loss={self.loss!r} is not a legal pair; "
                f"use loss={legal!r}, or output={partner!r}"
            )
        if len(self.dropout) > 1 and len(self.dropout) != len(self.hidden):
            raise ConfigError(
                f"dropout={list(self.dropout)} for hidden={list(self.hidden)}: "
                "expected one number, or one a hidden layer"
            )
        if self.optimizer in FULL_BATCH:
            for key in ("batch", *FULL_BATCH[self.optimizer]):
                if getattr(self, key) != KEYS[key].default:
                    value = list(given) if isinstance(given := getattr(self, key), tuple) else given
                    raise ConfigError(
                        f"{key}={value!r} is not for optimizer={self.optimizer!r}, which needs the same loss at every "
                        f"step: use optimizer='adam' or another first-order rule, or leave {key} out"
                    )
        if self.precision != "float32" and self.dtype != "float32":
            raise ConfigError(
                f"precision={self.precision!r} is for dtype='float32', not {self.dtype!r}: leave one of them out"
            )
        if self.precision in ("float16", "bfloat16") and self.optimizer == "lbfgs":
            raise ConfigError(
                f"precision={self.precision!r} is not for optimizer='lbfgs', whose line search needs more digits of "
                "the loss: use precision='tf32' or another optimizer"
            )
        if self.schedule == "adaptive" and not self.n_iter_no_change:
            raise ConfigError("schedule='adaptive' needs n_iter_no_change, the epochs to wait for an improvement")
        if self.init == "article" and self.seed >= 2**32:
            raise ConfigError(f"seed={self.seed}: init='article' takes seeds below 2**32")

    def dropout_of(self, spec: Spec) -> tuple[float, ...]:
        """The fraction of units to drop in each hidden layer; empty if there is no dropout."""
        return self.dropout * (len(spec.sizes) - 2) if len(self.dropout) == 1 else self.dropout

    def rows(self, samples: int) -> int:
        """Samples per batch: `samples` for "full", else the key `batch`, even if it is more."""
        return samples if self.batch == "full" else int(self.batch)

    def but(self, **changes: Any) -> "Recipe":
        """A copy of the recipe with some keys changed.

        Raises ConfigError as the constructor does, for an unknown key, and for a key that the optimizer or schedule
        does not use.
        """
        _refuse_unknown(changes, "recipe")
        changed = replace(self, **changes)
        for key in changes:
            if (value := getattr(changed, key)) != KEYS[key].default:
                for choice, users in _users(key).items():
                    if (chosen := getattr(changed, choice)) not in users:
                        raise ConfigError(
                            f"{key}={value!r} changes nothing where {choice}={chosen!r}: it is for {', '.join(users)}"
                        )
        return changed


KEYS = {f.name: f for f in fields(Recipe)}


def _users(key: str) -> dict[str, list[str]]:
    """The optimizers or schedules that use a key, as {"optimizer": names} or {"schedule": names}; {} if all do."""
    rules = {name: {"learning_rate", *row.defaults} for name, row in UPDATES.items()} | {"lbfgs": set(LBFGS)}
    schedules = {name: set(row.defaults) for name, row in SCHEDULES.items()}
    found = {
        choice: [name for name, keys in table.items() if key in keys]
        for choice, table in (("optimizer", rules), ("schedule", schedules))
    }
    return {choice: names for choice, names in found.items() if names}


def recipe_names() -> list[str]:
    """The names of the recipes in the package, sorted."""
    return sorted(p.name.removesuffix(".toml") for p in _shipped().iterdir() if p.name.endswith(".toml"))


def load_recipe(source: str | Path) -> Recipe:
    """Load a recipe of the package by name, or a TOML file by its path: a source that ends in .toml or has a slash.

    Raises ConfigError for an unknown name, a file that cannot be read, invalid TOML (with the line), an unknown key,
    and a value that is not legal.
    """
    text = str(source)
    if not text.endswith(".toml") and "/" not in text:
        if text not in recipe_names():
            raise ConfigError(f"recipe={text!r} is not known; {choices(text, recipe_names())} (a path ends in .toml)")
        return from_toml(f"recipe {text}", (_shipped() / f"{text}.toml").read_bytes())
    try:
        if Path(text).is_fifo():
            raise ConfigError(f"{text}: a pipe; expected a TOML file")
        with open(text, "rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(
            f"{text}: the recipe cannot be read ({error.strerror}); give the path of a TOML file, or one of "
            + ", ".join(recipe_names())
        ) from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"{text}: more than {MAX_FILE} bytes; a recipe is a short TOML file")
    return from_toml(text, content)


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML, with every key; `from_toml` reads it back to an equal recipe."""
    import json

    lines = []
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        lines.append(f"{f.name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f"))
    return "\n".join(lines) + "\n"


def from_toml(name: str, content: bytes) -> Recipe:
    """The recipe in a TOML file's `content`; `name` is for error messages. Raises ConfigError as `load_recipe`."""
    import tomllib

    try:
        table = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # ValueError: not TOML, not UTF-8, a number of 5000 digits
        raise ConfigError(f"{name}: not TOML ({error})") from None
    _refuse_unknown(table, name)
    try:
        return Recipe(**table)
    except (ConfigError, ValueError) as error:  # ValueError: a number too long to show
        raise ConfigError(f"{name}: {error}") from None


def _refuse_unknown(table: dict[str, Any], name: str) -> None:
    for key in table:
        if key not in KEYS:
            raise ConfigError(f"{name}: {key!r} is not a key of a recipe; {choices(key, KEYS)}")


@cache
def _shipped() -> Any:
    from importlib import resources

    return resources.files("fcgpu") / "recipes"
