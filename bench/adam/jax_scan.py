"""JAX with scan: a whole pass over the batches is one compiled program. JAX has no optimizers: Adam stands here."""

from functools import partial

import jax
import jax.numpy as jnp

from bench.adam import BETA_1, BETA_2, EPSILON, RATE, standardised
from bench.peers import jax_scan
from bench.peers.jax_jit import parameters

TITLE, PACKAGES, CLOCKS = jax_scan.TITLE, jax_scan.PACKAGES, jax_scan.CLOCKS


def setup(work):
    jax.config.update("jax_default_matmul_precision", "highest")  # on a GPU JAX would round to TF32
    X = jnp.asarray(standardised(work).reshape(-1, work.batch, work.X.shape[1]))
    y, params = jnp.asarray(work.y.reshape(-1, work.batch), jnp.int32), parameters(work)
    state = params, *(jax.tree.map(jnp.zeros_like, params) for _ in range(2)), jnp.zeros(())

    def step():
        nonlocal state
        state, loss = one_pass(state, X, y)
        return loss

    return step


def loss_of(params, X, y):
    for W, b in params[:-1]:
        X = jax.nn.relu(X @ W + b)
    W, b = params[-1]
    Z = X @ W + b
    return jnp.mean(jax.nn.logsumexp(Z, axis=1) - jnp.take_along_axis(Z, y[:, None], axis=1)[:, 0])


def update(state, batch):
    params, m, v, t = state
    loss, gradient = jax.value_and_grad(loss_of)(params, *batch)
    t = t + 1
    m = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, m, gradient)
    v = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, v, gradient)
    rate = RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
    params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON), params, m, v)
    return (params, m, v, t), loss


@partial(jax.jit, donate_argnums=0)
def one_pass(state, X, y):
    """Every batch of X (n_batches, batch, n_features) once; returns (state, mean loss)."""
    state, losses = jax.lax.scan(update, state, (X, y))
    return state, jnp.mean(losses)
