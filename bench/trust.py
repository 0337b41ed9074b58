"""`python -m bench trust`: can these measurements be trusted? Three checks, on this machine, as it is now."""

import tempfile
from pathlib import Path

from bench.cases import Case
from bench.measure import quartiles, ratios
from bench.planted.delayed import DELAY
from bench.rows import Writer
from bench.run import Say, run_case
from bench.session import Remote

TOLERANCE = 0.03
PROCESSES = 8  # of each of the two peers: memory layout makes a process faster or slower until it ends
PAIR = ["bench.peers.ours", "bench.planted.delayed"]


def demonstrate(case: Case, rounds: int, say: Say) -> int:
    """Exit code 0 if a planted delay is measured correctly, two runs agree, and a peer doing other work is refused."""
    with tempfile.TemporaryDirectory() as folder:
        out = Writer(Path(folder) / "rows.jsonl", None)
        seen = []
        for _ in range(2):
            times = run_case(case, PAIR, rounds * PROCESSES, Remote, out, say, PROCESSES)
            seen.append(quartiles(ratios(times["delayed"], times["ours"])))
        run_case(case, ["bench.planted.wrong"], rounds, Remote, out, say)
        refused = "refused" in out.rows[-1]
    (low, first, high), (low_2, second, high_2) = seen
    results = {
        f"a delay of {DELAY:.0%} is measured as {first - 1:.1%} and {second - 1:.1%}, each within {TOLERANCE:.0%}": all(
            abs(ratio - 1 - DELAY) <= TOLERANCE for ratio in (first, second)
        ),
        f"two runs, {first:.3f} ({low:.3f} to {high:.3f}) and {second:.3f} ({low_2:.3f} to {high_2:.3f}), agree": agree(
            *seen
        ),
        "a peer with another learning rate is refused": refused,
    }
    for words, holds in results.items():
        say(f"{'holds' if holds else 'FAILS'}: {words}")
    return 0 if all(results.values()) else 1


def agree(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    """Whether two medians differ by no more than half the sum of their interquartile ranges."""
    return abs(one[1] - other[1]) <= (one[2] - one[0]) / 2 + (other[2] - other[0]) / 2
