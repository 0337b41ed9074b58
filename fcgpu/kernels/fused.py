"""CuPy variants of activations, for predictions, and of update rules. Each is one launch; the reference needs several.

`FORMULAS` holds the CUDA C++ as data: (inputs, outputs, operation), in the notation of cupy.ElementwiseKernel. So a
test can compile the same text for the CPU and compare its values with the reference's. In a formula `i` is the flat
index, a `raw` array is indexed explicitly, and T is the type of the arrays.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from fcgpu.kernels.expressions import G
from fcgpu.kernels.updates import log_or_minus_infinity

# A rest is 1 - β, computed in float64: in float32 it would lose the digits that β has in common with 1.
_ADAM_INPUTS = (
    "raw T rate, raw float64 t, T beta_1, T beta_2, T rest_1, T rest_2, T log_beta_1, T log_beta_2, T epsilon"
)
ADAM_RATE = "T eta_t = rate[0] * sqrt(-expm1(T(t[0]) * log_beta_2)) / -expm1(T(t[0]) * log_beta_1);"
_ADAM = f"""
    T mean = beta_1 * m + rest_1 * g;
    T square = beta_2 * v + rest_2 * g * g;
    {ADAM_RATE}
    m = mean;
    v = square;
"""

FORMULAS = {
    **{name: ("T Z, T b", "T A", f"T z = Z + b; A = {g}") for name, g in G.items()},
    "logistic": ("T Z, T b", "T A", "T z = Z + b, e = exp(z > T(0) ? -z : z); A = (z > T(0) ? T(1) : e) / (T(1) + e)"),
    "gradient_descent": ("T g, raw T rate", "T w", "w -= rate[0] * g"),
    "momentum": ("T g, raw T rate, T mu", "T w, T v", "v = mu * v - rate[0] * g; w += v"),
    "nesterov": ("T g, raw T rate, T mu", "T w, T v", "v = mu * v - rate[0] * g; w += mu * v - rate[0] * g"),
    "rmsprop": (
        "T g, raw T rate, T rho, T rest, T epsilon",
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
    "adam": (f"T g, {_ADAM_INPUTS}", "T w, T m, T v", _ADAM + "w -= eta_t * mean / (sqrt(square) + epsilon)"),
    "adamw": (
        f"T g, T decay, {_ADAM_INPUTS}",
        "T w, T m, T v",
        _ADAM + "w -= rate[0] * decay * w; w -= eta_t * mean / (sqrt(square) + epsilon)",
    ),
}


@cache
def kernel(name: str, xp: Any) -> Any:
    """The formula as a kernel. CuPy compiles it at the first call with each combination of types, and caches it."""
    inputs, outputs, operation = FORMULAS[name]
    return xp.ElementwiseKernel(inputs, outputs, operation, f"fcgpu_{name}")


def _forward(name: str) -> Callable[..., None]:
    def forward(Z: Any, b: Any, *, xp: Any) -> None:
        kernel(name, xp)(Z, b, Z)

    return forward


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
    """Unlike the reference, this reads the step in state.t, which `device.end_step` has counted."""
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
    """As `adam`, the caller has counted the step."""
    _adam("adamw", (g, weight_decay), w, state, learning_rate, beta_1, beta_2, epsilon, xp)


def _adam(
    name: str, inputs: tuple[Any, ...], w: Any, state: Any, rate: Any, b1: float, b2: float, epsilon: float, xp: Any
) -> None:
    m, v, t = state
    logs = log_or_minus_infinity(b1), log_or_minus_infinity(b2)
    kernel(name, xp)(*inputs, rate, t, b1, b2, 1 - b1, 1 - b2, *logs, epsilon, w, m, v)


ACTIVATIONS: dict[str, Callable[..., None]] = {name: _forward(name) for name in (*G, "logistic")}
RULES: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (gradient_descent, momentum, nesterov, rmsprop, rprop, adam, adamw)
}
