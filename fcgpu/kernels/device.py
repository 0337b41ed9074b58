"""Kernels of a training step as a CUDA graph can hold it: each is one launch, allocates nothing and fetches nothing.

What changes from step to step they read on the device: `at` counts the steps, and says which rows are next, where their
loss is written and which learning rate is due. Sums go block by block into an array of partial sums, which `turn` adds
up in order: no order of threads changes a bit.

A layer is one matrix [W; b] of n_in + 1 rows and n_out columns, and its input has one unit more, which is always 1:
    Z = [A 1] [W; b]   and   [dW; db] = [A 1]ᵀ dZ,
and neither the bias nor its gradient costs a launch. Rows and columns are padded to multiples of 8, and what is padded
is 0 and stays 0: the products find whole vectors of 16 bytes, and so do the kernels here, which take 8 numbers a
thread.

H is the type of the products' operands, T that of parameters and loss, both double or T float. `FORMULAS` is data, as
in fused.py: a test compiles the same text for the CPU.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from fcgpu.kernels import updates
from fcgpu.kernels.activations import LEAK
from fcgpu.kernels.dropout import GOLDEN, MULTIPLIERS, SHIFTS, threshold
from fcgpu.kernels.fused import COUNTED, FUSED

WIDTH = 8  # numbers of a thread, and what rows and columns are padded to
BLOCK = 128  # threads that share a partial sum, CuPy's own block
ONE_BLOCK = 256  # threads of the kernels that are one block


class Formula(NamedTuple):
    """As cupy.ElementwiseKernel takes it; `before` and `after` stand around the loop over the indices."""

    inputs: str
    outputs: str
    operation: str
    before: str = ""
    after: str = ""


PREAMBLE = """
template <typename V> struct Wide { typedef float type; };
template <> struct Wide<double> { typedef double type; };
template <typename V> struct alignas(16) Eight { V v[8]; };
template <int N> __device__ void block_sum(double (&mine)[N]) {
  __shared__ double all[N][256];
  unsigned int t = threadIdx.x;
  for (int j = 0; j < N; ++j) all[j][t] = mine[j];
  __syncthreads();
  for (unsigned int half = 128; half > 0; half /= 2) {
    if (t < half && t + half < blockDim.x)
      for (int j = 0; j < N; ++j) all[j][t] += all[j][t + half];
    __syncthreads();
  }
  for (int j = 0; j < N; ++j) mine[j] = all[j][0];
}
"""

_G = {
    "sigmoid": "T(0.5) * tanh(T(0.5) * z) + T(0.5)",
    "tanh": "tanh(z)",
    "relu": "z > T(0) ? z : z != z ? z : T(0)",  # NaN stays NaN
    "leaky_relu": f"z > T(0) ? z : T({LEAK}) * z",
    "identity": "z",
}
_DERIVATIVE = {
    "sigmoid": "dz * a * (T(1) - a)",
    "tanh": "dz * (T(1) - a * a)",
    "relu": "a > T(0) ? dz : T(0)",
    "leaky_relu": f"a > T(0) ? dz : T({LEAK}) * dz",
    "identity": "dz",
}
_EIGHT = """
    typedef typename Wide<H>::type T;
    int column = 8 * (int)((unsigned int)i % (unsigned int)groups);
    Eight<H> &place = *reinterpret_cast<Eight<H> *>(&{array}[8 * i]);
    Eight<H> x = place;
"""

# The target of output j in row i of k outputs; rows repeat after n, where a stack of models shares its targets.
_TARGET = "(dense ? T(y[i % n * k + j]) : k == 1 ? T(y[i % n]) : T(y[i % n] == j))"
_COUNT = """
        int best = 0;
        for (int j = 1; j < k; ++j) if (Z[row + j] > Z[row + best]) best = j;
        if (count && (k == 1 ? Z[row] > T(0) : best) == y[i % n]) sums[1] += 1;
"""
# The reference's hash, as C.
_MIX = (
    "".join(f"x ^= x >> {s}; x *= {m}u; " for s, m in zip(SHIFTS, MULTIPLIERS, strict=False))
    + f"x ^= x >> {SHIFTS[-1]};"
)


def _loss(body: str) -> Formula:
    return Formula(
        "raw I y, raw T weights, raw T share, int32 n, int32 k, int32 width, bool dense, bool weighted, bool count, "
        "float64 boost",
        "raw T Z, raw H dZ, raw float64 losses, raw float64 rights",
        f"""
        ptrdiff_t row = i * width;
        T weight = weighted ? weights[i % n] * share[0] : share[0], up = weight * T(boost), sum = 0;
        {_COUNT}
        {body}
        sums[0] += double(sum * weight);
        """,
        "double sums[2] = {0, 0}",
        """
        block_sum(sums);
        if (threadIdx.x == 0) {
            losses[blockIdx.x] = sums[0];
            rights[blockIdx.x] = sums[1];
        }
        """,
    )


FORMULAS = {
    **{
        name: Formula(
            "int32 n, int32 groups",
            "raw H A",
            _EIGHT.replace("{array}", "A")
            + f"""
            for (int j = 0; j < 8; ++j) {{
                T z = T(x.v[j]), g = {g};
                x.v[j] = H(column + j < n ? g : T(column + j == n));
            }}
            place = x;
            """,
        )
        for name, g in _G.items()
    },
    **{
        f"{name}_backward": Formula(
            "raw H A, int32 n, int32 groups",
            "raw H dA",
            _EIGHT.replace("{array}", "dA")
            + f"""
            const Eight<H> out = *reinterpret_cast<const Eight<H> *>(&A[8 * i]);
            for (int j = 0; j < 8; ++j) {{
                T a = T(out.v[j]), dz = T(x.v[j]), d = {derivative};
                x.v[j] = H(column + j < n ? d : T(0));
            }}
            place = x;
            """,
        )
        for name, derivative in _DERIVATIVE.items()
    },
    "load": Formula(
        "raw U X, raw I y, raw T weights, raw uint32 ids, raw int64 order, raw int64 at, int64 steps, int64 batch, "
        "int64 start, int64 first, int32 d, int32 k, int32 groups, float64 scale, float64 one, bool ordered, "
        "bool weighted, bool named",
        "raw H A, raw I its_y, raw T its_weights, raw uint32 its_ids",
        """
        int row = (int)((unsigned int)i / (unsigned int)groups);
        int column = 8 * (int)((unsigned int)i % (unsigned int)groups);
        long long source = at[0] % steps * batch + start + row;
        if (ordered) source = order[source];
        typedef typename Wide<H>::type C;
        Eight<H> x;
        for (int j = 0; j < 8; ++j) {
            int feature = column + j;
            x.v[j] = H(feature < d ? C(C(X[(source - first) * d + feature]) * C(scale)) : C(feature == d ? one : 0));
        }
        *reinterpret_cast<Eight<H> *>(&A[8 * i]) = x;
        if (column == 0) {
            for (int j = 0; j < k; ++j) its_y[(long long)row * k + j] = y[source * k + j];
            if (weighted) its_weights[row] = weights[source];
            if (named) its_ids[row] = ids[source];
        }
        """,
    ),
    "share": Formula(
        "raw T weights, raw int64 order, raw int64 at, int64 steps, int64 batch, int32 n, float64 tiny, bool ordered",
        "raw T share",
        """
        for (int j = i; j < n; j += blockDim.x) {
            long long source = at[0] % steps * batch + j;
            sum[0] += double(weights[ordered ? order[source] : source]);
        }
        """,
        "double sum[1] = {0}",
        "block_sum(sum); if (threadIdx.x == 0) share[0] = sum[0] > 0 ? T(1.0 / (sum[0] > tiny ? sum[0] : tiny)) : T(0)",
    ),
    "cast": Formula("T w", "H its", "its = H(w)"),
    "binary_cross_entropy": _loss(
        f"""
        for (int j = 0; j < k; ++j) {{
            T z = Z[row + j], target = {_TARGET};
            sum += (z > T(0) ? z : T(0)) + log1p(exp(-(z > T(0) ? z : -z)));
            if (target != T(0)) sum -= target * z;
            dZ[row + j] = H((T(0.5) * tanh(T(0.5) * z) + T(0.5) - target) * up);
        }}
        """
    ),
    "cross_entropy": _loss(
        f"""
        T top = Z[row + best], total = 0, picked = 0;
        for (int j = 0; j < k; ++j) {{
            T z = Z[row + j] - top;
            T target = {_TARGET};
            if (target != T(0)) picked += target * z;
            total += Z[row + j] = exp(z);
        }}
        for (int j = 0; j < k; ++j) dZ[row + j] = H((Z[row + j] / total - {_TARGET}) * up);
        sum = log(total) - picked;
        """
    ),
    "squared_error": _loss(
        f"""
        for (int j = 0; j < k; ++j) {{
            T error = Z[row + j] - {_TARGET};
            sum += error * error;
            dZ[row + j] = H(error * up);
        }}
        sum *= T(0.5);
        """
    ),
    "poisson": _loss(
        f"""
        for (int j = 0; j < k; ++j) {{
            T z = Z[row + j], target = {_TARGET}, mean = exp(z);
            sum += mean - target * z + (target > T(0) ? target * log(target) : T(0)) - target;
            dZ[row + j] = H((mean - target) * up);
        }}
        """
    ),
    "dropout": Formula(
        "raw uint32 key, raw uint32 ids, int32 units, uint32 threshold, float64 factor",
        "H a, bool keep",
        f"""
        unsigned int x = (ids[i / units] + (unsigned int)(i % units) * {GOLDEN}u) * key[0] + key[1];
        {_MIX}
        typedef typename Wide<H>::type T;
        keep = x >= threshold;
        a = H(keep ? T(a) * T(factor) : T(0));
        """,
    ),
    "dropout_backward": Formula(
        "bool keep, float64 left, float64 factor",
        "H a, H da",
        """
        typedef typename Wide<H>::type T;
        a = H(T(a) * T(left));
        da = H(keep ? T(da) * T(factor) : T(0));
        """,
    ),
    "add_l2": Formula(
        "T w, T alpha, raw T share",
        "T g, raw float64 penalties",
        "T pull = alpha * w * share[0]; g += pull; sum[0] += 0.5 * double(pull) * double(w)",
        "double sum[1] = {0}",
        "block_sum(sum); if (threadIdx.x == 0) penalties[blockIdx.x] = sum[0]",
    ),
    "squares": Formula(
        "T g",
        "raw float64 squares",
        "sum[0] += double(g) * double(g)",
        "double sum[1] = {0}",
        "block_sum(sum); if (threadIdx.x == 0) squares[blockIdx.x] = sum[0]",
    ),
    "clip": Formula("raw T clip", "T g", "g *= clip[0]"),
    "turn": Formula(
        "raw float64 losses, raw float64 rights, raw float64 penalties, raw float64 squares, raw T rates, "
        "raw uint32 keys, raw int64 first, int32 n_losses, int32 n_penalties, int32 n_squares, int32 n_keys, "
        "int64 steps, float64 portion, float64 limit, bool advance",
        "raw float64 totals, raw float64 history, raw int64 at, raw float64 t, raw T rate, raw T clip, raw uint32 key",
        """
        for (int j = i; j < n_losses; j += blockDim.x) { sums[0] += losses[j]; sums[1] += rights[j]; }
        for (int j = i; j < n_penalties; j += blockDim.x) sums[2] += penalties[j];
        for (int j = i; j < n_squares; j += blockDim.x) sums[3] += squares[j];
        """,
        "double sums[4] = {0, 0, 0, 0}",
        """
        block_sum(sums);
        if (threadIdx.x == 0) {
            double loss = sums[0], right = sums[1], penalty = sums[2], norm = sqrt(sums[3]);
            totals[0] = loss + penalty;
            totals[1] = penalty;
            totals[2] = right;
            clip[0] = T(n_squares == 0 ? 1.0 : norm > limit ? limit / norm : norm != norm ? norm : 1.0);
            if (advance) {
                long long done = at[0], row = 3 * (done / steps), next = done - first[0];
                history[row] += (loss + penalty) * portion;
                history[row + 1] += penalty * portion;
                history[row + 2] += right;
                rate[0] = rates[next];
                for (int j = 0; j < n_keys; ++j) key[j] = keys[(next + 1) * n_keys + j];
                t[0] += 1;
                at[0] = done + 1;
            }
        }
        """,
    ),
}


@cache
def kernel(name: str, xp: Any) -> Any:
    """The compiled formula; CuPy compiles it for the types it meets, at the first call, and keeps it on disk."""
    f = FORMULAS[name]
    return xp.ElementwiseKernel(
        f.inputs, f.outputs, f.operation, f"fcgpu_device_{name}", preamble=PREAMBLE, loop_prep=f.before,
        after_loop=f.after,
    )  # fmt: skip


def activate(name: str, A: Any, n: int, *, xp: Any) -> None:
    """Overwrite A (..., rows, width), which holds Z in its first n columns, with [g(Z) 1 0]."""
    kernel(name, xp)(n, A.shape[-1] // WIDTH, A, size=A.size // WIDTH)


def derive(name: str, A: Any, dA: Any, n: int, *, xp: Any) -> None:
    """Overwrite dA (..., rows, width) with [dA g'(Z) 0] of its first n columns, from A = [g(Z) 1 0]."""
    kernel(f"{name}_backward", xp)(A, n, A.shape[-1] // WIDTH, dA, size=A.size // WIDTH)


class Place(NamedTuple):
    """Where a step finds its samples: from row at % steps * batch on of `order`, or of their own where that is None.

    at (1,) int64 counts the steps, of which `steps` make an epoch; order is (n_samples,) int64. Where not all features
    are on the device, their row 0 is row `first`.
    """

    at: Any
    steps: int
    batch: int
    order: Any
    first: int = 0


class Rows(NamedTuple):
    """Samples: X (n, d) as stored or (n, width) as [scale X, one, 0]; y; and, of any size where they do not serve,
    weights (n,) and ids (n,) uint32.
    """

    X: Any
    y: Any
    weights: Any
    ids: Any


def load(
    samples: Rows,
    place: Place,
    start: int,
    scale: float,
    one: float,
    into: Rows,
    weighted: bool,
    named: bool,
    *,
    xp: Any,
) -> None:
    """Fill `into` with the step's samples from its row `start` on; its X is [scale X, one, 0]."""
    X, A = samples.X, into.X
    order = place.at if place.order is None else place.order
    k = samples.y.size // len(samples.y)
    kernel("load", xp)(
        *samples, order, place.at, place.steps, place.batch, start, place.first, X.shape[-1], k, A.shape[-1] // WIDTH,
        scale, one, place.order is not None, weighted, named, *into, size=A.size // WIDTH,
    )  # fmt: skip


def share(weights: Any, place: Place, n: int, tiny: float, share: Any, *, xp: Any) -> None:
    """Overwrite share (1,) with 1 / Σ weights over the n samples of the step; where all are 0 with 0, which makes the
    loss, its penalty and gradient 0.
    """
    kernel("share", xp)(
        weights, place.at if place.order is None else place.order, place.at, place.steps, place.batch, n, tiny,
        place.order is not None, share, size=ONE_BLOCK, block_size=ONE_BLOCK,
    )  # fmt: skip


def loss(
    name: str, rows: Rows, share: Any, n_outputs: int, boost: float, weighted: bool, count: bool, Z: Any, dZ: Any,
    losses: Any, rights: Any, *, xp: Any,
) -> None:  # fmt: skip
    """Overwrite the first n_outputs columns of dZ with (prediction - target) weight boost, from the logits Z (..., n,
    width), which it uses up and which dZ may be; losses and rights with the sums, over each block of rows, of weight *
    loss and, to count, of right answers. weight is share, `weighted` times the sample's own.
    """
    y = rows.y
    kernel(name, xp)(
        y, rows.weights, share, len(y), n_outputs, Z.shape[-1], y.ndim == 2, weighted, count, boost, Z, dZ,
        losses, rights, size=Z.size // Z.shape[-1],
    )  # fmt: skip


def blocks(n: int) -> int:
    """Partial sums of n rows or numbers."""
    return -(-n // BLOCK)


def dropout(A: Any, n: int, keep: Any, key: Any, ids: Any, rate: float, *, xp: Any) -> None:
    """As the reference, of the first n columns of A (rows, width). keep is (rows, n) bool, key (2,), ids (rows,)."""
    kernel("dropout", xp)(key, ids, n, threshold(rate), 1 / (1 - rate), A[:, :n], keep)


def dropout_backward(A: Any, dA: Any, n: int, keep: Any, rate: float, *, xp: Any) -> None:
    """As the reference, of the first n columns of A and dA (rows, width)."""
    kernel("dropout_backward", xp)(keep, 1 - rate, 1 / (1 - rate), A[:, :n], dA[:, :n])


class Sums(NamedTuple):
    """Partial sums of a step, each (blocks,) float64: of loss, right answers, penalty, squares of the gradient."""

    losses: Any
    rights: Any
    penalties: Any
    squares: Any


class Tables(NamedTuple):
    """What the host knows ahead: rates (n,), keys (n + 1, 2 layers) uint32 of the steps from first (1,) int64 on."""

    rates: Any
    keys: Any
    first: Any


class Now(NamedTuple):
    """What a step leaves to the next, and to the host."""

    totals: Any  # (3,) float64: loss with penalty, penalty, right answers
    history: Any  # (epochs, 3) float64, their sums by epoch
    at: Any  # (1,) int64, steps done
    t: Any  # (1,) float64, steps done as the optimizer counts them
    rate: Any  # (1,)
    clip: Any  # (1,), what the gradient is to be multiplied by
    key: Any  # (2 layers,) uint32


def turn(
    sums: Sums, tables: Tables, now: Now, used: Sequence[int], steps: int, portion: float, limit: float,
    advance: bool, *, xp: Any,
) -> None:  # fmt: skip
    """Add up the partial sums, of which `used` serve: of losses and rights, of penalties, of squares. To advance, add
    to this epoch's row of the history, set the rate of this step and the keys of the next, and count. An epoch has
    `steps` steps, and this one a `portion` of its samples; limit is the greatest norm of a gradient.
    """
    kernel("turn", xp)(
        *sums, *tables, *used, now.key.size, steps, portion, limit, advance, *now, size=ONE_BLOCK, block_size=ONE_BLOCK
    )


UPDATES = {name: (FUSED | COUNTED)[name] for name in updates.UPDATES}
