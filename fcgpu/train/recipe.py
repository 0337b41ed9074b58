"""The recipe: everything that determines a run's numbers, and the only schema for it.

A recipe is a flat TOML file. Its keys are the fields of Recipe; most are also options of `fcgpu train`, of that name.
Device, threads and memory are not part of it: they belong to the machine.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fcgpu.errors import ConfigError
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.updates import UPDATES
from fcgpu.optim import FULL_BATCH, LBFGS_KEYS, NOT_FOR_FULL_BATCH, OPTIMIZERS
from fcgpu.optim.schedules import SCHEDULES
from fcgpu.params import INITS
from fcgpu.suggest import choices
from fcgpu.train.kinds import (
    BATCH,
    COUNT,
    EPOCHS,
    FLAG,
    FRACTION,
    HIDDEN,
    IMAGE,
    NOT_NEGATIVE,
    POSITIVE,
    RATES,
    SHARE,
    TEXT,
    UNIT,
    WHOLE,
    Kind,
    as_python,
    one_of,
)

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


def _key(default: Any, kind: Kind, help: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help})


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run. Every field is a key of the TOML file and, but for `data`, which is an argument,
    and `description`, an option of `fcgpu train`.

    `fcgpu recipes --keys` describes each field. Recipe(**keys) raises ConfigError for a value that its key does not
    accept, and for values that contradict one another.
    """

    name: str = _key("custom", TEXT, "what the run is called")
    description: str = _key("", TEXT, "one line for `fcgpu recipes`")
    data: str = _key(
        "", TEXT, "a data set's name, or a path from the working folder; empty where it is given on the command line"
    )
    image_size: tuple[int, ...] = _key((), IMAGE, "resize pictures of an image folder to [height, width]")
    target_column: str = _key("", TEXT, "name of a CSV file's column that holds the label; empty for the first")
    scale: float = _key(
        0.0, NOT_NEGATIVE, "multiply features by this; 0 for the data's own scale, such as 1/255 for pixels"
    )
    standardize: bool = _key(
        False,
        FLAG,
        "train on features, and a regression's targets, at mean 0 and standard deviation 1, and on counts of mean 1; "
        "pictures keep one scale",
    )
    test_size: float = _key(0.0, FRACTION, "share of the samples to hold out as test samples; 0 for none")
    hidden: tuple[int, ...] = _key((128, 64), HIDDEN, "sizes of the hidden layers")
    activation: str = _key("relu", one_of(HIDDEN_ACTIVATIONS), "of the hidden layers")
    output: str = _key("softmax", one_of(OUTPUTS), "activation of the last layer; it decides the loss")
    loss: str = _key("", one_of(["", *(row.loss for row in OUTPUTS.values())]), "empty, or the output's own loss")
    init: str = _key("he", one_of(INITS), "how weights are drawn; biases start at 0")
    optimizer: str = _key("adam", one_of(OPTIMIZERS), "the update rule")
    learning_rate: float = _key(0.01, POSITIVE, "step size before the schedule")
    momentum: float = _key(0.9, UNIT, "decay of the velocity, for momentum and nesterov")
    beta_1: float = _key(0.9, FRACTION, "decay of the mean gradient, for adam and adamw")
    beta_2: float = _key(0.999, FRACTION, "decay of the mean squared gradient, for adam and adamw")
    rho: float = _key(0.9, FRACTION, "decay of the mean squared gradient, for rmsprop")
    epsilon: float = _key(1e-8, POSITIVE, "added to the root of the mean squared gradient, for adam, adamw, rmsprop")
    weight_decay: float = _key(0.01, NOT_NEGATIVE, "decoupled decay of the weights, for adamw")
    history_size: int = _key(20, COUNT, "steps that lbfgs remembers")
    max_fun: int = _key(0, WHOLE, "most evaluations of the loss, for lbfgs; 0 for no limit")
    schedule: str = _key(
        "", one_of(["", *SCHEDULES]), "how the learning rate changes; empty for cosine, but none for lbfgs and rprop"
    )
    warmup: int = _key(0, WHOLE, "epochs over which the learning rate rises from 0, while the schedule goes on")
    step_size: int = _key(10, COUNT, "epochs between two drops, for the step schedule")
    gamma: float = _key(0.5, POSITIVE, "factor of a drop, for the step schedule")
    power_t: float = _key(0.5, NOT_NEGATIVE, "exponent of the inverse_scaling schedule")
    alpha: float = _key(
        0.0,
        NOT_NEGATIVE,
        "L2: adds alpha/2 times the sum of the squared weights, divided by the batch's samples, to the loss",
    )
    dropout: tuple[float, ...] = _key((), RATES, "share of hidden units that are dropped in training")
    gradient_clip: float = _key(0.0, NOT_NEGATIVE, "greatest norm of a gradient; 0 for no limit")
    early_stopping: bool = _key(
        False, FLAG, "hold samples out, watch their loss, and keep the best parameters; n_iter_no_change ends the run"
    )
    validation_fraction: float = _key(0.1, SHARE, "share of the samples that early_stopping holds out")
    n_iter_no_change: int = _key(0, WHOLE, "stop after more than this many epochs without improvement; 0 for never")
    tol: float = _key(
        1e-4,
        NOT_NEGATIVE,
        "least improvement for n_iter_no_change, in standardized units if targets are; lbfgs stops at such a gradient",
    )
    batch: str | int = _key("full", BATCH, "samples per update; all if there are fewer")
    shuffle: bool = _key(True, FLAG, "draw mini-batches in a new order each epoch; else in the data's order")
    epochs: int = _key(100, EPOCHS, "passes over the data")
    seed: int = _key(0, WHOLE, "of the weights and of the order")
    dtype: str = _key("float32", one_of(["float32", "float64"]), "type of parameters and arithmetic")
    precision: str = _key(
        "float32", one_of(PRECISIONS), "of the products on a GPU; parameters, sums and loss stay float32"
    )
    cost_every: int = _key(
        0, WHOLE, "print the cost, the loss summed over samples, every N epochs from epoch 0 on; 0 for never"
    )
    check: str = _key("test", one_of(["test", "train"]), "which samples the closing check of ten shows")

    def __post_init__(self) -> None:
        for f in fields(self):
            kind, value = f.metadata["kind"], as_python(getattr(self, f.name))
            try:
                object.__setattr__(self, f.name, kind.parse(value))
            except (ValueError, OverflowError) as error:  # OverflowError: an integer beyond the range of float
                why = f" ({error})" if str(error) else ""
                raise ConfigError(f"{f.name}={value!r}: expected {kind.words}{why}") from None
        self._check_together()

    def _check_together(self) -> None:
        """Raise ConfigError for values that contradict one another."""
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
            for key in ("batch", *NOT_FOR_FULL_BATCH):
                value = getattr(self, key)
                if value not in (KEYS[key].default, "constant"):  # "constant" is no schedule
                    instead = 'batch="full"' if key == "batch" else f"leave {key} out"
                    raise ConfigError(
                        f"{key}={as_python(value)!r} is not for optimizer={self.optimizer!r}, which needs the same "
                        "loss at every step and finds its step sizes by itself: use optimizer='adam' or another "
                        f"first-order rule, or {instead}"
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

    @property
    def dropout_rates(self) -> tuple[float, ...]:
        """The fraction of units to drop in each hidden layer; empty if there is no dropout."""
        return self.dropout * len(self.hidden) if len(self.dropout) == 1 else self.dropout

    def batch_of(self, samples: int) -> int:
        """Samples per batch: all `samples` for "full", and if they are fewer than the key `batch`."""
        return samples if self.batch == "full" else min(samples, int(self.batch))

    def but(self, **changes: Any) -> "Recipe":
        """The recipe with some keys changed.

        Raises ConfigError as the constructor does, for an unknown key, and for a key that would change nothing, unless
        it has its default. With an optimizer that needs all samples at once, "full" is the batch unless it is changed.
        """
        if not changes:
            return self
        refuse_unknown(changes, "recipe")
        if changes.get("optimizer") in FULL_BATCH:
            changes = {"batch": "full"} | changes
        changed = replace(self, **changes)
        for why in changed.unused(changes):
            raise ConfigError(why)
        return changed

    def unused(self, keys: Iterable[str], *, defaults: bool = False) -> Iterator[str]:
        """A sentence for each of the keys that changes nothing beside the others, but not for what is vacuous, as an
        activation without hidden layers.

        defaults : also for keys that have their default.
        """
        for key in keys:
            value = getattr(self, key)
            if value == KEYS[key].default and not defaults:
                continue
            for choice, users in _users(key).items():
                if (chosen := getattr(self, choice)) not in users:
                    yield f"{key}={value!r} changes nothing where {choice}={chosen!r}: it is for {', '.join(users)}"
            if key == "validation_fraction" and not self.early_stopping:
                yield f"{key}={value!r} changes nothing without early_stopping, which holds samples out: add it"
            if key == "tol" and not self.n_iter_no_change and self.optimizer != "lbfgs":
                yield f"{key}={value!r} changes nothing without n_iter_no_change, the epochs to wait: add it"


KEYS = {f.name: f for f in fields(Recipe)}


def _users(key: str) -> dict[str, list[str]]:
    """The optimizers or schedules that use a key, as {"optimizer": names} or {"schedule": names}; {} if all do."""
    rules = {name: {"learning_rate", *row.defaults} for name, row in UPDATES.items()} | {"lbfgs": set(LBFGS_KEYS)}
    tables = {"optimizer": rules, "schedule": {name: set(row.keys) for name, row in SCHEDULES.items()}}
    found = {choice: [name for name, keys in table.items() if key in keys] for choice, table in tables.items()}
    return {choice: names for choice, names in found.items() if names}


def refuse_unknown(table: dict[str, Any], name: str) -> None:
    """Raise ConfigError for a key that no recipe has; `name` says where it was found."""
    for key in table:
        if key not in KEYS:
            raise ConfigError(f"{name}: {key!r} is not a key of a recipe; {choices(key, KEYS)}")
