"""JAX with scan: a whole pass over the batches is one compiled program."""

from functools import partial

import jax
import jax.numpy as jnp

from bench import clocks
from bench.peers.jax_jit import descend, features, parameters

TITLE = "JAX scan"
PACKAGES = ("jax", "jaxlib")
CLOCKS = {"cpu": clocks.host, "cuda": clocks.host}


def setup(work):
    X = features(work).reshape(-1, work.batch, work.X.shape[1])
    Y = jnp.asarray(work.one_hot()).reshape(len(X), work.batch, -1)
    params = parameters(work)

    def step():
        nonlocal params
        params, loss = one_pass(params, X, Y, work.learning_rate)
        return loss

    return step


@partial(jax.jit, static_argnames="learning_rate", donate_argnums=0)
def one_pass(params, X, Y, learning_rate):
    """Every batch of X (n_batches, batch, n_features) once; returns (params, mean loss)."""
    params, losses = jax.lax.scan(lambda params, batch: descend(params, *batch, learning_rate), params, (X, Y))
    return params, jnp.mean(losses)
