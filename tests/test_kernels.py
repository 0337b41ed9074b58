"""The formulas against values computed in other ways, at points where a careless formula breaks."""

import math

import numpy as np
import pytest

from fcgpu.kernels import Kernels
from fcgpu.kernels.activations import FEW_COLUMNS, HIDDEN_ACTIVATIONS, greatest
from fcgpu.kernels.losses import OUTPUTS

EPS = np.finfo(np.float64).eps
BY_HAND = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + math.exp(-z)) if z > -700 else 0.0,
    "tanh": math.tanh,
    "relu": lambda z: max(z, 0.0),
    "leaky_relu": lambda z: z if z > 0 else 0.01 * z,
}
POINTS = [0.0, -0.0, 1e-300, -1e-300, 1e-8, -1e-8, 0.5, -0.5, 3.0, -3.0, 40.0, -40.0, 700.0, -700.0, 1e4, -1e4, 1e300]


def test_a_mask_is_the_hash_written_out(backend):
    """One word at a time, in integers of any size: a seed has to mean the same masks in every version."""
    K, xp, key, ids = Kernels(backend), backend.xp, (0x9ABCDEF1, 77), (0, 1, 59_999)
    keep = xp.zeros((3, 5), dtype=bool)
    words = (xp.asarray(numbers, dtype=np.uint32) for numbers in (key, ids))
    K.dropout(xp.ones((3, 5)), keep, *words, 0.5)
    for i, sample in enumerate(ids):
        for j in range(5):
            x = ((sample + j * 0x9E3779B9) * key[0] + key[1]) % 2**32
            x = (x ^ x >> 16) * 0x7FEB352D % 2**32
            x = (x ^ x >> 15) * 0x846CA68B % 2**32
            assert keep[i, j] == ((x ^ x >> 16) >= 2**31)


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_activation_at_ordinary_and_extreme_points(name, backend):
    K, xp = Kernels(backend), backend.xp
    Z = xp.asarray([POINTS])
    getattr(K, name)(Z, xp.zeros((1, len(POINTS))))
    expected = [BY_HAND[name](z) for z in POINTS]
    np.testing.assert_allclose(backend.to_host(Z)[0], expected, rtol=4 * EPS, atol=EPS)


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_activation_adds_the_bias_and_keeps_nan(name, backend):
    K, xp = Kernels(backend), backend.xp
    Z = xp.asarray([[1.0, math.nan], [2.0, 0.5]])
    getattr(K, name)(Z, xp.asarray([[0.25, 0.0]]))
    found = backend.to_host(Z)
    np.testing.assert_allclose(found[:, 0], [BY_HAND[name](1.25), BY_HAND[name](2.25)], rtol=4 * EPS)
    assert math.isnan(found[0, 1])
    assert not math.isnan(found[1, 1])


@pytest.mark.parametrize("name", HIDDEN_ACTIVATIONS)
def test_the_derivative_from_the_output_is_the_slope_of_the_function(name, backend):
    K, xp, h = Kernels(backend), backend.xp, 1e-6
    z = np.array([[-2.0, -0.3, 0.2, 1.7]])
    A, dA, zero = xp.array(z), xp.asarray(np.full_like(z, 2.0)), xp.zeros((1, 4))
    getattr(K, name)(A, zero)
    getattr(K, f"{name}_backward")(A, dA)
    slope = [(BY_HAND[name](v + h) - BY_HAND[name](v - h)) / (2 * h) for v in z[0]]
    np.testing.assert_allclose(backend.to_host(dA)[0], 2 * np.array(slope), rtol=1e-8, atol=1e-9)


def test_softmax_sums_to_one_and_survives_large_logits(backend):
    K, xp = Kernels(backend), backend.xp
    Z = xp.asarray([[1000.0, 0.0, -1000.0], [1e300, 1e300, 0.0], [-5.0, -5.0, -5.0]])
    K.softmax(Z, xp.zeros((1, 3)))
    np.testing.assert_allclose(backend.to_host(Z), [[1, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3], rtol=2 * EPS)


@pytest.mark.parametrize("columns", [1, 2, FEW_COLUMNS, FEW_COLUMNS + 1])
def test_the_greatest_of_a_row_is_found_however_many_columns_there_are(columns, backend):
    Z = np.random.default_rng(columns).standard_normal((2, 5, columns))
    found = greatest(backend.xp.asarray(Z), backend.xp)
    np.testing.assert_array_equal(backend.to_host(found), Z.max(axis=-1, keepdims=True))


def loss_of(backend, name, Z, y, weight=1.0):
    Z, y = backend.xp.array(Z), backend.xp.asarray(y)  # Z is overwritten
    losses = backend.xp.empty((*Z.shape[:-1], 1))
    K, loss = Kernels(backend), OUTPUTS[name].loss
    getattr(K, loss)(Z, y, weight, losses)
    getattr(K, f"{loss}_delta")(Z, 0, y, weight)
    return backend.to_host(losses)[..., 0], backend.to_host(Z)


def test_cross_entropy_by_hand(backend):
    losses, dZ = loss_of(backend, "softmax", [[0.0, math.log(3.0)], [2.0, 2.0]], [1, 0])
    np.testing.assert_allclose(losses, [-math.log(0.75), math.log(2)], rtol=4 * EPS)
    np.testing.assert_allclose(dZ, [[0.25, -0.25], [-0.5, 0.5]], rtol=4 * EPS)


def test_binary_cross_entropy_by_hand(backend):
    losses, dZ = loss_of(backend, "sigmoid", [[math.log(3.0)], [0.0]], [1, 0])
    np.testing.assert_allclose(losses, [-math.log(0.75), math.log(2)], rtol=4 * EPS)
    np.testing.assert_allclose(dZ, [[-0.25], [0.5]], rtol=4 * EPS)


def test_squared_error_by_hand(backend):
    losses, dZ = loss_of(backend, "identity", [[3.0, 1.0]], [[1.0, 4.0]], 0.5)
    np.testing.assert_allclose(losses, [0.5 * 0.5 * (4 + 9)])
    np.testing.assert_allclose(dZ, [[1.0, -1.5]])


@pytest.mark.parametrize("count", [1.0, 1e6, 1e9])
def test_half_the_poisson_deviance_of_a_large_count_keeps_its_digits(count, backend):
    """In float32 the logit itself, some 20, is known to 1e-6, which is d z / z of the deviance's root."""
    Z = (np.log(count) + np.array([[0.1], [-0.5], [2.0]])).astype(np.float32)
    losses = backend.xp.empty((3, 1), np.float32)
    Kernels(backend).poisson(*map(backend.xp.asarray, (Z, np.full((3, 1), count, np.float32))), 1.0, losses)
    d = Z.astype(float) - np.log(count)
    np.testing.assert_allclose(backend.to_host(losses), count * (np.expm1(d) - d), rtol=1e-4)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_losses_neither_overflow_nor_take_the_log_of_zero(output, backend):
    losses, dZ = loss_of(backend, output, [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], [0, 0])
    assert np.isfinite(losses).all()
    assert np.isfinite(dZ).all()
    assert losses[0] < 1
    assert losses[1] == pytest.approx(2e4, rel=1e-3)


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
def test_class_indices_equal_their_one_hot_targets(output, backend):
    random = np.random.default_rng(0)
    Z, y = random.standard_normal((20, 5)), random.integers(0, 5, 20)
    by_index, by_target = loss_of(backend, output, Z, y), loss_of(backend, output, Z, np.eye(5)[y])
    for found, expected in zip(by_index, by_target, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("output", OUTPUTS)
def test_weights_scale_losses_and_gradients_and_stacks_share_targets(output, backend):
    random = np.random.default_rng(1)
    Z, y, weight = random.standard_normal((3, 6, 4)), random.integers(0, 4, 6), random.random((6, 1))
    if output == "identity":
        y = random.random((6, 4))
    stacked = loss_of(backend, output, Z, y, backend.xp.asarray(weight))
    for m in range(3):
        losses, dZ = loss_of(backend, output, Z[m], y)
        np.testing.assert_allclose(stacked[0][m], losses * weight[:, 0], rtol=1e-13)
        np.testing.assert_allclose(stacked[1][m], dZ * weight, rtol=1e-13, atol=1e-16)


def test_count_correct(backend):
    K, xp = Kernels(backend), backend.xp
    right = xp.empty((3,), dtype=bool)
    K.count_correct(xp.asarray([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), xp.asarray([1, 1, 2]), right)
    assert backend.to_host(right).tolist() == [True, False, True]
    K.count_correct(xp.asarray([[0.1], [-2.0], [-0.1]]), xp.asarray([1, 1, 0]), right)
    assert backend.to_host(right).tolist() == [True, False, True]


@pytest.mark.parametrize("rows", [slice(1, 4), np.array([3, 0, 2])])
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_load_tile_takes_rows_in_the_products_type(rows, dtype, backend):
    X = np.arange(20).reshape(5, 4).astype(dtype)
    A = backend.xp.empty((3, 4), dtype=np.float32)
    on_device = rows if isinstance(rows, slice) else backend.xp.asarray(rows)
    Kernels(backend).load_tile(backend.xp.asarray(X), on_device, A)
    np.testing.assert_array_equal(backend.to_host(A), X[rows])


def test_dense_layers_serve_stacks_of_models(backend):
    K, xp, random = Kernels(backend), backend.xp, np.random.default_rng(2)
    A, W, dZ = random.standard_normal((3, 5, 4)), random.standard_normal((3, 4, 2)), random.standard_normal((3, 5, 2))
    Z, dW, db, dA = (xp.empty(shape) for shape in ((3, 5, 2), (3, 4, 2), (3, 1, 2), (3, 5, 4)))
    K.dense_forward(xp.asarray(A), xp.asarray(W), Z)
    K.dense_backward(xp.asarray(dZ), xp.asarray(A), xp.asarray(W), xp.ones((1, 5), dtype=A.dtype), dW, db, dA)
    for m in range(3):
        np.testing.assert_allclose(backend.to_host(Z)[m], A[m] @ W[m], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(backend.to_host(dW)[m], A[m].T @ dZ[m], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(backend.to_host(db)[m, 0], dZ[m].sum(axis=0), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(backend.to_host(dA)[m], dZ[m] @ W[m].T, rtol=1e-12, atol=1e-13)
