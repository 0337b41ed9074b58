"""The one error family. A message names the value, the expectation and the remedy; for a file, its path and place.

The command line turns any of these into one line on standard error and exit code 2.
"""

from collections.abc import Iterable
from numbers import Integral
from typing import Any


class FcgpuError(Exception):
    """Base of every error that fcgpu raises on purpose."""


class DataError(FcgpuError, ValueError):
    """Features, labels or a data file are not what they must be."""


class ConfigError(FcgpuError, ValueError):
    """A recipe, a spec or an argument is not legal."""


class DeviceError(FcgpuError):
    """The device asked for cannot work, or does not have the memory."""


class DeviceMemoryError(DeviceError):
    """A GPU ran out of memory."""


class DivergenceError(FcgpuError, ValueError):
    """The loss or the parameters stopped being finite."""


class CheckpointError(FcgpuError):
    """A model or checkpoint cannot be written, or what was read is not what was written."""


class MissingExtraError(FcgpuError, ImportError):
    """A feature needs a package of an extra that is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(f"{feature} needs {package}, which is not installed: pip install 'fcgpu[{extra}]'")


def first_line(error: Exception) -> str:
    """Of an error of another library; of CUDA's it is the line that says what happened."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def whole(name: str, value: Any) -> int | None:
    """An argument that may be None as an int. Raises ConfigError for what is no whole number of 1 or more."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        unit = " of bytes" if name == "memory_budget" else ""
        raise ConfigError(f"{name}={value!r}: expected a whole number{unit} of 1 or more, or None")
    return None if value is None else int(value)


def choices(value: object, known: Iterable[str]) -> str:
    """The end of a message that refuses `value`: the nearest legal name where there is one, else all of them."""
    names = list(known)
    return nearest(value, names) or "choose from " + ", ".join(names)


def nearest(value: object, known: Iterable[str]) -> str:
    """The question whether the nearest legal name was meant; empty where none is near."""
    from difflib import get_close_matches

    near = get_close_matches(str(value), list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
