"""The closing check of a run: ten samples with their labels and predictions.

Pictures are drawn with half-block characters, two pixels each, if standard output is a terminal that supports them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from fcgpu.data.dataset import Dataset, targets
from fcgpu.data.labels import array_of
from fcgpu.model import Model
from fcgpu.streams import UNFOLDED, plain
from fcgpu.train.recipe import Recipe

COUNT = 10
SIDE = 14  # most pixels of a picture across and down; a pixel is a column wide, so that five pictures take 78
GAP = 2
NAMES = 10  # columns of a row's name, before its words
BLOCKS = " ▄▀█"  # indexed by 2 * upper + lower
WRONG = " ✗"
PLAIN = 0.4  # without shades of grey, a pixel above this is drawn; chosen by looking at the digits


class Samples(NamedTuple):
    """A title, and for each sample its features, its label, the prediction, and whether that is wrong."""

    title: str
    X: Any
    actual: Sequence[str]
    predicted: Sequence[str]
    wrong: Sequence[bool]


def show_samples(model: Model, data: Dataset, recipe: Recipe) -> None:
    """Print the first ten test samples (or training samples, see `recipe.check`), as the article's last step does."""
    samples = _first(model, data, recipe)
    console = Console(highlight=False, markup=False)
    if data.image_shape is not None and _shows(console, colours := _has_colours(console), data.image_shape):
        console.print(f"\n{samples.title}\n")
        console.print(_sheet(samples, data.image_shape, console.width, colours))
    else:
        print(f"\n{samples.title}\n{_text(samples, console.width if console.is_terminal else UNFOLDED)}")


def _first(model: Model, data: Dataset, recipe: Recipe) -> Samples:
    test = recipe.check == "test" and data.X_test is not None
    X, y = (part[:COUNT] for part in ((data.X_test, data.y_test) if test else (data.X, data.y)))
    actual, predicted = y if data.classes is None else array_of(data.classes)[y], model.predict(X)
    if model.classes is None:
        values = [np.reshape(v, (len(X), -1)) for v in (targets(data, y), predicted)]
        actual, predicted = ([",".join(f"{v:.4g}" for v in row) for row in rows] for rows in values)
    actual, predicted = [plain(a) for a in actual], [plain(p) for p in predicted]
    wrong = [model.classes is not None and a != p for a, p in zip(actual, predicted, strict=True)]
    return Samples(f"the first {len(X)} {'test' if test else 'training'} samples", X, actual, predicted, wrong)


def _text(samples: Samples, width: int) -> str:
    """A row of labels, a row of predictions, and a mark under each prediction that is wrong: as many as fit beside each
    other, then the next.
    """
    widest = max(map(cell_len, (*samples.actual, *samples.predicted)))
    beside = max(1, (width - NAMES) // (widest + 1))
    blocks = []
    for i in range(0, len(samples.actual), beside):
        here = slice(i, i + beside)
        rows = {"actual": samples.actual[here], "predicted": samples.predicted[here]}
        if any(samples.wrong[here]):
            rows["wrong"] = ["^" if wrong else "" for wrong in samples.wrong[here]]
        padded = {name: (" " * (widest - cell_len(word)) + word for word in words) for name, words in rows.items()}
        lines = (f"{name:<{NAMES}} {' '.join(words)}" for name, words in padded.items())
        blocks.append("\n".join(map(str.rstrip, lines)))
    return "\n\n".join(blocks)


def _has_colours(console: Console) -> bool:
    """Whether the terminal has 256 colours or more, and they are not turned off."""
    return console.color_system in ("256", "truecolor") and not console.no_color


def _shows(console: Console, colours: bool, shape: tuple[int, ...]) -> bool:
    """Whether standard output is a terminal with the block characters and, for a colour picture, with colours."""
    try:
        (BLOCKS + WRONG).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return console.is_terminal and not console.is_dumb_terminal and (colours or len(shape) == 2)


def _sheet(samples: Samples, shape: tuple[int, ...], width: int, colours: bool) -> Table:
    """The pictures side by side, as many as fit, each with its label and prediction."""
    X = np.asarray(samples.X, np.float64).reshape(-1, *shape)
    X = (X - X.min()) / (np.ptp(X) or 1)
    cells = []
    for picture, actual, predicted, wrong in zip(X, *samples[2:], strict=True):
        cell = _picture(_shrunk(picture), colours)
        cell.append(f"\nactual {actual}\n")
        cell.append(f"predicted {predicted}{WRONG if wrong else ''}", "bold red" if wrong else "")
        cells.append(cell)
    widest = max(line.cell_len for cell in cells for line in cell.split())
    beside = next((n for n in (COUNT, 5, 4, 3, 2) if n * widest + (n - 1) * GAP <= width), 1)
    sheet = Table.grid(padding=(0, GAP, 0, 0))
    for _ in range(beside):
        sheet.add_column(width=widest, no_wrap=True, overflow="ellipsis")
    for i in range(0, len(cells), beside):
        if i:
            sheet.add_row()
        sheet.add_row(*cells[i : i + beside])
    return sheet


def _shrunk(picture: Any) -> Any:
    """The picture (height, width, ...) shrunk by area averages to at most SIDE pixels each way, an even number down."""
    height, width = picture.shape[:2]
    scale = min(1, SIDE / max(height, width))
    rows, columns = 2 * max(1, round(height * scale / 2)), max(1, round(width * scale))
    return np.einsum("rh,hw...,cw->rc...", _shares(rows, height), picture, _shares(columns, width), optimize=True)


def _shares(n: int, m: int) -> Any:
    """(n, m): which fraction of each of n equal parts of a line is covered by each of m equal parts."""
    edges = np.linspace(0, m, n + 1)
    lows, highs = edges[:-1, None], edges[1:, None]
    overlap = np.minimum(highs, np.arange(1, m + 1)) - np.maximum(lows, np.arange(m))
    return np.clip(overlap, 0, None) * n / m


def _picture(pixels: Any, colours: bool) -> Text:
    """Pixels (rows, columns) or (rows, columns, 3) from 0 to 1, drawn with half blocks."""
    text = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for pair in zip(upper, lower, strict=True):
            if colours:
                text.append("▀", Style(color=_colour(pair[0]), bgcolor=_colour(pair[1])))
            else:
                text.append(BLOCKS[2 * (pair[0] > PLAIN) + (pair[1] > PLAIN)])
        text.append("\n")
    text.right_crop(1)
    return text


def _colour(pixel: Any) -> Color:
    return Color.from_rgb(*np.broadcast_to(np.rint(255 * pixel), (3,)).tolist())
