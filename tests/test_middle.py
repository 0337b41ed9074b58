"""The kernel between a step's two products with the samples, against the references in float64.

Its source is compiled for the CPU with cuda_double.h, which runs threads in an order drawn from a seed; NVIDIA's
compiler compiles it for each architecture (test_nvrtc.py); if there is a GPU, it runs there too.
"""

import ctypes
import math
import re
from functools import cache
from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
from kernel_cases import whole
from raw_double import library

from fcgpu.kernels import REFERENCE, middle
from fcgpu.kernels.device import Rows
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.middle import Middle, text
from fcgpu.kernels.middle_cut import Cut, Memory, cut_of, why_not
from fcgpu.params import Padded, Spec, initial

H100 = {"MaxSharedMemoryPerBlockOptin": 232_448, "MaxSharedMemoryPerMultiprocessor": 233_472, "MultiProcessorCount": 3}
BOUNDS = {1: 2e-2, 2: 5e-5, 3: 2e-6}  # relative to the greatest number, by the number of pieces
BARRIER = "__syncthreads();"


class Network(NamedTuple):
    """What a kernel's source is generated for."""

    sizes: tuple[int, ...]
    activation: str
    output: str
    pieces: int
    cut: Cut
    targets: str = "int64"
    weighted: bool = False
    stored: str = "float32"
    whole: bool = False
    without: int = -1  # the barrier that is left out

    @property
    def spec(self):
        return Spec(self.sizes, self.activation, self.output)

    @property
    def dense(self):
        return self.targets == "float32"

    @property
    def of(self):
        """Arguments of `text`."""
        options = {"targets": self.targets, "dense": self.dense, "weighted": self.weighted, "count": not self.dense}
        numbers = (self.sizes, self.activation, self.output, self.pieces, self.cut)
        return numbers, {**options, "stored": self.stored, "whole": self.whole}

    @property
    def text(self):
        numbers, options = self.of
        written = text(*numbers, **options)
        if self.without < 0:
            return written
        parts = written.split(BARRIER)
        return BARRIER.join(parts[: self.without + 1]) + BARRIER.join(["", *parts[self.without + 1 :]])[len(BARRIER) :]

    @property
    def bytes(self):
        return Memory(self.sizes, self.pieces, self.cut).bytes


NETWORKS = {
    "digits": Network((5, 128, 64, 10), "relu", "softmax", 3, Cut(512, 64, 1)),
    "digits, bfloat16": Network((5, 128, 64, 10), "tanh", "softmax", 1, Cut(256, 48, 2), stored="bfloat16"),
    "odd sizes": Network((3, 17, 9, 3), "sigmoid", "softmax", 3, Cut(512, 32, 1), "float32", weighted=True),
    "odd sizes, two pieces": Network((3, 17, 9, 3), "tanh", "softmax", 2, Cut(256, 32, 2), "uint8"),
    "one output": Network((3, 12, 1), "tanh", "sigmoid", 3, Cut(256, 64, 2), "int32"),
    "one output, few rows": Network((3, 12, 1), "tanh", "sigmoid", 3, Cut(512, 16, 1), "int32"),
    "one output, rows of one warp and a half": Network((3, 12, 1), "relu", "identity", 1, Cut(256, 48, 2), "float32"),
    "many layers": Network((4, 20, 33, 7, 9, 2), "leaky_relu", "identity", 3, Cut(512, 16, 1), "float32"),
    "wide output": Network((4, 24, 40), "identity", "sigmoid", 1, Cut(512, 16, 1), "float32"),
    "counts": Network((4, 24, 30, 5), "relu", "exp", 2, Cut(512, 16, 1), "float32", weighted=True),
    "digits, whole": Network((5, 128, 64, 10), "relu", "softmax", 3, Cut(512, 48, 1), whole=True),
    "odd sizes, two pieces, whole": Network((3, 17, 9, 3), "tanh", "softmax", 2, Cut(256, 32, 2), "uint8", whole=True),
}

ALL = tuple(NETWORKS.values())


class Data:
    """The inputs, on the host, and the expected outputs, from the references in float64."""

    def __init__(self, network, n, seed=0):
        self.network, self.n, random = network, n, np.random.default_rng(seed)
        self.layout, pieces, k = Padded(network.spec), network.pieces, network.sizes[-1]
        n1, self.wide = network.sizes[1], self.layout.shapes[0][1]
        self.share = np.array([0.5 / n], np.float32)
        self.blocks = 1 if network.whole else pieces
        self.made = np.dtype(np.float32 if network.whole else ml_dtypes.bfloat16)
        blocks = random.normal(0, 4, (n, self.blocks, self.wide)) / 10.0 ** np.arange(self.blocks)[:, None]
        blocks[..., n1:] = 0
        self.Z1 = blocks.reshape(n, -1).astype(np.dtype(network.stored))
        packed = initial(network.spec, seed) + random.normal(0, 0.1, network.spec.n_params)
        self.params = self.layout.padded(packed.astype(np.float32))
        self.weights = random.random(n).astype(np.float32) if network.weighted else np.ones(1, np.float32)
        if network.dense:
            y = random.random((n, k))
            self.y = (y / y.sum(1, keepdims=True)).astype(np.float32)
        else:
            self.y = random.integers(0, max(k, 2), n).astype(network.targets)
        self.reference()
        if not self.sure.all():
            self.Z1[~self.sure] = self.Z1[self.sure.argmax()]
            self.reference()

    def reference(self):
        network, name = self.network, self.network.activation
        matrices = self.layout.matrices(self.params.astype(float))
        A, outputs = self.Z1.astype(float).reshape(self.n, self.blocks, -1).sum(1), []
        A, self.sure = A[:, : network.sizes[1]], np.ones(self.n, bool)
        for i in range(1, len(matrices)):
            if "relu" in name:  # rows in which rounding does not switch a unit on or off
                self.sure &= (np.abs(A) > 50 * BOUNDS[network.pieces]).all(1)
            REFERENCE[name](A, 0, xp=np)
            outputs.append(A)
            n_in, n_out = network.sizes[i : i + 2]
            A = A @ matrices[i][:n_in, :n_out] + matrices[i][n_in, :n_out]
        weight = float(self.share[0]) * (self.weights[:, None].astype(float) if network.weighted else 1)
        losses, right = np.empty((self.n, 1)), np.zeros(self.n, bool)
        if not network.dense:
            REFERENCE["count_correct"](A, self.y, right, xp=np)
        whole(REFERENCE, OUTPUTS[network.output].loss)(A, self.y, weight, losses, xp=np)
        self.loss, self.right = losses.sum(), right.sum()
        gradients = []
        for i in reversed(range(1, len(matrices))):
            n_in, n_out = network.sizes[i : i + 2]
            gradients.append(np.vstack([outputs[i - 1].T @ A, A.sum(0)]))
            A = A @ matrices[i][:n_in, :n_out].T
            if name != "identity":
                REFERENCE[f"{name}_backward"](outputs[i - 1], A, xp=np)
        self.dZ1, self.gradients = A, gradients[::-1]

    def check(self, dZ1, gradient, losses, rights, slack=1):
        """Check dZ1 (n, blocks * width), the gradient without layer 1, sums of losses and correct answers."""
        network, bound = self.network, slack * BOUNDS[self.network.pieces]
        pieces = dZ1.astype(np.float32).reshape(self.n, self.blocks, self.wide)
        found, n1 = pieces.sum(1, dtype=float), network.sizes[1]
        near(found[:, :n1], self.dZ1, bound)
        assert not pieces[..., n1:].any()
        for i in range(1, self.blocks):  # the remainder of rounding to 8 bits
            assert (np.abs(pieces[:, i]) <= 2.0**-8 * np.abs(pieces[:, i - 1])).all()
        flat = np.concatenate([np.zeros(math.prod(self.layout.shapes[0])), gradient])
        for M, right in zip(self.layout.matrices(flat)[1:], self.gradients, strict=True):
            rows, columns = right.shape
            near(M[:rows, :columns], right, bound)
            assert not M[rows:].any()
            assert not M[:, columns:].any()
        assert losses.sum() == pytest.approx(self.loss, rel=bound)
        assert abs(rights.sum() - self.right) <= {1: 0.05, 2: 1e-3, 3: 0}[network.pieces] * self.n


def near(found, right, bound):
    np.testing.assert_allclose(found, right, rtol=0, atol=bound * np.abs(right).max())


def double_source(networks):
    """One source for the CPU, with each network in a namespace; `middle_0` and `add_up_0` call the first."""
    source = ""
    middles = "Z1 params y weights share n dZ1 partial losses rights"
    for at, network in enumerate(networks):
        written = network.text.replace('extern "C"', "")
        kinds = re.search(r"middle\((const stored.*?)\) \{", written, re.DOTALL)[1]
        kinds = kinds.replace("stored", f"network_{at}::stored").replace("const I", f"const network_{at}::I")
        kinds = kinds.replace("made ", f"network_{at}::made ")
        source += f"""
namespace network_{at} {{{written}}}
extern "C" int middle_{at}({kinds}, int blocks, int seed) {{
  return twin::launch(blocks, {network.cut.threads}, {network.bytes}, seed, [&] {{
    network_{at}::middle({", ".join(middles.split())});
  }});
}}
extern "C" int add_up_{at}(const float *partial, int blocks, float *out, int seed) {{
  return twin::launch((network_{at}::SIZE + {middle.ADDED - 1}) / {middle.ADDED}, 256, 1024, seed, [&] {{
    network_{at}::add_up(partial, blocks, out);
  }});
}}
"""
    return source


@cache
def double(networks):
    return library(double_source(networks))


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def on_the_cpu(data, blocks, seed, networks=ALL, network=None):
    """(dZ1, gradient of all layers but the first, losses, correct answers) on the double; all memory starts as NaN."""
    library, at = double(networks), networks.index(network or data.network)
    partial = np.full((blocks, data.layout.size - math.prod(data.layout.shapes[0])), np.nan, np.float32)
    dZ1 = np.full(data.Z1.shape, np.nan).astype(data.made)
    losses, rights = np.full(blocks, np.nan), np.full(blocks, np.nan)
    fault = getattr(library, f"middle_{at}")(
        *map(pointer, (data.Z1, data.params, data.y, data.weights, data.share)), data.n,
        *map(pointer, (dZ1, partial, losses, rights)), blocks, seed,
    )  # fmt: skip
    assert fault == 0
    gradient = partial.sum(0, dtype=float)
    if partial.shape[1] < 2000:  # a fiber for each thread
        summed = np.full(partial.shape[1], np.nan, np.float32)
        assert getattr(library, f"add_up_{at}")(pointer(partial), blocks, pointer(summed), seed) == 0
        np.testing.assert_allclose(summed, gradient, rtol=1e-6, atol=1e-6 * np.abs(partial).max())
        gradient = summed
    return dZ1, gradient, losses, rights


@pytest.mark.parametrize("n", [1, 63, 64, 200])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_references(name, n):
    data = Data(NETWORKS[name], n)
    data.check(*on_the_cpu(data, blocks=2, seed=1))


@pytest.mark.parametrize("name", ["odd sizes", "many layers"])
def test_no_order_of_threads_changes_a_bit(name):
    data = Data(NETWORKS[name], 150)
    first, *others = (on_the_cpu(data, blocks=3, seed=seed) for seed in range(5))
    for other in others:
        assert [x.tobytes() for x in first] == [x.tobytes() for x in other]


@pytest.mark.slow
def test_a_barrier_that_is_missing_shows():
    whole = Network((3, 40, 24, 5), "tanh", "softmax", 1, Cut(256, 64, 2))
    networks = tuple(whole._replace(without=i) for i in range(whole.text.count(BARRIER)))
    data = Data(whole, 150)
    unseen = [network.without for network in networks if not shows(network, networks, data)]
    assert not unseen


def shows(network, networks, data):
    """Whether some of several thread orders give a fault, a wrong result or different bits."""
    try:
        first = on_the_cpu(data, 2, 0, networks, network)
        data.check(*first)
        others = (on_the_cpu(data, 2, seed, networks, network) for seed in range(1, 8))
        return any(x.tobytes() != y.tobytes() for other in others for x, y in zip(first, other, strict=True))
    except AssertionError:
        return True


def through_the_class(network, n, xp, host):
    """The data, and the results of two calls of one instance, on the host."""
    data = Data(network, n)
    Z1, params, y, weights, share = (xp.asarray(x) for x in (data.Z1, data.params, data.y, data.weights, data.share))
    made = Middle(
        data.layout, network.pieces, y, n, weighted=network.weighted, count=not network.dense, xp=xp,
        stored=np.dtype(network.stored), whole=network.whole,
    )  # fmt: skip
    dZ1, first = xp.zeros(Z1.shape, dtype=data.made), math.prod(data.layout.shapes[0])
    results = []
    for _ in range(2):
        gradient = xp.asarray(np.full(data.layout.size, 7, np.float32))
        losses, rights = xp.empty((made.blocks,), dtype=np.float64), xp.empty((made.blocks,), dtype=np.float64)
        made(Z1, params, Rows(None, y, weights, None), share, dZ1, gradient, losses, rights)
        gradient = host(gradient)
        assert (gradient[:first] == 7).all()
        results.append([host(dZ1).copy(), gradient[first:], host(losses), host(rights)])
    return data, results


@pytest.mark.gpu
@pytest.mark.parametrize("n", [1, 1000, 20_000])
@pytest.mark.parametrize("name", NETWORKS)
def test_on_a_gpu(name, n, gpu):
    data, (once, again) = through_the_class(NETWORKS[name], n, gpu.xp, lambda x: x.get())
    data.check(*once, slack=3)  # tensor cores truncate their sums, the double rounds them
    assert [x.tobytes() for x in once] == [x.tobytes() for x in again]


def test_says_why_a_network_does_not_fit():
    sizes = (784, 128, 64, 10)
    assert [why_not(sizes, pieces, H100) for pieces in (1, 2, 3)] == ["", "", ""]
    assert why_not((784, 10), 1, H100) == "there is no hidden layer"
    assert "1024 units" in why_not((784, 16, 1040, 10), 1, H100)
    assert why_not((784, 512, 512, 10), 3, H100).endswith("bytes of shared memory, and a block has 232,448")


@pytest.mark.parametrize(
    ("pieces", "n", "cut"),
    [(1, 60_000, (256, 64, 2)), (2, 60_000, (512, 64, 1)), (3, 60_000, (512, 64, 1)), (3, 2000, (512, 16, 1))],
)
def test_tiles_are_large_where_every_block_has_one(pieces, n, cut):
    assert cut_of((784, 128, 64, 10), pieces, n, {**H100, "MultiProcessorCount": 132}) == cut
