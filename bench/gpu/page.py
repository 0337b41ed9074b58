"""The results of `python -m bench gpu` as a Markdown page beside the JSON file."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Row = dict[str, Any]


def markdown(found: dict[str, Any]) -> str:
    """The page, from what session.run writes as JSON; it says how each part that did not finish ended."""
    machine, parts = found["machine"], found["parts"]
    lines = ["# fcgpu on a GPU", ""]
    lines += [f"{machine['gpu']}; {machine['cores']} cores of {machine['processor']}; Python {found['python']}; "]
    lines += [", ".join(f"{name} {version}" for name, version in found["versions"].items())]
    lines += [f"Commit {found['commit']}, {found['date']}."]
    for name, part in parts.items():
        lines += ["", f"## {part['title'][0].upper()}{part['title'][1:]}", ""]
        if part.get("commit", found["commit"]) != found["commit"]:  # of an earlier run on such a machine
            lines += [f"Commit {part['commit']}.", ""]
        if part["ended"] != "done":
            lines += [f"This part did not finish: {part['ended']}.", ""]
        lines += TABLES.get(name.partition("_")[0], _as_they_are)(part["rows"])  # profile_bfloat16 is a profile, too
    return "\n".join(lines) + "\n"


def _versus(rows: Sequence[Row]) -> Iterator[str]:
    titles = {row["peer"]: row["title"] for row in rows if "title" in row}
    timed = [row for row in rows if "seconds" in row]
    cases = list(dict.fromkeys(row["case"] for row in timed))
    peers = [peer for peer in titles if any(row["peer"] == peer for row in timed)]
    yield (
        "Microseconds per step, medians over interleaved rounds; the last column is fcgpu's time divided by that of "
        "the fastest other library."
    )
    yield ""
    yield from _head(["", *(titles[peer] for peer in peers), "ratio"])
    for case in cases:
        its = {row["peer"]: row for row in timed if row["case"] == case}
        ours = its.get("ours", {})
        cells = [f"{its[peer]['microseconds_per_step']:,.1f}" if peer in its else "" for peer in peers]
        yield _line([case, *cells, f"{ours['ratio']:.2f}" if "ratio" in ours else ""])
    yield ""
    yield from (f"{row.get('case', '')} {row.get('peer', '')}: {why}  " for row in rows if (why := _why(row)))


def _suite(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if "summary" in row:
            counts = ", ".join(f"{row[how]} {how}" for how in ("passed", "failed", "skipped"))
            yield f"{row['summary']}: {counts} of {row['tests']} tests.  "
            yield from (f"Still running: {name}  " for name in row["running"])
        else:
            yield f"{row['failure']}, {row['when']}: {(row['text'].splitlines() or [''])[-1]}  "


def _profile(rows: Sequence[Row]) -> Iterator[str]:
    steps = [row for row in rows if "step_microseconds" in row]
    yield from _head(["", "step, us", "sum of its launches, us", "launches", "lower bound by bytes and launches, us"])
    for row in steps:
        numbers = [row[key] for key in ("step_microseconds", "sum_of_launches_microseconds")]
        floor = f"{row['floor_microseconds']:.1f}"
        yield _line([_of(row), *(f"{number:.1f}" for number in numbers), row["launches"], floor])
    for whole in steps:
        its = [row for row in rows if "launch" in row and _of(row) == _of(whole)]
        yield ""
        yield from _head([_of(whole), "us"])
        yield from (_line([row["launch"], f"{row['microseconds']:.1f}"]) for row in its)


def _of(row: Row) -> str:
    return f"{row['case']} {row['precision']}"


def _why(row: Row) -> str:
    return str(row.get("skipped") or row.get("refused") or "")


def _as_they_are(rows: Sequence[Row]) -> Iterator[str]:
    """A table for each set of columns."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row), []).append(row)
    for keys, group in groups.items():
        yield from _head(keys)
        yield from (_line([_shown(row[key]) for key in keys]) for row in group)
        yield ""


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).splitlines()[0].replace("|", "/") if str(value) else ""


def _head(names: Iterable[Any]) -> Iterator[str]:
    names = list(names)
    yield _line(names)
    yield _line(["---"] * len(names))


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


TABLES = {"suite": _suite, "profile": _profile, **dict.fromkeys(("versus", "adam", "compilers"), _versus)}
