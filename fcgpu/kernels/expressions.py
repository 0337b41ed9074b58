"""Activations, their derivatives and the losses as CUDA C++ expressions, shared by all GPU kernels that need them.

T is the type of the numbers. The kernels themselves, which load and store the numbers, are in other files.
"""

from typing import NamedTuple

from fcgpu.kernels.activations import LEAK

G = {
    "sigmoid": "T(1) / (T(1) + exp(-z))",
    "tanh": "tanh(z)",
    "relu": "z > T(0) ? z : z != z ? z : T(0)",  # NaN stays NaN
    "leaky_relu": f"z > T(0) ? z : T({LEAK}) * z",
    "identity": "z",
}
DERIVATIVE = {
    "sigmoid": "dz * a * (T(1) - a)",
    "tanh": "dz * (T(1) - a * a)",
    "relu": "a > T(0) ? dz : T(0)",
    "leaky_relu": f"a > T(0) ? dz : T({LEAK}) * dz",
    "identity": "dz",
}

# The target of output j of k outputs in row `sample`.
TARGET = "(dense ? T(y[sample * k + j]) : k == 1 ? T(y[sample]) : T(y[sample] == j))"


class Functions(NamedTuple):
    """How a kernel calls these functions: format strings of their argument."""

    exp: str = "exp({})"
    log: str = "log({})"
    log1p: str = "log1p({})"


EXACT = Functions()
# Hardware intrinsics, wrong by a few units in the last place. log1p only matters for a loss near 0, which is lost in
# the sum with others.
FAST = Functions("__expf({})", "__logf({})", "__logf(1 + {})")


def loss(name: str, *, each: str = "for (int j = first; j < k; j += step)", functions: Functions = EXACT) -> str:
    """C++ that computes dZ and the loss, `sum`, of a row from its logits Z; `top` is the largest logit.

    Threads that share a row take the outputs first, first + step, ... each, and add up with `across`; `each` is the
    loop of a thread over its outputs.
    """
    exp, log, log1p = (function.format for function in functions)
    return {
        "binary_cross_entropy": f"""
        {each} {{
            T z = Z[row + j], target = {TARGET}, e = {exp("z > T(0) ? -z : z")};
            sum += (z > T(0) ? z : T(0)) + {log1p("e")};
            if (target != T(0)) sum -= target * z;
            dZ[row + j] = H(((z > T(0) ? T(1) : e) / (T(1) + e) - target) * up);
        }}
        """,
        "cross_entropy": f"""
        T total = 0, picked = 0;
        {each} {{
            T z = Z[row + j] - top;
            T target = {TARGET};
            if (target != T(0)) picked += target * z;
            total += Z[row + j] = {exp("z")};
        }}
        total = across(total);
        {each} dZ[row + j] = H((Z[row + j] / total - {TARGET}) * up);
        sum = (first == 0 ? {log("total")} : T(0)) - picked;
        """,
        "squared_error": f"""
        {each} {{
            T error = Z[row + j] - {TARGET};
            sum += error * error;
            dZ[row + j] = H(error * up);
        }}
        sum *= T(0.5);
        """,
        "poisson": f"""
        {each} {{
            T z = Z[row + j], target = {TARGET}, mean = {exp("z")};
            T d = z - {log("target > T(0) ? target : T(1)")};
            sum += target > T(0) ? target * (expm1(d) - d) : mean;
            dZ[row + j] = H((mean - target) * up);
        }}
        """,
    }[name]


def row_of_loss(name: str, functions: Functions = EXACT) -> str:
    """C++ for row i of the logits Z, whose rows are `width` apart, with the target and weight of row `sample`: writes
    its dZ times `loss_scale`, adds its loss to sums[0], and 1 to sums[1] if it is classified correctly.
    """
    return f"""
        ptrdiff_t row = i * width;
        T weight = weighted ? weights[sample] * share[0] : share[0], up = weight * T(loss_scale), sum = 0;
        T top = Z[row];
        int best = 0;
        for (int j = 1; j < k; ++j) if (T z = Z[row + j]; z > top) top = z, best = j;
        if (count && first == 0 && (k == 1 ? Z[row] > T(0) : best) == y[sample]) sums[1] += 1;
        meet();
        {loss(name, functions=functions)}
        sums[0] += double(sum * weight);
        """


def rows_of_loss(
    name: str, threads: int, k: int, width: int, dense: bool, weighted: bool, count: bool, functions: Functions = EXACT
) -> str:
    """The device function `loss`, for a tile of R rows of k logits, which lie `width` apart in shared memory.

    threads : that share a row. dense : whether targets are (n, k). weighted, count : whether samples have weights, and
    correct predictions are counted.
    """
    return f"""
// dZ of `n` rows from their logits Z, which are overwritten as scratch; 0 in the rows after them. SHARE threads work on
// a row. all: adds up the loss and correct predictions of this thread's rows.
constexpr int SHARE = {threads};
__device__ inline void meet() {{ __syncwarp(); }}
template <typename V> __device__ inline V across(V mine) {{
  for (int bits = 1; bits < SHARE; bits *= 2) mine += __shfl_xor_sync(~0u, mine, bits);
  return mine;
}}
template <class D>
__device__ inline void loss(const I *y, const float *weights, const float *share, int n, float *Z, D out,
                            double (&all)[2]) {{
  const int i = threadIdx.x / SHARE, first = threadIdx.x % SHARE, step = SHARE, k = {k}, width = {width};
  const bool dense = {int(dense)}, weighted = {int(weighted)}, count = {int(count)};
  const int sample = i < n ? i : 0;  // rows after the last sample have none of their own
  const double loss_scale = 1;
  float *const dZ = Z;
  if (i >= R) return;
  double sums[2] = {{0, 0}};
  {{{row_of_loss(name, functions)}}}
  meet();
  if (i < n) all[0] += sums[0], all[1] += sums[1];
  for (int j = 2 * first; j < k; j += 2 * step) {{
    const float *pair = Z + i * width + j;
    out.put(i, j, i < n ? Two{{pair[0], j + 1 < k ? pair[1] : 0}} : Two{{0, 0}});
  }}
}}
"""
