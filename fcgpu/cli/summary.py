"""The result of a run: as the table that `fcgpu train` prints at its end, and as the object of `--json`."""

from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from fcgpu.cli.history import finite
from fcgpu.cli.machine import machine
from fcgpu.cli.run_directory import RunDirectory
from fcgpu.host import readable
from fcgpu.progress import digits
from fcgpu.streams import plain, show
from fcgpu.train.events import Finished, Started
from fcgpu.train.recipe import Recipe

GAP = 0.1  # of accuracy or R² on training and on test samples, from which the former are learned by heart


def result_of(started: Started, done: Finished, run: RunDirectory, digest: str) -> dict[str, Any]:
    """What result.json holds; `digest` is the SHA-256 of the model."""
    plan, recipe = done.plan, started.recipe
    return machine(started.backend) | {
        "recipe": recipe.name,
        "data": recipe.data,
        "sizes": list(done.model.spec.sizes),
        "parameters": done.model.spec.n_params,
        "dtype": recipe.dtype,
        "precision": recipe.precision,
        "capture": done.capture or None,
        "seed": recipe.seed,
        "samples": plan.samples,
        "batch": plan.batch,
        "tile": plan.tile,
        "lanes": plan.lanes,
        "threads": plan.threads,
        "chunk": plan.chunk,
        "memory_planned": plan.bytes,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "epochs": done.epochs,
        "stopped": done.stopped,
        "steps": done.steps,
        "seconds": done.seconds,
        "samples_per_second": done.samples / done.seconds,
        "train_loss": finite(done.train.loss),
        "train_accuracy": done.train.accuracy,
        "train_r2": finite(done.train.r2),
        "test_loss": done.test and finite(done.test.loss),
        "test_accuracy": done.test and done.test.accuracy,
        "test_r2": done.test and finite(done.test.r2),
        "run_directory": str(run.path),
        "model": str(run.model),
        "model_sha256": digest,
    }


def summary(started: Started, done: Finished, result: dict[str, Any]) -> None:
    """Print the closing table on standard output."""
    plan, recipe, spec = done.plan, started.recipe, done.model.spec
    table = Table(show_header=False, title=f"recipe {plain(recipe.name)}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    how = "in C" if plan.in_c else _some(plan.lanes, "lane")
    cut = f"{plan.batch:,} samples a step in tiles of {plan.tile:,}, {how}"
    standardized = ", standardized" if recipe.standardize and not started.data.are_pictures else ""
    samples = _some(plan.samples, "sample")
    hold = "; --test-size 0.2 holds a fifth out" if plan.samples >= 10 else ""  # a fifth of fewer says nothing
    streamed = f", which come from the host {plan.chunk:,} rows at a time" if plan.chunk else ""
    rows = {
        "data": f"{started.data.name}: {samples} of {_some(spec.sizes[0], 'feature')}{standardized}",
        "network": f"{spec.in_words}, {spec.n_params:,} parameters",
        "device": f"{started.backend.device}, {started.backend.hardware} ({started.backend.reason})",
        "plan": f"{cut}, {_some(plan.threads, 'thread')}",
        "memory planned": f"{readable(plan.bytes)}, {readable(plan.data_bytes)} of it data{streamed}",
        "training": f"{done.seconds:.2f} s, {_some(done.epochs, 'epoch')}, {_some(done.steps, 'step')}",
        **({"steps": f"{recipe.precision}, {done.capture}"} if done.capture else {}),
        **({"stopped": done.stopped} if done.stopped else {}),
        "throughput": f"{result['samples_per_second']:,.0f} samples/s",
        "train": _score(done.train),
        "test": _score(done.test) if done.test else f"no test samples{hold}",
        "model": result["model"],
    }
    for name, text in rows.items():
        table.add_row(name, plain(text))
    show(table)


def overfitting(recipe: Recipe, done: Finished) -> str:
    """What to try if the training samples are predicted far better than the test samples; else ""."""
    train, test = done.train, done.test
    if test is None:
        return ""
    ours, theirs = (train.accuracy, test.accuracy) if train.r2 is None else (train.r2, test.r2)
    if ours is None or theirs is None or ours - theirs < GAP:
        return ""
    tries = [f"--alpha {10 * recipe.alpha or 1:g}"]
    tries += ["--dropout 0.2"] if recipe.hidden and not recipe.dropout else []
    tries += ["--early-stopping"] if not recipe.early_stopping else []
    what = f"{'accuracy' if train.r2 is None else 'R2'} {ours:.2f}, of the test samples {theirs:.2f}"
    return f"the training samples are learned by heart ({what}): try {' or '.join(tries)}"


def _some(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' if n != 1 else ''}"


def _score(score: Any) -> str:
    return f"loss {digits(score.loss)}{quality(score.accuracy, score.r2)}"


def quality(accuracy: float | None, r2: float | None) -> str:
    """What follows a loss: the accuracy or, of a regression, R², in ASCII, which every terminal can show."""
    return f", accuracy {accuracy:.2%}" if accuracy is not None else f", R2 {r2:.4f}" if r2 is not None else ""
