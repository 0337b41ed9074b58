"""iRprop+: against loops over plain numbers, its step sizes and backtracking, and on the device."""

import math

import numpy as np
import pytest
from device_double import double_backend

from fcgpu.kernels.fused import RULES
from fcgpu.kernels.updates import SCALARS, UPDATES, rprop

ROW = UPDATES["rprop"]
RATE = 0.05


def zeros(w):
    """The state before the first step."""
    return ROW.state(*(np.zeros(1) if field in SCALARS else np.zeros_like(w) for field in ROW.state._fields))


def step(w, g, state, loss, **options):
    rate = np.array([RATE], w.dtype)
    rprop(w, g, state, rate, **{**ROW.defaults, **options}, loss=np.asarray(loss, np.float64), xp=np)


def written_out(w, gradient, loss, steps, eta_plus=1.2, eta_minus=0.5, step_min=1e-6, step_max=50.0):
    """The algorithm as in the paper: weights in a list, one branch for each case, Δw and ∂E/∂w stored."""
    n = len(w)
    delta, last_change, last_gradient, last_loss = [RATE] * n, [0.0] * n, [0.0] * n, math.inf
    for _ in range(steps):
        g, now = gradient(w), loss(w)
        for i in range(n):
            if last_gradient[i] * g[i] > 0:
                delta[i] = min(delta[i] * eta_plus, step_max)
                last_change[i] = -math.copysign(delta[i], g[i])
                w[i] += last_change[i]
            elif last_gradient[i] * g[i] < 0:
                delta[i] = max(delta[i] * eta_minus, step_min)
                if now > last_loss:
                    w[i] -= last_change[i]
                g[i] = 0.0
            else:
                last_change[i] = -math.copysign(delta[i], g[i]) if g[i] else 0.0
                w[i] += last_change[i]
        last_gradient, last_loss = g, now
    return w


def valley(w):
    """(loss, gradient) of a curved valley, in which the gradient's signs change often."""
    a, b = w[:-1], w[1:]
    g = np.zeros_like(w)
    g[:-1] = -40 * a * (b - a * a) - 2 * (1 - a)
    g[1:] += 20 * (b - a * a)
    return float(np.sum(10 * (b - a * a) ** 2 + (1 - a) ** 2)), g


def run(w, steps, **options):
    state = zeros(w)
    for _ in range(steps):
        loss, g = valley(w)
        step(w, g.astype(w.dtype), state, loss, **options)
    return state


@pytest.mark.parametrize("options", [{}, {"step_max": 0.06, "step_min": 0.01}, {"eta_plus": 1.5, "eta_minus": 0.3}])
def test_equals_the_loops_written_out(options):
    start = np.linspace(-1.5, 1.5, 9)
    w, turned_back = start.copy(), 0
    expected = written_out(
        list(start), lambda v: valley(np.array(v))[1].tolist(), lambda v: valley(np.array(v))[0], 60, **options
    )
    state = zeros(w)
    for _ in range(60):
        loss, g = valley(w)
        turned_back += int(np.sum((state.sign * g < 0) & (loss > state.loss)))
        step(w, g, state, loss, **options)
    np.testing.assert_array_equal(w, expected)
    assert turned_back > 5


def test_the_first_step_is_the_learning_rate_against_each_sign():
    w, state = np.zeros(4), zeros(np.zeros(4))
    step(w, np.array([1e-30, -7.0, 0.0, 1e30]), state, 1.0)
    np.testing.assert_array_equal(w, [-RATE, RATE, 0, -RATE])
    np.testing.assert_array_equal(state.step, RATE)


@pytest.mark.parametrize(("loss", "ends"), [(2.0, 0.0), (1.0, -RATE), (0.5, -RATE)])
def test_a_change_is_taken_back_only_where_the_sign_turned_and_only_if_the_loss_rose(loss, ends):
    w, state = np.zeros(2), zeros(np.zeros(2))
    step(w, np.array([1.0, 1.0]), state, 1.0)
    step(w, np.array([-1.0, 1.0]), state, loss)
    np.testing.assert_allclose(w, [ends, -RATE * 2.2], rtol=1e-15)
    np.testing.assert_array_equal(state.sign, [0, 1])
    step(w, np.array([-1.0, 1.0]), state, 0.0)  # after a sign change the step size stays, whatever the sign
    np.testing.assert_allclose(state.step, [RATE / 2, RATE * 1.44], rtol=1e-15)


def test_steps_stay_between_their_limits():
    w, state = np.zeros(1), zeros(np.zeros(1))
    for _ in range(100):
        step(w, np.ones(1), state, 0.0)
    assert state.step[0] == 50
    for sign in (-1, -1, 1, 1) * 100:
        step(w, np.full(1, float(sign)), state, 0.0, eta_plus=1.0)
    assert state.step[0] == 1e-6


def test_the_size_of_the_gradient_does_not_matter():
    ends = []
    for size in (1e-25, 1.0, 1e25):  # products of two such gradients are out of float32's range
        w = np.linspace(-1, 1, 5, dtype=np.float32)
        state = zeros(w)
        for _ in range(20):
            loss, g = valley(w)
            step(w, (g * size).astype(np.float32), state, loss)
        ends.append(w)
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[1], ends[2])


def test_goes_to_the_end_of_the_valley():
    w = np.array([-1.0, 1.0, 0.5])
    run(w, 1000)
    np.testing.assert_allclose(w, 1, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_runs_give_equal_bits_in_the_type_of_the_parameters(dtype):
    ends = []
    for _ in range(2):
        w = np.linspace(-1, 1, 7, dtype=dtype)
        state = run(w, 30)
        assert w.dtype == state.step.dtype == state.sign.dtype == dtype
        ends.append(w.tobytes())
    assert ends[0] == ends[1]


def test_each_model_of_a_stack_takes_back_by_its_own_loss():
    starts, losses = np.array([[0.0, 0.0], [1.0, 1.0]]), [[1.0, 1.0], [2.0, 0.5]]
    stack = starts.copy()
    state = zeros(stack)._replace(loss=np.zeros((2, 1)))
    for loss, g in zip(losses, ([1.0, -1.0], [-1.0, -1.0]), strict=True):
        step(stack, np.array([g, g]), state, np.array(loss)[:, None])
    for start, end, mine in zip(starts, stack, zip(*losses, strict=True), strict=True):
        alone = zeros(start)
        for loss, g in zip(mine, ([1.0, -1.0], [-1.0, -1.0]), strict=True):
            step(start, np.array(g), alone, loss)
        np.testing.assert_array_equal(end, start)
    assert stack[0, 0] == 0
    assert stack[1, 0] == 1 - RATE


def test_a_gradient_that_is_no_number_is_not_hidden():
    w = np.zeros(2)
    step(w, np.array([np.nan, 1.0]), zeros(w), 1.0)
    assert np.isnan(w[0])
    assert w[1] == -RATE


def test_on_a_device_nothing_is_decided_on_the_host():
    xp = double_backend().xp
    host = np.linspace(-1, 1, 6)
    w, rate, loss = xp.asarray(host), xp.asarray(np.array([RATE])), xp.zeros((), dtype=np.float64)
    state = ROW.state(xp.zeros_like(w), xp.zeros_like(w), xp.zeros((1,), dtype=np.float64))
    expected, reference = host.copy(), zeros(host)
    signs = np.random.default_rng(0)
    for value in (3.0, 2.0, 4.0, 4.0, 1.0):
        g = signs.normal(size=6)
        loss.fill(value)
        device_g = xp.asarray(g)
        before = xp.synchronisations, xp.uploads
        RULES["rprop"](w, device_g, state, rate, **ROW.defaults, loss=loss, xp=xp)
        assert (xp.synchronisations, xp.uploads) == before
        step(expected, g, reference, value)
    np.testing.assert_array_equal(w.get(), expected)
    assert state.loss.tolist() == [1.0]
