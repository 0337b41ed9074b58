"""A run directory as it is found: what can be read of it, and in words what cannot. It may come from a stranger."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.errors import CheckpointError, ConfigError
from fcgpu.formats.atomic import regular
from fcgpu.formats.safetensors import load as load_model
from fcgpu.model import Model
from fcgpu.train.recipe import Recipe, load_recipe

MOST_BYTES, MOST_LINES = 64 << 20, 1 << 20  # of a history that are read
MOST_POINTS = 2000  # of its epochs that are kept, evenly spread; those with test samples besides
LARGEST = 1e30  # a number beyond this is no point of a curve
COLUMNS = ("epoch", "seconds", "loss", "penalty", "accuracy", "monitored", "test_loss", "test_accuracy")


@dataclass(frozen=True)
class RunFiles:
    """history : a float64 array for each of COLUMNS, one value an epoch, NaN where there is none.

    result : what result.json says, scalars and flat lists and tables, none of it checked.
    missing : what there is to say about files that are absent or wrong.
    """

    path: Path
    recipe: Recipe
    history: dict[str, Any]
    result: dict[str, Any]
    model: Model | None
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def number(self, key: str) -> float | None:
        """A number of the result; None where it has none."""
        value = number(self.result.get(key))
        return value if math.isfinite(value) else None

    def last(self, column: str) -> float | None:
        """The last number of a column of the history."""
        values = self.history[column][np.isfinite(self.history[column])]
        return float(values[-1]) if len(values) else None


def read(path: str) -> RunFiles:
    """Raises ConfigError for a folder without a recipe that is one."""
    folder = Path(path)
    if not path or not (folder / "recipe.toml").exists():
        raise ConfigError(f"{path!r}: no recipe.toml there; expected a run directory, as fcgpu train leaves one")
    missing: list[str] = []
    history = _history(folder / "history.jsonl", missing)
    result = _result(folder / "result.json", missing)
    model = None
    try:
        model = load_model(folder / "model.safetensors")
    except CheckpointError as error:
        missing.append(f"No model: {error}.")
    return RunFiles(folder, load_recipe(folder / "recipe.toml"), history, result, model, missing)


def number(value: Any) -> float:
    """A number that can be drawn; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
        return math.nan
    return float(value)


def _history(path: Path, missing: list[str]) -> dict[str, Any]:
    content = _content(path, MOST_BYTES, missing)
    *lines, rest = content.split(b"\n", MOST_LINES)  # rest: what has no end yet, because a run is writing it, or more
    if b"\n" in rest:
        missing.append(f"{path.name}: only its first {MOST_LINES:,} lines were read.")
    looks = [i for i, line in enumerate(lines) if b'"test_loss"' in line]
    kept = [lines[i] for i in sorted({*_spread(range(len(lines))), *_spread(looks)})]
    rows = list(_objects(kept))
    if len(rows) < len(kept):
        missing.append(f"{path.name}: {len(kept) - len(rows)} of the lines read are not what fcgpu train writes.")
    return {key: np.array([number(row.get(key)) for row in rows], dtype=np.float64) for key in COLUMNS}


def _spread(indices: Sequence[int]) -> Iterable[int]:
    """MOST_POINTS of them at most, the last among them."""
    return indices[::-1][:: max(1, -(-len(indices) // MOST_POINTS))]


def _objects(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, not UTF-8, a number of 5000 digits
            continue
        if isinstance(row, dict) and math.isfinite(number(row.get("epoch"))):
            yield row


def _result(path: Path, missing: list[str]) -> dict[str, Any]:
    content = _content(path, 1 << 20, missing)
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return {key: value for key, value in found.items() if _plain(value)}
    missing.append(f"{path.name}: not the result of a run.")
    return {}


def _plain(value: Any) -> bool:
    """Is it a scalar, or a list or table of scalars?"""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not any(isinstance(each, dict | list) for each in inside)


def _content(path: Path, most: int, missing: list[str]) -> bytes:
    """The file's first bytes, up to its last whole line where there are more than `most`; none where it is missing."""
    try:
        with open(path, "rb", opener=regular) as file:
            content = file.read(most + 1)
    except OSError as error:
        missing.append(f"No {path.name}: {error.strerror or error}.")
        return b""
    if len(content) > most:
        missing.append(f"{path.name}: only its first {most >> 20} MiB were read.")
        content = content[: content.rfind(b"\n", 0, most)]
    return content
