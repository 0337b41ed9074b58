"""`train --tensorboard`: the event file, read back record by record, agrees with the history."""

import json
import struct
import sys

import numpy as np
import pytest
from command import blobs, call

pytest.importorskip("tensorboardX")
from tensorboardX import record_writer
from tensorboardX.crc32c import crc32c
from tensorboardX.proto import event_pb2

LEARN = ("--device", "cpu", "--hidden", "8", "--epochs", "60", "--optimizer", "adam", "--batch", "30", "--quiet")


@pytest.fixture
def data(tmp_path):
    X, y = blobs(90)
    np.savez(tmp_path / "d.npz", X=X[:60], y=y[:60], X_test=X[60:], y_test=y[60:])
    return tmp_path / "d.npz"


def records(path):
    """The events of a TFRecord file, in which each has a length, its checksum, the content, its checksum."""
    content, at = path.read_bytes(), 0

    def checked(part, checksum):
        crc = crc32c(part)
        assert struct.unpack("<I", checksum)[0] == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
        return part

    while at < len(content):
        (n,) = struct.unpack("<Q", checked(content[at : at + 8], content[at + 8 : at + 12]))
        yield event_pb2.Event.FromString(checked(content[at + 12 : at + 12 + n], content[at + 12 + n : at + 16 + n]))
        at += 16 + n


def scalars(folder):
    """{tag: {step: value}} of a folder's files as TensorBoard reads them: START removes the steps from its own on."""
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: int(path.suffix[1:])):
        first, *rest = records(path)
        assert first.file_version == "brain.Event:2"
        for event in rest:
            if event.HasField("session_log"):
                assert event.session_log.status == event_pb2.SessionLog.START
                found = {tag: {k: v for k, v in of.items() if k < event.step} for tag, of in found.items()}
            for value in event.summary.value:
                assert event.step not in found.setdefault(value.tag, {})
                found[value.tag][event.step] = value.simple_value
    return found


def history(run, key):
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return {line["epoch"]: line[key] for line in lines if line.get(key) is not None}


def same(found, run, tags):
    assert set(found) == set(tags.values())
    for key, tag in tags.items():
        expected = history(run, key)
        assert found[tag] == pytest.approx(expected, rel=1e-6)
        assert expected


TAGS = {
    "loss": "loss/train", "accuracy": "accuracy/train", "learning_rate": "learning_rate", "test_loss": "loss/test",
    "test_accuracy": "accuracy/test",
}  # fmt: skip


def test_the_run_directory_tells_tensorboard_what_its_history_says(data, tmp_path):
    assert call("train", data, *LEARN, "--out", tmp_path / "run", "--tensorboard").code == 0
    found = scalars(tmp_path / "run")
    same(found, tmp_path / "run", TAGS)
    assert list(found["loss/train"]) == list(range(1, 61))
    plain = call("train", data, *LEARN, "--out", tmp_path / "plain")
    assert plain.code == 0
    assert not list((tmp_path / "plain").glob("events*"))
    assert (tmp_path / "run/history.jsonl").exists()
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "plain")]
    assert models[0] == models[1]


def test_the_validation_loss_is_told_too(data, tmp_path):
    words = ("--out", tmp_path / "run", "--early-stopping", "--tensorboard")
    assert call("train", *words, data, *LEARN).code == 0
    same(scalars(tmp_path / "run"), tmp_path / "run", TAGS | {"monitored": "loss/validation"})


def test_a_resumed_run_goes_on_and_takes_back_what_it_runs_anew(data, tmp_path):
    run = tmp_path / "run"
    assert call("train", data, *LEARN, "--out", run, "--tensorboard", "--checkpoint-every", 7, "--keep", 9).code == 0
    whole = scalars(run)
    for epoch in (56, 60):  # as if it had been killed after epoch 50, with later epochs already logged
        (run / f"checkpoints/epoch-{epoch}.safetensors").unlink(missing_ok=True)
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    (run / "history.jsonl").write_text("".join(lines[:50]))
    assert call("train", "--resume", run, "--tensorboard", "--quiet").code == 0
    _, second = sorted(run.glob("events*"), key=lambda path: path.suffix)
    assert second.suffix == ".50"
    steps = [event.step for event in records(second) if event.HasField("summary")]
    assert sorted(set(steps)) == list(range(51, 61))
    assert scalars(run) == whole


def test_a_run_that_goes_back_takes_back(tmp_path, monkeypatch):
    monkeypatch.setattr("fcgpu.cli.history.FLUSH_SECONDS", 0)  # so that the log is written before the run goes back
    X = np.random.default_rng(0).standard_normal((40, 3))
    np.savez(tmp_path / "r.npz", X=X, y=X @ [1.0, -2, 3] + 0.5)
    words = ("--optimizer", "momentum", "--output", "identity", "--hidden", "", "--learning-rate", 8, "--epochs", 400,
             "--schedule", "constant", "--on-divergence", "halve", "--quiet", "--device", "cpu")  # fmt: skip
    told = call("train", tmp_path / "r.npz", *words, "--out", tmp_path / "run", "--tensorboard")
    assert told.code == 0
    assert "at 1/2 of the learning rate" in told.err
    same(scalars(tmp_path / "run"), tmp_path / "run", {"loss": "loss/train", "learning_rate": "learning_rate"})


def test_a_full_disk_ends_the_log_and_not_the_run(data, tmp_path, monkeypatch):
    class Full(record_writer.RecordWriter):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(record_writer, "RecordWriter", Full)
    told = call("train", data, *LEARN, "--out", tmp_path / "run", "--tensorboard")
    assert told.code == 0
    assert told.err.count("\n") == 1
    assert "warning: nothing more for TensorBoard: " in told.err
    assert "No space left on device" in told.err
    assert len(history(tmp_path / "run", "loss")) == 60


def test_without_tensorboardx_nothing_begins(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    told = call("train", data, *LEARN, "--out", tmp_path / "other", "--tensorboard")
    assert told.code == 2
    assert told.err == (
        'fcgpu: error: --tensorboard needs tensorboardX, which is not installed: pip install "fcgpu[tensorboard]"\n'
    )
    assert not (tmp_path / "other").exists()
