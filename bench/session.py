"""One peer in its own process, so that its threads, settings and memory do not affect another's measurements.

A Session does the work; `Remote` runs a Session in a spawned process and calls it over a pipe, one call at a time.
"""

import gc
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, metadata
from typing import Any
from unittest.mock import patch

from bench.cases import Case

MEMORY_PASSES = 3


class PeerError(Exception):
    """A peer that cannot take part; the message is the reason."""


class Session:
    """A peer's module and the `step` that its `setup` returned."""

    def __init__(self, module: str, device: str = "cpu") -> None:
        self.device = device
        try:
            self.peer = import_module(module)
        except ModuleNotFoundError as error:
            raise PeerError(f"{error.name} is not installed") from error
        self._step: Any = None

    def about(self) -> dict[str, Any]:
        return {
            "title": self.peer.TITLE,
            "devices": list(self.peer.CLOCKS),
            "verbs": [verb for verb in vars(self.peer) if verb.startswith("setup") or verb == "train"],
            "versions": versions(self.peer.PACKAGES),
            "recipe": getattr(self.peer, "RECIPE", ""),
        }

    def set_up(self, case: Case, *, other: bool = False) -> None:
        """Free the last work and build a new one."""
        self._step = None
        gc.collect()
        self._step = getattr(self.peer, case.verb)(case.work(self.device, other=other))

    def check(self, case: Case) -> Any:
        """The result that is compared with the reference's: the loss after `case.checked` updates, or the labels."""
        self.set_up(case.checks)
        for _ in range(case.check_calls):
            _, answer = self._timed()
        return answer

    def warm(self, case: Case) -> None:
        """Compile, and touch all memory, on other data than the measured data; then build the measured work."""
        self.set_up(case, other=True)
        self._timed()
        self.set_up(case)

    def call(self, times: int = 1) -> float:
        """Seconds of one call of `step`, averaged over `times` calls in a row."""
        if times == 1:
            return self._timed()[0]

        def steps() -> Any:
            for _ in range(times):
                answer = self._step()
            return answer

        return float(self.peer.CLOCKS[self.device](steps)[0]) / times

    def memory(self, case: Case) -> dict[str, int]:
        """Resident bytes before `setup`, and the peak from the start of the process to the end of a few passes."""
        before = resident()["VmRSS"]
        self.set_up(case)
        for _ in range(MEMORY_PASSES):
            self._timed()
        return {"before": before, "peak": resident()["VmHWM"]}

    def race(self, target: float, limit: float, seed: int) -> list[tuple[float, float]]:
        """(seconds of training, test accuracy) after each epoch, up to `target` or `limit` seconds; see bench.race."""
        from bench.race import run

        return run(self.peer.train, target, limit, seed)

    def _timed(self) -> tuple[float, Any]:
        return self.peer.CLOCKS[self.device](self._step)


class Remote:
    """A Session in its own process: `ask("check", case)`. A context manager: leaving it ends the process."""

    def __init__(self, module: str, device: str, threads: int | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end, module, device), daemon=True)
        with confined(device, threads):
            self._process.start()
        end.close()

    def ask(self, verb: str, *arguments: Any, within: float | None = None, **options: Any) -> Any:
        """Call a method of the session and return its result.

        Raises PeerError with the peer's own error in one line, or if no result comes `within` so many seconds; the
        process is then terminated.
        """
        try:
            self._pipe.send((verb, arguments, options))
            if within is not None and not self._pipe.poll(within):
                self._process.terminate()
                raise PeerError(f"it did not {verb} within {within:g} s")
            kind, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise PeerError(f"its process ended with code {self._process.exitcode}") from None
        if kind == "error":
            raise PeerError(answer)
        return answer

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()  # the process reads an end of file and exits
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Any, module: str, device: str) -> None:
    session = None
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            verb, arguments, options = pipe.recv()
            try:
                session = session or Session(module, device)
                pipe.send(("done", getattr(session, verb)(*arguments, **options)))
            except PeerError as error:
                pipe.send(("error", str(error)))
            except Exception as error:  # any error of a peer becomes the reason in its row
                pipe.send(("error", f"{type(error).__name__}: {error}".splitlines()[0]))


@contextmanager
def confined(device: str, threads: int | None) -> Iterator[None]:
    """Processes started inside see only `device` and `threads` processors, and libraries use as many threads.

    Set here, not by the process itself: a BLAS counts processors when it is loaded, and importing this file loads one.
    """
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # leave device memory to the other peers
    if device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    processors = os.sched_getaffinity(0) if threads and hasattr(os, "sched_setaffinity") else None
    if processors:
        os.sched_setaffinity(0, sorted(processors)[:threads])
    try:
        with patch.dict(os.environ, environment):
            yield
    finally:
        if processors:
            os.sched_setaffinity(0, processors)


def resident() -> dict[str, int]:
    """VmRSS and VmHWM of this process in bytes, from Linux's /proc; on other systems both are the peak."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            found = dict(line.split(":", 1) for line in file)
        return {key: 1024 * int(found[key].split()[0]) for key in ("VmRSS", "VmHWM")}
    except OSError:
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {"VmRSS": peak, "VmHWM": peak}


def versions(packages: Any) -> dict[str, str]:
    """The versions of the installed packages; fcgpu's is that of the imported source."""
    import fcgpu

    found = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = fcgpu.__version__ if name == "fcgpu" else metadata.version(name)
    return found
