"""How the kernel of `middle.py` is launched: threads, rows and blocks, and the layout of their shared memory.

Whether a network fits at all is decided here, too, before any kernel text is generated.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from fcgpu.kernels.formulas import WIDTH
from fcgpu.kernels.text import round_up


class Cut(NamedTuple):
    """Threads per block, rows per tile, and blocks per multiprocessor: while one block waits, another computes."""

    threads: int
    rows: int
    beside: int


ROWS = (64, 48, 32, 16)
CUTS = (*(Cut(512, rows, 1) for rows in ROWS), *(Cut(256, rows, 2) for rows in ROWS))
# A tile costs as much as its rows and OVERHEAD more, for barriers and latencies; two blocks on one multiprocessor cost
# BOTH times as much as one.
OVERHEAD, BOTH = 32, 1.3
LEAST = Cut(512, ROWS[-1], 1)  # the cut that needs the least memory
AHEAD = 32  # registers of a thread for the next tile
BLOCK_BYTES = 1024  # of shared memory that CUDA reserves in each block


def why_not(sizes: Sequence[int], pieces: int, device: Any) -> str:
    """Why the kernel cannot run this network on a device with these attributes; "" if it can."""
    if len(sizes) < 3:
        return "there is no hidden layer"
    if max(sizes[2:]) > 2 * LEAST.threads:
        return f"a layer after the first has more than {2 * LEAST.threads} units"
    least, limit = Memory(sizes, pieces, LEAST).bytes, device["MaxSharedMemoryPerBlockOptin"]
    return f"its layers need {least:,} bytes of shared memory, and a block has {limit:,}" if least > limit else ""


def cut_of(sizes: Sequence[int], pieces: int, n: int, device: Any) -> Cut:
    """The cut with the least estimated time for n rows, among those that fit.

    Its shared memory must fit, and the next tile must fit into registers: one per number and, if pieces > 1, another
    for its sum.
    """

    def fits(cut: Cut) -> bool:
        taken = Memory(sizes, pieces, cut).bytes
        return (
            taken <= device["MaxSharedMemoryPerBlockOptin"]
            and cut.beside * (taken + BLOCK_BYTES) <= device["MaxSharedMemoryPerMultiprocessor"]
            and cut.rows * round_up(sizes[1], WIDTH) * (2 if pieces > 1 else 1) <= AHEAD * cut.threads
            and max(sizes[2:]) <= 2 * cut.threads
        )

    def seconds(cut: Cut) -> float:
        rounds = -(-n // (cut.rows * cut.beside * device["MultiProcessorCount"]))
        return float(rounds * (cut.rows + OVERHEAD) * (BOTH if cut.beside > 1 else 1))

    return min(filter(fits, CUTS), key=seconds, default=LEAST)


def blocks_of(cut: Cut, n: int, device: Any) -> int:
    """Number of thread blocks: as many as fit on the device, but no more than n rows have tiles."""
    return min(cut.beside * int(device["MultiProcessorCount"]), -(-n // cut.rows))


class Memory:
    """The shared memory of a block: `places` is C++ that declares its arrays, `bytes` its size; the first `zeros` bytes
    begin as 0.

    A1, A2, ... hold the layers' outputs and later their dZ; dZ is the last layer's, and Z its logits.
    """

    def __init__(self, sizes: Sequence[int], pieces: int, cut: Cut) -> None:
        rows = cut.rows
        self.places, self.bytes, self._pieces = "", 0, pieces
        wide, last = [round_up(size, 16) for size in sizes], len(sizes) - 1
        for layer in range(1, last):
            self._matrix(f"A{layer}", rows, wide[layer])
        self._matrix("dZ", rows, wide[last])
        self._floats("Z", rows * (wide[last] + 1))
        for layer in range(2, last + 1):
            self._floats(f"dW{layer}", wide[layer - 1] * (wide[layer] + 8))
            self._floats(f"db{layer}", 2 * cut.threads // wide[layer] * wide[layer])
        self.zeros = self.bytes
        for layer in range(2, last + 1):
            self._matrix(f"W{layer}", wide[layer - 1], wide[layer])
            self._floats(f"b{layer}", wide[layer])
        self._floats("all", 4 * cut.threads)

    def _matrix(self, name: str, rows: int, columns: int) -> None:
        self.places += f"  const Matrix<{rows}, {columns}> {name}{{(bf16 *)(memory + {self.bytes})}};\n"
        self.bytes += 2 * self._pieces * rows * (columns + 8)

    def _floats(self, name: str, n: int) -> None:
        self.places += f"  float *const {name} = (float *)(memory + {self.bytes});\n"
        self.bytes += round_up(4 * n, 16)
