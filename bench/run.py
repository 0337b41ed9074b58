"""Cases against peers: who takes part, who is skipped or refused and why, then rounds, then rows."""

import pkgutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from typing import Any

from bench.cases import Case
from bench.measure import Times, best, interleave, measured, quartiles, ratios
from bench.rows import Writer, gpu
from bench.session import PeerError

REFERENCE = {
    "bench.peers": "bench.peers.article",
    "bench.loaders": "bench.loaders.loadtxt",
    "bench.estimators": "bench.estimators.scikit",
}
LIMIT = 120.0  # seconds after which a slow peer is called no more
OURS = "ours"

Opened = Callable[[str, str], Any]  # (module, device) -> a context that can be asked, as session.Remote
Say = Callable[[str], None]


def peers_of(package: str) -> list[str]:
    """The modules of a package of peers."""
    return [f"{package}.{found.name}" for found in pkgutil.iter_modules(import_module(package).__path__)]


def entries(modules: Sequence[str], verb: str, open_peer: Opened) -> Iterator[tuple[str, str, dict[str, Any] | str]]:
    """(module, device, about) for every peer and device; in place of `about` the reason where one is skipped."""
    for module in modules:
        about = about_peer(module, open_peer)
        if isinstance(about, str):
            yield module, "cpu", about
        elif verb in about["verbs"]:
            for device in about["devices"]:
                yield module, device, about if device == "cpu" or gpu() else "no GPU on this machine"


@cache
def about_peer(module: str, open_peer: Opened) -> dict[str, Any] | str:
    """What a peer says of itself, or the reason why it cannot take part."""
    with open_peer(module, "cpu") as peer:
        try:
            return peer.ask("about")
        except PeerError as error:
            return str(error)


def run_case(case: Case, modules: Sequence[str], rounds: int | None, open_peer: Opened, out: Writer, say: Say) -> Times:
    """Measure a case and write its rows; returns the seconds by peer and round."""
    say(f"{case.name}: {case.title}")
    with open_peer(REFERENCE[case.peers], "cpu") as peer:
        reference = peer.ask("check", case)
    with ExitStack() as stack:
        sessions, abouts = {}, {}
        for module, device, about in entries(modules, case.verb, open_peer):
            name = label(module, device)
            if isinstance(about, str):
                _leave_out(case, name, "skipped", about, out, say)
                continue
            session = stack.enter_context(open_peer(module, device))
            try:
                answer = session.ask("check", case)
                if not case.agrees(answer, reference):
                    _leave_out(case, name, "refused", f"it computes {shown(answer)}, not {shown(reference)}", out, say)
                    continue
                session.ask("warm", case)
            except PeerError as error:
                _leave_out(case, name, "skipped", str(error), out, say)
                continue
            sessions[name], abouts[name] = session, about
        calls = {name: lambda session=session: session.ask("call") for name, session in sessions.items()}
        times = interleave(calls, rounds or case.rounds, limit=LIMIT)
        for name in sessions:
            memory = sessions[name].ask("resident")
            out.add(**_row(case, name, abouts[name], times), resident_bytes=memory)
    for name, ratio in sorted((name, row_ratio(name, times)) for name in times):
        say(f"  {name:24} {1000 * statistics.median(measured(times[name])):10.2f} ms   x{ratio[1]:.3f}")
    return times


def row_ratio(name: str, times: Times) -> tuple[float, float, float]:
    """Quartiles of the time over that of the fastest peer on the device other than fcgpu, round by round."""
    return quartiles(ratios(times[name], times[best_peer(name, times) or name]))


def best_peer(name: str, times: Times) -> str | None:
    """The fastest peer other than fcgpu on the device that `name` ran on."""
    return best({other: t for other, t in times.items() if device_of(other) == device_of(name)}, without=OURS)


def label(module: str, device: str) -> str:
    """A peer's name in rows: its file, and the device where it is not the CPU."""
    return module.rpartition(".")[2] + ("" if device == "cpu" else f" ({device})")


def device_of(name: str) -> str:
    return "cuda" if name.endswith(" (cuda)") else "cpu"


def shown(answer: Any) -> str:
    return f"{float(answer):.9g}" if answer.ndim == 0 else f"{answer.ravel()[:5].tolist()}..."


def _leave_out(case: Case, name: str, why: str, reason: str, out: Writer, say: Say) -> None:
    say(f"  {name:24} {why}: {reason}")
    out.add(case=case.name, title=case.title, peer=name, **{why: reason})


def _row(case: Case, name: str, about: dict[str, Any], times: Times) -> dict[str, Any]:
    seconds = times[name]
    low, median, high = quartiles(measured(seconds))
    ratio = row_ratio(name, times)
    return {
        "case": case.name,
        "title": case.title,
        "peer": name,
        "peer_title": about["title"],
        "device": device_of(name),
        "samples": case.rows,
        "batch": case.batch,
        "seconds": seconds,
        "median_seconds": median,
        "quartiles_seconds": [low, high],
        "samples_per_second": case.rows / median,
        "best_peer": best_peer(name, times),
        "ratio": ratio[1],
        "ratio_quartiles": [ratio[0], ratio[2]],
        "versions": about["versions"],
    }
