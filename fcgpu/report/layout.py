"""The whole page: about one run, or comparing several."""

from collections.abc import Iterator, Sequence

import numpy as np

from fcgpu.errors import FcgpuError
from fcgpu.model import Model
from fcgpu.report import classes, curves, facts, pictures, values
from fcgpu.report.drawing import drawing
from fcgpu.report.judged import judged
from fcgpu.report.page import Markup, document, element, join
from fcgpu.report.runs import RunFiles
from fcgpu.version import __version__


def single(run: RunFiles) -> str:
    return document(f"Training report: {run.name}", [*_about(run), _footer()])


def several(runs: Sequence[RunFiles]) -> str:
    return document(f"{len(runs)} training runs", [*_comparing(runs), _footer()])


def _about(run: RunFiles) -> Iterator[Markup]:
    model = run.model
    yield element("h1", run.recipe.name)
    if run.recipe.description:
        yield element("p", run.recipe.description, class_="under")
    if model is not None:
        yield element("p", f"{model.spec.in_words}; run {run.path}", class_="under")
    yield from _warnings(run)
    yield facts.tiles(run)
    yield from curves.section([run], [join([run.name])])
    if model is not None:
        try:
            found = judged(model, run.recipe)
        except FcgpuError as error:
            yield Markup(drawing(model))
            yield element("p", f"Nothing is shown of the samples: {error}.", class_="warning")
        else:
            yield Markup(drawing(model, float(found.X.max())))
            none = "There are no test samples: what follows is of the samples that the model was trained on."
            for words in filter(None, (none if found.split == "training" else "", found.mismatch(run))):
                yield element("p", words, class_="warning")
            with np.errstate(all="ignore"):
                yield from (values if model.classes is None else classes).sections(found)
        if model.image_shape is not None:
            yield from _first_layer(model, model.image_shape)
    yield from facts.recipe(run)
    yield from facts.machine(run)


def _comparing(runs: Sequence[RunFiles]) -> Iterator[Markup]:
    names = [run.name for run in runs]
    shown = [
        join((curves.swatch(i), run.name if names.count(run.name) == 1 else run.path)) for i, run in enumerate(runs)
    ]
    yield element("h1", f"{len(runs)} training runs")
    yield facts.compared(runs, shown)
    for run in runs:
        yield from _warnings(run, f"{run.path}: ")
    yield from curves.section(runs, shown)
    yield from facts.differing(runs, shown)


def _warnings(run: RunFiles, before: str = "") -> Iterator[Markup]:
    if run.result.get("stopped"):
        yield element("p", before, f"Ended before the last epoch: {run.result['stopped']}.", class_="under")
    for words in filter(None, (facts.unfinished(run), *run.missing)):
        yield element("p", before, words, class_="warning")


def _first_layer(model: Model, shape: tuple[int, ...]) -> Iterator[Markup]:
    """The weights of each unit of the first layer, as pictures."""
    W = model.spec.layers(model.params)[0].W
    shown = np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[: pictures.MOST_WEIGHTS]
    which = "All units" if len(shown) == W.shape[1] else f"The {len(shown)} of {W.shape[1]:,} units of largest weights"
    look = "grey is 0" if len(shape) == 3 else "orange is positive, blue is negative, faint is near 0"
    yield element("h2", "Weights of the first layer")
    yield element("p", f"{which}, each as a picture of its inputs, on a scale of its own: {look}.")
    names = [f"unit {i}" for i in shown]
    images = pictures.weights(W[:, shown], shape, names)
    cards = (element("figure", image, element("figcaption", name)) for image, name in zip(images, names, strict=True))
    yield element("div", *cards, class_="sheet weights")


def _footer() -> Markup:
    return element("footer", f"Made by fcgpu {__version__}. This file is complete: it makes no network requests.")
