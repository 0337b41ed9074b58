"""The middle of a step, between the first layer's two products with the samples, in one launch: from Z1, all other
layers forward, the loss and back to dZ1.

Each thread block works on tiles of rows. Its shared memory holds the weights of all layers after the first, a tile's
activations, and the sums of the gradients. Tensor cores multiply bfloat16. A float32 number is the sum of three of
these, its pieces; a product of two numbers is the sum of the products of their pieces, without the smallest of those.
With 3 pieces no digit of float32 is lost, 2 are better than tf32, and 1 is plain bfloat16.

Tiles are dealt to blocks by index and every sum has a fixed order: the same inputs give the same bits.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fcgpu.kernels.expressions import DERIVATIVE, EXACT, FAST, G, rows_of_loss
from fcgpu.kernels.formulas import WIDTH
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.middle_cut import Cut, Memory, blocks_of, cut_of, why_not
from fcgpu.kernels.text import C_TYPES, module, program, round_up, text_of

# Activations take most of the time that products do not. The hardware's exponential and reciprocal are wrong by a few
# units in the last place, its tanh by less than bfloat16's rounding.
QUICK = {"sigmoid": "__fdividef(1, 1 + __expf(-z))"}
NEAR = {"sigmoid": "0.5f * near_tanh(0.5f * z) + 0.5f", "tanh": "near_tanh(z)"}
ADDED = 32  # columns per block of `add_up`, with eight threads each


class Middle:
    """The kernels for a network on a device, and their partial sums. `blocks` is the number of thread blocks.

    layout : the `Padded` layout of the flat vectors.
    targets : an array with the dtype and number of dimensions that y has in the calls.
    n : about how many rows a call has; the launch is tuned for it.
    stored : dtype of Z1, float32, or bfloat16 if pieces is 1.
    whole : whether Z1 and dZ1 are float32 matrices, not in pieces.

    Raises ValueError for a network that `why_not` refuses.
    """

    def __init__(
        self,
        layout: Any,
        pieces: int,
        targets: Any,
        n: int,
        *,
        weighted: bool,
        count: bool,
        xp: Any,
        stored: Any = np.float32,
        whole: bool = False,
    ) -> None:
        spec, device = layout.spec, xp.cuda.Device().attributes
        if reason := why_not(spec.sizes, pieces, device):
            raise ValueError(reason)
        self._cut = cut = cut_of(spec.sizes, pieces, n, device)
        self.blocks = blocks_of(cut, n, device)
        self._text = text(
            spec.sizes, spec.activation, spec.output, pieces, cut, targets=targets.dtype.name, dense=targets.ndim == 2,
            weighted=weighted, count=count, stored=np.dtype(stored).name, whole=whole,
        )  # fmt: skip
        self._bytes, self._first = Memory(spec.sizes, pieces, cut).bytes, math.prod(layout.shapes[0])
        self._xp = xp
        self._middle: Any = None
        self._add_up: Any = None
        self._partial = xp.empty((self.blocks, layout.size - self._first), dtype=np.float32)

    def compile(self) -> None:
        """Compile the kernels; the first call does it otherwise. Raises what CuPy raises."""
        compiled = module(program(self._text), self._xp)
        self._middle, self._add_up = (compiled.get_function(name) for name in ("middle", "add_up"))
        self._middle.max_dynamic_shared_size_bytes = self._bytes

    def __call__(
        self, Z1: Any, params: Any, rows: Any, share: Any, dZ1: Any, gradient: Any, losses: Any,
        rights: Any,
    ) -> None:  # fmt: skip
        """Overwrite dZ1, losses, rights, and gradient for all layers but the first.

        Z1 (n, pieces * width) holds `pieces` blocks of columns whose sum is Z1. dZ1 has the same shape, in bfloat16:
        its blocks are the pieces of dZ1. If they are `whole`, they are (n, width) float32. gradient gets [dW; db] of
        each layer; losses and rights (blocks,) get partial sums, as in device.loss. rows is a device.Rows; params is
        float32.
        """
        if self._middle is None:
            self.compile()
        self._middle(
            (self.blocks,), (self._cut.threads,),
            (Z1, params, rows.y, rows.weights, share, np.int32(len(Z1)), dZ1, self._partial, losses, rights),
            shared_mem=self._bytes,
        )  # fmt: skip
        size = self._partial.shape[1]
        self._add_up(
            (-(-size // ADDED),), (8 * ADDED,), (self._partial, np.int32(self.blocks), gradient[self._first :]),
            shared_mem=4 * 8 * ADDED,
        )  # fmt: skip


def text(
    sizes: Sequence[int], activation: str, output: str, pieces: int, cut: Cut, *, targets: str, dense: bool,
    weighted: bool, count: bool, stored: str = "float32", whole: bool = False,
) -> str:  # fmt: skip
    """The kernels `middle` and `add_up`, without the device functions of ptx.cu.

    targets and stored are names of dtypes; stored, of Z1, is float32 or bfloat16. whole as in `Middle`.
    """
    shapes = [(round_up(n_in + 1, WIDTH), round_up(n_out, WIDTH)) for n_in, n_out in itertools.pairwise(sizes)]
    k, width = sizes[-1], round_up(sizes[-1], 16) + 1
    own = sum(a * b for a, b in shapes[1:])
    threads_per_row = next(n for n in (32, 16, 8, 4, 2, 1) if n * cut.rows <= cut.threads)
    blocks, functions = 1 if whole else pieces, FAST if pieces == 1 else EXACT
    assert threads_per_row * cut.rows % 32 == 0, "a warp that has a row has nothing else"
    return f"""
typedef float T;
typedef float H;
typedef unsigned short bf16;
typedef {C_TYPES[targets]} I;
typedef {"bf16" if stored == "bfloat16" else "float"} stored;
typedef {"float" if whole else "bf16"} made;  // dZ1
constexpr int P = {pieces}, B = {blocks}, R = {cut.rows}, THREADS = {cut.threads}, BESIDE = {cut.beside}, SIZE = {own};

__device__ inline float g(float z) {{ return {(NEAR if pieces == 1 else QUICK).get(activation, G[activation])}; }}
__device__ inline float derivative(float a, float dz) {{ return {DERIVATIVE[activation]}; }}
{text_of("pieces.cu")}{text_of("middle.cu")}
{rows_of_loss(OUTPUTS[output].loss, threads_per_row, k, width, dense, weighted, count, functions)}
{_kernel(sizes, shapes, pieces, blocks, cut, k if dense else 1, "weights + start" if weighted else "weights")}"""


def _kernel(
    sizes: Sequence[int], shapes: Sequence[tuple[int, int]], pieces: int, blocks: int, cut: Cut, per_row: int,
    weights: str,
) -> str:  # fmt: skip
    last, first = len(sizes) - 1, shapes[0][1]
    memory = Memory(sizes, pieces, cut)
    outputs = {layer: f"A{layer}" if layer < last else "dZ" for layer in range(1, last + 1)}
    places = [math.prod(shapes[0])]
    for a, b in shapes[1:]:
        places.append(places[-1] + a * b)
    # The next tile's Z1 is loaded, block of columns by block, during the forward pass, the loss, and the last layer's
    # backward pass; the wider products that follow need the registers.
    ask, take = "\n    ahead.ask(Z1, tile + gridDim.x, n, {});", "\n    ahead.take({});"
    moves = [(take.format(block - 1) if block else "") + ask.format(block) for block in range(blocks)]
    moves += [""] * (3 - blocks) + [take.format(blocks - 1)]
    begin = end = forward = backward = ""
    for layer in range(2, last + 1):
        (high, wide), n_in, n_out, at = shapes[layer - 1], sizes[layer - 1], sizes[layer], places[layer - 2]
        above, below = outputs[layer], outputs[layer - 1]
        begin += f"""
  load_layer<{n_in}, {n_out}>(params + {at}, {wide}, W{layer}, b{layer});"""
        step = f"forward({below}, W{layer}, b{layer}, {above})"
        forward += f"""
    {step if layer < last else f"logits({below}, W{layer}, b{layer}, Z)"};
    __syncthreads();"""
        backward = f"""
    gradient({below}, {above}, dW{layer});
    bias_gradient({above}, db{layer});
    __syncthreads();
    backward({above}, W{layer}, {below});
    __syncthreads();{moves[3] if layer == last else ""}{backward}"""
        end += f"""
  write_layer<{n_in}, {n_out}, {high}, {wide}>(W{layer}, dW{layer}, db{layer}, partial + {at - places[0]});"""
    return f"""
extern "C" __global__ void __launch_bounds__(THREADS, BESIDE)
middle(const stored *Z1, const float *params, const I *y, const float *weights, const float *share, int n,
       made *dZ1, float *partial, double *losses, double *rights) {{
  char *const memory = shared_memory();
{memory.places}
  Ahead<{first}> ahead;
  ahead.ask_all(Z1, blockIdx.x, n);
  auto *const zeros = reinterpret_cast<Sixteen *>(memory);
  for (int i = threadIdx.x; i < {memory.zeros // 16}; i += THREADS) zeros[i] = Sixteen{{}};{begin}
  __syncthreads();
  partial += (long long)blockIdx.x * SIZE;
  double sums[2] = {{0, 0}};
  for (int tile = blockIdx.x; tile * R < n; tile += gridDim.x) {{
    const int start = tile * R, here = n - start < R ? n - start : R;
    ahead.arrive(A1);
    __syncthreads();
    ahead.announce(Z1, tile + gridDim.x, n);{moves[0]}{forward}{moves[1]}
    loss(y + (long long)start * {per_row}, {weights}, share, here, Z, dZ, sums);
    __syncthreads();{moves[2]}{backward}
    write_rows<{first}>(A1, here, dZ1 + (long long)start * (B * {first}));
    __syncthreads();
  }}
  write_sums(sums, reinterpret_cast<double *>(all), losses, rights);{end}
}}
"""
