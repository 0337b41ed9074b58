"""The table that `fcgpu train` prints at the end of a run."""

from typing import Any

from rich.table import Table

from fcgpu.progress import digits
from fcgpu.streams import show
from fcgpu.train.events import Finished, Started
from fcgpu.train.plan import readable


def summary(started: Started, done: Finished, result: dict[str, Any]) -> None:
    """Print the closing table on standard output."""
    plan, recipe, spec = done.plan, started.recipe, done.model.spec
    table = Table(show_header=False, title=f"recipe {recipe.name}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    how = "in C" if plan.in_c else _some(plan.lanes, "lane")
    cut = f"{plan.batch:,} samples a step in tiles of {plan.tile:,}, {how}"
    streamed = f", which come from the host {plan.chunk:,} rows at a time" if plan.chunk else ""
    rows = {
        "data": f"{started.data.name}: {plan.samples:,} samples of {spec.sizes[0]:,} features",
        "network": f"{spec.in_words}, {spec.n_params:,} parameters",
        "device": f"{started.backend.device}, {started.backend.hardware} ({started.backend.reason})",
        "plan": f"{cut}, {_some(plan.threads, 'thread')}",
        "memory planned": f"{readable(plan.bytes)}, {readable(plan.data_bytes)} of it data{streamed}",
        "training": f"{done.seconds:.2f} s, {_some(done.epochs, 'epoch')}, {_some(done.steps, 'step')}",
        **({"steps": f"{recipe.precision}, {done.capture}"} if done.capture else {}),
        **({"stopped": done.stopped} if done.stopped else {}),
        "throughput": f"{result['samples_per_second']:,.0f} samples/s",
        "train": _score(done.train),
        "test": _score(done.test) if done.test else "no test samples",
        "model": result["model"],
    }
    for name, text in rows.items():
        table.add_row(name, text)
    show(table)


def _some(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' if n != 1 else ''}"


def _score(score: Any) -> str:
    return f"loss {digits(score.loss)}{quality(score.accuracy, score.r2)}"


def quality(accuracy: float | None, r2: float | None) -> str:
    """What follows a loss: the accuracy or, of a regression, R², in ASCII, which every terminal can show."""
    return f", accuracy {accuracy:.2%}" if accuracy is not None else f", R2 {r2:.4f}" if r2 is not None else ""
