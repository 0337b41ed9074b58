"""The errors of fcgpu. A message names the value, the expectation and the remedy; for a file, its path and place.

The command line prints any of them as one line on standard error, and exits with code 2.
"""

from numbers import Integral
from typing import Any


class FcgpuError(Exception):
    """Base of every error that fcgpu raises on purpose."""


class DataError(FcgpuError, ValueError):
    """Features, labels or a data file are not valid."""


class ConfigError(FcgpuError, ValueError):
    """A recipe, a Spec or an argument is not valid."""


class DeviceError(FcgpuError):
    """The requested device cannot be used, or does not have enough memory."""


class DeviceMemoryError(DeviceError):
    """A GPU ran out of memory."""


class DivergenceError(FcgpuError, ValueError):
    """The loss, the parameters or the outputs are no longer finite."""


class CheckpointError(FcgpuError):
    """A file of a run, such as a model or checkpoint, cannot be written, or is missing, damaged or another one's."""


class MissingExtraError(FcgpuError, ImportError):
    """A feature needs an optional package that is not installed; the message says how to install it."""

    def __init__(self, feature: str, package: str | None, extra: str) -> None:
        super().__init__(feature, package, extra)  # from these pickle makes it again, as from another process

    def __str__(self) -> str:
        feature, package, extra = self.args
        return f'{feature} needs {package}, which is not installed: pip install "fcgpu[{extra}]"'


def first_line(error: Exception) -> str:
    """Type and first line of another library's error; CUDA's first line says what happened."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def whole(name: str, value: Any, unit: str = "") -> int | None:
    """`value` as an int, or None if it is None. Raises ConfigError unless it is a whole number of 1 or more.

    name, and unit, such as "of bytes" : for the error message.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        kind = f"a whole number {unit}".rstrip()
        raise ConfigError(f"{name}={value!r}: expected {kind} of 1 or more, or None")
    return None if value is None else int(value)
