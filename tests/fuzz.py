"""A coverage-guided fuzzer of one reader: `python tests/fuzz.py READER --seconds 600`. Needs atheris, and Linux.

It starts from the valid files of mutate.py and keeps files that reach new lines of fcgpu and of Python's parsers. Each
file must load, or raise an FcgpuError, within SECONDS of processor time and with at most SPARE bytes of memory. Models
and checkpoints are also read as if every SHA-256 were right, because whoever can change a file can write the hash. What
loads is then used: a model predicts, a checkpoint is resumed. A file that breaks a rule ends the run with a message and
a non-zero exit code, and is kept in the current folder as crash-* or timeout-*.
"""

import argparse
import json
import math
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import atheris

PARSERS = ["fcgpu", "gzip", "zipfile", "tomllib", "json", "ast", "numpy.lib._format_impl", "PIL"]
HANG = 60  # seconds of wall time
WHOLE, OTHERS = (0, -1, 1, 3, 2**31, 2**53, 2**64), (0.5, 1e308, math.inf, math.nan)
VALUES = (None, True, *WHOLE, *OTHERS, "", "a", [], {}, [0], [[]])
LONGEST = 8192  # bytes of a file

with atheris.instrument_imports(include=PARSERS):
    import numpy as np
    from mutate import SECONDS, SPARE, seeds

    import fcgpu
    from fcgpu.data.idx import read_idx
    from fcgpu.formats import sealed
    from fcgpu.train import checkpoint


def uses(name, folder, read):
    """The uses of a reader's file: functions of its path."""
    if name == "model":
        return [read, unsealed(lambda path: predict(fcgpu.load_model(path)))]
    if name == "checkpoint":
        recipe = checkpoint.load(folder / "seed.checkpoint").recipe
        return [read, unsealed(lambda path: go_on(checkpoint.load(path), recipe))]
    if name.startswith("idx"):
        return [read, lambda path: read_idx(path, 1)]
    if name == "npy":
        mapped = lambda path: fcgpu.load(path, memory_budget=1)  # noqa: E731
        return [read, mapped, lambda path: fcgpu.data.load_features(path, 4)]
    if name in ("csv", "npz"):
        return [read, lambda path: fcgpu.data.load_features(path, 4)]
    if name == "picture":
        return [read, lambda path: fcgpu.data.load_features(path, 16)]
    if name == "recipe":
        return [lambda path: same_again(read(path))]
    return [read]


def unsealed(use):
    def checked(name, text, tensors):
        try:
            about = json.loads(text)
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict):
            raise sealed.damaged(name)
        about.pop("sha256", None)
        return about

    def used(path):
        before, sealed._checked = sealed._checked, checked
        try:
            use(path)
        finally:
            sealed._checked = before

    return used


def predict(model):
    model.predict(np.zeros((1, model.spec.sizes[0])))


def go_on(found, recipe):
    """Resume for one epoch; the command line refuses a recipe that differs from the run's."""
    if found.recipe == recipe:
        start = replace(found.state, epochs=min(found.state.epochs, recipe.epochs - 1))
        data = fcgpu.dataset(np.eye(12, 4), np.arange(12) % 3)
        for event in fcgpu.train(data, recipe, device="cpu", threads=1, start=start):
            if isinstance(event, fcgpu.EpochEnded):
                event.state()


def same_again(recipe):
    assert checkpoint.from_toml("again", checkpoint.to_toml(recipe).encode()) == recipe


def main():
    readers = ("idx", "idx.gz", "csv", "npy", "npz", "model", "checkpoint", "recipe", "history", "picture")
    parser = argparse.ArgumentParser(description="Fuzz a reader.")
    parser.add_argument("reader", choices=readers)
    parser.add_argument("--seconds", type=int, default=600)
    asked = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory))
    if child := os.fork():  # atheris ends its process without returning to Python
        try:
            sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        finally:
            shutil.rmtree(folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    with atheris.instrument_imports(include=PARSERS):
        whole, file, read = seeds(folder)[asked.reader]
        attempts = uses(asked.reader, folder, read)
        for number, content in enumerate(whole):
            (corpus / f"seed-{number}").write_bytes(content)
            (folder / file).write_bytes(content)
            attempt(attempts, folder / file)
    warnings.simplefilter("error")
    descriptor = os.open(folder / file, os.O_RDWR | os.O_CREAT)
    before = peak()

    def one(content):
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
        began = time.process_time()
        attempt(attempts, folder / file)
        took, grown = time.process_time() - began, peak() - before
        assert took < SECONDS, f"took {took:.1f} s"
        assert grown < SPARE, f"the peak of memory grew by {grown} bytes"

    limits = [f"-max_total_time={asked.seconds}", f"-timeout={HANG}", f"-max_len={LONGEST}", "-rss_limit_mb=0"]
    inside = {"custom_mutator": changed_inside} if asked.reader in ("model", "checkpoint") else {}
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], one, **inside)
    atheris.Fuzz()  # does not return


def changed_inside(content, longest, seed):
    """Change any bytes, or one value in the JSON of a safetensors file, which changed bytes seldom leave valid."""
    draw, end = random.Random(seed), 8 + int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8:end] if draw.random() < 0.7 else b"")
        metadata = header.setdefault("__metadata__", {})
        about = json.loads(metadata["fcgpu"])
        change(draw.choice((about, about, about, header)), draw)
        metadata["fcgpu"] = json.dumps(about, sort_keys=True)
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return atheris.Mutate(content, longest)
    text += b" " * (-len(text) % 8)
    return (len(text).to_bytes(8, "little") + text + content[end:])[:longest]


def change(tree, draw):
    """Replace or remove one value of JSON, at any depth."""
    places, trees = [], [tree]
    while trees:
        tree = trees.pop()
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            places.append((tree, key))
            if isinstance(tree[key], dict | list):
                trees.append(tree[key])
    tree, key = draw.choice(places)
    other, name = draw.choice(places)
    if draw.random() < 0.1:
        del tree[key]
    else:
        tree[key] = draw.choice((*VALUES, other[name] if not isinstance(other[name], dict | list) else name))


def attempt(attempts, path):
    for use in attempts:
        with suppress(fcgpu.FcgpuError):
            use(path)


def peak():
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    main()
