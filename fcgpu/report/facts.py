"""Sections with a run's results, recipe and machine; for several runs, with what differs between them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fcgpu.host import readable
from fcgpu.report.page import Markup, element, join, table
from fcgpu.report.runs import RunFiles
from fcgpu.train.recipe import KEYS

Show = Callable[[float], str]


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 10 else f"{value:,.1f} s" if value < 600 else f"{value / 60:,.1f} min"


def whole(value: float) -> str:
    return f"{value:,.0f}"


def four_digits(value: float) -> str:
    return f"{value:.4g}"


# A row per result: its title, its key in result.json, the history's column to use if that is missing, and its format.
RESULTS: tuple[tuple[str, str, str, Show], ...] = (
    ("test accuracy", "test_accuracy", "test_accuracy", percent),
    ("test R²", "test_r2", "", four_digits),
    ("test loss", "test_loss", "test_loss", four_digits),
    ("training accuracy", "train_accuracy", "accuracy", percent),
    ("training R²", "train_r2", "", four_digits),
    ("training loss", "train_loss", "", four_digits),
    ("epochs", "epochs", "epoch", whole),
    ("training time", "seconds", "seconds", seconds),
    ("samples a second", "samples_per_second", "", whole),
    ("parameters", "parameters", "", whole),
)
BEST = {"test accuracy": max, "test R²": max, "test loss": min, "training time": min, "samples a second": max}
ALWAYS = ("data", "hidden", "activation", "output", "optimizer", "batch", "epochs", "seed", "dtype")  # shown always
MACHINE = ("device", "hardware", "threads", "system", "fcgpu_version", "python", "packages", "blas")


def figures(run: RunFiles) -> dict[str, tuple[float, str]]:
    """{title: (number, text)} of the results that are known."""
    found = {}
    for words, key, column, show in RESULTS:
        value = run.number(key)
        if value is None and column:
            value = run.last(column)
        if value is None and words == "parameters" and run.model:
            value = run.model.spec.n_params
        if value is not None:
            found[words] = (value, show(value))
    return found


def tiles(run: RunFiles) -> Markup:
    """The run's results as large figures; a loss only where there is no accuracy."""
    known = figures(run)
    chosen = [words for words in known if not words.endswith("loss") or words.split()[0] + " accuracy" not in known]
    parts = (element("div", element("dt", words), element("dd", known[words][1])) for words in chosen)
    return element("dl", *parts, class_="tiles")


def unfinished(run: RunFiles) -> str:
    """A sentence about a run that has no result; else ""."""
    if run.result:
        return ""
    at, tested = run.last("epoch"), run.history["epoch"][np.isfinite(run.history["test_loss"])]
    where = f"epoch {at:,.0f} of {run.recipe.epochs:,} is the last in its history" if at else "it has no history yet"
    known = "It goes on or was stopped; its device and speed aren't known."
    older = f" Its test figures are of epoch {tested[-1]:,.0f}." if len(tested) and tested[-1] != at else ""
    return f"This run has not come to its end: {where}. {known}{older}"


def recipe(run: RunFiles) -> Iterator[Markup]:
    given = {key: getattr(run.recipe, key) for key in KEYS if key not in ("name", "description")}
    shown = [key for key, value in given.items() if key in ALWAYS or value != KEYS[key].default]
    yield element("h2", "Recipe")
    yield table((), [(key, words(given[key])) for key in shown], "facts")
    rest = [(key, words(given[key])) for key in given if key not in shown]
    yield element("details", element("summary", "All other keys, at their defaults"), table((), rest, "facts"))


def machine(run: RunFiles) -> Iterator[Markup]:
    said = run.result
    if not said:
        return
    plan = [(name, run.number(name)) for name in ("batch", "tile", "lanes", "threads")]
    memory, speed = run.number("memory_planned"), run.number("samples_per_second")
    rows = [
        ("device", join([words(said[key]) for key in ("device", "hardware") if key in said], ", ")),
        ("chosen because", words(said.get("why", ""))),
        ("plan", ", ".join(f"{name} {count:,.0f}" for name, count in plan if count is not None)),
        ("memory planned", "" if memory is None else readable(memory)),
        ("throughput", "" if speed is None else f"{speed:,.0f} samples/s"),
        ("ended", words(said.get("ended", "")).replace("T", " ").replace("+00:00", " UTC")),
        ("system", words(said.get("system", ""))),
        ("fcgpu", words(said.get("fcgpu_version", ""))),
        ("Python", words(said.get("python", ""))),
        ("packages", join([words(said[key]) for key in ("packages", "blas") if key in said], ", ")),
        ("model's SHA-256", words(said.get("model_sha256", ""))),
    ]  # fmt: skip
    yield element("h2", "Machine and plan")
    yield table((), [row for row in rows if row[1]], "facts")


def compared(runs: Sequence[RunFiles], names: Sequence[Markup]) -> Markup:
    """A table of the runs' results, one row per run; the best of each column is highlighted."""
    known = [figures(run) for run in runs]
    columns = [row[0] for row in RESULTS if any(row[0] in found for found in known)]
    rows = []
    for name, found in zip(names, known, strict=True):
        rows.append([name, *(found.get(column, (0, ""))[1] for column in columns)])
    for at, column in enumerate(columns, 1):
        values = [found[column][0] for found in known if column in found]
        if column in BEST and len(set(values)) > 1:
            best = BEST[column](values)
            for row, found in zip(rows, known, strict=True):
                if column in found and found[column][0] == best:
                    row[at] = element("b", row[at])
    return table(("", *columns), rows, "numbers")


def differing(runs: Sequence[RunFiles], names: Sequence[Markup]) -> Iterator[Markup]:
    """A table of the recipe keys and machine facts that are not the same in all runs."""
    rows = []
    for key in KEYS:
        row = [words(getattr(run.recipe, key)) for run in runs]
        if key != "description" and len(set(row)) > 1:
            rows.append((key, *row))
    for key in MACHINE:
        row = [words(run.result.get(key, "")) for run in runs]
        if len(set(row)) > 1:
            rows.append((key.replace("_", " "), *row))
    yield element("h2", "What differs")
    if rows:
        yield element("p", "Keys of the recipes, and machines and versions; all others are the same.")
        yield table(("", *names), rows, "differs")
    else:
        yield element("p", "Only the results: recipes and machines are the same.")


def words(value: Any) -> str:
    """A value of a recipe or a result as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {words(each)}" for key, each in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
