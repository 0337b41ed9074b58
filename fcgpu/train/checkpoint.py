"""Checkpoint files: a run's state, its recipe, a fingerprint of its data, and how its plan was cut."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fcgpu.data.dataset import Dataset
from fcgpu.data.features import parts
from fcgpu.errors import CheckpointError
from fcgpu.formats import sealed
from fcgpu.train.kinds import as_python
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.recipe_files import from_toml, to_toml
from fcgpu.train.state import State
from fcgpu.train.stopping import Patience
from fcgpu.version import __version__

FORMAT = 2
COUNTS = ("epochs", "steps", "samples", "drops", "halvings", "evaluated")
RULE = "rule."  # prefix of the optimizer's arrays


@dataclass(frozen=True)
class Checkpoint:
    """data : from `fingerprint`. cut : from `cut_of`. score : what early stopping watches, else the loss; less is
    better, and the best checkpoint is kept.
    """

    state: State
    recipe: Recipe
    data: Mapping[str, str]
    cut: Mapping[str, Any]
    score: float


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write the checkpoint, completely or not at all. Raises CheckpointError."""
    state = checkpoint.state
    tensors = {"params": state.params} | ({} if state.best is None else {"best": state.best})
    arrays = {key: value for key, value in state.rule.items() if isinstance(value, np.ndarray)}
    about = {
        "format": FORMAT,
        "fcgpu_version": __version__,
        "recipe": to_toml(checkpoint.recipe),
        "data": dict(checkpoint.data),
        "cut": dict(checkpoint.cut),
        "score": checkpoint.score,
        "rule": {key: value for key, value in state.rule.items() if key not in arrays},
        "patience": None if state.patience is None else asdict(state.patience),
        "order": state.order,
        "seconds": state.seconds,
        "stopped": state.stopped,
        **{key: getattr(state, key) for key in COUNTS},
    }
    sealed.write(path, about, tensors | {RULE + key: value for key, value in arrays.items()})


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what `save` wrote. Raises CheckpointError, with the path, for anything else."""
    name = os.fspath(path)
    about, tensors = sealed.read(path, "checkpoint")
    try:
        if about["format"] != FORMAT:
            raise CheckpointError(
                f"{name}: format {about['format']} of fcgpu {about['fcgpu_version']}; this is fcgpu {__version__}, "
                f"which reads format {FORMAT}: resume with the version that wrote it"
            )
        return _checkpoint(name, about, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise sealed.damaged(name) from error


def fingerprint(data: Dataset) -> dict[str, str]:
    """dtype, shape and SHA-256 of X and of y, SHA-256 of the classes, and the scale, as a string each."""
    import hashlib

    classes = hashlib.sha256(repr(data.classes).encode()).hexdigest()
    return {"X": _array(data.X), "y": _array(data.y), "classes": classes, "scale": repr(float(data.scale))}


def cut_of(plan: Plan, on_gpu: bool) -> dict[str, Any]:
    """The part of the plan that determines the bits of the result; {} on a GPU, where bits are not promised.

    In C a batch is one tile: what a task takes of it depends on the threads, and changes no bit.
    """
    return {} if on_gpu else {"tile": plan.batch if plan.in_c else plan.tile, "lanes": plan.lanes}


def check_data(name: str, there: Checkpoint, data: Dataset) -> None:
    """Raise CheckpointError if the data are not those of the checkpoint; the message says what differs."""
    found = fingerprint(data)
    for key, was in there.data.items():
        if found[key] != was:
            raise CheckpointError(
                f"{name}: other data than the run's: {key} of {data.name} is {_words(found[key])}, was {_words(was)}; "
                "give the data that it was started with, or start a new run"
            )


def check_cut(name: str, there: Checkpoint, cut: Mapping[str, Any]) -> None:
    """Raise CheckpointError if the plan is cut in another way than the checkpoint's, which would change bits."""
    if there.cut and cut and dict(there.cut) != dict(cut):
        was, now = (", ".join(f"{key} {value}" for key, value in sorted(c.items())) for c in (there.cut, cut))
        raise CheckpointError(
            f"{name}: the run was cut into {was}, and this version of fcgpu makes it {now}, which gives other bits: "
            "resume with the version that wrote it"
        )


def differing(there: Recipe, given: Mapping[str, Any]) -> str:
    """In words, the keys whose `given` values differ from the recipe's; "" if none do."""
    pairs = [(key, value, getattr(there, key)) for key, value in given.items()]
    return ", ".join(f"{key}={as_python(now)!r} (was {as_python(was)!r})" for key, now, was in pairs if now != was)


def _checkpoint(name: str, about: dict[str, Any], tensors: dict[str, Any]) -> Checkpoint:
    """Raises ValueError, TypeError and others, which `load` catches, for contents that are not valid."""
    recipe = from_toml(name, about["recipe"].encode())
    params, best = tensors["params"], tensors.get("best")
    counts = {key: about[key] for key in COUNTS}
    waits = about["patience"]
    patience = None if waits is None else Patience(**waits)
    if about["order"] is not None:
        np.random.PCG64().state = about["order"]  # raises if it is not a valid state
    numbers = [about["seconds"], about["score"], *(waits or {}).values()]
    if (
        params.ndim != 1
        or params.dtype.name != recipe.dtype
        or (best is not None and (best.shape, best.dtype) != (params.shape, params.dtype))
        or not all(type(n) is int and 0 <= n < 2**53 for n in counts.values())
        or not counts["epochs"] <= recipe.epochs
        or not all(type(n) in (int, float) for n in numbers)
        or not 0 <= about["seconds"] < math.inf
        or not isinstance(about["stopped"], str)
        or set(about["data"]) != {"X", "y", "classes", "scale"}
        or not all(isinstance(word, str) for word in about["data"].values())
    ):
        raise ValueError
    rule = about["rule"] | {key.removeprefix(RULE): t for key, t in tensors.items() if key.startswith(RULE)}
    state = State(
        params, rule, patience=patience, best=best, order=about["order"], seconds=about["seconds"],
        stopped=about["stopped"], optimizer=recipe.optimizer, **counts,
    )  # fmt: skip
    return Checkpoint(state, recipe, about["data"], dict(about["cut"]), float(about["score"]))


def _array(array: Any) -> str:
    """dtype, shape and SHA-256, some rows at a time, because rows that are not contiguous must be copied."""
    import hashlib

    sha = hashlib.sha256()
    for rows in parts(array.shape):
        sha.update(np.ascontiguousarray(array[rows]).data)
    return f"{array.dtype} {'x'.join(map(str, array.shape))} {sha.hexdigest()}"


def _words(fingerprint: str) -> str:
    *kind, digest = fingerprint.split(" ")
    return " ".join([*kind, digest[:12]])
