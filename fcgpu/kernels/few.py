"""Products of batches so small that a GPU is mostly waiting, in float32, with what follows a product in a training step
in the same launch: an activation, a derivative, or the loss. The text of the kernels is in few.cu.

Tensor cores multiply pieces of the numbers, as in `middle.py`. A product of 128 rows with 784 x 512 weights takes
cuBLAS 10 µs on an H200.
"""

from typing import Any

import numpy as np

from fcgpu.kernels.expressions import DERIVATIVE, G, rows_of_loss
from fcgpu.kernels.text import C_TYPES, module, program, round_up, text_of

THREADS, ROWS, COLUMNS = 256, 16, 32  # of a block; of its tile
MOST_OUTPUTS = COLUMNS  # of a last layer whose loss is computed with its logits: a thread block has whole rows then
# Most multiplications of a product: of more cuBLAS is faster (bench/gpu/few.py). Most rows: a gradient is a sum over
# them, which cuBLAS cuts in pieces and these kernels do not; faster than cuBLAS up to 1,024, not measured beyond.
MOST, MOST_ROWS = 150_000_000, 1024
NAMES = ("as_they_are", "transposed_a", "transposed_b", "forward", "backward", "last")


def are_few(rows: int, k: int, n: int) -> bool:
    """Whether the products of a layer (k, n) with so many rows are small enough."""
    return rows <= MOST_ROWS and rows * k * n <= MOST


class Few:
    """The products of a network's layers. Rows must be contiguous; other dimensions must be multiples of 4, and
    addresses of 16 bytes, as those of `Padded` are.

    pieces : 3, so that no digit of float32 is lost, or 2, which is better than tf32.
    targets : an array with the dtype and number of dimensions that y has in the calls.
    """

    def __init__(
        self,
        activation: str,
        loss: str,
        n_outputs: int,
        pieces: int,
        targets: Any,
        *,
        weighted: bool,
        count: bool,
        xp: Any,
    ) -> None:
        self._text = text(activation, loss, n_outputs, pieces, targets.dtype.name, targets.ndim == 2, weighted, count)
        self._bytes, self._xp = bytes_of(pieces), xp
        self._functions: dict[str, Any] = {}

    def compile(self) -> None:
        """Compile the kernels; the first call does it otherwise. Raises what CuPy raises."""
        compiled = module(program(self._text), self._xp)
        for name in NAMES:
            self._functions[name] = function = compiled.get_function(name)
            function.max_dynamic_shared_size_bytes = self._bytes

    def __call__(
        self,
        A: Any,
        B: Any,
        C: Any,
        *,
        transposed_a: bool = False,
        transposed_b: bool = False,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        """C = alpha op(A) op(B) + beta C, as `cublas.Gemm`; one of A and B may be transposed."""
        name = "transposed_a" if transposed_a else "transposed_b" if transposed_b else "as_they_are"
        (m, n), k = C.shape, A.shape[0 if transposed_a else 1]
        self._launch(name, m, n, *_at(A), *_at(B), *_at(C), *_sizes(m, n, k), np.float32(alpha), np.float32(beta))

    def forward(self, A: Any, M: Any, out: Any, units: int, alpha: float) -> None:
        """Overwrite out (rows, wide) with [g(alpha A M) 1 0], whose first `units` columns are the layer's units."""
        (m, wide), (k, n) = out.shape, M.shape
        self._launch("forward", m, wide, *_at(A), *_at(M), out, *_sizes(wide, m, n, k, units), np.float32(alpha))

    def backward(self, dZ: Any, M: Any, A: Any, dA: Any, units: int) -> None:
        """Overwrite dA (rows, wide) with (dZ Mᵀ) g'(Z) in the first `units` columns and 0 in the others, from A."""
        (m, wide), k = dA.shape, M.shape[1]
        self._launch("backward", m, wide, *_at(dZ), *_at(M), A, dA, *_sizes(wide, m, k, units))

    def last(self, A: Any, M: Any, rows: Any, share: Any, dZ: Any, losses: Any, rights: Any, alpha: float) -> None:
        """Overwrite the outputs' columns of dZ (rows, wide) from the logits alpha A M; losses and rights (blocks,) get
        sums, as in device.loss. rows is a device.Rows; there are at most MOST_OUTPUTS outputs.
        """
        (m, wide), k = dZ.shape, M.shape[0]
        given = rows.y, rows.weights, share, dZ, *_sizes(wide, m, k), np.float32(alpha), losses, rights
        self._launch("last", m, wide, *_at(A), *_at(M), *given)

    def _launch(self, name: str, rows: int, columns: int, *arguments: Any) -> None:
        if not self._functions:
            self.compile()
        tiles = blocks(rows) * -(-columns // COLUMNS)
        self._functions[name]((tiles,), (THREADS,), arguments, shared_mem=self._bytes)


def bytes_of(pieces: int) -> int:
    """Bytes of a block's shared memory: two parts of A and B."""
    return 2 * 2 * pieces * (THREADS // 2) * (ROWS + 8 + COLUMNS + 8)


def blocks(n: int) -> int:
    """Number of partial sums of `last` for n rows."""
    return -(-n // ROWS)


def _at(M: Any) -> tuple[Any, Any]:
    """A matrix and its leading dimension."""
    return M, np.int32(M.strides[0] // M.itemsize if len(M) > 1 else M.shape[1])


def _sizes(*sizes: int) -> tuple[Any, ...]:
    return tuple(map(np.int32, sizes))


def text(
    activation: str, loss: str, n_outputs: int, pieces: int, targets: str, dense: bool, weighted: bool, count: bool
) -> str:
    """The kernels, without the device functions of ptx.cu. targets is the name of y's dtype."""
    logits = round_up(n_outputs, 2) + 1  # an odd number of floats: threads that each read a row use different banks
    return f"""
typedef float T;
typedef float H;
typedef unsigned short bf16;
typedef {C_TYPES[targets]} I;
constexpr int P = {pieces}, R = {ROWS}, COLUMNS = {COLUMNS}, THREADS = {THREADS};
constexpr int PER_ROW = {n_outputs if dense else 1}, LOGITS = {logits};
constexpr bool WEIGHTED = {int(weighted)};

__device__ inline float g(float z) {{ return {G[activation]}; }}
__device__ inline float derivative(float a, float dz) {{ return {DERIVATIVE[activation]}; }}
{text_of("pieces.cu")}
{rows_of_loss(loss, THREADS // ROWS, n_outputs, logits, dense, weighted, count)}
{text_of("few.cu")}"""
