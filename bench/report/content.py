"""The report as blocks in reading order: subject, main results, tables and plots, method, machine, what is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.report import plots
from bench.report.select import STEPS, Outcome, Row, cases, is_ours, left_out, rounds, seconds_to

DEVICES = {"cpu": "CPU", "cuda": "GPU"}
BUSY = 0.3  # load average per core before a run, above which the report warns that the machine was busy


@dataclass(frozen=True)
class Block:
    """kind: "title", "lead", "warning", "heading", "text", "table", "plot" (text is SVG, caption in words)."""

    kind: str
    text: str = ""
    caption: str = ""
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def blocks(rows: list[Row]) -> Iterator[Block]:
    found = cases(rows)
    timed = [case for case in found if case.name not in ("memory", "race")]
    yield Block("title", "How fast does fcgpu train?")
    yield Block(
        "text",
        "fcgpu is a Python package that trains fully-connected neural networks with NumPy on a CPU and CuPy on a GPU. "
        "This report compares it with the libraries that people use for the same job: the 60,000 handwritten digits of "
        "MNIST and, unless a case says otherwise, a network of 784 inputs, hidden layers of 128 and 64 units, and 10 "
        "outputs. fcgpu grew from an article that builds such networks in plain NumPy; the article's code is compared "
        "as well.",
    )
    yield from (Block("lead", sentence) for sentence in headline(found))
    yield from (Block("warning", words) for words in warnings([row for case in found for row in case.rows]))
    yield Block("heading", "fcgpu's time divided by each library's")
    yield Block(
        "text",
        "Below 1, fcgpu is faster: 0.50 means half the time. Each number is the median of the ratios of all rounds.",
    )
    yield ratio_table(timed)
    yield from plots_of(found, plots.looks_of(row for case in found if case.name in PLOTTED for row in case.rows))
    for case in timed:
        yield Block("heading", _titled(case))
        yield timed_table(case)
    for case in found:
        if case.name == "memory":
            yield Block("heading", _titled(case))
            yield memory_table(case)
        if case.name == "race":
            yield Block("heading", _titled(case))
            yield race_table(case)
    yield Block("heading", "How it was measured")
    yield from (Block("text", words) for words in METHOD)
    yield Block("heading", "Machine and versions")
    yield machine_table(rows)
    yield Block("heading", "What was left out")
    missing = left_out(rows)
    if missing:
        yield Block("table", head=("peer", "why", "in"), rows=tuple((p, w, ", ".join(c)) for p, w, c in missing))
    else:
        yield Block("text", "Nothing: every library that the benchmark knows took part in every case.")


METHOD = (
    "Every library gets the same digits, the same initial weights, the same learning rate and the same batches in the "
    "same order, in the layout and dtype that suit it best; the conversion is not timed. In training all activations "
    "are sigmoids, the loss is the binary cross-entropy summed over the outputs, and the optimizer is plain gradient "
    "descent, which all libraries have. In the cases named Adam the activations are relu, the outputs a softmax, the "
    "features have mean 0 and standard deviation 1, and the optimizer is Adam.",
    "Before it is timed, a library's loss after 20 updates is compared with that of a plain float64 program. Where the "
    "two differ by more than 1 part in 100,000, the library is refused; with Adam, whose small number ε libraries add "
    "in different places, by more than 3 parts in 10,000 from scikit-learn's. Predictions are compared label by label.",
    "Each library runs in three processes, one after the other, on the same processors, and is warmed up on other "
    "data. In each round every library runs once, in turn; every round starts with a different library. Ratios are "
    "taken within a round, so that a change of the machine's speed affects both libraries alike. The quartiles over "
    "the rounds show how certain a number is. On a CPU the clock stops when the result is available; on a GPU, device "
    "events are recorded before and after the work.",
    "Time to an accuracy is the only case in which every library trains with its own best recipe, shown in the table. "
    "The evaluation on the test set is not timed. Memory is the peak resident size of a process that imports the "
    "library, reads the digits and trains three full-batch steps.",
)


def headline(found: list[Outcome]) -> Iterator[str]:
    for case in found:
        best = case.best_other
        if case.name not in ("full", "batch-128", "batch-10", "adam") or best is None or case.ours is None:
            continue
        middle = case.ratio(best)[1]
        rate = f"{_titled(case)}: {case.ours['samples_per_second']:,.0f} digits a second"
        if middle <= 1:
            yield f"{rate}, {1 / middle:.2f} times as fast as the fastest other library, {best['peer_title']}."
        else:
            yield f"{rate}; {best['peer_title']} is the fastest, {middle:.2f} times as fast."
    for case in found:
        if case.name == "race" and case.ours:
            times = [(row, seconds_to(row, "0.98")) for row in case.rows]
            others = [(t, row) for row, t in times if t is not None and not is_ours(row)]
            mine = seconds_to(case.ours, "0.98")
            if mine is not None and others:
                second, row = min(others, key=lambda pair: pair[0])
                words = f"98 % of the test digits after {mine:.1f} s of training"
                yield f"{words}; {row['peer_title']} needs {second:.1f} s."


def warnings(rows: list[Row]) -> Iterator[str]:
    load = max((row["machine"]["load_before"] or 0 for row in rows), default=0)
    cores = max((row["machine"]["cores"] or 1 for row in rows), default=1)
    if load > BUSY * cores:
        yield (
            f"Provisional: other programs kept the machine busy (load {load:.1f} on {cores} cores before a run). "
            "This slows libraries with their own threads more than others; measure again on an idle machine."
        )
    if any(row["commit"].endswith("+") for row in rows):
        yield "Provisional: the source had changes that are not committed (a + after the commit)."


def ratio_table(timed: list[Outcome]) -> Block:
    titles: dict[str, None] = {}
    for case in timed:
        titles |= {row["peer_title"]: None for row in case.rows if not is_ours(row) and case.name in STEPS}
    body = []
    for case in timed:
        cells = {row["peer_title"]: case.ratio(row) for row in case.rows if not is_ours(row)}
        if case.name in STEPS and case.ours:
            words = (f"{cells[title][1]:.2f}" if cells.get(title) else "" for title in titles)
            body.append((_titled(case), *words))
    return Block("table", head=("", *titles), rows=tuple(body))


PLOTTED = (*STEPS, "memory", "race")


def timed_table(case: Outcome) -> Block:
    samples = "samples_per_second" in case.rows[0]
    head = ("library", "median", "quartiles", *(("samples/s",) if samples else ()), "fcgpu's time / its time", "rounds")
    body = []
    for row in case.rows:
        low, high = row["quartiles_seconds"]
        ratio = None if row is case.ours else case.ratio(row)
        spread = f"{ratio[1]:.2f} ({ratio[0]:.2f} to {ratio[2]:.2f})" if ratio else ""
        rate = (f"{row['samples_per_second']:,.0f}",) if samples else ()
        quartile = f"{time(low)} to {time(high)}".replace(" ", "\u00a0")
        body.append((row["peer_title"], time(row["median_seconds"]), quartile, *rate, spread, str(rounds(row))))
    return Block("table", head=head, rows=tuple(body))


def memory_table(case: Outcome) -> Block:
    body = (
        (row["peer_title"], f"{row['peak_bytes'] / 1e6:,.0f} MB", f"{row['before_bytes'] / 1e6:,.0f} MB")
        for row in case.rows
    )
    return Block("table", head=("library", "peak", "before training"), rows=tuple(body))


def race_table(case: Outcome) -> Block:
    body = []
    for row in case.rows:
        times = (seconds_to(row, target) for target in ("0.97", "0.98"))
        best = max((accuracy for curve in row["curves"] for _, accuracy in curve), default=0)
        words = ("not reached" if t is None else f"{t:.1f} s" for t in times)
        body.append((row["peer_title"], *words, f"{best:.2%}", row["recipe"]))
    return Block("table", head=("library", "97 %", "98 %", "best seen", "recipe"), rows=tuple(body))


def plots_of(found: list[Outcome], looks: plots.Looks) -> Iterator[Block]:
    batches = [case for case in found if "batch" in case.rows[0] and case.name.startswith(("batch", "full"))]
    if len(batches) > 1:
        yield Block("plot", plots.throughput(batches, looks), "Training throughput by batch size; higher is better.")
    compared = [case for case in found if case.name in STEPS and case.ours and len(case.rows) > 1]
    if compared:
        words = "fcgpu's time divided by each library's; left of the line fcgpu is faster. Bars show the quartiles."
        yield Block("plot", plots.ratio(compared, looks), words)
    for case in found:
        if case.name == "race":
            yield Block(
                "plot",
                plots.accuracy(case, looks),
                f"Test accuracy by seconds of training, {_on(case)}; one line for each seed.",
            )
        if case.name == "memory":
            yield Block(
                "plot", plots.memory(case, looks), f"Peak memory of full-batch training, {_on(case)}; lower is better."
            )


def machine_table(rows: list[Row]) -> Block:
    last: Row = rows[-1]
    machine = last["machine"]
    versions: dict[str, str] = {}
    for row in rows:
        versions |= row.get("versions", {})
    facts: dict[str, Any] = {
        "processor": f"{machine['processor']}, {machine['cores']} cores, {last['threads']} used",
        "memory": f"{machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else "unknown",
        "GPU": machine["gpu"] or "none",
        "fcgpu's CPU kernels": machine.get("cpu_kernels", "NumPy's"),
        "system": machine["system"],
        "Python": last["python"],
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "commit": ", ".join(sorted({row["commit"] for row in rows})),
        "date": ", ".join(sorted({row["date"][:10] for row in rows})),
    }
    return Block("table", head=("", ""), rows=tuple(facts.items()))


def time(seconds: float) -> str:
    return f"{seconds:.2f}\u00a0s" if seconds >= 1 else f"{1000 * seconds:.3g}\u00a0ms"


def _titled(case: Outcome) -> str:
    title = case.title[0].upper() + case.title[1:]
    return title if case.device == "cpu" else f"{title}, on the GPU"


def _on(case: Outcome) -> str:
    return DEVICES[case.device]
