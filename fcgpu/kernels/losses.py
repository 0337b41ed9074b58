"""The four legal pairs of output and loss, computed from the logits Z, and the count of correct predictions.

Each loss is a function that reads the logits Z (..., n, k) and overwrites losses (..., n, 1) with weight * loss. In a
legal pair dZ = (mean - target) weight, whatever the loss, where mean is the output's prediction (Bishop 2006, 4.3.6:
canonical links); so `delta` serves all. weight is a number or (n, 1); with 1 / batch size the losses sum to their mean.
y is (n,) integers, the class of each sample (for k = 1 the target itself), or (n, k) float targets. Classes are never
expanded to one-hot.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fcgpu.kernels.activations import exp, greatest, identity, sigmoid, softmax, total


def binary_cross_entropy(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
    """Σ over outputs of softplus(z) - t z, the cross-entropy of σ(z) against t.

    softplus(z) = max(z, 0) + log1p(e^-|z|): no log(0), no overflow.
    """
    softplus = xp.abs(Z)
    xp.negative(softplus, out=softplus)
    xp.exp(softplus, out=softplus)
    xp.log1p(softplus, out=softplus)
    softplus += xp.maximum(Z, 0)
    xp.subtract(total(softplus, xp), _at_target(Z, y, xp), out=losses)
    losses *= weight


def cross_entropy(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
    """logsumexp(z) - z_y, the cross-entropy of softmax(z) against class y.

    With float targets t (n, k) that sum to one: logsumexp(z) - Σ t z.
    """
    Z = Z - greatest(Z, xp)
    losses[...] = _at_target(Z, y, xp)
    xp.exp(Z, out=Z)
    xp.subtract(xp.log(total(Z, xp)), losses, out=losses)
    losses *= weight


def squared_error(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
    """½ Σ over outputs of (z - t)²."""
    errors = Z.copy()
    _subtract_target(errors, y, xp)
    errors *= errors
    xp.multiply(total(errors, xp), 0.5, out=losses)
    losses *= weight


def poisson(Z: Any, y: Any, weight: Any, losses: Any, *, xp: Any) -> None:
    """Σ over outputs of e^z - t z + t log t - t, which is half the Poisson deviance; targets t are 0 or more.

    As t (e^d - 1 - d) with d = z - log t, or e^z for t = 0: the terms above are nearly equal for a large t.
    """
    t = y if y.ndim == 2 else y[:, None]
    d = Z - xp.log(xp.where(t > 0, t, 1))
    terms = xp.where(t > 0, t * (xp.expm1(d) - d), xp.exp(Z))
    xp.multiply(total(terms, xp), weight, out=losses)


def _at_target(Z: Any, y: Any, xp: Any) -> Any:
    """Σ over outputs of t z (..., n, 1); for a class label, the logit of that class."""
    if y.ndim == 2:
        return (Z * y).sum(axis=-1, keepdims=True)
    if Z.shape[-1] == 1:
        return Z * y[:, None]
    return Z[..., xp.arange(len(y)), y][..., None]


def _subtract_target(P: Any, y: Any, xp: Any) -> None:
    if y.ndim == 2:
        P -= y
    elif P.shape[-1] == 1:
        P -= y[:, None]
    else:
        P[..., xp.arange(len(y)), y] -= 1


def delta(mean: Callable[..., None], Z: Any, b: Any, y: Any, weight: Any, *, xp: Any) -> None:
    """Overwrite Z (..., n, k) with dZ = (mean(Z + b) - target) weight."""
    mean(Z, b, xp=xp)
    _subtract_target(Z, y, xp)
    Z *= weight


def count_correct(Z: Any, y: Any, correct: Any, *, xp: Any) -> None:
    """Overwrite correct (..., n) bool with whether the largest of the logits Z (..., n, k) is that of class y (n,).

    For k = 1, with whether z > 0 agrees with y, which is 0 or 1.
    """
    answer = Z[..., 0] > 0 if Z.shape[-1] == 1 else Z.argmax(axis=-1)
    xp.equal(answer, y, out=correct)


class Output(NamedTuple):
    prediction: str  # name of the activation that turns logits into the output
    loss: str
    measure: Callable[..., None]  # the loss, from logits
    mean: Callable[..., None]  # the same activation, but only as accurate as mean - target needs
    classifies: bool  # labels are class indices, and there is an accuracy


OUTPUTS = {
    "sigmoid": Output("logistic", "binary_cross_entropy", binary_cross_entropy, sigmoid, True),
    "softmax": Output("softmax", "cross_entropy", cross_entropy, softmax, True),
    "identity": Output("identity", "squared_error", squared_error, identity, False),
    "exp": Output("exp", "poisson", poisson, exp, False),
}

LOSSES: dict[str, Callable[..., None]] = {
    **{row.loss: row.measure for row in OUTPUTS.values()},
    **{f"{row.loss}_delta": partial(delta, row.mean) for row in OUTPUTS.values()},
}
