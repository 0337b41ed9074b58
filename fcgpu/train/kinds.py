"""What the keys of a recipe and the parameters of an estimator accept."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcgpu.suggest import nearest


@dataclass(frozen=True)
class Kind:
    """What a key accepts: a description in words, and a function that returns the value in its type or raises
    ValueError.
    """

    words: str
    parse: Callable[[Any], Any]


def as_python(value: Any) -> Any:
    """Convert NumPy scalars, arrays and dtypes, such as grid searches pass, to Python's own types."""
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if hasattr(value, "tolist") and getattr(value, "ndim", 2) < 2:
        return as_python(value.tolist())
    return [as_python(v) for v in value] if isinstance(value, list | tuple | range) else value


def one_of(names: Any) -> Kind:
    def parse(value: Any) -> Any:
        if value not in tuple(names):
            raise ValueError(nearest(value, filter(None, names)))
        return value

    return Kind("one of " + ", ".join(filter(None, names)), parse)


def _number(words: str, legal: Callable[[float], bool], *, whole: bool = False) -> Kind:
    def parse(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise ValueError
        if not math.isfinite(value) or not legal(value):
            raise ValueError
        return value if whole else float(value)

    return Kind(words, parse)


def _sizes(words: str, lengths: Callable[[int], bool]) -> Kind:
    def parse(value: Any) -> Any:
        if not isinstance(value, list | tuple) or not lengths(len(value)):
            raise ValueError
        return tuple(COUNT.parse(v) for v in value)

    return Kind(words, parse)


def _parse_text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError
    value.encode()  # ValueError for a lone surrogate, which Python makes of a file name that is not UTF-8
    return value


def _parse_flag(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _parse_rates(value: Any) -> Any:
    given = value if isinstance(value, list | tuple) else (value,)
    rates = tuple(FRACTION.parse(v) for v in given)
    return rates if any(rates) else ()


def _parse_batch(value: Any) -> Any:
    return value if value == "full" else COUNT.parse(value)


TEXT = Kind("text in UTF-8", _parse_text)
FLAG = Kind("true or false", _parse_flag)
COUNT = _number("a whole number of 1 or more", lambda v: v >= 1, whole=True)
EPOCHS = _number("a whole number of 1 or more, up to 10 million", lambda v: 1 <= v <= 10_000_000, whole=True)
WHOLE = _number("a whole number of 0 or more", lambda v: v >= 0, whole=True)
POSITIVE = _number("a number above 0", lambda v: v > 0)
NOT_NEGATIVE = _number("a number of 0 or more", lambda v: v >= 0)
UNIT = _number("a number from 0 to 1", lambda v: 0 <= v <= 1)
FRACTION = _number("a number from 0 up to, not including, 1", lambda v: 0 <= v < 1)
SHARE = _number("a number between 0 and 1", lambda v: 0 < v < 1)
BATCH = Kind('"full" or a whole number of 1 or more', _parse_batch)
HIDDEN = _sizes("a list of whole numbers of 1 or more, as [128, 64]; [] for none", lambda n: True)
RATES = Kind("a number from 0 up to, not including, 1, or a list of them, one a hidden layer", _parse_rates)
IMAGE = _sizes("[height, width], each 1 or more; [] for the pictures' own size", lambda n: n in (0, 2))
