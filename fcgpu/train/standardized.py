"""Features, and the targets of a regression, at mean 0 and standard deviation 1, from which a network learns best.

    X̃ = (X - μ) / σ    each feature with its own μ and σ
    ỹ = (y - m) / s    each target with its own m, all with one s: the loss of y is s² times that of ỹ

A network trained on X̃ and ỹ is one for X and y as they are, with other parameters in its first and last layer:

    W₁ = W̃₁ / σ,  b₁ = b̃₁ - μ W₁        W_L = s W̃_L,  b_L = s b̃_L + m

So a Model knows nothing of this. A feature that does not vary has no σ; 1 / σ is 0 in its place, and so are its
weights. The features of pictures are left as they are: they have one scale for all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcgpu.backend import Backend, as_numpy, beside, choose, namespace_of
from fcgpu.data.dataset import Dataset
from fcgpu.errors import ConfigError, DataError
from fcgpu.params import Spec
from fcgpu.train.converted import Converted
from fcgpu.train.pixels import is_mapped
from fcgpu.train.plan import readable
from fcgpu.train.recipe import Recipe

AT_ONCE, GPU_AT_ONCE = 1 << 16, 1 << 26  # numbers that are converted to float64 at a time
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
    """

    mean: Any = None
    rate: Any = None
    target_mean: Any = None
    target_std: float = 1.0

    def features(self, X: Any, dtype: str, backend: Backend, threads: int) -> Any:
        """X̃ as a run takes it: on the CPU a Standardized, for a GPU an array where X (n, n_features) is.

        Raises ConfigError if that array would exceed the host's memory.
        """
        if backend.holds(X):
            with backend.current():
                mean, rate = backend.xp.asarray(self.mean), backend.xp.asarray(self.rate)
                return _transformed(X, mean, rate, dtype)
        made = Standardized(X, dtype, self.mean, self.rate)
        if not backend.on_gpu:
            return made
        if is_mapped(X) and made.nbytes > choose("cpu").memory():
            raise ConfigError(
                f"standardize=True copies X for a GPU, and {readable(made.nbytes)} are more than the host has memory "
                "for: leave standardize out, or use device='cpu'"
            )
        return made.copy(threads)

    def targets(self, y: Any) -> Any:
        """ỹ in the dtype of y (n, n_outputs); y itself where targets are left as they are."""
        return y if self.target_mean is None else ((y - self.target_mean) / self.target_std).astype(y.dtype)

    def folded(self, spec: Spec, params: Any) -> Any:
        """The parameters (n_params,) for X and y, from those for X̃ and ỹ and in their dtype."""
        exact = params.astype(np.float64)
        layers = spec.layers(exact)
        if self.mean is not None:
            W, b = layers[0]
            W *= self.rate[:, None]
            b -= (self.mean[:, None] * W).sum(axis=0)
        if self.target_mean is not None:
            W, b = layers[-1]
            W *= self.target_std
            b *= self.target_std
            b += self.target_mean
        return exact.astype(params.dtype)


def standardization(recipe: Recipe, data: Dataset, y: Any, weights: Any) -> Standardization:
    """What the recipe standardizes of `data`'s features and of y (n, ...), with weights (n,) or None for equal ones.

    Raises DataError for numbers whose squares overflow, and for those so far from 0, in standard deviations, that the
    recipe's dtype cannot tell them apart.
    """
    if not recipe.standardize:
        return Standardization()
    n = data.n_samples
    shares = np.full(n, 1 / n) if weights is None else weights / np.sum(weights, dtype=float)
    mean = rate = target_mean = None
    target_std = 1.0
    if not data.are_pictures:
        mean, variance = _moments(data.X, shares)
        rate = _rate(mean, variance, n)
        _check(f"{data.name}: feature", mean, variance, rate, recipe.dtype)
    if recipe.output == "identity":
        target_mean, variance = _moments(y, shares)
        target_rate = _rate(target_mean, variance, n)
        _check(f"{data.name}: target", target_mean, variance, target_rate, recipe.dtype)
        target_std = float(variance.mean()) ** 0.5 if target_rate.any() else 1.0
    return Standardization(mean, rate, target_mean, target_std)


def refuse_unused(keys: Iterable[str], recipe: Recipe, data: Dataset) -> None:
    """Raise ConfigError if `standardize` or `scale` is among the keys that were given, and changes nothing."""
    if not recipe.standardize:
        return
    if "standardize" in keys and data.are_pictures and recipe.output != "identity":
        raise ConfigError(f"standardize=True changes nothing for pictures, as in {data.name}: they have one scale")
    if "scale" in keys and not data.are_pictures:
        raise ConfigError(f"scale={recipe.scale:g} changes nothing with standardize=True: leave one of them out")


def _check(what: str, mean: Any, variance: Any, rate: Any, dtype: str) -> None:
    if not (finite := np.isfinite(variance)).all():
        raise DataError(f"{what} {finite.argmin()} is too large to be squared: divide it")
    far = abs(mean) * rate
    i = far.argmax()
    if far[i] * np.finfo(dtype).eps > LOST:
        wider = ", or use dtype='float64'" if dtype == "float32" else ""
        raise DataError(
            f"{what} {i} lies {far[i]:.3g} standard deviations from 0, too far for standardize in {dtype}: subtract "
            f"{mean[i]:.6g} from it{wider}"
        )


def _rate(mean: Any, variance: Any, n: int) -> Any:
    """1 / σ of columns; 0 of those that vary by no more than the rounding error of their mean, that of n numbers."""
    std = np.sqrt(variance)
    varies = std > n * np.finfo(float).eps * abs(mean)
    return np.where(varies, 1 / np.where(varies, std, 1), 0.0)


def _moments(X: Any, shares: Any) -> tuple[Any, Any]:
    """Mean and variance (n_columns,) of X (n, n_columns) on any device, weighted by `shares` (n,), which sum to 1.

    Block by block, in one pass: those of two parts give those of the whole (Chan, Golub and LeVeque 1979). Not by BLAS,
    whose order of sums depends on its threads.
    """
    xp = namespace_of(X)
    total, mean, variance = 0.0, 0.0, 0.0  # variance is that of the whole times its total share
    with beside(X), np.errstate(all="ignore"):  # squares that overflow are an error of their own
        for rows in _blocks(X, xp):
            if not (part := float(shares[rows].sum())):
                continue
            weights, A = xp.asarray(shares[rows, None]), X[rows].astype(np.float64)
            its_mean = (weights * A).sum(axis=0) * (1 / part)
            A -= its_mean
            A *= A
            A *= weights
            apart = its_mean - mean
            variance = variance + A.sum(axis=0) + apart * apart * (total * part / (total + part))
            total += part
            mean = mean + apart * (part / total)
    return as_numpy(mean), as_numpy(variance)


def _transformed(X: Any, mean: Any, rate: Any, dtype: Any) -> Any:
    """(X - mean) rate in `dtype`, on X's device, where mean and rate must be."""
    xp = namespace_of(X)
    made = xp.empty(X.shape, dtype)
    for rows in _blocks(X, xp):
        made[rows] = (X[rows] - mean) * rate
    return made


def _blocks(X: Any, xp: Any) -> list[slice]:
    rows = max(1, (AT_ONCE if xp is np else GPU_AT_ONCE) // X.shape[1])
    return [slice(start, start + rows) for start in range(0, X.shape[0], rows)]
