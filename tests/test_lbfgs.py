"""L-BFGS and its line search: Wolfe conditions, the dense BFGS matrix, known minima, SciPy, states, transfers."""

import itertools
import math

import numpy as np
import pytest
from device_double import DeviceArray, double_backend

import fcgpu
from fcgpu.network import Network, Workspace
from fcgpu.optim import lbfgs
from fcgpu.optim.lbfgs import LBFGS, compact
from fcgpu.optim.line_search import C1, C2, Point, strong_wolfe
from fcgpu.params import Spec, initial


@pytest.fixture(autouse=True)
def _quiet(workers):
    """Use one BLAS thread, as in training."""
    with workers.quiet():
        yield


LINES = {
    "rational": lambda a: (-a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2),
    "waves": lambda a: (math.sin(9 * a) / 100 + a * a - a, 9 * math.cos(9 * a) / 100 + 2 * a - 1),
    "quartic": lambda a: (a**4 - a, 4 * a**3 - 1),
    "wall": lambda a: (-math.log(1 - a) - 3 * a if a < 1 else math.nan, 1 / (1 - a) - 3 if a < 1 else math.nan),
    "plateau": lambda a: (math.expm1(-2 * a) / 2 - 1e-5 * a, -math.exp(-2 * a) - 1e-5),  # ever lower, but not enough
    "overflow": lambda a: (a * a - a if a < 100 else math.inf, 2 * a - 1),
}


@pytest.mark.parametrize("step", [1e-5, 1e-2, 0.3, 1.0, 7.0, 1e3])
@pytest.mark.parametrize("name", LINES)
def test_a_search_meets_the_strong_wolfe_conditions(name, step):
    trials = []

    def evaluate(at):
        trials.append(at)
        return LINES[name](at)

    loss, slope = LINES[name](0.0)
    found = strong_wolfe(evaluate, Point(0.0, loss, slope), step, max_trials=30, noise=0.0)
    assert trials[-1] == found.step
    assert (found.loss, found.slope) == LINES[name](found.step)
    assert found.loss <= loss + C1 * found.step * slope
    assert abs(found.slope) <= C2 * abs(slope)


def power(a):
    return (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4, 5 * (a + 0.004) ** 4 - 8 * (a + 0.004) ** 3


def ripples(a, b=0.01, turns=39 * math.pi / 2):
    inside = (a - 1) ** 2 / b / 2 + b / 2, (a - 1) / b
    fall, slope = inside if abs(a - 1) < b else (abs(a - 1), math.copysign(1.0, a - 1))
    return fall + (1 - b) / turns * math.sin(turns * a), slope + (1 - b) * math.cos(turns * a)


def yanai(b1, b2):
    def line(a):
        left, right = math.hypot(a, b1), math.hypot(1 - a, b2)
        g1, g2 = (math.hypot(1, b) - b for b in (b1, b2))
        return g1 * right + g2 * left, g1 * (a - 1) / right + g2 * a / left

    return line


@pytest.mark.parametrize(
    ("line", "c1", "c2", "trials", "ends"),
    [
        (LINES["rational"], 1e-3, 0.1, (3, 1, 4), (1.4, 10, 37)),
        (power, 0.1, 0.1, (8, 8, 11), (1.6, 1.6, 1.6)),
        (ripples, 0.1, 0.1, (12, 10, 13), (1, 1, 1)),
        (yanai(1e-3, 1e-3), 1e-3, 1e-3, (1, 3, 4), (0.10, 0.35, 0.83)),
        (yanai(1e-2, 1e-3), 1e-3, 1e-3, (3, 7, 8), (0.078, 0.073, 0.076)),
        (yanai(1e-3, 1e-2), 1e-3, 1e-3, (11, 8, 11), (0.93, 0.92, 0.92)),
    ],
    ids=range(1, 7),
)
def test_a_search_takes_the_trials_of_the_paper(line, c1, c2, trials, ends, monkeypatch):
    """The six functions of Moré and Thuente 1994, section 5, and their tables, from steps of 0.1, 10 and 1000."""
    for name, value in {"C1": c1, "C2": c2, "NARROWEST": 0.0}.items():
        monkeypatch.setattr(f"fcgpu.optim.line_search.{name}", value)
    for step, count, end in zip((0.1, 10, 1000), trials, ends, strict=True):
        made = []
        start = Point(0.0, *line(0.0))
        found = strong_wolfe(lambda a: made.append(a) or line(a), start, step, max_trials=30, noise=0.0)  # noqa: B023
        assert len(made) == count
        assert found.step == pytest.approx(end, rel=0.03)  # the tables have two digits


def test_a_good_first_step_costs_one_trial():
    assert strong_wolfe(lambda a: ((a - 1) ** 2, 2 * a - 2), Point(0, 1, -2), 0.9, max_trials=1, noise=0) is not None


@pytest.mark.parametrize(
    "line",
    [
        lambda a: (abs(a - 0.3), math.copysign(1.0, a - 0.3)),  # a kink, where the slope jumps
        lambda a: (-a, -1.0),  # no minimum
        lambda a: (a, 1.0),  # it rises, although the given slope at 0 is negative
        lambda a: (math.nan, math.nan),
    ],
)
def test_a_line_without_such_a_point_is_given_up(line):
    loss = line(0.0)[0] if math.isfinite(line(0.0)[0]) else 1.0
    assert strong_wolfe(line, Point(0.0, loss, -1.0), 1.0, max_trials=20, noise=0.0) is None


def test_a_kink_is_given_up_before_the_trials_are_used_up():
    made = []

    def line(a):
        made.append(a)
        return abs(a - 0.3), math.copysign(1.0, a - 0.3)

    assert strong_wolfe(line, Point(0.0, 0.3, -1.0), 1.0, max_trials=100, noise=0.0) is None
    assert len(made) < 10


def test_a_fall_below_the_noise_is_not_asked_for_but_a_rise_is_never_taken():
    start = Point(0.0, 1.0, -1e-6)
    flat = strong_wolfe(lambda a: (1.0, -1e-7), start, 1.0, max_trials=1, noise=1e-7)
    rise = strong_wolfe(lambda a: (1.0 + 1e-8, -1e-7), start, 1.0, max_trials=1, noise=1e-7)
    assert flat is not None
    assert rise is None


def rosenbrock(w):
    """Σ 100 (w[i+1] - w[i]²)² + (1 - w[i])², minimum 0 at ones."""
    a, b = w[:-1], w[1:]
    g = np.zeros_like(w)
    g[:-1] = -400 * a * (b - a * a) - 2 * (1 - a)
    g[1:] += 200 * (b - a * a)
    return float(np.sum(100 * (b - a * a) ** 2 + (1 - a) ** 2)), g


def quadratic(condition, n=40, seed=1):
    """(function, c) of ½ (w - c)ᵀ A (w - c), with eigenvalues of A from 1 to `condition`."""
    random = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(random.normal(size=(n, n)))
    A, c = Q * np.geomspace(1, condition, n) @ Q.T, random.normal(size=n)
    return lambda w: (float((w - c) @ A @ (w - c) / 2), A @ (w - c)), c


class Problem:
    """w, g and `evaluate` for a function of w on the host, with a list of all computed losses."""

    def __init__(self, function, start, dtype="float64", xp=np):
        self.function, self.losses = function, []
        self.w = xp.asarray(np.array(start), dtype=dtype)
        self.g = xp.zeros_like(self.w)

    def evaluate(self):
        loss, self.g[...] = self.function(self.w)
        self.losses.append(loss)
        return loss

    def minimise(self, optimizer, steps=10_000):
        for _ in range(steps):
            if optimizer.finished:
                break
            optimizer.step(self.w, self.g, self.evaluate)
        return optimizer


def exact(problem, history_size=10, **options):
    return LBFGS(problem.w, np, history_size=history_size, **{"tol": 0, "ftol": 0, **options})


def test_the_coefficients_are_those_of_the_dense_bfgs_matrix():
    """H is updated by equation 6.17 of Nocedal and Wright, from γ I, oldest pair first."""
    random = np.random.default_rng(0)
    n = 12
    S = random.normal(size=(5, n))
    Y = S @ np.diag(random.uniform(0.5, 3, n)) + 0.01 * random.normal(size=(5, n))
    g = random.normal(size=n)
    a, p, scale = compact(np.linalg.inv(np.triu(S @ Y.T)), Y @ Y.T, S @ g, Y @ g)
    H = np.eye(n) * (S[-1] @ Y[-1]) / (Y[-1] @ Y[-1])
    for s, y in zip(S, Y, strict=True):
        rho = 1 / (s @ y)
        V = np.eye(n) - rho * np.outer(y, s)
        H = V.T @ H @ V + rho * np.outer(s, s)
    np.testing.assert_allclose(scale * (g - p @ Y) + a @ S, H @ g, rtol=1e-11, atol=1e-11)


def test_with_memory_to_spare_a_direction_of_the_class_is_that_of_the_pairs_it_saw():
    """The same matrix, from the points that the steps visited, also after the ring buffer wraps around."""
    problem = Problem(rosenbrock, np.linspace(-1, 1.5, 6))
    optimizer = exact(problem, history_size=3)
    points = []
    for _ in range(9):
        problem.minimise(optimizer, 1)
        points.append((problem.w.copy(), optimizer.gradient.copy()))
    H = None
    for (w, g), (w_next, g_next) in itertools.pairwise(points[-4:]):
        s, y = w_next - w, g_next - g
        if H is None:
            last_s, last_y = points[-1][0] - points[-2][0], points[-1][1] - points[-2][1]
            H = np.eye(6) * (last_s @ last_y) / (last_y @ last_y)
        V = np.eye(6) - np.outer(y, s) / (s @ y)
        H = V.T @ H @ V + np.outer(s, s) / (s @ y)
    before = problem.w.copy()
    problem.minimise(optimizer, 1)
    moved, expected = problem.w - before, -H @ points[-1][1]
    np.testing.assert_allclose(moved / np.linalg.norm(moved), expected / np.linalg.norm(expected), rtol=0, atol=1e-8)


@pytest.mark.parametrize("n", [2, 100])
def test_finds_the_end_of_rosenbrocks_valley(n):
    problem = Problem(rosenbrock, np.tile([-1.2, 1.0], n // 2))
    optimizer = problem.minimise(exact(problem, tol=1e-9))
    assert "tol=" in optimizer.finished
    np.testing.assert_allclose(problem.w, 1, atol=1e-7)
    assert optimizer.evaluations == len(problem.losses) < 100 * n**0.5


@pytest.mark.parametrize(("memory", "condition"), [(1, 1e3), (10, 1e5), (60, 1e6)])
def test_finds_the_minimum_of_an_ill_conditioned_quadratic(memory, condition):
    function, c = quadratic(condition)
    problem = Problem(function, np.zeros(40))
    optimizer = problem.minimise(exact(problem, memory, tol=1e-4, max_fun=5000))
    assert "tol=" in optimizer.finished
    np.testing.assert_allclose(problem.w, c, atol=1e-3)


@pytest.mark.parametrize("unit", [2.0**-60, 2.0**60])
def test_the_unit_of_the_loss_changes_no_bit(unit):
    """Unscaled features make curvatures of 1e10 and more. A power of 2 makes no rounding."""
    paths = []
    for factor in (1.0, unit):
        problem = Problem(lambda w, f=factor: tuple(f * part for part in rosenbrock(w)), np.linspace(-1, 1.5, 20))
        problem.minimise(exact(problem), 30)
        paths.append((problem.w, np.array(problem.losses) / factor))
    np.testing.assert_array_equal(paths[1][0], paths[0][0])
    np.testing.assert_array_equal(paths[1][1], paths[0][1])


@pytest.mark.parametrize("name", ["rosenbrock", "quadratic"])
def test_every_step_on_a_smooth_function_meets_the_strong_wolfe_conditions(name):
    function = rosenbrock if name == "rosenbrock" else quadratic(1e4)[0]
    problem = Problem(function, np.tile([-1.2, 1.0], 20))
    optimizer = exact(problem)
    problem.minimise(optimizer, 1)
    for _ in range(60):
        before, (loss, g) = problem.w.copy(), function(problem.w)
        problem.minimise(optimizer, 1)
        s, (new_loss, new_g) = problem.w - before, function(problem.w)
        assert optimizer.loss == new_loss
        assert new_loss <= loss + C1 * (g @ s) + 1e-15 * loss
        assert abs(new_g @ s) <= C2 * abs(g @ s) * (1 + 1e-12)


def network(X, y, hidden, activation, init, output, l2=1e-3, xp=np, backend=None, dtype="float64"):
    """(evaluate into g at w, w, g): the mean loss of a network over all samples, and the L2 term."""
    n_outputs = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    spec = Spec((X.shape[1], *hidden, n_outputs), activation, output, init)
    net = Network(spec, backend or fcgpu.choose("cpu"))
    work = Workspace(spec, len(X), dtype, xp)
    w = xp.asarray(initial(spec, 0), dtype=dtype)
    g, loss, penalty = xp.zeros_like(w), xp.zeros((), dtype=np.float64), xp.zeros((), dtype=dtype)
    layers, gradients = spec.layers(w), spec.layers(g)
    X, y = xp.asarray(X, dtype=dtype), xp.asarray(y, dtype=dtype if y.ndim == 2 else np.int64)

    def evaluate():
        work.A[0][...] = X
        net.loss_and_gradient(layers, gradients, work, y, 1 / len(X), count=False)
        xp.sum(work.losses, dtype=np.float64, out=loss)
        penalty[...] = 0
        for (W, _), (dW, _) in zip(layers, gradients, strict=True):
            net.kernels.add_l2(W, dW, l2, 1.0, penalty)
        return float(loss + penalty)

    return evaluate, w, g


NETWORKS = {
    "iris": ((10,), "tanh", "glorot", "softmax"),
    "wine": ((12, 6), "tanh", "glorot", "softmax"),
    "breast_cancer": ((), "tanh", "zeros", "softmax"),  # logistic regression
    "digits": ((16,), "relu", "he", "softmax"),
    "diabetes": ((8,), "sigmoid", "glorot", "identity"),
}


def standardised(a):
    return (a - a.mean(axis=0)) / (a.std(axis=0) + 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_after_as_many_evaluations_the_loss_is_no_higher_than_scipys(name):
    """Both use the same mathematics. After some 100 evaluations rounding separates them, and 1 % more is allowed."""
    optimize, datasets = pytest.importorskip("scipy.optimize"), pytest.importorskip("sklearn.datasets")
    data = getattr(datasets, f"load_{name}")()
    y = standardised(data.target)[:, None] if NETWORKS[name][-1] == "identity" else data.target
    evaluate, w, g = network(standardised(data.data), y, *NETWORKS[name])
    start, budget, ours, theirs = w.copy(), 150, [], []

    def recorded(losses):
        losses.append(evaluate())
        return losses[-1]

    optimizer = LBFGS(w, np, tol=0, ftol=0, max_fun=budget)
    while not optimizer.finished:
        optimizer.step(w, g, lambda: recorded(ours))

    def function(at):
        w[...] = at
        return recorded(theirs), g.copy()

    options = {"maxcor": 10, "maxfun": budget, "gtol": 0, "ftol": 0}
    optimize.minimize(function, start, jac=True, method="L-BFGS-B", options=options)
    for evaluations, slack in ((10, 1e-6), (30, 1e-4), (60, 1e-2), (150, 1e-2)):
        assert min(ours[:evaluations]) <= min(theirs[:evaluations]) * (1 + slack), evaluations


def test_fits_a_network_in_float32_as_well_as_in_float64():
    random = np.random.default_rng(0)
    X, losses = random.normal(size=(500, 8)), {}
    y = (X[:, 0] * X[:, 1] > 0).astype(int) + (X[:, 2] > 0.5)
    for dtype in ("float32", "float64"):
        evaluate, w, g = network(X, y, (20,), "tanh", "glorot", "softmax", l2=1e-4, dtype=dtype)
        optimizer = LBFGS(w, np, max_fun=300)
        while not optimizer.finished:
            optimizer.step(w, g, evaluate)
        assert w.dtype == optimizer.gradient.dtype == dtype
        losses[dtype] = optimizer.loss
    assert losses["float32"] < 1.1 * losses["float64"] < 0.1


@pytest.mark.parametrize("steps", [1, 3, 17])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_going_on_from_a_state_equals_never_having_stopped(steps, dtype):
    first = Problem(rosenbrock, np.linspace(-1, 1.5, 20), dtype)
    optimizer = exact(first, history_size=5)
    first.minimise(optimizer, steps)
    state, second = optimizer.state_on_host(np.copy), Problem(rosenbrock, first.w.copy(), dtype)
    first.minimise(optimizer, 25)
    resumed = exact(second, history_size=5)
    resumed.restore(state, np.asarray)
    second.minimise(resumed, 25)
    np.testing.assert_array_equal(first.w, second.w)
    assert (resumed.loss, resumed.evaluations) == (optimizer.loss, optimizer.evaluations)
    assert first.losses[-len(second.losses) :] == second.losses


@pytest.mark.parametrize("at", [2, 3, 7, 12, 29])
def test_an_interrupted_step_leaves_the_parameters_as_they_were(at):
    """Not at a trial of the line search, whose loss may be any."""
    problem, reached = Problem(rosenbrock, np.linspace(-1, 1.5, 20)), []
    optimizer = exact(problem)

    def evaluate():
        if len(problem.losses) == at:
            raise KeyboardInterrupt
        return problem.evaluate()

    def minimise():
        while True:
            reached.append(problem.w.copy())
            optimizer.step(problem.w, problem.g, evaluate)

    with pytest.raises(KeyboardInterrupt):
        minimise()
    np.testing.assert_array_equal(problem.w, reached[-1])


def test_a_state_of_another_memory_is_refused():
    problem = Problem(rosenbrock, np.zeros(4))
    with pytest.raises(fcgpu.CheckpointError, match=r"shape \(10, 4\), expected \(6, 4\)"):
        exact(problem, history_size=3).restore(exact(problem, history_size=5).state_on_host(np.copy), np.asarray)


@pytest.mark.parametrize("slots", [[5], [-1], [1, 1], [[0, 1]]], ids=str)
def test_slots_that_cannot_be_are_refused(slots):
    optimizer = exact(Problem(rosenbrock, np.zeros(4)), history_size=5)
    with pytest.raises(fcgpu.CheckpointError, match="expected some of 5, each once"):
        optimizer.restore(optimizer.state_on_host(np.copy) | {"slots": np.array(slots)}, np.asarray)


@pytest.mark.parametrize(("name", "value"), [("loss", "1"), ("evaluations", 1.5), ("reason", None)])
def test_a_number_of_another_kind_is_refused(name, value):
    optimizer = exact(Problem(rosenbrock, np.zeros(4)))
    with pytest.raises(fcgpu.CheckpointError, match=f"the {name} of L-BFGS is {value!r}, expected"):
        optimizer.restore(optimizer.state_on_host(np.copy) | {name: value}, np.asarray)


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan])
def test_pairs_without_curvature_are_refused(number):
    problem = Problem(rosenbrock, np.linspace(-1, 1.5, 6))
    state = problem.minimise(exact(problem, history_size=3), 7).state_on_host(np.copy)
    state["inverse"][1, 1] = number
    with pytest.raises(fcgpu.CheckpointError, match=f"has {number}, expected numbers above 0"):
        exact(problem, history_size=3).restore(state, np.asarray)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9, 10, 30])
def test_no_more_evaluations_than_allowed_and_the_best_of_them_is_kept(limit):
    problem = Problem(rosenbrock, [-1.2, 1.0])
    optimizer = problem.minimise(exact(problem, max_fun=limit))
    assert optimizer.evaluations == len(problem.losses) <= limit
    assert optimizer.finished == f"max_fun={limit} evaluations are made"
    assert optimizer.loss == rosenbrock(problem.w)[0] <= problem.losses[0]
    np.testing.assert_array_equal(optimizer.gradient, rosenbrock(problem.w)[1])


def test_a_raised_limit_lets_it_go_on():
    problem = Problem(rosenbrock, [-1.2, 1.0])
    optimizer = problem.minimise(exact(problem, max_fun=8))
    optimizer.max_fun = 200
    assert not optimizer.finished
    problem.minimise(optimizer)
    np.testing.assert_allclose(problem.w, 1, atol=1e-8)


def test_it_stops_at_the_relative_fall_that_was_asked_for():
    problem = Problem(lambda w: (1 + float(w @ w) ** 2, 4 * (w @ w) * w), np.ones(5))
    optimizer = problem.minimise(LBFGS(problem.w, np, tol=0, ftol=1e-4))
    assert optimizer.finished == "the loss fell by no more than 0.0001 of it"
    assert 1 < optimizer.loss < 1.01


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_small_fall_in_the_first_step_does_not_end_it(dtype):
    """Steepest descent falls by 4e-10 in the narrow direction, then L-BFGS by 5e-3 in the flat one."""
    minimum, curvature = np.array([3e-5, 1e3], dtype), np.array([1.0, 1e-8], dtype)
    problem = Problem(
        lambda w: (1 + float(curvature @ (w - minimum) ** 2) / 2, curvature * (w - minimum)), np.zeros(2), dtype
    )
    optimizer = problem.minimise(LBFGS(problem.w, np, tol=0), 1)
    assert 0 < problem.losses[0] - optimizer.loss < 1e-9
    problem.minimise(optimizer)
    np.testing.assert_allclose(problem.w[1], 1e3, rtol=0.01)


@pytest.mark.parametrize("off", [0.0, 1e-9])
def test_nothing_is_done_at_a_minimum_nor_after_the_end(off):
    start = np.ones(4) + off
    problem = Problem(rosenbrock, start)
    optimizer = problem.minimise(LBFGS(problem.w, np))
    assert "tol=" in optimizer.finished
    restored = LBFGS(problem.w, np)
    restored.restore(optimizer.state_on_host(np.copy), np.asarray)
    for ended in (optimizer, restored):
        ended.step(problem.w, problem.g, problem.evaluate)
        assert ended.finished == optimizer.finished
        assert ended.evaluations == len(problem.losses) == 1
    np.testing.assert_array_equal(problem.w, start)


def test_a_wrong_gradient_ends_it_where_the_loss_was_lowest():
    """After five good steps the gradient points uphill: first the memory is cleared, then the optimizer stops."""
    problem = Problem(rosenbrock, np.zeros(6))
    optimizer = problem.minimise(exact(problem), 5)
    w = problem.w.copy()
    optimizer.gradient *= -1
    problem.minimise(optimizer)
    assert optimizer.finished == "the line search found no step"
    np.testing.assert_array_equal(problem.w, w)
    assert optimizer.loss == rosenbrock(w)[0]


def test_where_steepest_descent_finds_nothing_it_is_not_tried_again():
    problem = Problem(lambda w: (rosenbrock(w)[0], -rosenbrock(w)[1]), np.zeros(6))
    optimizer = problem.minimise(exact(problem))
    assert optimizer.finished == "the line search found no step"
    assert len(problem.losses) == 1 + lbfgs.MOST_TRIALS


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_steps_into_what_is_not_finite_are_shortened(bad):
    """The minimum is at 0.9; beyond 1, where the first step of length 1 leads, the function is not finite."""

    def function(w):
        inside = float(w[0]) < 1
        return (float((w[0] - 0.9) ** 2) if inside else bad), 2 * (w - 0.9) if inside else np.full(1, bad)

    problem = Problem(function, [0.2])
    optimizer = problem.minimise(exact(problem, tol=1e-9))
    assert not all(map(math.isfinite, problem.losses))
    assert problem.w[0] == pytest.approx(0.9, abs=1e-9)
    assert "tol=" in optimizer.finished


def test_a_memory_that_leads_nowhere_is_cleared_for_steepest_descent(monkeypatch):
    """On a quadratic, with products so wrong that a search's only trial lies far beyond the minimum."""
    problem = Problem(lambda w: (float(w @ w) / 2, w.copy()), [6.0, -4.0, 3.0])
    monkeypatch.setattr(lbfgs, "MOST_TRIALS", 1)
    optimizer = problem.minimise(exact(problem), 1)
    state, loss = optimizer.state_on_host(np.copy), optimizer.loss
    state["along"][:10] *= 1e6  # s·g
    optimizer.restore(state, np.asarray)
    problem.minimise(optimizer, 1)
    assert not optimizer.finished
    assert optimizer.evaluations == 4  # the start, a step, a failed trial, a step
    assert problem.losses[2] > loss > optimizer.loss


def test_the_lowest_of_trials_that_all_fail_is_kept_with_its_gradient():
    """A constant downward slope, then a jump up at 5.5: the trials are at 1, 5 and 21."""
    problem = Problem(lambda w: (-float(w[0]), -np.ones(1)) if w[0] < 5.5 else (1e3, np.ones(1)), [0.0])
    optimizer = problem.minimise(exact(problem, max_fun=4))
    assert problem.losses[-1] == 1e3
    assert (problem.w[0], optimizer.loss, optimizer.gradient[0]) == (5, -5, -1)
    assert optimizer.state_on_host(np.copy)["slots"].size == 0  # a pair without curvature is not stored


def test_the_loss_is_that_of_the_trial_that_is_taken_not_of_a_lower_one():
    """The trial at 1 is lower, but as steep as the start; that at 5 meets both conditions."""
    problem = Problem(lambda w: (-float(w[0]), -np.ones(1)) if w[0] < 3 else (-0.5, np.full(1, 0.1)), [0.0])
    optimizer = problem.minimise(exact(problem), 1)
    assert (problem.w[0], optimizer.loss, optimizer.gradient[0]) == (5, -0.5, 0.1)


def test_a_point_whose_gradient_is_no_number_is_never_kept():
    problem = Problem(lambda w: (-float(w[0]), np.full(1, -1.0 if w[0] < 3 else np.nan)), [0.0])
    optimizer = problem.minimise(exact(problem, max_fun=30))
    assert min(problem.losses) <= -3
    assert -3 < optimizer.loss <= -1
    assert optimizer.gradient[0] == -1


@pytest.mark.parametrize(
    ("dtype", "slope", "moves"), [("float64", 1e-5, False), ("float32", 1e-5, True), ("float32", 1e-2, False)]
)
def test_what_a_type_cannot_tell_from_no_fall_is_enough(dtype, slope, moves, monkeypatch):
    """A trial of the same loss, 1, must be lower by C1 * slope: 1e-8, which is below float32's rounding, or 1e-5."""
    problem = Problem(lambda w: (1.0, np.full(1, 0.0 if w[0] > 0.5 else -slope)), [0.0], dtype)
    monkeypatch.setattr(lbfgs, "MOST_TRIALS", 1)
    problem.minimise(exact(problem))
    assert (problem.w[0] > 0.5) == moves


def test_a_loss_that_is_not_finite_at_the_start_is_told():
    problem = Problem(lambda w: (math.nan, w), np.ones(2))
    assert "the loss at the start is nan" in problem.minimise(exact(problem)).finished


def test_on_a_device_only_numbers_come_to_the_host(monkeypatch):
    """In a step with one trial: the direction's slope, the trial's two numbers, the products with the history."""
    backend = double_backend()
    random, memory, steps, fetched = np.random.default_rng(0), 4, 12, []
    X, y = random.normal(size=(40, 6)), np.arange(40) % 3
    shape = (7,), "tanh", "glorot", "softmax"
    get = DeviceArray.get
    monkeypatch.setattr(DeviceArray, "get", lambda a: fetched.append(a.size) or get(a))
    evaluate, w, g = network(X, y, *shape, xp=backend.xp, backend=backend)
    optimizer = LBFGS(w, backend.xp, history_size=memory)
    for _ in range(steps):
        optimizer.step(w, g, evaluate)
    evaluations = optimizer.evaluations
    products = 2 * 2 * memory
    assert sorted(fetched) == sorted([1] * (evaluations + steps) + [2] * evaluations + [products] * steps)
    assert max(fetched) < w.size
    assert backend.xp.copies == 0

    monkeypatch.undo()
    evaluate, expected, g = network(X, y, *shape)
    reference = LBFGS(expected, np, history_size=memory)
    for _ in range(steps):
        reference.step(expected, g, evaluate)
    assert reference.evaluations == evaluations
    np.testing.assert_allclose(w.get(), expected, rtol=0, atol=1e-9)
