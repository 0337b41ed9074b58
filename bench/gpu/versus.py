"""fcgpu against PyTorch and JAX on the same work, at equal precision; rounds in turn, ratios within a round."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bench.cases import TIMED, Case
from bench.measure import best, interleave, measured, quartiles, ratios
from bench.run import OURS, REFERENCE, peers_of, shown
from bench.session import PeerError, Remote

TITLE, LIMIT = "training steps of fcgpu, PyTorch and JAX", 300.0
# Relative error of the loss after 20 updates. A product rounds its operands to 2^-11 in TF32 and 2^-9 in bfloat16, and
# the loss, a mean over samples, keeps about that.
TOLERANCE = {"float32": 1e-5, "tf32": 2e-3, "bfloat16": 1e-2}
PASSES = {"full": 20, "batch-128": 2, "batch-10": 1}  # of one timing, so that the host may run ahead as in training
ROUNDS = 7
PAUSE = 0.02  # seconds between calls: nobody computes on the host, and no thread spins there
ANSWER = 90.0  # seconds that a peer may take to import, to compile, to answer


def cases() -> list[Case]:
    """Of each precision, the first ones first."""
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
) -> Iterator[dict[str, Any]]:
    until = time.monotonic() + LIMIT - 20
    references: dict[Any, Any] = {}
    with ExitStack() as stack:
        peers = {}
        for module in peers_of("bench.peers") if modules is None else modules:
            name = module.rpartition(".")[2]
            peer = stack.enter_context(open_peer(module, device))
            try:
                about = peer.ask("about", within=ANSWER)
            except PeerError as error:
                yield {"peer": name, "skipped": str(error)}
                continue
            if device in about["devices"]:
                peers[name] = peer
                yield {"peer": name, "title": about["title"], "versions": about["versions"]}
        for case in cases() if chosen is None else chosen:
            if time.monotonic() > until:
                yield {"case": case.name, "skipped": "no time left"}
                continue
            base = replace(case, precision="float32")
            if base.batch not in references:
                with open_peer(REFERENCE[case.peers], "cpu") as article:
                    references[base.batch] = article.ask("check", base)
            yield from _measured(case, peers, references[base.batch], rounds)


def _measured(case: Case, peers: dict[str, Any], reference: Any, rounds: int) -> Iterator[dict[str, Any]]:
    ready = {}
    for name, peer in peers.items():
        try:
            answer = peer.ask("check", case, within=ANSWER)
            if not case.agrees(answer, reference):
                yield {
                    "case": case.name,
                    "peer": name,
                    "refused": f"it computes {shown(answer)}, not {shown(reference)}",
                }
                continue
            peer.ask("warm", case, within=ANSWER)
        except PeerError as error:
            yield {"case": case.name, "peer": name, "skipped": str(error)}
            continue
        ready[name] = peer
    passes = PASSES.get(case.name.split()[0], 1)
    calls = {name: lambda peer=peer: peer.ask("call", passes, within=ANSWER) for name, peer in ready.items()}
    times = interleave(calls, rounds, pause=PAUSE)
    fastest = best(times, without=OURS)
    for name in ready:
        seconds = measured(times[name])
        low, middle, high = quartiles(seconds)
        row = {"case": case.name, "precision": case.precision, "batch": case.batch, "peer": name, "seconds": seconds}
        row["microseconds_per_step"] = 1e6 * middle / (case.rows / case.batch)
        row["quartiles"] = [low, high]
        if fastest is not None:
            row |= {"fastest_other": fastest, "ratio": quartiles(ratios(times[name], times[fastest]))[1]}
        yield row
