"""Untrusted files: mutations of every kind, bombs, links, pipes and devices. Each loads or raises an FcgpuError."""

import gzip
import json
import os
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command import blobs, call, csv

import fcgpu
from fcgpu.cli.history import History
from fcgpu.formats.atomic import append
from fcgpu.train import checkpoint


@pytest.mark.skipif(os.name != "posix", reason="the time of a file is measured by a signal")
def test_mutated_files_load_or_are_refused(tmp_path, pytestconfig):
    n = 100_000 if pytestconfig.getoption("thorough") else 3_000
    words = [sys.executable, "-W", "error", Path(__file__).with_name("mutate.py"), tmp_path, "1", str(n)]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    counts = json.loads(ended.stdout)
    print(counts)
    assert counts["files"] == n


READERS = {
    "train-images-idx3-ubyte": lambda path: fcgpu.load(path.parent),
    "x.csv": fcgpu.load,
    "x.npz": fcgpu.load,
    "x.npy": fcgpu.load,
    "x.png": lambda path: fcgpu.data.load_features(path, 4),
    "x.toml": fcgpu.load_recipe,
    "x.safetensors": fcgpu.load_model,
    "x.checkpoint": checkpoint.load,
    "history.jsonl": lambda path: History(path).resume(0),
}


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_and_does_not_block(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(fcgpu.FcgpuError):
        READERS[name](tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
@pytest.mark.parametrize("name", READERS)
def test_a_link_to_a_device_without_end_is_refused(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(fcgpu.FcgpuError):
        READERS[name](tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
def test_a_history_that_is_a_link_is_neither_read_nor_written(tmp_path):
    (tmp_path / "other").write_text('{"epoch": 1}\n')
    (tmp_path / "history.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(fcgpu.CheckpointError, match="history"):
        History(tmp_path / "history.jsonl").resume(0)
    (tmp_path / "other").unlink()
    with pytest.raises(fcgpu.CheckpointError, match=r"history\.jsonl: cannot be written"):
        append(tmp_path / "history.jsonl", b"{}")
    assert (tmp_path / "history.jsonl").is_symlink()
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(os.name != "posix", reason="links of POSIX")
@pytest.mark.parametrize("name", ["recipe.toml", "model.safetensors", "history.jsonl", "lock", "checkpoints",
                                  "checkpoints/epoch-1.safetensors", "checkpoints/epoch-2.safetensors"])  # fmt: skip
def test_no_link_in_a_run_directory_lets_a_run_change_what_is_outside(tmp_path, name):
    """A link is read, replaced or refused; nothing is written through it, and no other folder is cleaned up."""
    X, y = blobs(12)
    words = ("--device", "cpu", "--quiet", "--checkpoint-every", 1, "--keep", 1)
    run, outside = tmp_path / "run", tmp_path / "outside"
    assert call("train", csv(tmp_path / "d.csv", y, X), "--epochs", 2, "--hidden", "", "--out", run, *words).code == 0
    if name == "lock":
        (run / name).write_text("1\n")
    if name == "checkpoints":
        (run / name / ".epoch-9.safetensors.01234567.tmp").write_text("somebody's")
    (run / name).rename(outside) if (run / name).exists() else outside.write_text("somebody's")
    (run / name).symlink_to(outside)
    before = {path: path.read_bytes() for path in (outside, *outside.rglob("*")) if path.is_file()}
    result = call("train", "--resume", run, *words)
    assert result.code == (2 if name in ("history.jsonl", "lock", "checkpoints") else 0), result
    assert {path: path.read_bytes() for path in (outside, *outside.rglob("*")) if path.is_file()} == before


def test_no_name_in_an_archive_or_a_recipe_leads_out_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with zipfile.ZipFile("a.npz", "w") as archive:
        for name in ("../X.npy", "/tmp/y.npy"):
            archive.writestr(name, b"")
    with pytest.raises(fcgpu.DataError, match=r"no array X or y, found \.\./X, /tmp/y"):
        fcgpu.load("a.npz")
    Path("r.toml").write_text('name = "../../out"\ndata = "multiclass"\nepochs = 1\n')
    assert call("train", "--recipe", "r.toml", "--device", "cpu", "--quiet").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    assert [path.name[:9] for path in (tmp_path / "here/runs").iterdir()] == ["..-..-out"]


def test_what_a_file_says_is_printed_without_commands_to_the_terminal(tmp_path):
    """Labels, and names in a recipe, may have control characters; a line break would also make a label two lines."""
    X, y = blobs(40, n_classes=2)
    labels = np.array(["a\x1b]0;title\x07\nb\tc", "d\x9b2J"])
    np.savez(tmp_path / "x.npz", X=X, y=labels[y])
    np.savez(tmp_path / "z.npz", X=X, y=np.repeat("\x1b[2J", 40))
    (tmp_path / "x.toml").write_text(
        f'name = "\\u001b[31m"\ndata = {json.dumps(str(tmp_path / "x.npz"))}\nepochs = 50\n'
    )
    run = tmp_path / "run"
    said = [
        call("recipes", tmp_path / "x.toml"),
        call("train", "--recipe", tmp_path / "x.toml", "--out", run),
        call("evaluate", run),
        call("predict", run, tmp_path / "x.npz", "--proba"),
        call("evaluate", run, tmp_path / "z.npz"),
    ]
    assert [each.code for each in said] == [0, 0, 0, 0, 2]
    assert not re.findall(r"[^\n\t -~\u2500-\u257f]", "".join(each.out + each.err for each in said))
    rows = [line.split("\t") for line in said[3].out.splitlines()]
    assert [len(row) for row in rows] == [3] * 40
    assert {row[0] for row in rows} == {r"a\x1b]0;title\x07\x0ab\x09c", r"d\x9b2J"}


def test_a_picture_of_a_format_that_runs_programs_is_refused(tmp_path):
    pytest.importorskip("PIL")
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\nshowpage\n")
    with pytest.raises(fcgpu.DataError, match="not a readable picture"):
        fcgpu.data.load_features(tmp_path / "x.png", 4)


def rle_bitmap(height, width, rows):
    """A run-length encoded BMP with 8 bits per pixel."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return struct.pack("<2sIII", b"BM", 1078 + len(rows), 0, 1078) + header + bytes(range(256)) * 4 + rows


def test_a_bitmap_that_is_decoded_slowly_has_no_more_pixels_than_its_bytes_can_tell(tmp_path):
    """Before this limit, a few bytes that claim eight million pixels took seconds to decode."""
    pytest.importorskip("PIL")
    (tmp_path / "x.bmp").write_bytes(rle_bitmap(2, 4, b"\4\7\0\0\4\7\0\1"))
    assert fcgpu.data.load_features(tmp_path / "x.bmp", 24).shape == (1, 24)
    (tmp_path / "x.bmp").write_bytes(rle_bitmap(4, 2_000_000, b"\4\7\0\0\4\7\0\1"))
    with pytest.raises(fcgpu.DataError, match="4 x 2000000 pixels; expected at most 217200"):
        fcgpu.data.load_features(tmp_path / "x.bmp", 24)


def test_bombs_are_refused_before_they_are_unpacked(tmp_path):
    labels = b"\0\0\x08\x01" + (1).to_bytes(4, "big") + b"\0"
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    size = 80 << 20
    images = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (1, 1, size))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images + bytes(size), 1))
    with pytest.raises(fcgpu.DataError, match=r"holds? at most"):
        fcgpu.load(tmp_path)
    np.savez_compressed(tmp_path / "b.npz", X=np.zeros((1, size), np.uint8), y=np.zeros(1))
    with pytest.raises(fcgpu.DataError, match=r"holds? at most"):
        fcgpu.load(tmp_path / "b.npz")
    with gzip.open(tmp_path / "b.csv.gz", "wb", 1) as file:
        file.write(b"1,0\n")
        for _ in range(size >> 20):
            file.write(b" " * (1 << 20) + b"\n")
    with pytest.raises(fcgpu.DataError, match="unpacks to far more than its size"):
        fcgpu.load(tmp_path / "b.csv.gz")
    (tmp_path / "l.csv").write_bytes(b"1," * (3 << 20))
    with pytest.raises(fcgpu.DataError, match="line of more than"):
        fcgpu.load(tmp_path / "l.csv")
