"""JAX with jit: one compiled update for each batch, which slices the batch; the parameters' buffers are donated."""

from functools import partial

import jax
import jax.numpy as jnp

from bench import clocks

TITLE = "JAX jit"
PACKAGES = ("jax", "jaxlib")
CLOCKS = {"cpu": clocks.host, "cuda": clocks.host}


def setup(work):
    X, Y, params = features(work), jnp.asarray(work.one_hot()), parameters(work)

    def step():
        nonlocal params
        total = jnp.zeros(())
        for start in range(0, len(X), work.batch):
            params, total = update(params, total, X, Y, start, work.batch, work.learning_rate)
        return total * (work.batch / len(X))

    return step


def setup_predict(work):
    X, params = jnp.asarray(work.features()), parameters(work)
    return lambda: predict(params, X)


def features(work):
    """X in the dtype of the products. TF32, JAX's default on a GPU, is used only for precision "tf32"."""
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if work.precision == "tf32" else "highest")
    return jnp.asarray(work.features(), jnp.bfloat16 if work.precision == "bfloat16" else jnp.float32)


def parameters(work):
    return [(jnp.asarray(W, jnp.float32), jnp.asarray(b[0], jnp.float32)) for W, b in work.start]


def forward(params, A):
    for W, b in params[:-1]:
        A = jax.nn.sigmoid(A @ W.astype(A.dtype) + b.astype(A.dtype))
    W, b = params[-1]
    return (A @ W.astype(A.dtype) + b.astype(A.dtype)).astype(jnp.float32)


def loss_of(params, X, Y):
    Z = forward(params, X)
    return jnp.mean(jnp.sum(jax.nn.softplus(Z) - Y * Z, axis=1))


def descend(params, X, Y, learning_rate):
    """One step of gradient descent; returns (params, the loss before it)."""
    loss, gradient = jax.value_and_grad(loss_of)(params, X, Y)
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient), loss


@partial(jax.jit, static_argnames=("batch", "learning_rate"), donate_argnums=(0, 1))
def update(params, total, X, Y, start, batch, learning_rate):
    x = jax.lax.dynamic_slice_in_dim(X, start, batch)
    y = jax.lax.dynamic_slice_in_dim(Y, start, batch)
    params, loss = descend(params, x, y, learning_rate)
    return params, total + loss


@jax.jit
def predict(params, X):
    return jnp.argmax(forward(params, X), axis=1)
