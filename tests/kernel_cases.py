"""Calls of every kernel, and the tolerance within which a faster variant must equal the reference.

Tolerance: both sides round each of some ten operations once, NumPy's and the C library's exp, tanh, log1p and expm1 are
within 4 units in the last place, and a sum of k terms rounds k times. So results may differ by (16 + k) eps times
`scale`: the magnitude of the summed terms, since cancellation may make the result itself smaller.
"""

import itertools
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from fcgpu.kernels import REFERENCE
from fcgpu.kernels.dropout import keys
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.updates import UPDATES

DTYPES = ("float32", "float64")
RATE = 0.01  # learning rate of the updates
SHAPES = [(1, 1), (7, 5), (5, 1), (1, 6), (3, 4, 6), (2, 3, 2, 1)]
SPECIAL = [
    0.0, -0.0, 5e-4, -5e-4, 0.5, -0.5, 40.0, -40.0, 100.0, -100.0, 1e4, -1e4, 1e30, -1e30, 1e-30, -1e-30,
    1e-40, -1e-40, 1e-300, -1e-300, np.inf, -np.inf, np.nan,
]  # fmt: skip


class Case(NamedTuple):
    """A call of a kernel; `scales` maps the index of each output argument to its scale."""

    what: str
    args: tuple
    scales: dict
    options: Any = {}  # noqa: RUF012 (read only)
    terms: int = 1


def activation_cases(name, dtype, random):
    special = np.array([SPECIAL], dtype)
    inputs = [(f"shape {s}", random.normal(0, 3, s), random.normal(0, 1, (1, s[-1]))) for s in SHAPES]
    inputs += [("special", special, np.zeros_like(special)), ("no bias", special, 0)]
    inputs += [("a bias for each model", random.normal(0, 3, (3, 4, 6)), random.normal(0, 1, (3, 1, 6)))]
    for what, Z, b in inputs:
        Z, b = Z.astype(dtype), b if isinstance(b, int) else b.astype(dtype)
        with np.errstate(all="ignore"):
            size = np.abs(Z) + np.abs(b)
            own = {
                "sigmoid": 1.0,
                "tanh": np.abs(np.tanh(Z + b)),
                "logistic": (1 + np.minimum(size, 100)) * np.exp(np.minimum(Z + b, 0)),
            }
        scale = own.get(name, size)
        yield Case(what, (Z, b), {0: scale})


def derivative_cases(name, dtype, random):
    activation = name.removesuffix("_backward")
    for shape in [*SHAPES, (3, 40)]:
        A, dA = random.normal(0, 3, shape).astype(dtype), random.normal(0, 1, shape).astype(dtype)
        REFERENCE[activation](A, 0, xp=np)
        if shape == (3, 40):
            ends = {"sigmoid": [0, 1], "tanh": [-1, 1]}.get(activation, [0.0, -0.0, 5e-4, 1e-30])
            A[0] = random.choice(ends, 40)
            dA *= np.array([[1], [1e30], [1e-30]], dtype)
        yield Case(f"shape {shape}", (A, dA), {1: np.abs(dA)})


def labels(k, n, dtype, random):
    """Class indices of several dtypes, and targets (n, k) that sum to one."""
    for kind in ("int64", "int32", "uint8"):
        yield random.integers(0, max(k, 2), n).astype(kind)
    dense = random.random((n, k))
    yield (dense / dense.sum(axis=1, keepdims=True) if k > 1 else dense).astype(dtype)


def loss_cases(name, dtype, random):
    for k, n, lead in itertools.product((1, 3, 10), (1, 7), ((), (2,), (2, 3))):
        for y in labels(k, n, dtype, random):
            Z = random.normal(0, 4, (*lead, n, k)).astype(dtype)
            for weight in (1 / n, random.random((n, 1)).astype(dtype)):
                yield loss_case(name, f"k={k} n={n} lead={lead} y {y.dtype}{y.shape}", Z, y, weight)
    for k in (1, 3):
        special = np.array(SPECIAL, dtype)
        if k == 1 or name == "poisson":
            special = special[~np.isinf(special)]  # 0 times infinity is NaN in the reference only
        Z = random.normal(0, 1, (len(special), k)).astype(dtype)
        Z[:, k // 2] = special
        for label in (0, 1):
            yield loss_case(name, f"special k={k} label {label}", Z, np.full(len(Z), label), 1.0)


def loss_case(name, what, Z, y, weight):
    k, z = Z.shape[-1], Z.astype(float)
    if name == "cross_entropy" and k == 1:
        y = y * 0  # a softmax of one output has one class
    if name == "poisson" and k > 1 and y.ndim == 1:
        y = np.eye(k, dtype=Z.dtype)[y]  # counts, not class indices
    t = y if y.ndim == 2 else np.eye(k)[y] if k > 1 else y[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        if name == "squared_error":
            terms, dZ = z * z + t * t, np.abs(z) + t
        elif name == "poisson":
            mean = np.exp(z)
            terms, dZ = (1 + np.abs(z)) * mean + np.abs(z) * t + 1, (1 + np.abs(z)) * mean + t
        elif name == "binary_cross_entropy":
            terms, dZ = 1 + np.abs(z) * (1 + t), 1 + t
        else:
            terms, dZ = 1 + np.where(t > 0, np.abs(t * (z - z.max(axis=-1, keepdims=True))), 0), 1 + t
    losses = np.empty((*Z.shape[:-1], 1), Z.dtype)
    scales = {0: weight * dZ, 3: weight * terms.sum(axis=-1, keepdims=True)}
    return Case(what, (Z, y, weight, losses), scales, terms=k)


def dropout_cases(name, dtype, random):
    for shape, first in itertools.product([(1, 1), (7, 5), (40, 3)], (0, 13, 2**32 - 50)):
        A, dA = random.normal(0, 3, shape).astype(dtype), random.normal(0, 1, shape).astype(dtype)
        for rate in (0.1, 0.5, 0.999):
            keep, what = np.empty(shape, bool), f"shape {shape} first {first} rate {rate}"
            if name == "dropout":
                key = keys(int(random.integers(2**63)), first, 1)[0]
                ids = np.arange(first, first + len(A)).astype(np.uint32)
                yield Case(what, (A, keep, key, ids, rate), {0: np.abs(A) / (1 - rate), 1: 0})
            else:
                keep[...] = random.random(shape) < 0.5
                yield Case(what, (A, dA, keep, rate), {0: np.abs(A), 1: np.abs(dA) / (1 - rate)})


def count_cases(name, dtype, random):
    for k, n, lead in itertools.product((1, 2, 10), (1, 8), ((), (3,))):
        for y in list(labels(k, n, dtype, random))[:3]:
            Z = 1e-4 * random.integers(-2, 3, (*lead, n, k)).astype(dtype)  # ties, where the first wins
            yield Case(f"k={k} n={n} lead={lead} y {y.dtype}", (Z, y, np.empty((*lead, n), bool)), {2: 0})


def update_cases(name, dtype, random):
    row = UPDATES[name]
    betas = [key for key in row.defaults if key in ("momentum", "rho", "beta_1", "beta_2")]
    settings = [row.defaults, *({**row.defaults, key: value} for key in betas for value in (0.0, 0.9999))]
    for setting, shape, t in itertools.product(settings, [(1,), (9,), (3, 5)], (0.0, 1.0, 1000.0)):
        w, g, m = (random.normal(0, 1, shape).astype(dtype) for _ in range(3))
        v = m if name in ("momentum", "nesterov") else m * m
        start = {"m": m * (t > 0), "v": v * (t > 0), "t": np.array([t])}
        state = row.state(*(start[field].astype("float64" if field == "t" else dtype) for field in row.state._fields))
        if "weight_decay" in setting and len(shape) > 1:
            setting = {**setting, "weight_decay": random.random(shape[-1]).astype(dtype)}
        scales = dict(zip((0, 2), update_scales(name, w, g, state, setting), strict=True))
        yield Case(f"{setting} {shape} t={t}", (w, g, state, np.array([RATE], dtype)), scales, setting)


def rprop_cases(name, dtype, random):
    """Every pair of signs; first steps, steps between and at the limits; a loss that falls, stays or rises."""
    options = {**UPDATES[name].defaults, "step_min": 0.01, "step_max": 0.1}
    for shape, size, losses in itertools.product(
        [(60,), (3, 60)], (0.0, 0.02, 0.015, 0.09), itertools.product((1.0, 2.0), (1.0, 2.0))
    ):
        w, g = (random.normal(0, 1, shape).astype(dtype) for _ in range(2))
        g *= random.choice([0.0, 1.0, 1e-30, 1e30], shape).astype(dtype)
        g[..., 0] = np.nan
        sign = random.integers(-1, 2, shape).astype(dtype) * (size > 0)
        per_model = (*shape[:-1], 1)
        state = UPDATES[name].state(sign, np.full(shape, size, dtype), np.full(per_model, losses[0]))
        loss = np.full(per_model if len(shape) > 1 else (), losses[1])
        scales = {0: np.abs(w) + 0.1, 2: (0, np.full(shape, 0.1), 0)}
        yield Case(
            f"{shape} {size} {losses}", (w, g, state, np.array([0.05], dtype)), scales, {**options, "loss": loss}
        )


def update_scales(name, w, g, state, setting):
    """Scales of w and of the state."""
    w, g = np.abs(w).astype(float), np.abs(g).astype(float)
    if name == "gradient_descent":
        return w + RATE * g, ()
    if name in ("momentum", "nesterov"):
        v = np.abs(state.v) + RATE * g
        return w + v, (v,)
    if name == "rmsprop":
        v = setting["rho"] * state.v + (1 - setting["rho"]) * g * g
        return w + RATE * g / np.sqrt(v), (v,)
    t, beta_1, beta_2 = state.t + 1, setting["beta_1"], setting["beta_2"]
    m, v = beta_1 * np.abs(state.m) + (1 - beta_1) * g, beta_2 * state.v + (1 - beta_2) * g * g
    return w + RATE * np.sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / np.sqrt(v), (m, v, 0)


def maker_of(name):
    makers = {"count_correct": count_cases, **dict.fromkeys(UPDATES, update_cases)}
    makers["rprop"] = rprop_cases
    makers |= dict.fromkeys((row.loss for row in OUTPUTS.values()), loss_cases)
    makers |= dict.fromkeys(("dropout", "dropout_backward"), dropout_cases)
    return makers.get(name, derivative_cases if name.endswith("_backward") else activation_cases)


def cases(name, dtype):
    """Every call of a kernel that is compared."""
    return maker_of(name)(name, dtype, np.random.default_rng(0))


def lifted(value, array):
    """A copy of the argument, with `array` applied to each array in it."""
    if isinstance(value, tuple):
        return type(value)(*(lifted(v, array) for v in value))
    return array(value) if isinstance(value, np.ndarray) else value


def leaves(value):
    return [leaf for v in value for leaf in leaves(v)] if isinstance(value, tuple) else [value]


def whole(table, name):
    """The kernel; for a loss, a function that calls both of its halves, the second of which overwrites Z with dZ."""
    if f"{name}_delta" not in table:
        return table[name]

    def loss(Z, y, weight, losses, *, xp):
        table[name](Z, y, weight, losses, xp=xp)
        table[f"{name}_delta"](Z, 0, y, weight, xp=xp)

    return loss


def compare(name, function, dtype, xp, operand=None, *, flushes=False):
    """Raises AssertionError if `function` differs from the reference of this name by more than rounding.

    operand : the dtype of the products, if it is a 16-bit float; the arrays then hold values of it, and results other
    than losses are rounded to it. CuPy compiles with -ftz=true, so subnormal float32 numbers are 0 on a GPU; `flushes`
    says that `function` does the same in both dtypes.
    """
    flushes = flushes or (type(xp).__name__ == "module" and dtype == "float32")
    least = float(np.finfo(dtype).smallest_normal) if flushes else 0.0
    for case in cases(name, dtype):
        args = [lifted(a, lambda a: among(a, dtype, operand)) for a in case.args] if operand else case.args
        expected = [lifted(a, np.copy) for a in args]
        found = [lifted(a, xp.asarray) for a in args]
        with np.errstate(all="ignore"):
            whole(REFERENCE, name)(*expected, **case.options, xp=np)
        function(*found, **{key: lifted(v, xp.asarray) for key, v in case.options.items()}, xp=xp)
        for at, scale in case.scales.items():
            kind = np.dtype(operand if operand and not (at == 3 and maker_of(name) is loss_cases) else dtype)
            eps, tiny = float(ml_dtypes.finfo(kind).eps), 4 * float(ml_dtypes.finfo(kind).smallest_subnormal) + least
            for want, got, size in zip(leaves(expected[at]), leaves(found[at]), leaves(scale), strict=True):
                assert (got.dtype, got.shape) == (want.dtype, want.shape), case.what
                want, got = want.astype(float), got.get().astype(float)
                if kind != dtype:
                    with np.errstate(over="ignore", invalid="ignore"):
                        want = want.astype(kind).astype(float)
                finite = np.isfinite(want)
                np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=case.what)
                bound = np.broadcast_to((16 + case.terms) * eps * np.abs(size) + tiny, want.shape)
                error = np.abs(np.subtract(got, want, where=finite, out=np.zeros_like(want)))
                assert (error <= bound)[finite].all(), f"{case.what}: {got[error > bound]} is not {want[error > bound]}"


def among(a, dtype, operand):
    """The array rounded to the nearest values of a 16-bit float, clipped to its range, in its own dtype."""
    if a.dtype != dtype:
        return a
    most = float(ml_dtypes.finfo(operand).max)
    with np.errstate(invalid="ignore"):  # ml_dtypes warns about NaN
        return np.where(np.isfinite(a), np.clip(a, -most, most), a).astype(operand).astype(dtype)
