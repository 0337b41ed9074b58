"""The kernels of a GPU's training step as CUDA C++ text. It is data, so that a test can compile it for the CPU.

H is the type of the products' operands; T, of parameters and loss, is double if H is, else float. In a formula `i` is
the flat index, and a `raw` array is indexed explicitly. `kernels/device.py` documents and calls them.
"""

from functools import cache
from typing import Any, NamedTuple

from fcgpu.kernels.dropout import GOLDEN, MULTIPLIERS, SHIFTS
from fcgpu.kernels.expressions import DERIVATIVE, G, row_of_loss
from fcgpu.kernels.losses import OUTPUTS

WIDTH = 8  # numbers per thread; rows and columns are padded to a multiple of it
BLOCK = 128  # threads that share a partial sum: CuPy's default block size
ONE_BLOCK = 256  # threads of the kernels that run as one block


class Formula(NamedTuple):
    """Arguments of cupy.ElementwiseKernel; `before` and `after` are its loop_prep and after_loop."""

    inputs: str
    outputs: str
    operation: str
    before: str = ""
    after: str = ""


PREAMBLE = """
template <typename V> struct Wide { typedef float type; };
template <> struct Wide<double> { typedef double type; };
template <typename V> struct alignas(16) Eight { V v[8]; };
// The matrix row of thread i, if each row takes `groups` threads. A 64-bit division is several times slower than a
// 32-bit one, which is enough for all but the largest matrices.
__device__ ptrdiff_t row_of(ptrdiff_t i, int groups) {
  return i >> 32 ? i / groups : (ptrdiff_t)((unsigned int)i / (unsigned int)groups);
}
template <typename V> __device__ V across(V mine) { return mine; }
__device__ void meet() {}
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

_EIGHT = """
    typedef typename Wide<H>::type T;
    int column = 8 * (int)(i - row_of(i, groups) * groups);
    Eight<H> &place = *reinterpret_cast<Eight<H> *>(&{array}[8 * i]);
    Eight<H> x = place;
"""

# The reference's hash, as C.
_MIX = (
    "".join(f"x ^= x >> {s}; x *= {m}u; " for s, m in zip(SHIFTS, MULTIPLIERS, strict=False))
    + f"x ^= x >> {SHIFTS[-1]};"
)


def _loss(name: str) -> Formula:
    return Formula(
        "raw I y, raw T weights, raw T share, int32 k, int32 width, bool dense, bool weighted, bool count, "
        "float64 loss_scale",
        "raw T Z, raw H dZ, raw float64 losses, raw float64 rights",
        f"const ptrdiff_t sample = i; {row_of_loss(name)}",
        "double sums[2] = {0, 0}; const int first = 0, step = 1",
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
        for name, g in G.items()
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
        for name, derivative in DERIVATIVE.items()
    },
    "load": Formula(
        "raw U X, raw I y, raw T weights, raw uint32 ids, raw int64 order, raw int64 at, int64 steps, int64 batch, "
        "int64 start, int64 first, int32 d, int32 k, int32 groups, float64 scale, float64 one, bool ordered, "
        "bool weighted, bool with_ids",
        "raw H A, raw I its_y, raw T its_weights, raw uint32 its_ids",
        """
        ptrdiff_t row = row_of(i, groups);
        int column = 8 * (int)(i - row * groups);
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
            for (int j = 0; j < k; ++j) its_y[row * k + j] = y[source * k + j];
            if (weighted) its_weights[row] = weights[source];
            if (with_ids) its_ids[row] = ids[source];
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
    "to_bytes": Formula(
        "U x, float64 times, float64 rounding",
        "uint8 made, raw int32 others",
        """
        double exact = double(x) * times, near = rint(exact);
        bool good = near >= 0 && near <= 255 && fabs(exact - near) <= rounding * near;
        made = good ? (unsigned char)near : 0;
        if (!good) others[0] = 1;
        """,
    ),
    "cast": Formula("T w", "H its", "its = H(w)"),
    "split": Formula(
        "T w, int32 columns, int32 scaled, T scale, int32 pieces",
        "raw H parts",
        """
        int row = (int)(i / columns), column = (int)(i % columns);
        T rest = row < scaled ? w * scale : w;
        for (int p = 0; p < pieces; ++p) {
            H part = H(rest);
            parts[((long long)row * pieces + p) * columns + column] = part;
            rest -= T(part);
        }
        """,
    ),
    "merge": Formula(
        "raw T parts, int32 columns, int32 scaled, T scale, int32 pieces",
        "T w",
        """
        int row = (int)(i / columns), column = (int)(i % columns);
        T sum = 0;
        for (int p = pieces - 1; p >= 0; --p) sum += parts[((long long)row * pieces + p) * columns + column];
        w = row < scaled ? sum * scale : sum;
        """,
    ),
    **{row.loss: _loss(row.loss) for row in OUTPUTS.values()},
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
    "end_step": Formula(
        "raw float64 losses, raw float64 rights, raw float64 penalties, raw float64 squares, raw T rates, "
        "raw uint32 keys, raw int64 first, int32 n_losses, int32 n_penalties, int32 n_squares, int32 n_keys, "
        "int64 steps, float64 portion, float64 limit, bool advance",
        "raw float64 totals, raw float64 history, raw int64 at, raw float64 t, raw T rate, raw T clip, raw uint32 key",
        """
        for (int j = i; j < n_losses; j += blockDim.x) { sums[0] += losses[j]; sums[1] += rights[j]; }
        for (int j = i; j < n_penalties; j += blockDim.x) sums[2] += penalties[j];
        for (int j = i; j < n_squares; j += blockDim.x) sums[3] += squares[j];
        """,
        """
        double sums[4] = {0, 0, 0, 0};
        const long long done = at[0], row = advance ? 3 * (done / steps) : 0, next = advance ? done - first[0] : 0;
        const T new_rate = rates[next];
        const double before[3] = {history[row], history[row + 1], history[row + 2]}""",
        """
        block_sum(sums);
        if (threadIdx.x == 0) {
            double loss = sums[0], right = sums[1], penalty = sums[2], norm = sqrt(sums[3]);
            totals[0] = loss + penalty;
            totals[1] = penalty;
            totals[2] = right;
            clip[0] = T(n_squares == 0 ? 1.0 : norm > limit ? limit / norm : norm != norm ? norm : 1.0);
            if (advance) {
                history[row] = before[0] + (loss + penalty) * portion;
                history[row + 1] = before[1] + penalty * portion;
                history[row + 2] = before[2] + right;
                rate[0] = new_rate;
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
    """The formula as a kernel. CuPy compiles it at the first call with each combination of types, and caches it."""
    f = FORMULAS[name]
    return xp.ElementwiseKernel(
        f.inputs, f.outputs, f.operation, f"fcgpu_device_{name}", preamble=PREAMBLE, loop_prep=f.before,
        after_loop=f.after,
    )  # fmt: skip
