"""How the kernel of `middle.py` is launched: threads, rows and blocks, and what lies where in their shared memory.

Whether a network can go that way at all is decided here too, before any text is written.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fcgpu.kernels.formulas import WIDTH
from fcgpu.kernels.text import up


class Cut(NamedTuple):
    """Threads of a block, rows of a tile, blocks of a multiprocessor: while one of these waits, another computes."""

    threads: int
    rows: int
    beside: int


ROWS = (64, 48, 32, 16)
CUTS = (*(Cut(512, rows, 1) for rows in ROWS), *(Cut(256, rows, 2) for rows in ROWS))
# What a tile costs is in proportion to its rows and some more, for barriers and latencies; two blocks beside one
# another do not cost twice as much.
OVERHEAD, BOTH = 32, 1.3
LEAST = Cut(512, ROWS[-1], 1)  # memory
AHEAD = 32  # registers of a thread for the next tile
BLOCK_BYTES = 1024  # of shared memory that each block takes for itself


def why_not(sizes: Sequence[int], pieces: int, device: Any) -> str:
    """Why a network cannot go this way on a device of these attributes; "" if it can."""
    if len(sizes) < 3:
        return "there is no hidden layer"
    if max(sizes[2:]) > 2 * LEAST.threads:
        return f"a layer behind the first has more than {2 * LEAST.threads} units"
    least, limit = Memory(sizes, pieces, LEAST).bytes, device["MaxSharedMemoryPerBlockOptin"]
    return f"its layers need {least:,} bytes of shared memory, and a block has {limit:,}" if least > limit else ""


def cut_of(sizes: Sequence[int], pieces: int, n: int, device: Any) -> Cut:
    """What takes n rows through a device soonest, of the cuts whose memory fits, and whose next rows into registers: a
    number each, and its sum where it comes in pieces.
    """

    def fits(cut: Cut) -> bool:
        taken = Memory(sizes, pieces, cut).bytes
        return (
            taken <= device["MaxSharedMemoryPerBlockOptin"]
            and cut.beside * (taken + BLOCK_BYTES) <= device["MaxSharedMemoryPerMultiprocessor"]
            and cut.rows * up(sizes[1], WIDTH) * (2 if pieces > 1 else 1) <= AHEAD * cut.threads
            and max(sizes[2:]) <= 2 * cut.threads
        )

    def seconds(cut: Cut) -> float:
        rounds = -(-n // (cut.rows * cut.beside * device["MultiProcessorCount"]))
        return float(rounds * (cut.rows + OVERHEAD) * (BOTH if cut.beside > 1 else 1))

    return min(filter(fits, CUTS), key=seconds, default=LEAST)


def blocks_of(cut: Cut, n: int, device: Any) -> int:
    """As many as there is room for, or tiles of n rows."""
    return min(cut.beside * int(device["MultiProcessorCount"]), -(-n // cut.rows))


class Memory:
    """Shared memory of a block: `places`, C++ that declares what lies where, and `bytes`.

    A1, A2, ... are the layers' outputs and then their dZ; dZ is that of the last one, and Z its logits.
    """

    def __init__(self, sizes: Sequence[int], pieces: int, cut: Cut) -> None:
        rows = cut.rows
        self.places, self.bytes, self._pieces = "", 0, pieces
        wide, last = [up(size, 16) for size in sizes], len(sizes) - 1
        self._floats("all", 4 * cut.threads)
        for layer in range(1, last):
            self._matrix(f"A{layer}", rows, wide[layer])
        self._matrix("dZ", rows, wide[last])
        self._floats("Z", rows * (wide[last] + 1))
        for layer in range(2, last + 1):
            self._matrix(f"W{layer}", wide[layer - 1], wide[layer])
            self._floats(f"b{layer}", wide[layer])
            self._floats(f"dW{layer}", wide[layer - 1] * (wide[layer] + 8))
            self._floats(f"db{layer}", 2 * cut.threads // wide[layer] * wide[layer])

    def _matrix(self, name: str, rows: int, columns: int) -> None:
        self.places += f"  const Matrix<{rows}, {columns}> {name}{{(bf16 *)(memory + {self.bytes})}};\n"
        self.bytes += 2 * self._pieces * rows * (columns + 8)

    def _floats(self, name: str, n: int) -> None:
        self.places += f"  float *const {name} = (float *)(memory + {self.bytes});\n"
        self.bytes += up(4 * n, 16)
