"""CuPy variants of the elementwise formulas, each one launch where the reference needs several.

`FORMULAS` holds the CUDA C++ as data: (inputs, outputs, operation), in the notation of cupy.ElementwiseKernel, so that
a test can compile the same text for the CPU and compare it with the reference in value. In a formula `i` is the flat
index, a `raw` array is indexed at will, T is the type of the arrays and I that of the targets.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from fcgpu.kernels.activations import LEAK
from fcgpu.kernels.dropout import GOLDEN, MULTIPLIERS, SHIFTS, threshold
from fcgpu.kernels.updates import log_or_minus_infinity

# The target of output j in row i of k outputs; rows repeat after n, where a stack of models shares its targets.
_TARGET = "(dense ? T(y[i % n * k + j]) : k == 1 ? T(y[i % n]) : T(y[i % n] == j))"
_LOSS_INPUTS = "T weight, raw I y, int32 n, int32 k, bool dense"
_LOSS_OUTPUTS = "raw T Z, T loss"
_ADAM_INPUTS = "raw T rate, raw float64 t, T beta_1, T beta_2, T log_beta_1, T log_beta_2, T epsilon"
_ADAM = """
    T mean = beta_1 * (m - g) + g;
    T square = beta_2 * (v - g * g) + g * g;
    T step = rate[0] * sqrt(-expm1(T(t[0]) * log_beta_2)) / -expm1(T(t[0]) * log_beta_1);
    m = mean;
    v = square;
"""

# The reference's hash, as C.
MIX = (
    "".join(f"x ^= x >> {s}; x *= {m}u; " for s, m in zip(SHIFTS, MULTIPLIERS, strict=False))
    + f"x ^= x >> {SHIFTS[-1]};"
)

FORMULAS = {
    "identity": ("T z, T b", "T a", "a = z + b"),
    "sigmoid": ("T z, T b", "T a", "a = T(0.5) * tanh(T(0.5) * (z + b)) + T(0.5)"),
    "logistic": ("T z, T b", "T a", "T s = z + b, e = exp(s > T(0) ? -s : s); a = (s > T(0) ? T(1) : e) / (T(1) + e)"),
    "tanh": ("T z, T b", "T a", "a = tanh(z + b)"),
    "relu": ("T z, T b", "T a", "T s = z + b; a = s > T(0) ? s : s != s ? s : T(0)"),  # NaN stays NaN
    "leaky_relu": ("T z, T b", "T a", f"T s = z + b; a = s > T(0) ? s : T({LEAK}) * s"),
    "sigmoid_backward": ("T a, T da", "T dz", "dz = da * a * (T(1) - a)"),
    "tanh_backward": ("T a, T da", "T dz", "dz = da * (T(1) - a * a)"),
    "relu_backward": ("T a, T da", "T dz", "dz = a > T(0) ? da : T(0)"),
    "leaky_relu_backward": ("T a, T da", "T dz", f"dz = a > T(0) ? da : T({LEAK}) * da"),
    "load_slice": ("U x, T scale", "T a", "a = T(x) * scale"),
    "load_rows": ("raw U X, raw I rows, int32 d, T scale", "T a", "a = T(X[rows[i / d] * d + i % d]) * scale"),
    "binary_cross_entropy": (
        _LOSS_INPUTS,
        _LOSS_OUTPUTS,
        f"""
        T sum = 0;
        for (int j = 0; j < k; ++j) {{
            T z = Z[i * k + j], target = {_TARGET};
            sum += (z > T(0) ? z : T(0)) + log1p(exp(-(z > T(0) ? z : -z)));
            if (target != T(0)) sum -= target * z;
            Z[i * k + j] = (T(0.5) * tanh(T(0.5) * z) + T(0.5) - target) * weight;
        }}
        loss = sum * weight;
        """,
    ),
    "cross_entropy": (
        _LOSS_INPUTS,
        _LOSS_OUTPUTS,
        f"""
        T top = Z[i * k], total = 0, picked = 0;
        for (int j = 1; j < k; ++j) top = Z[i * k + j] > top ? Z[i * k + j] : top;
        for (int j = 0; j < k; ++j) {{
            T z = Z[i * k + j] - top;
            T target = {_TARGET};
            if (target != T(0)) picked += target * z;
            total += Z[i * k + j] = exp(z);
        }}
        for (int j = 0; j < k; ++j) Z[i * k + j] = (Z[i * k + j] / total - {_TARGET}) * weight;
        loss = (log(total) - picked) * weight;
        """,
    ),
    "squared_error": (
        _LOSS_INPUTS,
        _LOSS_OUTPUTS,
        f"""
        T sum = 0;
        for (int j = 0; j < k; ++j) {{
            T error = Z[i * k + j] - {_TARGET};
            sum += error * error;
            Z[i * k + j] = error * weight;
        }}
        loss = T(0.5) * sum * weight;
        """,
    ),
    "poisson": (
        _LOSS_INPUTS,
        _LOSS_OUTPUTS,
        f"""
        T sum = 0;
        for (int j = 0; j < k; ++j) {{
            T z = Z[i * k + j], target = {_TARGET}, mean = exp(z);
            sum += mean - target * z + (target > T(0) ? target * log(target) : T(0)) - target;
            Z[i * k + j] = (mean - target) * weight;
        }}
        loss = sum * weight;
        """,
    ),
    "dropout": (
        "raw uint32 key, raw uint32 ids, int32 units, uint32 threshold, T factor",
        "T a, bool keep",
        f"""
        unsigned int x = (ids[i / units] + (unsigned int)(i % units) * {GOLDEN}u) * key[0] + key[1];
        {MIX}
        keep = x >= threshold;
        a = keep ? a * factor : T(0);
        """,
    ),
    "dropout_backward": ("bool keep, T left, T factor", "T a, T da", "a *= left; da = keep ? da * factor : T(0)"),
    "count_correct": (
        "raw T Z, raw I y, int32 n, int32 k",
        "bool right",
        """
        int best = 0;
        for (int j = 1; j < k; ++j) if (Z[i * k + j] > Z[i * k + best]) best = j;
        right = (k == 1 ? Z[i] > T(0) : best) == y[i % n];
        """,
    ),
    "gradient_descent": ("T g, raw T rate", "T w", "w -= rate[0] * g"),
    "momentum": ("T g, raw T rate, T mu", "T w, T v", "v = mu * v - rate[0] * g; w += v"),
    "nesterov": ("T g, raw T rate, T mu", "T w, T v", "v = mu * v - rate[0] * g; w += mu * v - rate[0] * g"),
    "rmsprop": (
        "T g, raw T rate, T rho, T rest, T epsilon",  # rest is 1 - rho, which float32 would know to few digits
        "T w, T v",
        "v = rho * v + rest * g * g; w -= rate[0] * g / (sqrt(v) + epsilon)",
    ),
    "rprop": (
        "T g, raw T rate, float64 loss, float64 last_loss, T eta_plus, T eta_minus, T step_min, T step_max",
        "T w, T sign, T step",
        """
        T now = g != g ? g : T((g > T(0)) - (g < T(0)));
        T last = step > T(0) ? step : rate[0];
        if (sign * now < T(0)) {
            T smaller = last * eta_minus;
            step = smaller > step_min ? smaller : step_min;
            if (loss > last_loss) w += sign * last;
            sign = T(0);
        } else {
            T larger = last * eta_plus;
            step = sign * now > T(0) ? (larger < step_max ? larger : step_max) : last;
            w -= now * step;
            sign = now;
        }
        """,
    ),
    "adam": (f"T g, {_ADAM_INPUTS}", "T w, T m, T v", _ADAM + "w -= step * mean / (sqrt(square) + epsilon)"),
    "adamw": (
        f"T g, T decay, {_ADAM_INPUTS}",
        "T w, T m, T v",
        _ADAM + "w -= rate[0] * decay * w; w -= step * mean / (sqrt(square) + epsilon)",
    ),
}


@cache
def kernel(name: str, xp: Any) -> Any:
    """The compiled formula; CuPy compiles it for the types it meets, at the first call, and keeps it on disk."""
    inputs, outputs, operation = FORMULAS[name]
    return xp.ElementwiseKernel(inputs, outputs, operation, f"fcgpu_{name}")


def _forward(name: str) -> Callable[..., None]:
    def forward(Z: Any, b: Any, *, xp: Any) -> None:
        kernel(name, xp)(Z, b, Z)

    return forward


def _backward(name: str) -> Callable[..., None]:
    def backward(A: Any, dA: Any, *, xp: Any) -> None:
        kernel(name, xp)(A, dA, dA)

    return backward


def _loss(name: str) -> Callable[..., None]:
    def loss(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
        kernel(name, xp)(weight, y, len(y), Z.shape[-1], y.ndim == 2, Z, losses)

    return loss


def load_tile(X: Any, rows: Any, scale: Any, A: Any, *, xp: Any) -> None:
    if isinstance(rows, slice):
        kernel("load_slice", xp)(X[rows], scale, A)
    else:
        kernel("load_rows", xp)(X, rows, X.shape[-1], scale, A)


def dropout(A: Any, keep: Any, key: Any, ids: Any, rate: float, *, xp: Any) -> None:
    kernel("dropout", xp)(key, ids, A.shape[-1], threshold(rate), 1 / (1 - rate), A, keep)


def dropout_backward(A: Any, dA: Any, keep: Any, rate: float, *, xp: Any) -> None:
    kernel("dropout_backward", xp)(keep, 1 - rate, 1 / (1 - rate), A, dA)


def count_correct(Z: Any, y: Any, correct: Any, *, xp: Any) -> None:
    kernel("count_correct", xp)(Z, y, len(y), Z.shape[-1], correct)


def gradient_descent(w: Any, g: Any, state: Any, learning_rate: Any, *, xp: Any) -> None:
    kernel("gradient_descent", xp)(g, learning_rate, w)


def momentum(w: Any, g: Any, state: Any, learning_rate: Any, *, momentum: float, xp: Any) -> None:
    kernel("momentum", xp)(g, learning_rate, momentum, w, state.v)


def nesterov(w: Any, g: Any, state: Any, learning_rate: Any, *, momentum: float, xp: Any) -> None:
    kernel("nesterov", xp)(g, learning_rate, momentum, w, state.v)


def rmsprop(w: Any, g: Any, state: Any, learning_rate: Any, *, rho: float, epsilon: float, xp: Any) -> None:
    kernel("rmsprop", xp)(g, learning_rate, rho, 1 - rho, epsilon, w, state.v)


def rprop(
    w: Any,
    g: Any,
    state: Any,
    learning_rate: Any,
    *,
    eta_plus: float,
    eta_minus: float,
    step_min: float,
    step_max: float,
    loss: Any,
    xp: Any,
) -> None:
    sign, step, last_loss = state
    limits = eta_plus, eta_minus, step_min, step_max
    kernel("rprop", xp)(g, learning_rate, loss, last_loss, *limits, w, sign, step)
    last_loss[...] = loss


def adam(
    w: Any, g: Any, state: Any, learning_rate: Any, *, beta_1: float, beta_2: float, epsilon: float, xp: Any
) -> None:
    _adam("adam", (g,), w, state, learning_rate, beta_1, beta_2, epsilon, xp)


def adamw(
    w: Any,
    g: Any,
    state: Any,
    learning_rate: Any,
    *,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: Any,
    xp: Any,
) -> None:
    _adam("adamw", (g, weight_decay), w, state, learning_rate, beta_1, beta_2, epsilon, xp)


def _adam(
    name: str, inputs: tuple[Any, ...], w: Any, state: Any, rate: Any, b1: float, b2: float, epsilon: float, xp: Any
) -> None:
    m, v, t = state
    t += 1
    logs = log_or_minus_infinity(b1), log_or_minus_infinity(b2)
    kernel(name, xp)(*inputs, rate, t, b1, b2, *logs, epsilon, w, m, v)


FUSED = {
    **{name: _forward(name) for name in ("identity", "sigmoid", "logistic", "tanh", "relu", "leaky_relu")},
    **{name: _backward(name) for name in ("sigmoid_backward", "tanh_backward", "relu_backward", "leaky_relu_backward")},
    **{name: _loss(name) for name in ("binary_cross_entropy", "cross_entropy", "squared_error", "poisson")},
    **{f.__name__: f for f in (load_tile, dropout, dropout_backward, count_correct)},
    **{f.__name__: f for f in (gradient_descent, momentum, nesterov, rmsprop, rprop, adam, adamw)},
}
