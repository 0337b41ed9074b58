"""One step of each first-order rule, in place on the flat vectors.

`update(w, g, state, learning_rate, **hyperparameters)` updates w (..., n_params) and the arrays of `state` in place. It
may overwrite the gradient g as scratch, which saves most rules a temporary vector. learning_rate is (1,), of w's dtype,
on the device, so that a captured graph reads the current value and not the one at capture. A rule with `needs_loss` is
also passed the loss of the same batch, float64 on the device: () or, for a stack of models, (..., 1).

Every array of a state starts at zero, with the shape and dtype of w; those named in SCALARS are (1,) float64.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels.blas import axpby


class NoState(NamedTuple):
    """Gradient descent has no state."""


class Velocity(NamedTuple):
    v: Any  # (..., n_params), the velocity


class MeanSquare(NamedTuple):
    v: Any  # (..., n_params), running mean of g²


class Moments(NamedTuple):
    m: Any  # (..., n_params), running mean of g
    v: Any  # (..., n_params), running mean of g²
    t: Any  # (1,) float64, steps taken


class Signs(NamedTuple):
    sign: Any  # (..., n_params), sign of the last gradient; 0 where it had changed, and before the first step
    step: Any  # (..., n_params), step size of each parameter; 0 before the first step
    loss: Any  # (1,) float64, loss of the last batch; for a stack (..., 1)


SCALARS = ("t", "loss")


def gradient_descent(w: Any, g: Any, state: NoState, learning_rate: Any, *, xp: Any) -> None:
    """w ← w - η g."""
    axpby(-learning_rate, g, 1, w)


def momentum(w: Any, g: Any, state: Velocity, learning_rate: Any, *, momentum: float, xp: Any) -> None:
    """v ← μ v - η g;  w ← w + v  (Polyak 1964)."""
    axpby(-learning_rate, g, momentum, state.v)
    w += state.v


def nesterov(w: Any, g: Any, state: Velocity, learning_rate: Any, *, momentum: float, xp: Any) -> None:
    """v ← μ v - η g;  w ← w + μ v - η g  (Sutskever et al. 2013, in the variables of Bengio et al. 2012)."""
    axpby(-learning_rate, g, momentum, state.v)
    axpby(momentum, state.v, -learning_rate, g)
    w += g


def rmsprop(w: Any, g: Any, state: MeanSquare, learning_rate: Any, *, rho: float, epsilon: float, xp: Any) -> None:
    """v ← ρ v + (1-ρ) g²;  w ← w - η g / (√v + ε)  (Tieleman and Hinton 2012)."""
    axpby(1 - rho, g * g, rho, state.v)
    g /= xp.sqrt(state.v) + epsilon
    axpby(-learning_rate, g, 1, w)


def adam(
    w: Any, g: Any, state: Moments, learning_rate: Any, *, beta_1: float, beta_2: float, epsilon: float, xp: Any
) -> None:
    """m ← β₁ m + (1-β₁) g;  v ← β₂ v + (1-β₂) g²;  w ← w - η_t m / (√v + ε)  (Kingma and Ba 2015).

    η_t = η √(1-β₂ᵗ) / (1-β₁ᵗ): the order of computation that the end of their section 2 recommends, and scikit-learn's.
    """
    m, v, t = state
    t += 1
    axpby(1 - beta_1, g, beta_1, m)
    g *= g
    axpby(1 - beta_2, g, beta_2, v)
    xp.sqrt(v, out=g)
    g += epsilon
    xp.divide(m, g, out=g)
    eta_t = learning_rate * xp.sqrt(one_minus_power(beta_2, t, xp)) / one_minus_power(beta_1, t, xp)
    axpby(-eta_t.astype(w.dtype), g, 1, w)


def adamw(
    w: Any,
    g: Any,
    state: Moments,
    learning_rate: Any,
    *,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    weight_decay: Any,
    xp: Any,
) -> None:
    """w ← w - η λ w, then Adam (Loshchilov and Hutter 2019). weight_decay is λ, (n_params,), 0 for biases."""
    w -= learning_rate * weight_decay * w
    adam(w, g, state, learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, xp=xp)


def rprop(
    w: Any,
    g: Any,
    state: Signs,
    learning_rate: Any,
    *,
    eta_plus: float,
    eta_minus: float,
    step_min: float,
    step_max: float,
    loss: Any,
    xp: Any,
) -> None:
    """iRprop+ (Igel and Hüsken 2000): w ← w - sign(g) Δ, with a step size Δ of each parameter. For full batches.

    Where g has the same sign as in the last step, Δ is multiplied by η₊, up to step_max. Where the sign has changed, Δ
    is multiplied by η₋, down to step_min, and w is not moved, or its last change is undone if the loss rose. Δ starts
    at the learning rate, which has no effect afterwards. step_min must be above 0.
    """
    sign, step, last_loss = state
    xp.sign(g, out=g)
    same, turned = sign * g > 0, sign * g < 0
    last = xp.where(step > 0, step, learning_rate)  # the last change of w was -sign * last
    step[...] = xp.where(same, xp.minimum(last * eta_plus, step_max), last)
    step[...] = xp.where(turned, xp.maximum(last * eta_minus, step_min), step)
    w += xp.where(turned, xp.where(loss > last_loss, sign * last, 0), -g * step)
    sign[...] = xp.where(turned, 0, g)
    last_loss[...] = loss


def log_or_minus_infinity(beta: float) -> float:
    return math.log(beta) if beta else -math.inf


def one_minus_power(beta: float, t: Any, xp: Any) -> Any:
    """1 - βᵗ without cancellation, which costs float32 five digits if β is near 1."""
    return -xp.expm1(t * log_or_minus_infinity(beta))


def add_l2(W: Any, dW: Any, alpha: float, share: Any, penalty: Any, *, xp: Any) -> None:
    """dW ← dW + α W / m and penalty ← penalty + ½ α Σ W² / m, for the weights W (n_in, n_out) of a layer.

    penalty is (); share is 1 / m, a number or an array of one, where m is the number of samples of the batch or the sum
    of their weights.
    """
    pull = alpha * share
    axpby(pull, W, 1, dW)
    penalty += 0.5 * pull * xp.vdot(W, W)


def clip_by_norm(g: Any, limit: float, *, xp: Any) -> None:
    """g ← g · limit / max(‖g‖, limit): the global norm becomes at most `limit` (Pascanu et al. 2013).

    Where its square is more than g's dtype holds, as that of 1.8e19 is in float32, it is computed in float64.
    """
    with np.errstate(over="ignore"):
        squares = xp.matmul(g[..., None, :], g[..., None])[..., 0]
    if not xp.isfinite(squares).all():
        squares = xp.sum(xp.multiply(g, g, dtype=np.float64), axis=-1, keepdims=True)
    norm = xp.sqrt(squares, dtype=np.float64)
    g *= (limit / xp.maximum(norm, limit)).astype(g.dtype)


class Update(NamedTuple):
    update: Callable[..., None]
    state: Any
    defaults: Mapping[str, float]  # hyperparameters other than the learning rate
    needs_loss: bool = False


_RPROP = {"eta_plus": 1.2, "eta_minus": 0.5, "step_min": 1e-6, "step_max": 50.0}  # the paper's, but step_min was 0
_ADAM = {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}
UPDATES = {
    "gradient_descent": Update(gradient_descent, NoState, {}),
    "momentum": Update(momentum, Velocity, {"momentum": 0.9}),
    "nesterov": Update(nesterov, Velocity, {"momentum": 0.9}),
    "rmsprop": Update(rmsprop, MeanSquare, {"rho": 0.9, "epsilon": 1e-8}),
    "rprop": Update(rprop, Signs, _RPROP, needs_loss=True),
    "adam": Update(adam, Moments, _ADAM),
    "adamw": Update(adamw, Moments, {**_ADAM, "weight_decay": 0.01}),
}
