"""Features, and the targets of a regression, at mean 0 and standard deviation 1, from which a network learns best.

    X̃ = (X - μ) / σ    each feature with its own μ and σ
    ỹ = (y - m) / s    each target with its own m, all with one s: the loss of y is s² times that of ỹ

A network trained on X̃ and ỹ is one for X and y as they are, with other parameters in its first and last layer:

    W₁ = W̃₁ / σ,  b₁ = b̃₁ - μ W₁        W_L = s W̃_L,  b_L = s b̃_L + m

Counts, whose logarithm the network computes, are divided by the mean c of all: ỹ = y / c, b_L = b̃_L + log c, and the
loss of y is c times that of ỹ.

So a Model knows nothing of this. A feature that does not vary has no σ; 1 / σ is 0 in its place, and so are its
weights. Of one that seldom varies, as a year that is nearly always the same, σ may be too small for the run's dtype, in
which X W₁ and b₁ are added; it is then what the dtype can tell apart at μ, over LOST. The features of pictures are left
as they are: they have one scale for all.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fcgpu.backend import Backend, as_numpy, choose, namespace_of
from fcgpu.data.dataset import Dataset, targets
from fcgpu.data.features import parts
from fcgpu.errors import ConfigError, DataError
from fcgpu.host import readable
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.model import weighted_sum
from fcgpu.params import Spec, aligned
from fcgpu.train.converted import Converted
from fcgpu.train.recipe import Recipe

AT_ONCE, GPU_AT_ONCE = 1 << 16, 1 << 24  # numbers that are converted to float64 at a time
LOST = 0.01  # greatest rounding error of a model's inputs, in standard deviations


class Standardized(Converted):
    """X̃ (n, n_features) in `dtype`, from X on the host."""

    def __init__(self, X: Any, dtype: Any, mean: Any, rate: Any) -> None:
        super().__init__(X, dtype)
        self._mean, self._rate = mean, rate

    def __getitem__(self, rows: Any) -> Any:
        return _transformed(self.X[rows], self._mean, self._rate, self.dtype)


@dataclass(frozen=True, eq=False)
class Standardization:
    """What is standardized; all numbers are float64, on the host.

    mean, rate : μ and 1 / σ, (n_features,) each; None where features are left as they are.
    target_mean, target_std : m (n_outputs,) and s; None and 1 where targets are left as they are.
    count : c; 1 for targets that are not counts.
    """

    mean: Any = None
    rate: Any = None
    target_mean: Any = None
    target_std: float = 1.0
    count: float = 1.0

    @property
    def loss_unit(self) -> float:
        """The loss of y over that of ỹ."""
        return self.target_std**2 * self.count

    def features(self, X: Any, dtype: str, backend: Backend, threads: int) -> Any:
        """X̃ as a run takes it: on the CPU a Standardized, for a GPU, the current one, an array where X (n, n_features)
        is.

        Raises ConfigError if that array would exceed the host's memory.
        """
        if backend.holds(X):
            return _transformed(X, backend.xp.asarray(self.mean), backend.xp.asarray(self.rate), dtype)
        made = Standardized(X, dtype, self.mean, self.rate)
        if not backend.on_gpu:
            return made
        if made.nbytes > choose("cpu").memory():
            raise ConfigError(
                f"standardize=True copies X for a GPU, and {readable(made.nbytes)} are more than the host has memory "
                "for: leave standardize out, or use device='cpu'"
            )
        return made.copy(threads)

    def targets(self, y: Any, dtype: str) -> Any:
        """ỹ (n, n_outputs) in `dtype`."""
        return ((y - self.target_mean) / (self.target_std * self.count)).astype(dtype)

    def folded(self, spec: Spec, params: Any) -> Any:
        """The parameters (n_params,) for X and y, from those for X̃ and ỹ and in their dtype."""
        exact = params.astype(np.float64)
        layers = spec.layers(exact)
        if self.mean is not None:
            W, b = layers[0]
            W *= self.rate[:, None]
            b -= weighted_sum(self.mean, W)
        if self.target_mean is not None:
            W, b = layers[-1]
            W *= self.target_std
            b *= self.target_std
            b += self.target_mean + math.log(self.count)
        with np.errstate(all="ignore"):  # what float32 cannot hold is found by the check for infinities
            folded = aligned(params.size, params.dtype)
            folded[...] = exact
            return folded


def with_a_scale(data: Dataset, recipe: Recipe) -> Dataset:
    """The data; pictures without a scale, if the recipe standardizes, with the one that brings them to 1 or less."""
    if not recipe.standardize or not _lack_a_scale(data, recipe):
        return data
    return replace(data, scale=1 / max(1.0, float(namespace_of(data.X).max(data.X))))


def _lack_a_scale(data: Dataset, recipe: Recipe) -> bool:
    return data.are_pictures and data.scale == 1 and not recipe.scale


def standardization(recipe: Recipe, data: Dataset, weights: Any) -> Standardization:
    """What the recipe standardizes of the data, with weights (n,) or None for equal ones.

    Raises DataError for numbers that the recipe's dtype, or their squares float64, cannot hold or tell apart.
    """
    if not recipe.standardize:
        return Standardization()
    n = data.n_samples
    shares = np.full(n, 1 / n) if weights is None else weights / np.sum(weights, dtype=float)
    mean = rate = target_mean = None
    target_std = count = 1.0
    if not data.are_pictures:
        mean, std = _measured(f"{data.name}: feature", data.X, shares, recipe.dtype)
        rate = np.where(std > 0, 1 / np.where(std > 0, std, 1), 0.0)
    if recipe.output == "identity":
        target_mean, std = _measured(f"{data.name}: target", targets(data, data.y), shares, recipe.dtype)
        target_std = float(np.mean(std * std)) ** 0.5 or 1.0
    if recipe.output == "exp":
        y = targets(data, data.y).astype(np.float64)
        target_mean, count = np.zeros(y.shape[1]), float(weighted_sum(shares, y).mean()) or 1.0
    return Standardization(mean, rate, target_mean, target_std, count)


def unused(keys: Iterable[str], recipe: Recipe, data: Dataset) -> Iterator[str]:
    """A sentence for `standardize` and for `scale`, if it is among the keys and changes nothing for these data."""
    if not recipe.standardize:
        return
    has_one = data.are_pictures and not _lack_a_scale(data, recipe)
    if "standardize" in keys and has_one and OUTPUTS[recipe.output].classifies:
        yield f"standardize=True changes nothing for pictures, as in {data.name}, which have one scale: leave it out"
    if "scale" in keys and recipe.scale and not data.are_pictures:
        yield f"scale={recipe.scale:g} changes nothing with standardize=True: leave it out, or use standardize=False"


def _measured(what: str, A: Any, shares: Any, dtype: str) -> tuple[Any, Any]:
    """Mean and σ (n_columns,) of A (n, n_columns); σ is 0 for a column that varies by no more than the rounding error
    of the mean of n numbers.

    Raises DataError, which begins with `what` and the column's number.
    """
    mean, variance, reach = _moments(A, shares)
    std, limits = np.sqrt(variance), np.finfo(dtype)
    constant = np.maximum(std, reach) <= len(shares) * np.finfo(float).eps * abs(mean)
    if (large := ~(np.isfinite(variance) & (abs(mean) <= limits.max - reach))).any():
        raise DataError(f"{what} {large.argmax()} is too large for standardize in {dtype}: divide it")
    if (small := ~constant & (std < max(limits.tiny, np.finfo(float).tiny ** 0.5))).any():
        raise DataError(f"{what} {small.argmax()} is too small for standardize in {dtype}: multiply it")
    least = abs(mean) * limits.eps / LOST
    if (near := ~constant & (np.maximum(std, reach) < least)).any():
        i = near.argmax()
        wider = ", or use dtype='float64'" if dtype == "float32" else ""
        raise DataError(
            f"{what} {i} lies {abs(mean[i]) / std[i]:.3g} standard deviations from 0, too far for standardize in "
            f"{dtype}: subtract {mean[i]:.6g} from it{wider}"
        )
    return mean, np.where(constant, 0.0, np.maximum(std, least))


def _moments(X: Any, shares: Any) -> tuple[Any, Any, Any]:
    """Mean and variance of X (n, n_columns), on the host or the current GPU, weighted by `shares` (n,), which sum to 1;
    and how far a number lies at most from the mean of its block. Each is (n_columns,), on the host.

    Block by block, in one pass: mean and variance of two parts give those of the whole (Chan, Golub and LeVeque 1979).
    """
    xp = namespace_of(X)
    total, mean, variance, reach = 0.0, 0.0, 0.0, 0.0  # variance is that of the whole times its total share
    with np.errstate(all="ignore"):  # squares that overflow are an error of their own
        for rows in _blocks(X, xp):
            if not (part := float(shares[rows].sum())):
                continue
            weights, A = xp.asarray(shares[rows]), X[rows].astype(np.float64, "C")
            its_mean = weighted_sum(weights, A) * (1 / part)
            A -= its_mean
            A *= xp.asarray(shares[rows, None] > 0)  # samples without weight do not count
            reach = xp.maximum(xp.max(xp.abs(A), axis=0), reach)
            A *= A
            apart = its_mean - mean
            variance = variance + weighted_sum(weights, A) + apart * apart * (total * part / (total + part))
            total += part
            mean = mean + apart * (part / total)
    return as_numpy(mean), as_numpy(variance), as_numpy(reach)


def _transformed(X: Any, mean: Any, rate: Any, dtype: Any) -> Any:
    """(X - mean) rate in `dtype`, on X's device, where mean and rate must be."""
    xp = namespace_of(X)
    made = xp.empty(X.shape, dtype)
    for rows in _blocks(X, xp):
        made[rows] = (X[rows] - mean) * rate
    return made


def _blocks(X: Any, xp: Any) -> Iterator[slice]:
    return parts(X.shape, AT_ONCE if xp is np else GPU_AT_ONCE)
