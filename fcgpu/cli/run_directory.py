"""The run directory: recipe.toml, history.jsonl, model.safetensors, result.json and checkpoints of a training run."""

import json
import math
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.cli.checkpoints import FOLDER as CHECKPOINTS
from fcgpu.cli.checkpoints import Checkpoints, Policy
from fcgpu.cli.history import History
from fcgpu.cli.lock import NAME as LOCK
from fcgpu.cli.lock import Lock
from fcgpu.errors import CheckpointError, ConfigError, DivergenceError
from fcgpu.formats.atomic import cannot_write, is_leftover, remove_leftovers, write_atomically
from fcgpu.formats.safetensors import save
from fcgpu.host import readable
from fcgpu.model import Model
from fcgpu.train.checkpoint import Checkpoint, differing
from fcgpu.train.recipe import Recipe
from fcgpu.train.recipe_files import load_recipe, to_toml

RECIPE, RESULT = "recipe.toml", "result.json"
BEFORE_DIVERGENCE = math.inf  # score of the checkpoint that a run went back to after a divergence


class RunDirectory:
    """The folder of one run, locked against other writers. Made by `create`, or by `reopen` for a run to resume.

    It is a context manager: at its end pending lines of the history are written, even after an error. To a
    DivergenceError it adds which files are kept, and where.
    """

    def __init__(self, path: Path, lock: Lock, policy: Policy) -> None:
        self.path, self.model = path, path / "model.safetensors"
        self.history = History(path / "history.jsonl")
        self._lock, self._checkpoints = lock, Checkpoints(path, policy)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.history.flush()
        except CheckpointError as refused:
            if error is None:
                raise CheckpointError(f"{refused}; the model is saved as {self.model}") from refused
        finally:
            self.close()
        if isinstance(error, DivergenceError):
            raise DivergenceError(f"{error} ({self._kept()} kept in {self.path})") from error

    def close(self) -> None:
        """Unlock the folder for other writers."""
        self._lock.release()

    def due(self, epoch: int) -> bool:
        """Whether it is time for a checkpoint."""
        return self._checkpoints.due(epoch)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, after the history up to it; but not one whose parameters are not finite.

        Raises CheckpointError if it cannot be written; the earlier ones are unchanged.
        """
        if np.isfinite(checkpoint.state.params).all():
            self.history.flush(durable=True)
            self._checkpoints.save(checkpoint)

    def latest(self) -> tuple[Checkpoint | None, Recipe, list[str]]:
        """(checkpoint to resume from or None, recipe of the run, errors of newer checkpoints). Changes nothing.

        Raises CheckpointError if there are checkpoints and none loads, if recipe.toml is not the checkpoint's recipe,
        or if the history ends before the checkpoint; ConfigError if there is neither a checkpoint nor a recipe.
        """
        found, wrong = self._checkpoints.latest()
        if (self.path / RECIPE).exists():
            recipe = load_recipe(self.path / RECIPE)
        elif found is not None:
            recipe = found.recipe
        else:
            raise ConfigError(f"{self.path}: neither {RECIPE} nor checkpoints; expected a run directory")
        if found is not None:
            if recipe != found.recipe:
                words = differing(found.recipe, vars(recipe))
                raise CheckpointError(f"{self.path / RECIPE}: not the recipe of the run: {words}; put it back")
            self.history.check(found.state.epochs)
        return found, recipe, wrong

    def check_begins_anew(self) -> None:
        """Raise CheckpointError if the run, which has no checkpoint, has a model that a new start would overwrite."""
        if self.model.exists():
            ended = "is finished" if (self.path / RESULT).exists() else "ended with a model"
            again = f"fcgpu train --recipe {quoted(self.path / RECIPE)} --epochs N"
            raise CheckpointError(
                f"{self.path}: the run {ended} and has no checkpoint to go on from; for more epochs start a new run: "
                f"{again}"
            )

    def go_on(self, epochs: int) -> "RunDirectory":
        """Make the folder ready to resume after `epochs` epochs. To be called after all checks: it changes files.

        Raises CheckpointError if the history ends before, or a file cannot be written.
        """
        if epochs:
            self.history.resume(epochs)
        else:
            self.history.cut(0)
        for folder in (self.path, self._checkpoints.folder):
            remove_leftovers(folder)
        return self

    def halve(self, halvings: int) -> Checkpoint | None:
        """Go back to the last good checkpoint after a divergence; return it, or None if there is none.

        The checkpoint gets `halvings`, in its file, too, and the history is cut after it; without a checkpoint the
        history is emptied. A checkpoint that this method has returned before led to another divergence, so it is
        removed. Raises CheckpointError, also if a newer checkpoint does not load.
        """
        found, wrong = self._checkpoints.latest()
        if found is not None and found.score == BEFORE_DIVERGENCE:
            self._checkpoints.remove(found.state.epochs)
            found, wrong = self._checkpoints.latest()
        if wrong:
            raise CheckpointError(wrong[0])
        self.history.cut(found.state.epochs if found else 0)
        if found is None:
            return None
        halved = replace(found, state=replace(found.state, halvings=halvings), score=BEFORE_DIVERGENCE)
        self._checkpoints.save(halved)
        return halved

    def save(self, model: Model) -> str:
        """Write the model; return the SHA-256 of its file.

        Raises CheckpointError if that fails. Then the model is saved in the system's temporary folder, if possible, and
        the message says where.
        """
        try:
            return save(model, self.model)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {_rescue(model)}") from error

    def save_result(self, result: dict[str, Any]) -> None:
        """Write result.json. Raises CheckpointError if that fails."""
        write_atomically(self.path / RESULT, json.dumps(result, indent=1).encode())

    def _kept(self) -> str:
        there = [name for name, path in (("history", self.history.path), ("checkpoints", self._checkpoints.folder))
                 if path.exists()]  # fmt: skip
        return " and ".join(filter(None, [", ".join(["recipe", *there[:-1]]), *there[-1:]]))


def create(path: str | None, recipe: Recipe, room: int, policy: Policy) -> RunDirectory:
    """Create the folder and write the recipe, so that a folder that cannot be written fails before the training.

    room : bytes that the model will take.
    Raises ConfigError for a folder that is not empty; CheckpointError if another run writes there, the folder cannot be
    written, or the disk has too little room. Folders that were created are then removed.
    """
    if path == "":
        raise ConfigError("out='': expected a folder; omit --out for one below runs/")
    folder = Path(os.path.expanduser(path)) if path else _new_name(recipe.name)  # noqa: PTH111
    made: list[Path] = []
    with _refused(folder, made):
        made += [each for each in (folder, *folder.parents) if not each.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=path is not None)
        except FileExistsError:
            if path is None and folder.exists():  # another run has just taken the name
                return create(path, recipe, room, policy)
            raise
        lock = Lock(folder)
        try:
            if any(entry.name != LOCK and not is_leftover(entry) for entry in folder.iterdir()):
                raise ConfigError(
                    f"{folder}: the run directory is not empty; give another --out or remove it, or --resume it"
                )
            remove_leftovers(folder)
            _check_room(folder, room)
            write_atomically(folder / RECIPE, to_toml(recipe).encode())
        except BaseException:
            lock.release()
            raise
    return RunDirectory(folder, lock, policy)


def reopen(path: str, policy: Policy) -> RunDirectory:
    """Open and lock the folder of an earlier run; its files do not change before `go_on`.

    Raises ConfigError if it is not a folder; CheckpointError if another run writes there, or if its checkpoints folder
    is a symlink.
    """
    folder = Path(os.path.expanduser(path))  # noqa: PTH111
    if not path or not folder.is_dir():
        raise ConfigError(f"resume={path!r}: expected the folder of an earlier run")
    if (folder / CHECKPOINTS).is_symlink():  # files would be replaced and removed outside the run directory
        raise CheckpointError(f"{folder / CHECKPOINTS}: a link; expected a folder: put the run's own in its place")
    with _refused(folder):
        lock = Lock(folder)
    return RunDirectory(folder, lock, policy)


@contextmanager
def _refused(folder: Path, made: Sequence[Path] = ()) -> Iterator[None]:
    """Turn OSError into CheckpointError; after either, remove the empty folders in `made`."""
    try:
        yield
    except OSError as error:
        _remove_empty(made)
        raise cannot_write(folder, error) from error
    except CheckpointError:
        _remove_empty(made)
        raise


def model_file(path: str) -> Path:
    """The model file: `path` itself, or the one in the run directory `path`. Raises ConfigError for an empty path."""
    if not path:
        raise ConfigError("MODEL='': expected a run directory or its model.safetensors")
    return Path(path) / "model.safetensors" if os.path.isdir(path) else Path(path)  # noqa: PTH112


def quoted(path: Path) -> str:
    """The path as a word of a command that the system's shell takes: on Windows single quotes would be part of it."""
    return f'"{path}"' if os.name == "nt" else shlex.quote(str(path))


def _check_room(folder: Path, needed: int) -> None:
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # total is 0 if the file system does not report it
        raise CheckpointError(
            f"{folder}: {readable(disk.free)} are free there, the model takes {readable(needed)}; "
            "free some space or choose another disk"
        )


def _rescue(model: Model) -> str:
    """Save a model that cannot be saved in the run directory elsewhere; return where, as the end of a message."""
    made: list[Path] = []
    try:
        made.append(Path(tempfile.mkdtemp(prefix="fcgpu-")))
        path = made[0] / "model.safetensors"
        save(model, path)
    except (CheckpointError, OSError):
        _remove_empty(made)
        return "nor does the system's temporary folder take the model, which is lost"
    return f"the model is in {path} instead: move it before the system cleans up there"


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _new_name(recipe: str) -> Path:
    """runs/RECIPE-DATE-TIME, followed by a number if two runs start in the same second."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in recipe)
    stamp = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = stamp, 2
    while path.exists():
        path, number = stamp.with_name(f"{stamp.name}-{number}"), number + 1
    return path
