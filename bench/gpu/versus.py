"""fcgpu against PyTorch and JAX on the same work, at equal precision; interleaved rounds, ratios within a round.

Peers are set up in parallel. Those that compile for a minute or two are in compilers.py.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from bench.cases import TIMED, Case
from bench.gpu.session import MARGIN
from bench.measure import best, interleave, measured, quartiles, ratios
from bench.run import OURS, REFERENCE, peers_of, shown
from bench.session import PeerError, Remote

TITLE, LIMIT = "training steps of fcgpu, PyTorch and JAX", 200.0
# Relative error of the loss after 20 updates. A product rounds its operands to 2^-11 in TF32 and 2^-9 in bfloat16, and
# the loss, a mean over samples, keeps about that.
TOLERANCE = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 1e-2}
PASSES = {"full": 100, "batch-128": 2, "batch-10": 1}  # in one timing: the host may run ahead, as in training
ROUNDS = 5
PAUSE = 0.02  # seconds between calls: no threads spin on the host, because nothing is computed there
ANSWER = 120.0  # seconds that a peer may take for one call, compilation and imports included
COMPILERS = ("pytorch_compiled", "pytorch_autotune")


def cases() -> list[Case]:
    """Every case in every precision, float32 first."""
    return [
        replace(TIMED[name], name=f"{name} {precision}", precision=precision, tolerance=tolerance)
        for precision, tolerance in TOLERANCE.items()
        for name in PASSES
    ]


def rows(
    device: str,
    chosen: Sequence[Case] | None = None,
    modules: Sequence[str] | None = None,
    open_peer: Any = Remote,
    rounds: int = ROUNDS,
    limit: float = LIMIT,
) -> Iterator[dict[str, Any]]:
    until = time.monotonic() + limit - MARGIN
    todo = cases() if chosen is None else chosen
    with ExitStack() as stack, ThreadPoolExecutor(64) as pool:

        def opened(module: str, where: str = device) -> Any:
            return stack.enter_context(open_peer(module, where))

        firsts = {kind(case): replace(case, precision="float32") for case in todo}
        articles = {name: opened(REFERENCE[case.peers], "cpu") for name, case in firsts.items()}
        references = {name: pool.submit(articles[name].ask, "check", case) for name, case in firsts.items()}
        peers = {module.rpartition(".")[2]: opened(module) for module in modules or quick("bench.peers")}
        for name, asked in {name: pool.submit(about, peer, device) for name, peer in peers.items()}.items():
            found = asked.result()
            if found:
                yield {"peer": name, **found}
            if "title" not in found:
                del peers[name]
        for case in todo:
            if time.monotonic() > until:
                yield {"case": case.name, "peer": ", ".join(peers), "skipped": "no time left"}
                continue
            ready = {name: pool.submit(prepared, peer, case, references[kind(case)]) for name, peer in peers.items()}
            yield from timed(case, {name: future.result() for name, future in ready.items()}, rounds)


def quick(package: str) -> list[str]:
    """The peers of a package that compile for seconds."""
    return [module for module in peers_of(package) if module.rpartition(".")[2] not in COMPILERS]


def kind(case: Case) -> str:
    """The case without its precision."""
    return case.name.split()[0]


def about(peer: Any, device: str) -> dict[str, Any]:
    """A peer's title and versions; or why it is skipped; or nothing if it is not for this device."""
    try:
        found = peer.ask("about", within=ANSWER)
    except PeerError as error:
        return {"skipped": str(error)}
    return {"title": found["title"], "versions": found["versions"]} if device in found["devices"] else {}


def prepared(peer: Any, case: Case, reference: Future[Any], within: float = ANSWER) -> Any:
    """The peer, ready to be called; or a dict with the reason why it is not."""
    try:
        answer = peer.ask("check", case, within=within)
        if not case.agrees(answer, reference.result()):
            return {"refused": f"it computes {shown(answer)}, not {shown(reference.result())}"}
        peer.ask("warm", case, within=within)
    except PeerError as error:
        return {"skipped": str(error)}
    return peer


def timed(case: Case, peers: dict[str, Any], rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each peer; `peers` are what `prepared` returned."""
    ready = {}
    for name, found in peers.items():
        if isinstance(found, dict):
            yield {"case": case.name, "peer": name, **found}
        else:
            ready[name] = found
    passes = PASSES.get(kind(case), 1)
    failed: dict[str, str] = {}

    def call(name: str) -> float | None:
        """Seconds; None once a call has failed."""
        if name not in failed:
            try:
                return float(ready[name].ask("call", passes, within=ANSWER))
            except PeerError as error:
                failed[name] = str(error)
        return None

    times = interleave({name: partial(call, name) for name in ready}, rounds, pause=PAUSE)
    yield from ({"case": case.name, "peer": name, "skipped": why} for name, why in failed.items())
    times = {name: its for name, its in times.items() if name not in failed}
    fastest = best(times, without=OURS)
    for name in times:
        seconds = measured(times[name])
        low, middle, high = quartiles(seconds)
        row = {"case": case.name, "precision": case.precision, "batch": case.batch, "peer": name, "seconds": seconds}
        row["microseconds_per_step"] = 1e6 * middle / (case.rows / case.batch)
        row["quartiles"] = [low, high]
        if fastest is not None:
            row |= {"fastest_other": fastest, "ratio": quartiles(ratios(times[name], times[fastest]))[1]}
        yield row
