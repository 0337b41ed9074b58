"""fcgpu against torch.compile, and its max-autotune, on the full batch in every precision. They compile for a minute or
two, all at the same time, in a process each; then fcgpu, they and PyTorch's CUDA graph are timed in turn.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bench.cases import Case
from bench.gpu import versus
from bench.gpu.session import MARGIN
from bench.run import OURS, REFERENCE
from bench.session import Remote

TITLE, LIMIT = "full batches of fcgpu and of PyTorch, compiled", 200.0
NAMES = (OURS, "pytorch_graphs", *versus.COMPILERS)


def rows(
    device: str,
    chosen: Sequence[Case] | None = None,
    names: Sequence[str] = NAMES,
    open_peer: Any = Remote,
    rounds: int = versus.ROUNDS,
    limit: float = LIMIT,
) -> Iterator[dict[str, Any]]:
    cases = [case for case in versus.cases() if case.batch == case.rows] if chosen is None else chosen
    with ExitStack() as stack, ThreadPoolExecutor(64) as pool:

        def opened(module: str, where: str = device) -> Any:
            return stack.enter_context(open_peer(module, where))

        article = opened(REFERENCE[cases[0].peers], "cpu")
        reference = pool.submit(article.ask, "check", replace(cases[0], precision="float32"))
        peers = {(case.name, name): opened(f"{case.peers}.{name}") for case in cases for name in names}
        ready = {
            (case.name, name): pool.submit(
                versus.prepared, peers[case.name, name], case, reference, within=max(limit - 2 * MARGIN, limit / 2)
            )
            for case in cases
            for name in names
        }
        found = {at: future.result() for at, future in ready.items()}
        for name in names:
            yield {"peer": name, **versus.about(peers[cases[0].name, name], device)}
        for case in cases:
            yield from versus.timed(case, {name: found[case.name, name] for name in names}, rounds)
