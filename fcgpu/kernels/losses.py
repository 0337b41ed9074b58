"""The four legal pairs of output and loss, computed from the logits Z, and the count of right answers.

`loss(Z, y, weight, losses)` overwrites the logits Z (..., n, k) with dZ = (prediction - target) * weight, and
losses (..., n, 1) with weight * loss. weight is a number or (n, 1): 1 / batch size makes the sum of losses the mean.
y is (n,) whole numbers, the class of each sample (for k = 1 the target itself), or (n, k) float targets; a class is
never expanded to one-hot.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from fcgpu.kernels.activations import greatest, total


def binary_cross_entropy(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
    """Σ over outputs of softplus(z) - t z, the cross-entropy of σ(z) against t; dZ = (σ(z) - t) weight.

    softplus(z) = max(z, 0) + log1p(e^-|z|): no log(0), no overflow.
    """
    softplus = xp.abs(Z)
    xp.negative(softplus, out=softplus)
    xp.exp(softplus, out=softplus)
    xp.log1p(softplus, out=softplus)
    softplus += xp.maximum(Z, 0)
    softplus.sum(axis=-1, keepdims=True, out=losses)
    if y.ndim == 2:
        losses -= (Z * y).sum(axis=-1, keepdims=True)
    elif Z.shape[-1] == 1:
        losses -= Z * y[:, None]
    else:
        losses[..., 0] -= Z[..., xp.arange(len(y)), y]
    Z *= 0.5
    xp.tanh(Z, out=Z)
    Z += 1
    Z *= 0.5
    _subtract_target(Z, y, xp)
    losses *= weight
    Z *= weight


def cross_entropy(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
    """logsumexp(z) - z_y, the cross-entropy of softmax(z) against class y; dZ = (softmax(z) - onehot(y)) weight.

    With float targets t (n, k) that sum to one: logsumexp(z) - Σ t z.
    """
    Z -= greatest(Z, xp)
    if y.ndim == 2:
        xp.sum(Z * y, axis=-1, keepdims=True, out=losses)
    else:
        losses[..., 0] = Z[..., xp.arange(len(y)), y]
    xp.exp(Z, out=Z)
    sums = total(Z, xp)
    Z /= sums
    xp.subtract(xp.log(sums), losses, out=losses)
    _subtract_target(Z, y, xp)
    losses *= weight
    Z *= weight


def squared_error(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
    """½ Σ over outputs of (z - t)²; dZ = (z - t) weight."""
    _subtract_target(Z, y, xp)
    xp.sum(Z * Z, axis=-1, keepdims=True, out=losses)
    losses *= 0.5
    losses *= weight
    Z *= weight


def poisson(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
    """Σ over outputs of e^z - t z + t log t - t, half the Poisson deviance, t >= 0; dZ = (e^z - t) weight."""
    t = y if y.ndim == 2 else y[:, None]
    constant = t * xp.log(xp.where(t > 0, t, 1)) - t
    product = Z * t
    xp.exp(Z, out=Z)
    xp.sum(Z - product + constant, axis=-1, keepdims=True, out=losses)
    Z -= t
    losses *= weight
    Z *= weight


def _subtract_target(P: Any, y: Any, xp: Any) -> None:
    if y.ndim == 2:
        P -= y
    elif P.shape[-1] == 1:
        P -= y[:, None]
    else:
        P[..., xp.arange(len(y)), y] -= 1


def count_correct(Z: Any, y: Any, correct: Any, *, xp: Any) -> None:
    """Overwrite correct (..., n) bool: is the greatest of the logits Z (..., n, k) that of class y (n,)?

    For k = 1: is z > 0 as y, 0 or 1, says?
    """
    answer = Z[..., 0] > 0 if Z.shape[-1] == 1 else Z.argmax(axis=-1)
    xp.equal(answer, y, out=correct)


class Output(NamedTuple):
    prediction: str  # what makes the output of a logit
    loss: str
    loss_function: Callable[..., None]
    classifies: bool  # accuracy means something, labels are class indices


OUTPUTS = {
    "sigmoid": Output("logistic", "binary_cross_entropy", binary_cross_entropy, True),
    "softmax": Output("softmax", "cross_entropy", cross_entropy, True),
    "identity": Output("identity", "squared_error", squared_error, False),
    "exp": Output("exp", "poisson", poisson, False),
}
