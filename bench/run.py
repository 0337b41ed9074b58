"""Run a case: decide which peers take part and why others are skipped or refused, then time rounds, then write rows."""

import pkgutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache, partial
from importlib import import_module
from typing import Any

from bench.cases import Case
from bench.measure import Times, best, interleave, measured, quartiles, ratios
from bench.rows import Writer, gpu
from bench.session import PeerError

REFERENCE = {
    "bench.peers": "bench.peers.article",
    "bench.adam": "bench.adam.scikit",
    "bench.loaders": "bench.loaders.loadtxt",
    "bench.estimators": "bench.estimators.scikit",
}
PROCESSES = 3  # of each peer: a process's memory layout makes it a few percent faster or slower until it ends
LIMIT = 120.0  # seconds after which a slow peer is no longer called
OURS = "ours"

Opened = Callable[[str, str], Any]  # (module, device) -> a context manager with `ask`, such as session.Remote
Say = Callable[[str], None]


def peers_of(package: str) -> list[str]:
    """The modules of a package of peers."""
    return [f"{package}.{found.name}" for found in pkgutil.iter_modules(import_module(package).__path__)]


def entries(modules: Sequence[str], verb: str, open_peer: Opened) -> Iterator[tuple[str, str, dict[str, Any] | str]]:
    """(module, device, about) for every peer and device; if one is skipped, `about` is the reason."""
    for module in modules:
        about = about_peer(module, open_peer)
        if isinstance(about, str):
            yield module, "cpu", about
        elif verb in about["verbs"]:
            for device in about["devices"]:
                yield module, device, about if device == "cpu" or gpu() else "no GPU on this machine"


@cache
def about_peer(module: str, open_peer: Opened) -> dict[str, Any] | str:
    """A peer's description of itself, or the reason why it cannot take part."""
    with open_peer(module, "cpu") as peer:
        try:
            return peer.ask("about")
        except PeerError as error:
            return str(error)


def run_case(
    case: Case,
    modules: Sequence[str],
    rounds: int | None,
    open_peer: Opened,
    out: Writer,
    say: Say,
    processes: int = PROCESSES,
) -> Times:
    """Measure a case and write its rows; returns the seconds by peer and round.

    The rounds are divided over `processes` successive processes of each peer; in the first one the result is checked
    against the reference's. Without the reference nobody is measured.
    """
    say(f"{case.name}: {case.title}")
    rounds = rounds or case.rounds
    processes = min(processes, rounds)
    checker = REFERENCE[case.peers]
    if isinstance(missing := about_peer(checker, open_peer), str):
        reason = f"{missing}; no result can be checked without it"
        leave_out(case.name, case.title, label(checker, "cpu"), "skipped", reason, out, say)
        return {}
    with open_peer(checker, "cpu") as peer:
        reference = peer.ask("check", case)
    abouts: dict[str, dict[str, Any]] = {}
    taking_part = []
    for module, device, about in entries(modules, case.verb, open_peer):
        name = label(module, device)
        if isinstance(about, str):
            leave_out(case.name, case.title, name, "skipped", about, out, say)
        else:
            abouts[name] = about
            taking_part.append((name, module, device))
    times: Times = {}
    for number in range(processes):
        with ExitStack() as stack:
            calls = {}
            for name, module, device in list(taking_part):
                session = stack.enter_context(open_peer(module, device))
                if why := _not_ready(session, case, None if number else reference):
                    leave_out(case.name, case.title, name, *why, out, say)
                    taking_part.remove((name, module, device))
                else:
                    calls[name] = partial(session.ask, "call")
            share = rounds * (number + 1) // processes - rounds * number // processes
            times = interleave(calls, share, limit=LIMIT, times=times if number else None)
    times = {name: times[name] for name, _, _ in taking_part}
    for name in times:
        found, about = figures(name, times), abouts[name]
        out.add(
            case=case.name,
            title=case.title,
            peer=name,
            peer_title=about["title"],
            device=device_of(name),
            samples=case.rows,
            batch=case.batch,
            samples_per_second=case.rows / found["median_seconds"],
            versions=about["versions"],
            **found,
        )
    for name, ratio in sorted((name, row_ratio(name, times)) for name in times):
        say(f"  {name:24} {1000 * statistics.median(measured(times[name])):10.2f} ms   x{ratio[1]:.3f}")
    return times


def _not_ready(session: Any, case: Case, reference: Any) -> tuple[str, str] | None:
    """Set up and warm up a peer, and compare its result if there is a reference; returns why it cannot take part."""
    try:
        if reference is not None:
            answer = session.ask("check", case)
            if not case.agrees(answer, reference):
                return "refused", f"it computes {shown(answer)}, not {shown(reference)}"
        session.ask("warm", case)
    except PeerError as error:
        return "skipped", str(error)
    return None


def row_ratio(name: str, times: Times) -> tuple[float, float, float]:
    """Quartiles, over rounds, of the time divided by that of the fastest peer other than fcgpu on the same device."""
    return quartiles(ratios(times[name], times[best_peer(name, times) or name]))


def best_peer(name: str, times: Times) -> str | None:
    """The fastest peer other than fcgpu on the device that `name` ran on."""
    return best({other: t for other, t in times.items() if device_of(other) == device_of(name)}, without=OURS)


def label(module: str, device: str) -> str:
    """A peer's name in rows: its file, and the device if it is not the CPU."""
    return module.rpartition(".")[2] + ("" if device == "cpu" else f" ({device})")


def device_of(name: str) -> str:
    return "cuda" if name.endswith(" (cuda)") else "cpu"


def shown(answer: Any) -> str:
    return f"{float(answer):.9g}" if answer.ndim == 0 else f"{answer.ravel()[:5].tolist()}..."


def leave_out(case: str, title: str, name: str, why: str, reason: str, out: Writer, say: Say) -> None:
    """Say why a peer takes no part in a case, and write it as a row."""
    say(f"  {name:24} {why}: {reason}")
    out.add(case=case, title=title, peer=name, **{why: reason})


def figures(name: str, times: Times) -> dict[str, Any]:
    """The part of a row that follows from the seconds of a peer and of the others."""
    low, median, high = quartiles(measured(times[name]))
    low_ratio, ratio, high_ratio = row_ratio(name, times)
    return {
        "seconds": times[name],
        "median_seconds": median,
        "quartiles_seconds": [low, high],
        "best_peer": best_peer(name, times),
        "ratio": ratio,
        "ratio_quartiles": [low_ratio, high_ratio],
    }
