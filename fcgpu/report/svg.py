"""Plots as SVG in the page's colours, so that they suit light and dark mode. Needs the extra `report`.

Plots contain only fixed words; text from files is shown by the page, which escapes it.
"""

import hashlib
import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from fcgpu.report.page import Markup

INK, GRID, PAGE = "#010203", "#040506", "#070809"  # placeholders, replaced by the page's colours
COLOURS = tuple(f"#0a0b0{i}" for i in range(10))  # placeholders for the page's --c0, --c1, ...
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fcgpu",
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
}
styled = matplotlib.rc_context(STYLE)  # decorates the functions that draw


def svg(figure: Figure) -> Markup:
    """The figure as an svg element, with unique ids and the page's colours. Equal figures give equal text."""
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True)
    text = re.sub(r"<metadata>.*?</metadata>", "", written.getvalue().partition("<svg")[2], flags=re.DOTALL)
    mark = f"p{hashlib.sha256(text.encode()).hexdigest()[:8]}-"
    text = re.sub(r'(\bid="|url\(#|href="#)', lambda found: found[1] + mark, text)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--line)").replace(PAGE, "var(--page)")
    text = re.sub("#0a0b0([0-9])", r"var(--c\1)", text)
    return Markup("<svg" + re.sub(r' (width|height)="[^"]*pt"', "", text))
