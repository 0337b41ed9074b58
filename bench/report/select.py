"""Select from the rows: the last run of each case, its peers by device, and fcgpu's ratio to each of them."""

import statistics
from dataclasses import dataclass
from typing import Any

from bench.cases import ADAM, PREDICT, TRAIN
from bench.measure import measured, quartiles, ratios
from bench.run import OURS

Row = dict[str, Any]
STEPS = tuple(case.name for case in (*TRAIN, *ADAM, PREDICT))
ORDER = (*STEPS, "fit", "fit-float32", "load", "startup", "import", "memory", "race")


@dataclass(frozen=True)
class Outcome:
    """The last run of a case on one device: measured rows, fcgpu's first, then the others from fast to slow."""

    name: str
    title: str
    device: str
    rows: list[Row]

    @property
    def ours(self) -> Row | None:
        return next((row for row in self.rows if row["peer"].partition(" ")[0] == OURS), None)

    @property
    def best_other(self) -> Row | None:
        others = [row for row in self.rows if not is_ours(row) and "median_seconds" in row]
        return min(others, key=lambda row: row["median_seconds"], default=None)

    def ratio(self, row: Row) -> tuple[float, float, float] | None:
        """Quartiles, over rounds, of fcgpu's time divided by that of `row`; None if one of them has no times."""
        if self.ours is None or "seconds" not in row or "seconds" not in self.ours:
            return None
        return quartiles(ratios(self.ours["seconds"], row["seconds"]))


def is_ours(row: Row) -> bool:
    return bool(row["peer"].startswith(OURS))


def cases(rows: list[Row]) -> list[Outcome]:
    found = []
    for name in sorted({row["case"] for row in rows}, key=_place):
        last = last_run(rows, name)
        for device in ("cpu", "cuda"):
            here = [row for row in last if row.get("device") == device]
            if here:
                here.sort(key=lambda row: (not is_ours(row), _size(row)))
                found.append(Outcome(name, last[0]["title"], device, here))
    return found


def last_run(rows: list[Row], case: str) -> list[Row]:
    of_case = [row for row in rows if row["case"] == case]
    latest = max(row["date"] for row in of_case)
    return [row for row in of_case if row["date"] == latest]


def left_out(rows: list[Row]) -> list[tuple[str, str, list[str]]]:
    """(peer, why it was skipped or refused, in which cases)."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in sorted({row["case"] for row in rows}, key=_place):
        for row in last_run(rows, name):
            for word in ("skipped", "refused"):
                if word in row:
                    found.setdefault((row["peer"], f"{word}: {row[word]}"), []).append(name)
    return [(peer, why, where) for (peer, why), where in found.items()]


def rounds(row: Row) -> int:
    return len(measured(row["seconds"]))


def seconds_to(row: Row, target: str) -> float | None:
    """The median over seeds of the seconds to an accuracy; None if half of the seeds or more never reached it."""
    times = [t if t is not None else float("inf") for t in row["seconds_to"][target]]
    middle = statistics.median(times) if times else float("inf")
    return None if middle == float("inf") else middle


def _place(case: str) -> int:
    return ORDER.index(case) if case in ORDER else len(ORDER)


def _size(row: Row) -> float:
    if "seconds_to" in row:
        return seconds_to(row, "0.98") or seconds_to(row, "0.97") or float("inf")
    return float(row.get("median_seconds") or row.get("peak_bytes") or 0)
