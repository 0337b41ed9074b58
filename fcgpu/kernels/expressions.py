"""Activations, their derivatives and the losses as CUDA C++: one text for every kernel of a GPU that needs them.

T is the type of the numbers. What stays out: the kernels, which say where the numbers come from.
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

# The target of output j in row i of k outputs; rows repeat after n, where a stack of models shares its targets.
TARGET = "(dense ? T(y[i % n * k + j]) : k == 1 ? T(y[i % n]) : T(y[i % n] == j))"


class Functions(NamedTuple):
    """How a kernel calls them."""

    exp: str = "exp({})"
    log: str = "log({})"
    log1p: str = "log1p({})"


EXACT = Functions()
# A GPU's own, off by a few units in the last place. What log1p is for, a loss near 0, is lost in the sum with others.
FAST = Functions("__expf({})", "__logf({})", "__logf(1 + {})")


def loss(name: str, *, each: str = "for (int j = first; j < k; j += step)", functions: Functions = EXACT) -> str:
    """From the logits Z of a row, its dZ and the sum of its losses; top is the greatest logit.

    Threads that share a row take outputs first, first + step, ..., and sum `across`; `each` is how a thread goes over
    its own.
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
            sum += mean - target * z + (target > T(0) ? target * {log("target")} : T(0)) - target;
            dZ[row + j] = H((mean - target) * up);
        }}
        """,
    }[name]


def row_of_loss(name: str, functions: Functions = EXACT) -> str:
    """Row i of the logits Z, `width` apart: its dZ, `loss_scale` times; adds its loss to sums[0], and a right answer to
    sums[1].
    """
    return f"""
        ptrdiff_t row = i * width;
        T weight = weighted ? weights[i % n] * share[0] : share[0], up = weight * T(loss_scale), sum = 0;
        int best = 0;
        for (int j = 1; j < k; ++j) if (Z[row + j] > Z[row + best]) best = j;
        if (count && first == 0 && (k == 1 ? Z[row] > T(0) : best) == y[i % n]) sums[1] += 1;
        T top = Z[row + best];
        meet();
        {loss(name, functions=functions)}
        sums[0] += double(sum * weight);
        """
