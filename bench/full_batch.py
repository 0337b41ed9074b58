"""`python -m bench.full_batch`: a full-batch MNIST step, fcgpu's float32 against the article's float64, interleaved.

Both start from the same small weights and do the same work: forward, loss, backward, update of 784-128-64-10 with
sigmoids on 60,000 samples. Their losses after the same number of steps must agree, or there is no result. Each round
times one step of each; the ratio is taken round by round, so that a machine that drifts cancels out.
"""

import argparse
import json
import platform
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np

import fcgpu
from bench import article
from fcgpu.optim.first_order import FirstOrder
from fcgpu.train.plan import plan
from fcgpu.train.step import Evaluate, Step

SIZES, RATE = (784, 128, 64, 10), 0.5


def ours(data, start, threads):
    """(step, loss): fcgpu's own step on the CPU, without the loop around it."""
    cpu, spec = fcgpu.choose("cpu"), fcgpu.Spec(SIZES, "sigmoid", "sigmoid")
    cut = plan(spec, (data.X, data.y), "full", "float32", "gradient_descent", cpu, threads=threads)
    workers = fcgpu.backend.Workers(cut.threads)
    evaluate = Evaluate(spec, (data.X, data.y), cut, cpu, workers, "float32", scale=data.scale, count=True)
    for (W, b), layer in zip(start, evaluate.layers, strict=True):
        layer.W[...], layer.b[...] = W.T, b.T
    rule = FirstOrder("gradient_descent", evaluate.params, evaluate.net.kernels, np)
    rule.learning_rate.fill(RATE)
    once = Step(evaluate, rule, cpu, l2=0.0, gradient_clip=0.0)

    def step():
        with workers.quiet():
            once(slice(0, data.n_samples), data.n_samples)
        return float(evaluate.loss)

    return step


def theirs(data, start):
    """The article's step, on its float64 features with a sample a column and one-hot labels."""
    X, Y = np.ascontiguousarray(data.X.T) * data.scale, np.eye(10)[data.y].T.copy()
    layers = start

    def step():
        nonlocal layers
        cost, layers = article.step(layers, X, Y, RATE)
        return cost / data.n_samples

    return step


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--rounds", type=int, default=15)
    words.add_argument("--threads", type=int, default=None)
    words.add_argument("--out", type=Path, help="write the row, as JSON, to this file")
    args = words.parse_args()
    data = fcgpu.load("mnist")
    start = [(0.1 * W, b) for W, b in article.parameters(SIZES, np.random.RandomState(0))]
    steps = {"fcgpu float32": ours(data, start, args.threads), "article float64": theirs(data, start)}
    times = {name: [] for name in steps}
    losses = {name: step() for name, step in steps.items()}  # warm-up
    for _ in range(args.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            losses[name] = step()
            times[name].append(time.perf_counter() - began)
    one, other = losses.values()
    if abs(one - other) > 1e-4 * abs(other):
        raise SystemExit(f"refused: the losses disagree, {losses}")
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    row = {
        "case": "full batch step, 784-128-64-10, 60,000 samples, sigmoid",
        "milliseconds": {name: round(1000 * statistics.median(t), 1) for name, t in times.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
        "loss": losses,
        "rounds": args.rounds,
        "machine": f"{fcgpu.backend.cpu_count()} cores, {_processor()}",
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "fcgpu": fcgpu.__version__},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(row, indent=1))
    if args.out:
        args.out.write_text(json.dumps(row) + "\n", encoding="utf-8")


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
