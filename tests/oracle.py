"""Training in plain float64 loops, written from the equations alone: it must never import fcgpu.

Weights are (n_in, n_out); a network's layers are [(W, b), ...] and its flat parameters W1, b1, W2, b2, ... by rows.
There are two ways to store the weights, which differ only in the sums over them: `Loops`, one Python float for each
weight, is the oracle; `Rows`, one array for each matrix but still one sample at a time, is for networks whose loops
would take minutes.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Step(NamedTuple):
    """One update: the batch's loss before it, the batch's number of samples, all parameters after it."""

    loss: float
    size: int
    params: np.ndarray


def sigmoid(z):
    """1 / (1 + exp(-z)), computed so that exp's argument is never positive."""
    e = math.exp(-abs(z))
    return 1 / (1 + e) if z >= 0 else e / (1 + e)


# name: (a of z, da/dz of a)
ACTIVATIONS = {
    "sigmoid": (sigmoid, lambda a: a * (1 - a)),
    "tanh": (math.tanh, lambda a: 1 - a * a),
    "relu": (lambda z: max(z, 0.0), lambda a: 1.0 if a > 0 else 0.0),
    "leaky_relu": (lambda z: z if z > 0 else 0.01 * z, lambda a: 1.0 if a > 0 else 0.01),
    "identity": (lambda z: z, lambda a: 1.0),
}


def sigmoid_output(z, t):
    """Binary cross-entropy, summed over the outputs: -t log p - (1 - t) log(1 - p) with p = sigmoid(z)."""
    loss = sum(max(zj, 0.0) - zj * tj + math.log1p(math.exp(-abs(zj))) for zj, tj in zip(z, t, strict=True))
    return [sigmoid(zj) for zj in z], loss


def softmax_output(z, t):
    """Cross-entropy: -sum t log p with p = exp(z) / sum exp(z)."""
    top = max(z)
    total = sum(math.exp(zj - top) for zj in z)
    loss = sum(tj * (top + math.log(total) - zj) for zj, tj in zip(z, t, strict=True))
    return [math.exp(zj - top) / total for zj in z], loss


def identity_output(z, t):
    """Half the squared error."""
    return list(z), sum(0.5 * (zj - tj) ** 2 for zj, tj in zip(z, t, strict=True))


def exp_output(z, t):
    """Half the Poisson deviance of counts t with means exp(z)."""
    means = [math.exp(zj) for zj in z]
    loss = sum(p - tj + (tj * math.log(tj / p) if tj > 0 else 0.0) for p, tj in zip(means, t, strict=True))
    return means, loss


# name: function of the last layer's z and the targets t that returns the prediction p and the loss; dloss/dz = p - t
OUTPUTS = {"sigmoid": sigmoid_output, "softmax": softmax_output, "identity": identity_output, "exp": exp_output}


class Loops:
    """W is a list of rows, each a list of floats; a cell, the unit that a rule updates, is one float."""

    @staticmethod
    def pack(W, b):
        return [[float(w) for w in row] for row in W], [float(v) for v in b]

    @staticmethod
    def zeros(sizes):
        return [([[0.0] * n_out for _ in range(n_in)], [0.0] * n_out) for n_in, n_out in pairwise(sizes)]

    @staticmethod
    def weighted_sums(W, b, x):
        z = list(b)
        for i in range(len(x)):
            for j in range(len(z)):
                z[j] += x[i] * W[i][j]
        return z

    @staticmethod
    def weighted_sums_back(W, dz):
        return [sum(row[j] * dz[j] for j in range(len(dz))) for row in W]

    @staticmethod
    def add_gradient(dW, db, x, dz):
        for j in range(len(dz)):
            db[j] += dz[j]
            for i in range(len(x)):
                dW[i][j] += x[i] * dz[j]

    @staticmethod
    def square(cell):
        return cell * cell

    @staticmethod
    def cells(layers):
        """[(value, whether it is a weight)] in the order of the flat parameters."""
        found = []
        for W, b in layers:
            found += [(w, True) for row in W for w in row]
            found += [(v, False) for v in b]
        return found

    @staticmethod
    def flat(cells):
        return np.array(cells, np.float64)

    @staticmethod
    def layers(cells, sizes):
        found, k = [], 0
        for n_in, n_out in pairwise(sizes):
            W = [cells[k + i * n_out : k + (i + 1) * n_out] for i in range(n_in)]
            k += n_in * n_out
            found.append((W, cells[k : k + n_out]))
            k += n_out
        return found


class Rows:
    """W and b are arrays, each one cell; samples are still processed one by one, without BLAS."""

    @staticmethod
    def pack(W, b):
        return np.array(W, np.float64), np.array(b, np.float64)

    @staticmethod
    def zeros(sizes):
        return [(np.zeros((n_in, n_out)), np.zeros(n_out)) for n_in, n_out in pairwise(sizes)]

    @staticmethod
    def weighted_sums(W, b, x):
        return (b + np.sum(W * np.asarray(x)[:, None], axis=0)).tolist()

    @staticmethod
    def weighted_sums_back(W, dz):
        return np.sum(W * np.asarray(dz), axis=1).tolist()

    @staticmethod
    def add_gradient(dW, db, x, dz):
        dW += np.multiply.outer(x, dz)
        db += dz

    @staticmethod
    def square(cell):
        return float(np.sum(cell * cell))

    @staticmethod
    def cells(layers):
        return [cell for W, b in layers for cell in ((W, True), (b, False))]

    @staticmethod
    def flat(cells):
        return np.concatenate([cell.ravel() for cell in cells])

    @staticmethod
    def layers(cells, sizes):
        return list(zip(cells[::2], cells[1::2], strict=True))


# Update rules, for one cell: (w, g, two numbers of state, learning rate, settings, t = 1, 2, ...) -> (w, state).
def gradient_descent(w, g, state, lr, s, t):
    return w - lr * g, state


def momentum(w, g, state, lr, s, t):
    v = s["momentum"] * state[0] - lr * g
    return w + v, (v, 0.0)


def nesterov(w, g, state, lr, s, t):
    v = s["momentum"] * state[0] - lr * g
    return w + s["momentum"] * v - lr * g, (v, 0.0)


def rmsprop(w, g, state, lr, s, t):
    v = s["rho"] * state[0] + (1 - s["rho"]) * g * g
    return w - lr * g / (v**0.5 + s["epsilon"]), (v, 0.0)


def adam(w, g, state, lr, s, t):
    m = s["beta_1"] * state[0] + (1 - s["beta_1"]) * g
    v = s["beta_2"] * state[1] + (1 - s["beta_2"]) * g * g
    lr_t = lr * math.sqrt(1 - s["beta_2"] ** t) / (1 - s["beta_1"] ** t)
    return w - lr_t * m / (v**0.5 + s["epsilon"]), (m, v)


RULES = {
    "gradient_descent": gradient_descent,
    "momentum": momentum,
    "nesterov": nesterov,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adam,  # after the decay of the weights, in `train`
}

# Schedules: the factor of the learning rate at step 0, 1, ... of `steps`, in epoch 0, 1, ...


def one_cycle(step, steps):
    """Up from 1/25 to 1 in the first three tenths of the run, then down to 1/250,000, both along half a cosine."""
    peak, last = 0.3 * steps, steps - 1
    if step < peak:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * step / peak)) / 2
    return 4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * (step - peak) / max(1.0, last - peak))) / 2


SCHEDULES = {
    "constant": lambda s, step, steps, epoch: 1.0,
    "step": lambda s, step, steps, epoch: s["gamma"] ** (epoch // s["step_size"]),
    "cosine": lambda s, step, steps, epoch: 0.5 * (1 + math.cos(math.pi * step / steps)),
    "one_cycle": lambda s, step, steps, epoch: one_cycle(step, steps),
    "inverse_scaling": lambda s, step, steps, epoch: 1 / (s["samples"] * epoch + 1) ** s["power_t"],
}

INITS = {
    "zeros": lambda rng, n_in, n_out: np.zeros((n_in, n_out)),
    "uniform": lambda rng, n_in, n_out: rng.random((n_in, n_out)),
    "normal": lambda rng, n_in, n_out: rng.standard_normal((n_in, n_out)),
    "glorot": lambda rng, n_in, n_out: rng.uniform(
        -math.sqrt(6 / (n_in + n_out)), math.sqrt(6 / (n_in + n_out)), (n_in, n_out)
    ),
    "he": lambda rng, n_in, n_out: math.sqrt(2 / n_in) * rng.standard_normal((n_in, n_out)),
    "lecun": lambda rng, n_in, n_out: math.sqrt(1 / n_in) * rng.standard_normal((n_in, n_out)),
    "article": lambda rng, n_in, n_out: rng.randn(n_out, n_in).T,
}


def initial(sizes, init, seed, ways=Loops):
    """The layers before training, drawn one after the other from one random generator."""
    rng = np.random.RandomState(seed) if init == "article" else np.random.Generator(np.random.PCG64(seed))
    return [ways.pack(INITS[init](rng, n_in, n_out), [0.0] * n_out) for n_in, n_out in pairwise(sizes)]


def from_flat(params, sizes, ways=Loops):
    """The layers of a flat parameter vector."""
    found, k = [], 0
    for n_in, n_out in pairwise(sizes):
        W, b = params[k : k + n_in * n_out], params[k + n_in * n_out : k + n_in * n_out + n_out]
        found.append(ways.pack(np.reshape(W, (n_in, n_out)), b))
        k += n_in * n_out + n_out
    return found


def loss_and_gradient(layers, X, T, s, ways=Loops, *, wrong_output=1.0, wrong_hidden=1.0):
    """The loss of the samples X for the targets T, and its gradient in the shape of `layers`.

    wrong_output, wrong_hidden : factors on two derivatives: that of log(1 + exp z), log(sum exp z) or z²/2, and that
    of the hidden activation. A factor other than 1 must make a comparison fail.
    """
    act, slope = ACTIVATIONS[s["activation"]]
    out = OUTPUTS[s["output"]]
    sizes = [len(layers[0][0]), *(len(b) for _, b in layers)]
    gradient = ways.zeros(sizes)
    loss = 0.0
    for x, t in zip(X, T, strict=True):
        A = [x]
        for W, b in layers[:-1]:
            A.append([act(z) for z in ways.weighted_sums(W, b, A[-1])])
        p, sample_loss = out(ways.weighted_sums(*layers[-1], A[-1]), t)
        loss += sample_loss / len(X)
        dz = [(wrong_output * pj - tj) / len(X) for pj, tj in zip(p, t, strict=True)]
        for layer in reversed(range(len(layers))):
            ways.add_gradient(*gradient[layer], A[layer], dz)
            if layer:
                da = ways.weighted_sums_back(layers[layer][0], dz)
                dz = [d * wrong_hidden * slope(a) for d, a in zip(da, A[layer], strict=True)]
    if s["alpha"]:
        cells, steep, pull = ways.cells(layers), ways.cells(gradient), s["alpha"] / len(X)
        loss += 0.5 * pull * sum(ways.square(w) for w, is_weight in cells if is_weight)
        full = [g + pull * w if is_weight else g for (w, is_weight), (g, _) in zip(cells, steep, strict=True)]
        gradient = ways.layers(full, sizes)
    return loss, gradient


def learning_rate(s, step, steps, per_epoch):
    """The learning rate of step 0, 1, ...: the schedule's factor times the warm-up's factor."""
    schedule = s["schedule"] or ("constant" if s["optimizer"] in ("lbfgs", "rprop") else "cosine")
    rate = s["learning_rate"] * SCHEDULES[schedule](s, step, steps, step // per_epoch)
    return rate * min(1.0, (step + 1) / (s["warmup"] * per_epoch)) if s["warmup"] else rate


def train(X, T, s, ways=Loops, *, scale=1.0, start=None, **wrong) -> Iterator[Step]:
    """Yield every step of a run. The caller may stop early; the schedule is still that of the whole run.

    X (n_samples, n_features) and T (n_samples, n_outputs) targets, as sequences. s : all settings, named as the keys of
    a recipe. scale : the data's scale, used if the recipe's is 0. start : flat parameters to use instead of the
    initialisation.
    """
    scale = s["scale"] or scale
    X = [[float(v) * scale for v in row] for row in X]
    T = [[float(v) for v in row] for row in T]
    n = len(X)
    s = {**s, "samples": n}
    size = n if s["batch"] == "full" else min(s["batch"], n)
    per_epoch = -(-n // size)
    steps = s["epochs"] * per_epoch
    sizes = [len(X[0]), *s["hidden"], len(T[0])]
    layers = initial(sizes, s["init"], s["seed"], ways) if start is None else from_flat(start, sizes, ways)
    rule = RULES[s["optimizer"]]
    states = [(0.0, 0.0)] * len(ways.cells(layers))
    order_rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(s["seed"]).spawn(1)[0]))

    step = 0
    for _ in range(s["epochs"]):
        order = order_rng.permutation(n).tolist() if s["shuffle"] and size < n else list(range(n))
        for k in range(0, n, size):
            batch = order[k : k + size]
            rate = learning_rate(s, step, steps, per_epoch)
            loss, gradient = loss_and_gradient(layers, [X[i] for i in batch], [T[i] for i in batch], s, ways, **wrong)
            steep = [g for g, _ in ways.cells(gradient)]
            if s["gradient_clip"]:
                norm = math.sqrt(sum(ways.square(g) for g in steep))
                if norm > s["gradient_clip"]:
                    steep = [g * (s["gradient_clip"] / norm) for g in steep]
            updated = []
            for k, (w, is_weight) in enumerate(ways.cells(layers)):
                if s["optimizer"] == "adamw" and is_weight:
                    w = w - rate * s["weight_decay"] * w
                w, states[k] = rule(w, steep[k], states[k], rate, s, step + 1)
                updated.append(w)
            layers = ways.layers(updated, sizes)
            step += 1
            yield Step(loss, len(batch), ways.flat(updated))


def epochs(steps, n_samples):
    """Yield (mean loss of the epoch's samples, parameters after it) for every epoch in an iterator of Step."""
    total, seen = 0.0, 0
    for step in steps:
        total += step.loss * step.size
        seen += step.size
        if seen == n_samples:
            yield total / n_samples, step.params
            total, seen = 0.0, 0


def one_hot(labels, n_classes):
    """Targets for class indices: one column for each class."""
    return [[1.0 if k == label else 0.0 for k in range(n_classes)] for label in labels]
