"""Inverted dropout (Srivastava et al. 2014). The mask is a hash of the sample's id, the unit and a key for each step.

It depends on nothing else: not on the order of samples, tiles, threads or the backend. So a seed gives the same masks
everywhere, and a resumed run draws the masks that it would have drawn.
"""

from typing import Any

import numpy as np

# Chris Wellons's lowbias32, a bijection of 32-bit words found by search ("hash-prospector", 2018, public domain):
# shift, multiply, shift, multiply, shift.
SHIFTS = (16, 15, 16)
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
GOLDEN = 0x9E3779B9  # 2**32 / golden ratio: spreads the units of one sample over the 32-bit words (Knuth)


def threshold(rate: float) -> int:
    """A unit is dropped if its 32-bit hash is below this."""
    return min(2**32 - 1, round(rate * 2**32))


def keys(seed: int, step: int, layers: int) -> Any:
    """(layers, 2) uint32 on the host: for each hidden layer in one step, a key of an odd factor and an offset."""
    words = np.random.SeedSequence((seed, step)).generate_state(2 * layers).reshape(layers, 2)
    words[:, 0] |= 1
    return words


def dropout(A: Any, keep: Any, key: Any, ids: Any, rate: float, *, xp: Any) -> None:
    """Overwrite keep (n, n_out) bool with the mask of the samples `ids`, and A (n, n_out) with A keep / (1 - rate).

    A unit is kept with probability 1 - rate. key (2,) and ids (n,) are uint32 on the device.
    """
    x = ids[:, None] + xp.arange(A.shape[-1], dtype=np.uint32) * np.uint32(GOLDEN)
    x *= key[0]
    x += key[1]
    for shift, multiplier in zip(SHIFTS, MULTIPLIERS, strict=False):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(multiplier)
    x ^= x >> np.uint32(SHIFTS[-1])
    xp.greater_equal(x, np.uint32(threshold(rate)), out=keep)
    A *= keep
    A *= 1 / (1 - rate)


def dropout_backward(A: Any, dA: Any, keep: Any, rate: float, *, xp: Any) -> None:
    """Overwrite dA with dA keep / (1 - rate), and the kept entries of A with their values before `dropout`."""
    dA *= keep
    dA *= 1 / (1 - rate)
    A *= 1 - rate
