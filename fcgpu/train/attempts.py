"""Restarts a run that ran out of memory, with the next best plan, and notes it on an event.

A run has allocated all its memory by the end of its first epoch, so little is lost by starting again.
"""

from collections.abc import Callable, Generator
from dataclasses import replace

from fcgpu.backend import Backend
from fcgpu.errors import DeviceError, DeviceMemoryError
from fcgpu.host import readable
from fcgpu.train.events import EpochEnded, Event
from fcgpu.train.plan import Plan
from fcgpu.train.run import Run


class Attempts:
    """Runs `build(plan)` with plans from `plan(memory_budget=...)`.

    Raises DeviceMemoryError, with the memory that is needed, if no plan needs less.
    """

    def __init__(self, backend: Backend, plan: Callable[..., Plan], build: Callable[[Plan], Run]) -> None:
        self._backend, self._plan, self._build = backend, plan, build

    def events(self, memory_budget: int | None) -> Generator[Event, None, None]:
        """The events of the run. The run is built by this call, not by the first `next`."""
        with self._backend.current():
            plan = self._plan(memory_budget=memory_budget)
        return self._events(self._run(plan))

    def _run(self, plan: Plan) -> Run:
        while True:
            try:
                with self._backend.enough_memory(plan.remedy):
                    return self._build(plan)
            except DeviceMemoryError:
                pass
            plan = self._less(plan)

    def _less(self, plan: Plan) -> Plan:
        device = self._backend.device
        self._backend.give_back()
        try:
            with self._backend.current():
                less = self._plan(memory_budget=plan.bytes - 1)
        except DeviceError:
            raise DeviceMemoryError(f"{device} ran out of memory, and no plan needs less: {plan.remedy}") from None
        note = f"{device} ran out of memory: {readable(less.bytes)} planned, in place of {readable(plan.bytes)}"
        return replace(less, note=note)

    def _events(self, run: Run) -> Generator[Event, None, None]:
        events, done, note = run.events(), run.epochs, ""
        yield next(events)
        while True:
            try:
                event = next(events)
                break
            except DeviceMemoryError:
                if run.epochs > done:  # the epoch had ended: a monitor ran out of memory, not the run
                    raise
            plan = run.plan
            del run, events  # frees their memory
            run = self._run(self._less(plan))
            events, note = run.events(), run.plan.note
            next(events)
        yield replace(event, note=note) if isinstance(event, EpochEnded) else event
        yield from events
