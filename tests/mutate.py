"""Mutated files for every reader: `python tests/mutate.py FOLDER SEED N` tries N and prints the counts as JSON.

Each file must load with the right contents, or raise an FcgpuError, within SECONDS and with at most its size plus SPARE
bytes of memory.
"""

import gzip
import io
import json
import random
import re
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from command import blobs, csv, overwrite

import fcgpu
from fcgpu.cli.history import History
from fcgpu.train import checkpoint
from fcgpu.train.recipe_files import from_toml, to_toml

SECONDS = 5
SPARE = 256 << 20
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


def seeds(folder):
    """(name, contents of valid files, function that reads a path) for each reader."""
    X, y = blobs(12)
    small = (X * 9).clip(0, 255).astype(np.uint8)
    table, headed = (csv(folder / "seed.csv", y, *of).read_bytes() for of in ((small,), (X, "label,a,b,c,d")))
    named = (
        headed.replace(b",", b";").replace(b"\n0;", b"\ncat;").replace(b"\n1;", b"\n'a dog';").replace(b"\n2;", b"\n3;")
    )
    arrays, packed = io.BytesIO(), io.BytesIO()
    np.savez(arrays, X=X, y=y)
    np.savez_compressed(packed, X=small, y=y, X_test=small, y_test=y)
    npy = io.BytesIO()
    np.save(npy, np.column_stack([y, X]))
    idx = b"\0\0\x08\x03" + np.array([12, 2, 2], ">u4").tobytes() + small.tobytes()
    (folder / "idx").mkdir(exist_ok=True)
    (folder / "idx/train-labels-idx1-ubyte").write_bytes(
        b"\0\0\x08\x01" + np.array([12], ">u4").tobytes() + y.astype("u1").tobytes()
    )
    recipe = fcgpu.Recipe(optimizer="adam", hidden=(3,), epochs=2, early_stopping=True, batch=4)
    log = History(folder / "seed.jsonl")
    (folder / "seed.jsonl").unlink(missing_ok=True)
    for event in fcgpu.train((X, y), recipe, device="cpu", threads=1):
        if isinstance(event, fcgpu.EpochEnded):
            log.add(event)
            saved = checkpoint.Checkpoint(event.state(), recipe, checkpoint.fingerprint(fcgpu.dataset(X, y)), {}, 0.5)
    log.flush()
    fcgpu.save_model(event.model, folder / "seed.safetensors")
    checkpoint.save(saved, folder / "seed.checkpoint")
    toml = b"".join(
        f"{line}\n".encode() for line in ('name = "a"', "hidden = [3, 4]", "epochs = 7", 'dtype = "float64"')
    )
    return {
        "idx": ([idx], "idx/train-images-idx3-ubyte", lambda path: fcgpu.load(path.parent)),
        "idx.gz": ([gzip.compress(idx)], "idx/train-images-idx3-ubyte", lambda path: fcgpu.load(path.parent)),
        "csv": ([table, headed, named], "x.csv", fcgpu.load),
        "csv.gz": ([gzip.compress(table)], "x.csv.gz", fcgpu.load),
        "npy": ([npy.getvalue()], "x.npy", fcgpu.load),
        "npz": ([arrays.getvalue(), packed.getvalue()], "x.npz", fcgpu.load),
        "model": ([(folder / "seed.safetensors").read_bytes()], "x.safetensors", fcgpu.load_model),
        "checkpoint": ([(folder / "seed.checkpoint").read_bytes()], "x.checkpoint", checkpoint.load),
        "recipe": ([toml, to_toml(recipe).encode()], "x.toml", fcgpu.load_recipe),
        "history": ([(folder / "seed.jsonl").read_bytes()], "x.jsonl", lambda path: History(path).resume(0)),
        **pictures(),
    }


def pictures():
    try:
        from PIL import Image
    except ImportError:
        return {}
    whole = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(file, kind)
        whole.append(file.getvalue())
    read = lambda path: fcgpu.data.load_features(path, 48, image_shape=(4, 4, 3))  # noqa: E731
    return {"picture": (whole, "x.png", read)}


def is_right(name, found, content):
    """Whether another reader, or a few lines of Python, get the same result from the same bytes."""
    if name.endswith(".gz"):
        name, content = name.removesuffix(".gz"), gzip.decompress(content)
    if name == "idx":
        return found.X.tobytes() == content[16:]
    if name == "recipe":
        return from_toml("again", to_toml(found).encode()) == found
    if name == "csv":
        lines = re.split(r"\r\n|\r|\n", content.decode("utf-8-sig"))
        lines = [line for line in lines if line.strip()]
        separator = next((each for each in ",;\t" if each in lines[0]), ",")
        rows = [[field.strip() for field in line.split(separator)] for line in lines]
        header, table = len(rows) - len(found.X), rows[-len(found.X) :]
        if found.classes is not None and isinstance(found.classes[0], str):
            words = [found.classes[i] for i in found.y]
            X = np.array([list(map(float, row[1:])) for row in table])
            return header == 1 and np.array_equal(found.X, X) and words == [row[0].strip("\"'") for row in table]
        return header in (0, 1) and is_table(found, np.array([list(map(float, row)) for row in table]))
    if name == "npy":
        return is_table(found, np.load(io.BytesIO(content)))
    if name == "npz":
        there = np.lib.npyio.NpzFile(io.BytesIO(content))  # np.load is stricter about the zip
        return np.array_equal(found.X, there["X"]) and np.array_equal(labels(found), there["y"].reshape(len(found.X)))
    return True


def is_table(found, table):
    return np.array_equal(found.X, table[:, 1:]) and np.array_equal(labels(found), table[:, 0])


def labels(data):
    return data.y if data.classes is None else np.array([*map(float, data.classes)])[data.y]


def mutated(whole, others, draw):
    """One to four mutations: a bit, a byte, a number of 1 to 8 bytes, a cut, a repetition, a splice, an insertion."""
    content = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 4))):
        at, kind = draw.randrange(len(content) + 1), draw.randrange(8)
        end = min(len(content), at + draw.choice((1, 4, 30)))
        if kind == 0 and at < len(content):
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(content):
            content[at] = draw.randrange(256)
        elif kind == 2:
            size = draw.choice((1, 2, 4, 8))
            number = (draw.choice(NUMBERS) & (256**size - 1)).to_bytes(size, draw.choice(("big", "little")))
            content[at : at + size] = number
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            content[at:at] = content[at:end] * draw.choice((1, 2, 100))
        elif kind == 5:
            other = draw.choice(others)
            content[at:] = other[draw.randrange(len(other)) :]
        elif kind == 6:
            content[at:end] = draw.randbytes(end - at)
        else:
            del content[at:end]
        if not content:
            break
    return bytes(content)


def attempt(read, path):
    """The contents, or the FcgpuError; other exceptions are raised, and reading for more than SECONDS is an error."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return read(path)
    except fcgpu.FcgpuError as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def late(number, frame):
    raise TimeoutError(f"more than {SECONDS} s")


def mutate(folder, seed, n):
    np.seterr(all="ignore")
    signal.signal(signal.SIGALRM, late)
    readers, draw, counts, slowest = seeds(folder), random.Random(seed), Counter(), 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(n):
        name = list(readers)[number % len(readers)]
        whole, file, read = readers[name]
        content = mutated(draw.choice(whole), whole, draw)
        overwrite(folder / file, content)
        began = time.perf_counter()
        try:
            found = attempt(read, folder / file)
            refused = isinstance(found, fcgpu.FcgpuError)
            counts[f"{name} {'refused' if refused else 'loaded'}"] += 1
            sealed = name in ("model", "checkpoint")
            assert refused or not sealed or content in whole, "a changed file was loaded"
            assert refused or is_right(name, found, content), "it was loaded wrongly"
        except BaseException:
            kept = Path(f"finding-{name}-{seed}-{number}").absolute()
            kept.write_bytes(content)
            print(f"seed {seed}, file {number} of {name}, kept as {kept}", file=sys.stderr)
            raise
        slowest = max(slowest, time.perf_counter() - began)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    assert grown < SPARE, grown
    return {"files": n, **counts, "slowest seconds": round(slowest, 3), "memory above the start, bytes": grown}


if __name__ == "__main__":
    print(json.dumps(mutate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
