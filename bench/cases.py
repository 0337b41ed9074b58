"""What is measured, and what every peer is given: the same digits, the same weights, the same learning rate.

A case is a description; `Case.work` makes the arrays. All training cases use 784-128-64-10 with sigmoids everywhere,
the binary cross-entropy summed over the ten outputs, and plain gradient descent: the article's network and optimizer,
which every library has. Samples come in file order, so that no peer spends time on shuffling.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import fcgpu
from fcgpu.params import initial

SIZES, RATE, SEED = (784, 128, 64, 10), 0.5, 0
VARIED = 6  # factor on the initial weights for prediction: an untrained network then predicts all ten classes
CHECKED = 20  # updates after which losses are compared


@dataclass(frozen=True)
class Work:
    """The argument of a peer's `setup`. One call of `step` is one pass over X in batches, in file order.

    X (n, n_features) uint8 or, of a table, float32, to be multiplied by `scale`; y (n,) labels; start:
    [(W (n_in, n_out), b (1, n_out))] float64.
    A peer converts them to its own layout and dtype in `setup`, which is not timed.
    """

    X: Any
    y: Any
    scale: float
    start: list[tuple[Any, Any]]
    batch: int
    learning_rate: float
    device: str  # "cpu" or "cuda"
    precision: str = "float32"  # of the matrix products; on a GPU also "tf32", "bfloat16"

    def features(self, dtype: Any = np.float32) -> Any:
        """X * scale (n, n_features)."""
        return np.multiply(self.X, self.scale, dtype=dtype)

    def one_hot(self, dtype: Any = np.float32) -> Any:
        """Targets (n, n_outputs), 1 for the label."""
        return np.eye(self.start[-1][0].shape[1], dtype=dtype)[self.y]


@dataclass(frozen=True)
class Case:
    """`verb` names the function of a peer that is called, such as setup_predict; `peers` is the peers' package."""

    name: str
    title: str
    rows: int = 60_000
    batch: int = 60_000
    verb: str = "setup"
    peers: str = "bench.peers"
    rounds: int = 15
    sizes: tuple[int, ...] = SIZES
    checked: int = CHECKED  # updates before the results are compared
    tolerance: float = 1e-5  # of the loss, relative (float32 differs by 1e-7); or fraction of labels that may differ
    precision: str = "float32"
    table: bool = False  # whether the samples are rows of numbers that are drawn, in place of the digits

    @property
    def checks(self) -> "Case":
        """The case cut down for the check: at most `checked` updates a pass."""
        return replace(self, rows=min(self.rows, max(self.checked, 1) * self.batch))

    @property
    def check_calls(self) -> int:
        """Calls of `step` that make `checked` updates, and one more, whose loss shows the last update."""
        return 1 + self.checked // (self.checks.rows // self.batch)

    def work(self, device: str, *, other: bool = False) -> Work:
        """The arrays; with `other`, data of the same shape for the warm-up: mirrored, in reverse order."""
        X, y, scale = self._drawn() if self.table else _digits()
        X, y = X[: self.rows, : self.sizes[0]], y[: self.rows]
        if other:
            X, y = X[::-1, ::-1], y[::-1]
        X, y = np.ascontiguousarray(X), np.ascontiguousarray(y)
        spec = fcgpu.Spec(self.sizes, "sigmoid", "sigmoid", "glorot")
        gain = VARIED if self.verb == "setup_predict" else 1
        start = [(gain * layer.W, layer.b) for layer in spec.layers(initial(spec, SEED))]
        return Work(X, y, scale, start, self.batch, RATE, device, self.precision)

    def _drawn(self) -> tuple[Any, Any, float]:
        """Normal features, the class whose random sum of them is largest, and their scale."""
        random = np.random.default_rng(SEED)
        X = random.standard_normal((self.rows, self.sizes[0]), np.float32)
        return X, np.argmax(X @ random.standard_normal((self.sizes[0], self.sizes[-1])), axis=1), 1.0

    def agrees(self, answer: Any, reference: Any) -> bool:
        """Whether a peer's result is the reference's: its loss, or the fraction of labels that differ, in tolerance."""
        answer, reference = np.asarray(answer), np.asarray(reference)
        if answer.shape != reference.shape or not np.isfinite(answer).all():
            return False
        if self.verb == "setup_predict":
            return float(np.mean(answer != reference)) <= self.tolerance
        return bool(np.all(np.abs(answer - reference) <= self.tolerance * np.abs(reference)))


def _digits() -> tuple[Any, Any, float]:
    data = fcgpu.load("mnist")
    return data.X, data.y, data.scale


TRAIN = (
    Case("full", "training, full batch of 60,000"),
    Case("batch-1024", "training, batches of 1,024", rows=20 * 1024, batch=1024),
    Case("batch-128", "training, batches of 128", rows=468 * 128, batch=128),
    Case("batch-10", "training, batches of 10", rows=15_000, batch=10),
)
PREDICT = Case("predict", "prediction of 60,000 rows", verb="setup_predict", checked=0, tolerance=1e-4)
# PyTorch adds Adam's ε to another number, which the first losses show.
_ADAM = Case("adam", "Adam, batches of 128", rows=468 * 128, batch=128, peers="bench.adam", tolerance=3e-4)
_WIDE, _WIDER = (784, 512, 512, 10), (784, 2048, 2048, 10)
ADAM = (
    _ADAM,
    replace(_ADAM, name="adam-1024", title="Adam, batches of 1,024", rows=40 * 1024, batch=1024),
    replace(_ADAM, name="adam-full", title="Adam, full batch of 60,000", rows=60_000, batch=60_000),
    replace(_ADAM, name="adam-wide", title="784-512-512-10, Adam, batches of 128", rows=100 * 128, sizes=_WIDE),
    replace(
        _ADAM, name="adam-wider", title="784-2048-2048-10, Adam, batches of 128", rows=10 * 128, sizes=_WIDER,
        tolerance=3e-3,
    ),
    replace(
        _ADAM, name="table", title="a table of 20,000 x 20, 20-64-64-3, Adam, batches of 200", rows=20_000, batch=200,
        sizes=(20, 64, 64, 3), table=True,
    ),
)  # fmt: skip
LOAD = Case("load", "loading MNIST from a CSV of 110 MB", peers="bench.loaders", rounds=5, checked=0, tolerance=0.0)
# Accuracies may differ by 0.3 %, relative. X / 255 is float64, and scikit-learn converts lists to float64.
FIT = Case(
    "fit", "MLPClassifier.fit, 5 epochs of Adam, float64", peers="bench.estimators", rounds=5, checked=0, tolerance=3e-3
)
FIT_SINGLE = replace(FIT, name="fit-float32", title="MLPClassifier.fit, 5 epochs of Adam, float32", verb="setup_single")
TIMED = {case.name: case for case in (*TRAIN, *ADAM, PREDICT, LOAD, FIT, FIT_SINGLE)}
