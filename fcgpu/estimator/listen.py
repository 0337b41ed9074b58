"""The events of an estimator's run: callbacks, a progress line, and how the run ended."""

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fcgpu.errors import ConfigError, DivergenceError
from fcgpu.estimator.watch import Watch
from fcgpu.train.events import EpochEnded, Finished


def listen(events: Any, watch: Watch, settings: dict[str, Any], epochs: int) -> tuple[EpochEnded, str]:
    """Consume the events of a run of up to `epochs` epochs until the end, or until a callback returns True.

    Returns the last EpochEnded, and why training stopped before its last epoch, or "".
    """
    why, line = "", _progress(epochs) if settings["progress"] else None
    with line or nullcontext():
        try:
            for event in events:
                stop = [True for callback in settings["callbacks"] or () if _is_true(callback(event))]
                if isinstance(event, EpochEnded):
                    if line:
                        line.add(event)
                    why = "a callback stopped it" if stop else ""
                elif isinstance(event, Finished):
                    why = event.stopped
                    if why and settings["verbose"]:
                        print(f"Stopped: {why}")
                if stop:
                    break
        except DivergenceError as error:
            if watch.last is None or not settings["early_stopping"]:
                raise
            why = "it diverged"
            warnings.warn(f"{error}. The best weights before that are kept.", ConvergenceWarning, stacklevel=5)
        except KeyboardInterrupt:
            if watch.last is None:
                raise
            why = "interrupted"
            warnings.warn("Training interrupted by user.", stacklevel=5)
        finally:
            events.close()
    if watch.last is None:
        raise ConfigError("a callback stopped the training before its first epoch: there is nothing to keep")
    return watch.last, why


def _is_true(answer: Any) -> bool:
    """Whether `answer` is True, Python's or NumPy's. Other truthy values are no request to stop the training."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


def _progress(epochs: int) -> Any:
    from fcgpu.progress import Progress

    return Progress(epochs, shown=True)
