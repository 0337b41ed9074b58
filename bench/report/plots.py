"""The report's plots, as SVG whose ink is the page's text colour, so that they suit a light and a dark page."""

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bench.report.select import Outcome, Row, is_ours
from fcgpu.report.svg import INK, PAGE, styled, svg

WIDTH = 5.6  # inches: the text stays legible on a narrow page
OUR_COLOUR = "#e4572e"
OTHERS = ("#3a7ca5", "#2a9d8f", "#8a6fdf", "#c9a227", "#8d99ae", "#d16ba5", "#6a994e", "#5fa8d3")
MARKERS = "osD^vPX*<"

Looks = dict[str, dict[str, Any]]


def looks_of(rows: Iterable[Row]) -> Looks:
    """A colour and a marker for each peer's title, the same in all plots; fcgpu's colour is always OUR_COLOUR."""
    titles = {row["peer_title"]: is_ours(row) for row in rows if "peer_title" in row}
    others, mine = (sorted(title for title, ours in titles.items() if ours is whose) for whose in (False, True))
    looks = {title: {"color": OUR_COLOUR, "marker": MARKERS[number]} for number, title in enumerate(mine)}
    for number, title in enumerate(others):
        looks[title] = {"color": OTHERS[number % len(OTHERS)], "marker": MARKERS[1 + number % (len(MARKERS) - 1)]}
    return looks


@styled
def throughput(cases: Sequence[Outcome], looks: Looks) -> str:
    """Samples per second against batch size, one panel for each device."""
    devices = list(dict.fromkeys(case.device for case in cases))
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    panels = figure.subplots(1, len(devices), squeeze=False, sharey=True)[0]
    for panel, device in zip(panels, devices, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for case in cases:
            for row in case.rows if case.device == device else []:
                lines.setdefault(row["peer_title"], []).append((row["batch"], row["samples_per_second"]))
        for title, points in lines.items():
            panel.plot(*zip(*sorted(points), strict=True), label=title, **looks[title], **_weight(looks[title]))
        batches = sorted({case.rows[0]["batch"] for case in cases})
        panel.set(xscale="log", yscale="log", xlabel="batch size", title={"cpu": "CPU", "cuda": "GPU"}[device])
        panel.set_xticks(batches, [f"{b:,}" for b in batches])
        panel.minorticks_off()
    panels[0].set_ylabel("samples/s")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return svg(figure)


@styled
def ratio(cases: Sequence[Outcome], looks: Looks) -> str:
    """fcgpu's time divided by each peer's, one group of points for each case, on a logarithmic axis."""
    lines = [(case, row) for case in cases for row in case.rows if not is_ours(row)]
    figure = Figure(figsize=(WIDTH, 0.8 + 0.2 * len(lines) + 0.25 * len(cases)), layout="constrained")
    panel = figure.subplots()
    y, ticks = 0.0, []
    for case in cases:
        first = y
        for row in case.rows:
            if is_ours(row):
                continue
            low, middle, high = case.ratio(row)
            look = looks[row["peer_title"]]
            panel.plot([low, high], [y, y], color=look["color"], linewidth=5, alpha=0.4, solid_capstyle="butt")
            panel.plot(middle, y, color=look["color"], marker=look["marker"], linestyle="", markersize=6)
            panel.annotate(
                f"{row['peer_title']}  {middle:.2f}", (max(high, middle), y), (6, 0), textcoords="offset points",
                va="center", fontsize=8.5, bbox={"facecolor": PAGE, "edgecolor": "none", "pad": 0.8}, zorder=1.5,
            )  # fmt: skip
            y += 1
        words = case.title.removeprefix("training, ").replace(" of ", "\nof ", 1)
        ticks.append(((first + y - 1) / 2, words + ("" if case.device == "cpu" else ", GPU")))
        y += 1
    panel.axvline(1, color=INK, linewidth=1, zorder=1)
    panel.set_xscale("log")
    low, high = panel.get_xlim()
    panel.set_xlim(low, max(high, 1.2) * 3)  # room for the labels
    ticked = [v for v in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if low <= v <= max(high, 1.2)]
    panel.set_xticks(ticked, [f"{v:g}" for v in ticked])
    panel.minorticks_off()
    panel.set_yticks(*zip(*ticks, strict=True))
    panel.invert_yaxis()
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("fcgpu's time over the library's")
    return svg(figure)


@styled
def accuracy(case: Outcome, looks: Looks) -> str:
    """Test accuracy after each epoch against seconds of training."""
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    panel = figure.subplots()
    for row in case.rows:
        for number, curve in enumerate(row["curves"]):
            title = row["peer_title"]
            look = looks[title] | {"markersize": 3.5}
            panel.plot(*zip(*curve, strict=True), label=None if number else title, linewidth=1.2, **look)
    for target in (0.97, 0.98):
        panel.axhline(target, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    panel.set(xscale="log", xlabel="seconds of training", ylim=(0.93, 0.985), ylabel="test accuracy")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panel.legend(loc="lower right")
    return svg(figure)


@styled
def memory(case: Outcome, looks: Looks) -> str:
    """Peak resident memory as bars."""
    figure = Figure(figsize=(WIDTH, 0.7 + 0.34 * len(case.rows)), layout="constrained")
    panel = figure.subplots()
    for y, row in enumerate(case.rows):
        colour, peak = looks[row["peer_title"]]["color"], row["peak_bytes"] / 1e6
        panel.barh(y, peak, 0.66, color=colour, alpha=0.85)
        panel.annotate(f"{peak:,.0f} MB", (peak, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
    panel.set_yticks(range(len(case.rows)), [row["peer_title"] for row in case.rows])
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.grid(axis="y", visible=False)
    panel.set_xlabel("peak resident memory, MB")
    return svg(figure)


def _weight(look: dict[str, Any]) -> dict[str, Any]:
    ours = look["color"] == OUR_COLOUR
    return {"linewidth": 2.4 if ours else 1.3, "zorder": 3 if ours else 2, "markersize": 6 if ours else 5}
