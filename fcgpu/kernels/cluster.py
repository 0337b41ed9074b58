"""Many steps of small batches in one launch, by a cluster of thread blocks whose shared memory holds all parameters.

As a dozen launches, a step of a small batch is nothing but latency. Here the blocks stay resident (compute capability
9.0 and later) and synchronise between the phases of a step by cluster barriers. Each block owns some units of each
hidden layer. It holds:
    column_slice : W and b that lead into its units, which it updates;
    row_slice : a copy of W that leads from its units to the next layer. It is updated with the same sums in the same
        order as the other blocks' column slices, so it has the same bits.
A block computes A and dZ of its units and writes them into the shared memory of every block. The last layer is small:
every block holds all of its W, computes all of its Z and dZ, and makes all of its updates.

Barriers. A block reads the others' A of layer l until it has updated its column slice of layer l + 1. That is before it
arrives at the barrier that publishes dZ of layer l + 1; A is overwritten only after that barrier. dZ of layer l is read
until the next step's first barrier, and overwritten only after it. So two barriers per hidden layer, less one, are
enough. With one hidden layer there is no dZ to publish. There a split barrier protects A: a block arrives after its
last read of A, and waits in the next step, just before it writes A.

Features are multiplied by W as they are stored, and the sums by their scale.

The kernel's text is in `cluster*.cu`, its device functions in `ptx.cu`; the formulas are those of all other kernels.
"""

from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import formulas, fused
from fcgpu.kernels.expressions import DERIVATIVE, TARGET, G, loss
from fcgpu.kernels.formulas import WIDTH
from fcgpu.kernels.text import C_TYPES, program, round_up, text_of
from fcgpu.kernels.updates import log_or_minus_infinity

NAME = "steps_of_a_cluster"
TEXTS = ("cluster.cu", "cluster_features.cu", "cluster_steps.cu")
THREADS = 512
# A step of Adam, 784-128-64-10, took 18 us with 32 rows and 26 with 64 on an H200; by launches 28 with 128.
MOST_OUTPUTS, MOST_ROWS = 32, 64
MOST_IN_PLACE = 1 << 34  # features that can be read from global memory: four per word, and words have 32-bit indices
RULES = ("gradient_descent", "momentum", "nesterov", "rmsprop", "adam", "adamw")
TYPES = {"T": "dtype", "U": "features", "I": "targets"}
NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14  # CUfunction_attribute that allows clusters of more than 8 blocks


@dataclass(frozen=True)
class Shape:
    """What a kernel is compiled for. X has dtype `features`, y dtype `targets`; y is (n, k) if `dense`, else (n,)."""

    sizes: tuple[int, ...]
    activation: str
    loss: str
    rule: str
    dtype: str
    features: str
    targets: str
    dense: bool
    count: bool
    regularised: bool
    batch: int  # most rows of a batch
    blocks: int = 16
    threads: int = THREADS
    buffers: int = 2  # for a batch's features in shared memory; 0 if they are read from global memory

    @cached_property
    def bytes(self) -> int:
        """Bytes of shared memory per block."""
        return layout(self).bytes


class Layout(NamedTuple):
    """Offsets in bytes, and sizes. `tables` have one entry per layer, `numbers` are single values, and `bytes` is the
    size of a block's shared memory.
    """

    tables: dict[str, list[int]]
    numbers: dict[str, int]
    bytes: int


def layout(shape: Shape) -> Layout:
    """The layout of a block's shared memory and of the flat vectors."""
    n, last, size = shape.sizes, len(shape.sizes) - 1, np.dtype(shape.dtype).itemsize
    features, targets = np.dtype(shape.features).itemsize, np.dtype(shape.targets).itemsize
    padded = [round_up(m, 4) for m in n]
    units = [0, *(round_up(m, 4 * shape.blocks) // shape.blocks for m in n[1:])]
    width = [0, *units[1:last], padded[last]]
    # Eight rows at a stride of 4, 12, 20, ... are in different banks.
    ld = [m if m % 8 else m + 4 for m in padded]
    inputs = [0, 0, *padded[1:last]]
    states = len(_rule(shape.rule).state)
    rows = rows_of_a_thread(shape)
    row = round_up(round_up(n[0], 4) * features, 16) // features
    columns = [0, *(round_up(m, WIDTH) for m in n[1:])]
    matrices = [round_up(a + 1, WIDTH) * b for a, b in zip(n, columns[1:], strict=False)]
    at = 0

    def take(count: int, itemsize: int) -> int:
        nonlocal at
        at, start = at + round_up(count * itemsize, 16), at
        return start

    held, layers = size * (1 + states), range(1, last + 1)
    scratch = max(round_up(shape.batch, rows), shape.threads // 32 * rows) * units[1]
    numbers = {
        "FEATURES": take(shape.buffers * shape.batch * row, features),
        "W1": take(units[1] * round_up(n[0], 128), held),
        "SCRATCH": take(scratch, size),
        "DZ1": take(shape.batch * units[1], size),
        "SOURCES": take(2 * shape.batch, 8),
        "TARGETS": take(2 * shape.batch * (n[-1] if shape.dense else 1), targets),
        "LOSSES": take(2 * shape.batch, 8),
        "PENALTIES": take(2 * shape.blocks + shape.threads // 32, 8),
        "ETA_T": take(1, size),
        "ROW": row,
        "R": rows,
    }
    tables = {
        "size": list(n), "padded": padded, "units": units, "width": width, "ld": ld, "inputs": inputs,
        "columns": columns, "flat": [0, *accumulate(matrices, initial=0)][:-1],
        "outputs": [0, *(take(shape.batch * ld[i], size) for i in layers[:-1]), 0],
        "errors": [0, 0, *(take(shape.batch * ld[i], size) for i in layers[1:])],
        "column_slice": [0, *(take((inputs[i] + 1) * width[i], held) for i in layers)],
        "row_slice": [0, 0, *(take(units[i - 1] * padded[i], held) for i in layers[1:-1]), 0],
    }  # fmt: skip
    return Layout(tables, numbers, at)


def rows_of_a_thread(shape: Shape) -> int:
    """Rows of the batch that a thread multiplies by each weight that it has read: as many as its registers hold."""
    most = 2 if shape.dtype == "float64" else 8 if np.dtype(shape.features).itemsize == 1 else 4
    return -(-shape.batch // -(-shape.batch // most))


class Rule(NamedTuple):
    """An update rule's text: names of its numbers (without rate and t) and of its state, its statements for each
    parameter, and its statements once per step.
    """

    numbers: list[str]
    state: list[str]
    update: str
    once: str


@cache
def _rule(name: str) -> Rule:
    inputs, outputs, update = fused.FORMULAS[name]
    numbers = [word.split()[-1] for word in inputs.split(", ")[1:] if not word.startswith("raw")]
    once = fused.ADAM_RATE if fused.ADAM_RATE in update else ""
    return Rule(numbers, [word.split()[-1] for word in outputs.split(", ")[1:]], update.replace(once, ""), once)


def text(shape: Shape) -> str:
    """The kernel's text for a shape, without the device functions of ptx.cu."""
    rule, lay = _rule(shape.rule), layout(shape)
    states = range(1, len(rule.state) + 1)
    once = "".join(f"const T {name} = rule.{name}; " for name in rule.numbers) + "const T *rate = rule.rate; "
    once += rule.once.replace("T eta_t", "rule.eta_t")
    defined = {
        "BLOCKS": shape.blocks, "THREADS": shape.threads, "BATCH": shape.batch,
        "Y": shape.sizes[-1] if shape.dense else 1, "L": len(shape.sizes) - 1, "H": len(shape.sizes) - 2,
        "TOTAL": lay.bytes, **lay.numbers,
    }  # fmt: skip
    macros = {
        "BYTES": int(shape.features == "uint8" and shape.dtype == "float32"),
        "L2": int(shape.regularised),
        "BUFFERS": shape.buffers,
        "DENSE": int(shape.dense),
        "COUNT": int(shape.count),
        "STATES": len(rule.state),
        "ACTIVATION": G[shape.activation],
        "DERIVATIVE": DERIVATIVE[shape.activation],
        "SOFTMAX": int(shape.loss == "cross_entropy"),
        "TARGET": TARGET,
        "LOSS": loss(shape.loss, each="if (j < k)"),
        "ADD_L2": formulas.FORMULAS["add_l2"].operation,
        "UPDATE": rule.update,
        "ONCE": int(bool(rule.once)),
        "SET_ETA_T": once,
        "HYPER_FIELDS": "".join(f", {name}" for name in rule.numbers),
        "HYPER_PARAMETERS": "".join(f", double {name}" for name in rule.numbers),
        "HYPER_VALUES": "".join(f", T({name})" for name in rule.numbers),
        "HYPER_NAMES": "".join(
            f"const T {name} = {'weight ? rule.decay : T(0)' if name == 'decay' else f'rule.{name}'}; "
            for name in rule.numbers
        ),
        "STATE_PARAMETERS": "".join(f", T &{name}" for name in rule.state),
        "STATE_AT(w, span)": "".join(f", w[{i} * (span)]" for i in states),
        "STATE_FOUR(w, span)": "".join(f", s{i} = four(w + {i} * (span))" for i in states),
        "STATE_OF_FOUR(j)": "".join(f", s{i}.v[j]" for i in states),
        "STATE_PUT(w, span)": "".join(f"put(w + {i} * (span), s{i}); " for i in states),
    }
    lines = [f"typedef {C_TYPES[getattr(shape, of)]} {c};" for c, of in TYPES.items()]
    lines += [f"#define {name} {' '.join(str(value).split())}" for name, value in macros.items()]
    lines += [f"constexpr int {name} = {value};" for name, value in defined.items()]
    for name, values in lay.tables.items():
        chosen = "".join(f"l == {i} ? {value} : " for i, value in enumerate(values))
        lines.append(f"__device__ constexpr int {name}(int l) {{ return {chosen}0; }}")
    return "\n".join((*lines, *map(text_of, TEXTS)))


def fitting(shape: Shape, most_bytes: int, features: int) -> list[Shape]:
    """The shape with up to 16 blocks, and with up to 8 in case a GPU refuses more: those that fit, the fastest first.

    most_bytes : largest shared memory of a block; features : X.size.
    """
    useful = 1  # each block takes a multiple of 4 units
    while 4 * useful < max(shape.sizes[1:-1]):
        useful *= 2
    found = []
    for blocks in sorted({min(16, useful), min(8, useful)}, reverse=True):
        for buffers in (2, 0):
            made = replace(shape, blocks=blocks, buffers=buffers)
            in_place = shape.sizes[0] % 4 == 0 and features <= MOST_IN_PLACE
            if made.bytes <= most_bytes and (buffers or in_place):
                found.append(made)
                break
    return found


@lru_cache(maxsize=32)
def kernel(shape: Shape, xp: Any, device: int) -> Any:
    """The compiled kernel for the current device, whose number is `device`. Raises what CuPy raises."""
    made = xp.RawKernel(program(text(shape)), NAME, options=("--std=c++17",))
    made.max_dynamic_shared_size_bytes = shape.bytes
    if shape.blocks > 8:
        xp.cuda.driver.funcSetAttribute(made.kernel.ptr, NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
    return made


class Vectors(NamedTuple):
    """The device arrays of a run, in the order of the kernel's parameters; order may be None."""

    X: Any
    y: Any
    order: Any
    params: Any
    state: tuple[Any, ...]
    rates: Any
    first: Any
    totals: Any
    history: Any
    at: Any
    t: Any
    rate: Any


def arguments(
    arrays: Vectors, every: int, stride: int, rows: int, times: int, scale: float, portion: float, alpha: float,
    numbers: tuple[float, ...],
) -> tuple[Any, ...]:  # fmt: skip
    """The kernel's arguments for `times` steps of one epoch, each of `rows` samples.

    An epoch has `every` steps; each begins `stride` samples after the one before. `numbers` are the rule's, in the
    order of its formula.
    """
    X, y, order, params, state, *others = arrays
    some_order = arrays.at if order is None else order  # an array that is not used stands for one that is missing
    two_states = (*state, params, params)[:2]
    return (
        X, y, some_order, params, *two_states, *others, np.int64(every), np.int64(stride), np.int32(order is not None),
        np.int32(rows), np.int32(times), *map(np.float64, (scale, portion, alpha)), *map(np.float64, numbers),
    )  # fmt: skip


def numbers_of(rule: str, options: dict[str, Any]) -> tuple[float, ...]:
    """The numbers of the rule's formula, in its order, from the hyperparameters."""
    known = dict(options)
    if "momentum" in known:
        known["mu"] = known["momentum"]
    if "rho" in known:
        known["rest"] = 1 - known["rho"]
    if "weight_decay" in known:
        known["decay"] = known["weight_decay"]
    for i in (1, 2):
        if (beta := f"beta_{i}") in known:
            known[f"rest_{i}"], known[f"log_{beta}"] = 1 - known[beta], log_or_minus_infinity(known[beta])
    return tuple(float(known[name]) for name in _rule(rule).numbers)
