"""Each first-order rule in four ways: against plain formulas, bit-equal in two runs, on a quadratic, one property.

Tolerance of the comparison: in float64, some 20 roundings in each of 30 steps, so 1e-13 for values near 1.
"""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from fcgpu.kernels import REFERENCE
from fcgpu.kernels.updates import UPDATES
from fcgpu.optim.first_order import FirstOrder

KERNELS = SimpleNamespace(**{name: partial(f, xp=np) for name, f in REFERENCE.items()})
RATE = 0.05


FIRST_ORDER = [name for name in UPDATES if name != "rprop"]  # rprop needs the loss and has its own tests


def rule(name, w, **options):
    made = FirstOrder(name, w, KERNELS, np, **options)
    made.learning_rate.fill(RATE)
    return made


def no_loss():
    """An evaluation whose gradient is already computed."""
    return 0.0


def written_out(name, w, gradient, steps, decay=0.0):
    """Each rule as in its paper, for one weight, in plain floats."""
    v = m = 0.0
    for t in range(1, steps + 1):
        g = gradient(w)
        if name == "gradient_descent":
            w = w - RATE * g
        elif name == "momentum":
            v = 0.9 * v - RATE * g
            w = w + v
        elif name == "nesterov":
            v = 0.9 * v - RATE * g
            w = w + 0.9 * v - RATE * g
        elif name == "rmsprop":
            v = 0.9 * v + 0.1 * g * g
            w = w - RATE * g / (math.sqrt(v) + 1e-8)
        else:
            w = w - RATE * decay * w
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * g * g
            step = RATE * math.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            w = w - step * m / (math.sqrt(v) + 1e-8)
    return w


def options(name, n=1):
    return {"weight_decay": np.full(n, 0.3)} if name == "adamw" else {}


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_equals_the_formulas_written_out_for_one_weight(name):
    starts = [-1.5, 0.2, 3.0]
    w = np.array(starts)
    made = rule(name, w, **options(name, 3))
    for _ in range(30):
        made.step(w, np.sin(w) + 0.1 * w, no_loss)
    expected = [
        written_out(name, start, lambda v: math.sin(v) + 0.1 * v, 30, decay=0.3 if name == "adamw" else 0)
        for start in starts
    ]
    np.testing.assert_allclose(w, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FIRST_ORDER)
def test_two_runs_give_equal_bits_in_the_type_of_the_parameters(name, dtype):
    def run():
        w = np.linspace(-1, 1, 7).astype(dtype)
        made = rule(name, w, **options(name, 7))
        for _ in range(20):
            made.step(w, (w**3 - 0.1).astype(dtype), no_loss)
        assert all(array.dtype == dtype for field, array in made.state._asdict().items() if field != "t")
        assert w.dtype == dtype
        return w.tobytes()

    assert run() == run()


@pytest.mark.parametrize("name", FIRST_ORDER)
def test_finds_the_minimum_of_a_quadratic(name):
    target, w = np.array([1.0, -2.0, 0.5]), np.zeros(3)
    made = rule(name, w, **({"weight_decay": np.zeros(3)} if name == "adamw" else {}))
    for step in range(600):
        made.learning_rate.fill(RATE * (1 - step / 600))
        made.step(w, np.array([1.0, 3.0, 10.0]) * (w - target), no_loss)
    np.testing.assert_allclose(w, target, atol=1e-3)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adams_first_step_is_the_learning_rate_whatever_the_gradients_size(name):
    for size in (1e-3, 1.0, 1e4):
        w = np.zeros(4)
        rule(name, w, epsilon=1e-20, **({"weight_decay": np.zeros(4)} if name == "adamw" else {})).step(
            w, size * np.array([1.0, -1.0, 2.0, -7.0]), no_loss
        )
        np.testing.assert_allclose(w, [-RATE, RATE, -RATE, RATE], rtol=1e-12)


@pytest.mark.parametrize(("name", "plain"), [("momentum", "gradient_descent"), ("nesterov", "gradient_descent")])
def test_without_momentum_the_rule_is_gradient_descent(name, plain):
    a, b = np.ones(3), np.ones(3)
    first, second = rule(name, a, momentum=0.0), rule(plain, b)
    for _ in range(5):
        first.step(a, a.copy(), no_loss)
        second.step(b, b.copy(), no_loss)
    np.testing.assert_array_equal(a, b)


def test_rmsprop_and_adam_do_not_care_about_the_scale_of_the_gradient():
    for name in ("rmsprop", "adam"):
        ends = []
        for scale in (1.0, 1024.0):  # powers of two, so rounding does not change
            w = np.array([0.3, -0.7])
            made = rule(name, w, epsilon=1e-30)
            for _ in range(10):
                made.step(w, scale * np.array([0.5, -0.25]) * w, no_loss)
            ends.append(w)
        np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)


def test_a_beta_of_zero_means_no_memory():
    w = np.ones(2)
    made = rule("adam", w, beta_1=0.0, beta_2=0.0, epsilon=1e-12)
    made.step(w, np.array([5.0, -3.0]), no_loss)
    np.testing.assert_allclose(w, [1 - RATE, 1 + RATE], rtol=1e-10)


def test_a_stack_of_models_takes_the_steps_of_each():
    alone = np.linspace(0, 1, 5)
    stack = np.stack([alone, alone + 1])
    for name in FIRST_ORDER:
        a, s = alone.copy(), stack.copy()
        first, second = rule(name, a, **options(name, 5)), rule(name, s, **options(name, 5))
        for _ in range(3):
            first.step(a, a**2, no_loss)
            second.step(s, s**2, no_loss)
        np.testing.assert_array_equal(s[0], a)


def test_clipping_bounds_the_norm_and_leaves_small_gradients_alone():
    g = np.array([3.0, 4.0])
    KERNELS.clip_by_norm(g, 1.0)
    np.testing.assert_allclose(g, [0.6, 0.8], rtol=1e-15)
    KERNELS.clip_by_norm(g, 10.0)
    np.testing.assert_allclose(g, [0.6, 0.8], rtol=1e-15)
    great = np.array([3e20, 4e20], np.float32)
    KERNELS.clip_by_norm(great, 1e300)  # beyond float32's range: no limit
    np.testing.assert_array_equal(great, np.float32([3e20, 4e20]))
    KERNELS.clip_by_norm(great, 1.0)
    np.testing.assert_allclose(great, [0.6, 0.8], rtol=1e-6)
    KERNELS.clip_by_norm(great, 1e300)
    np.testing.assert_allclose(great, [0.6, 0.8], rtol=1e-6)
    stack = np.array([[3.0, 4.0], [0.3, 0.4]])
    KERNELS.clip_by_norm(stack, 1.0)
    np.testing.assert_allclose(stack, [[0.6, 0.8], [0.3, 0.4]], rtol=1e-15)
    zero = np.zeros(3)
    KERNELS.clip_by_norm(zero, 1.0)
    np.testing.assert_array_equal(zero, 0)
