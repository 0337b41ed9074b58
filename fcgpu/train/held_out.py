"""Samples that a run is not trained on: test samples, and those whose loss early stopping watches.

They are drawn from the seed, and stay in the order in which they were drawn, so that the first ones are of all kinds
also in a table sorted by its labels. The others keep the data's order.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from fcgpu.backend import choose, gpu_of
from fcgpu.data.dataset import Dataset
from fcgpu.errors import ConfigError, DataError
from fcgpu.host import readable
from fcgpu.train.pixels import is_mapped
from fcgpu.train.recipe import Recipe

STREAMS = {"validation_fraction": 1, "test_size": 2}  # of the seed's random numbers; 0 is that of the batches


class Part(NamedTuple):
    """Samples, with their weights (n,) and ids (n,) if they have any."""

    data: Dataset
    weights: Any = None
    ids: Any = None

    def at(self, rows: Any) -> "Part":
        data, weights, ids = self
        data = replace(data, X=data.X[rows], y=data.y[rows])
        return Part(data, weights if weights is None else weights[rows], ids if ids is None else ids[rows])


def held_out(whole: Part, recipe: Recipe, key: str, memory_budget: int | None) -> tuple[Part, Part]:
    """The samples that remain, and the share of them that the recipe's `key` holds out.

    Raises ConfigError if a part is empty, or X is left on disk for want of memory.
    """
    data, n, share = whole.data, whole.data.n_samples, getattr(recipe, key)
    option = "early_stopping" if key == "validation_fraction" else key  # what is to be left out
    if is_mapped(data.X) and data.X.nbytes > (memory_budget or choose("cpu").memory()):
        raise ConfigError(
            f"{option}={getattr(recipe, option)} copies the samples, and the {readable(data.X.nbytes)} of {data.name} "
            f"are left on disk for want of memory: raise the memory budget, or leave {option} out"
        )
    held = round(share * n)
    if not 0 < held < n:
        raise ConfigError(f"{key}={share:g} of {n} samples is {held}: expected at least one sample on each side")
    seed = np.random.SeedSequence(recipe.seed).spawn(3)[STREAMS[key]]
    order = np.random.Generator(np.random.PCG64(seed)).permutation(n)
    with gpu_of(data.X):
        rest, out = whole.at(np.sort(order[held:])), whole.at(order[:held])
    if rest.weights is not None and not (np.any(rest.weights) and np.any(out.weights)):
        raise DataError(
            f"{data.name}: all sample_weight of the {held} samples held out, or of the others, are 0: give another "
            f"seed or {key}, or leave {option} out"
        )
    return rest, out


def with_test_samples(whole: Part, recipe: Recipe, memory_budget: int | None = None) -> Part:
    """The samples; without those that the recipe's test_size holds out, which are the data's test samples.

    Raises ConfigError if the data have test samples of their own.
    """
    if not recipe.test_size:
        return whole
    if whole.data.X_test is not None:
        raise ConfigError(
            f"test_size={recipe.test_size:g}: {whole.data.name} has test samples of its own: leave test_size out"
        )
    rest, out = held_out(whole, recipe, "test_size", memory_budget)
    return rest._replace(data=replace(rest.data, X_test=out.data.X, y_test=out.data.y))
