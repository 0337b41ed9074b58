"""Every gradient against central differences in float64, over random networks, data, tiles and lanes.

The direction is a random unit vector plus the gradient's, so that the slope along it is never close to zero and the
relative error is meaningful. Activations with a kink are tested away from it: if a unit changes sign between the two
points, another network is drawn.
"""

import numpy as np
import pytest

import fcgpu
from fcgpu import kernels
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.network import Workspace
from fcgpu.train.evaluate import Evaluate
from fcgpu.train.plan import Plan
from fcgpu.workers import Workers

H = 1e-5  # truncation h² and rounding eps/h are both near 1e-10
TOLERANCE = 1e-6
CPU = fcgpu.choose("cpu")


def draw(random):
    """A random network, data, cut and recipe, as (spec, X, y, weights, plan, recipe)."""
    output = str(random.choice(list(OUTPUTS)))
    n, k = int(random.integers(1, 40)), int(random.integers(2 if output == "softmax" else 1, 6))
    sizes = (int(random.integers(1, 9)), *map(int, random.integers(1, 8, random.integers(0, 4))), k)
    spec = fcgpu.Spec(sizes, str(random.choice(HIDDEN_ACTIVATIONS)), output)
    if not OUTPUTS[output].classifies or (output == "sigmoid" and random.random() < 0.3):
        y = random.random((n, k))
    elif output == "softmax" and random.random() < 0.2:
        y = random.dirichlet(np.ones(k), n)
    else:
        y = random.integers(0, max(2, k) if output == "sigmoid" else k, n)
    tile, lanes = int(random.integers(1, n + 1)), int(random.integers(1, 6))
    X = random.standard_normal((n, sizes[0]))
    weights = random.random((n, 1)) if random.random() < 0.3 else None
    recipe = fcgpu.Recipe(
        dtype="float64",
        hidden=sizes[1:-1],
        alpha=float(random.choice([0, 0.1, 1.0])),
        dropout=tuple(random.random(len(sizes) - 2)) if random.random() < 0.3 else (),
    )
    return spec, X, y, weights, Plan(n, n, tile, lanes, 1, 0, 0, 0, held=int(random.integers(2, 6))), recipe


def relative_error(random):
    """The relative error for one random configuration; None if a unit crosses its kink."""
    spec, X, y, weights, plan, recipe = draw(random)
    evaluate = Evaluate(spec, (X, y, weights), plan, CPU, Workers(1), recipe, scale=0.5)
    start = random.standard_normal(spec.n_params) / np.sqrt(max(spec.sizes))
    ids = np.arange(len(X), dtype=np.uint32)

    def at(params):
        evaluate.params[...] = params
        evaluate.begin(3)  # the same masks each time
        loss = evaluate(slice(0, len(X)), len(X))
        work = Workspace(spec, len(X), X.dtype, np, dropout=evaluate.net.dropout)
        work.A[0][...] = X
        net, layers = evaluate.net, spec.layers(params)
        net.to_logits(net.products(layers, work), layers, work, evaluate.keys, ids if net.dropout else None)
        return float(loss), [a > 0 for a in work.A[1:-1]]

    at(start)
    gradient = evaluate.gradient.copy()
    direction = random.standard_normal(spec.n_params)
    direction = direction / np.linalg.norm(direction) + gradient / max(np.linalg.norm(gradient), 1e-300)
    (above, signs), (below, signs_below) = at(start + H * direction), at(start - H * direction)
    if "relu" in spec.activation and any((s != t).any() for s, t in zip(signs, signs_below, strict=True)):
        return None
    slope, found = (above - below) / (2 * H), float(gradient @ direction)
    return abs(slope - found) / max(abs(slope), abs(found), 1e-8)


def errors(seed, wanted):
    random, found = np.random.default_rng(seed), []
    while len(found) < wanted:
        error = relative_error(random)
        if error is not None:
            found.append(error)
    return np.array(found)


@pytest.mark.parametrize("seed", range(12))
def test_gradients_of_1200_random_configurations(seed):
    assert errors(seed, 100).max() <= TOLERANCE


WRONG = [f"{name}_backward" for name in HIDDEN_ACTIVATIONS] + [row.loss for row in OUTPUTS.values()] + ["add_l2"]
WRONG += ["dropout_backward"]


@pytest.mark.parametrize(
    "name", [*WRONG[::3], *(pytest.param(n, marks=pytest.mark.slow) for n in WRONG if n not in WRONG[::3])]
)
def test_the_checker_fails_on_a_derivative_wrong_by_a_thousandth(name, monkeypatch):
    right = kernels.REFERENCE[name]

    def wrong(*args, xp):
        if name == "add_l2":
            W, dW, alpha, share, penalty = args
            right(W, dW, alpha, share, penalty, xp=xp)
            dW += 0.001 * alpha * share * W
        else:
            right(*args, xp=xp)
            changed = args[1] if name.endswith("_backward") else args[0]
            changed *= 1.001

    monkeypatch.setitem(kernels.REFERENCE, name, wrong)
    monkeypatch.setattr(kernels.compiled, "native", None)  # the C would be right
    assert (errors(99, 100) > 10 * TOLERANCE).sum() >= 5  # the draws that use it


def test_the_gradient_does_not_depend_on_tiles_and_lanes_beyond_rounding():
    random = np.random.default_rng(3)
    spec, n = fcgpu.Spec((7, 5, 4), "tanh", "softmax"), 50
    X, y = random.standard_normal((n, 7)), random.integers(0, 4, n)
    start, found = random.standard_normal(spec.n_params), []
    for tile, lanes in [(50, 1), (1, 1), (7, 3), (13, 5), (49, 2), (10, 16)]:
        cut, recipe = Plan(n, n, tile, lanes, 1, 0, 0, 0, held=2), fcgpu.Recipe(dtype="float64")
        evaluate = Evaluate(spec, (X, y, None), cut, CPU, Workers(1), recipe, count=True)
        evaluate.params[...] = start
        evaluate(slice(0, n), n)
        found.append((evaluate.gradient.copy(), float(evaluate.loss), int(evaluate.correct)))
    for gradient, loss, correct in found[1:]:
        np.testing.assert_allclose(gradient, found[0][0], rtol=0, atol=n * np.finfo(float).eps)
        assert loss == pytest.approx(found[0][1], rel=n * np.finfo(float).eps)
        assert correct == found[0][2]
