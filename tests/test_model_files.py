"""Models on disk: what comes back is what was saved, equal models are equal files, and no damaged file loads."""

import dataclasses
import errno
import json
import os
import re

import numpy as np
import pytest
from command import call, overwrite
from safetensors.numpy import save as to_bytes

import fcgpu
from fcgpu.formats import atomic, sealed

SPEC = fcgpu.Spec((3, 2, 2), "tanh", "softmax", "glorot")


def model(dtype="float32", **changes):
    params = np.random.default_rng(0).standard_normal(SPEC.n_params).astype(dtype)
    about = {
        "classes": ("cat", "dög"), "scale": 1 / 255, "image_shape": (1, 3), "recipe": 'a "quoted" name',
        "feature_names": ("a", "höhe", ""),
    }  # fmt: skip
    return fcgpu.Model(SPEC, params, **(about | changes))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [None, (0, 7), ("no", "yes")])
def test_what_comes_back_is_what_was_saved(tmp_path, dtype, classes):
    saved = model(dtype, classes=classes, image_shape=None if classes is None else (1, 3))
    fcgpu.save_model(saved, tmp_path / "m.safetensors")
    loaded = fcgpu.load_model(tmp_path / "m.safetensors")
    assert loaded.params.tobytes() == saved.params.tobytes()
    assert loaded.params.dtype == dtype
    for field in ("spec", "classes", "scale", "image_shape", "recipe", "feature_names"):
        assert getattr(loaded, field) == getattr(saved, field)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": (-1, -3)}, {"image_shape": (1, 4)}, {"image_shape": (3, 1, 1)}, {"image_shape": (3,)},
        {"classes": (0, 1, 2)}, {"classes": (1, 1)}, {"classes": (1, "a")}, {"classes": (0, 2**64)},
        {"classes": (0, 1.5)}, {"feature_names": ("a", "b")}, {"feature_names": ("a", "b", 3)}, {"scale": np.inf},
        {"recipe": None},
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_the_network_are_no_model(changes):
    with pytest.raises(fcgpu.ConfigError, match=f"{next(iter(changes))}.*expected"):
        model(**changes)


def test_more_text_than_a_safetensors_file_takes_is_refused(tmp_path):
    long = dataclasses.replace(model(), classes=("a", 100_000_000 * "b"))
    with pytest.raises(
        fcgpu.CheckpointError, match=r"m\.safetensors: 100,000,\d+ bytes of classes and names do not fit"
    ):
        fcgpu.save_model(long, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_sizes_of_numpys_types_are_saved_as_pythons(tmp_path):
    spec, shape = dataclasses.replace(SPEC, sizes=tuple(np.array(SPEC.sizes))), tuple(np.array([1, 3]))
    fcgpu.save_model(dataclasses.replace(model(), spec=spec, image_shape=shape), tmp_path / "m.safetensors")
    loaded = fcgpu.load_model(tmp_path / "m.safetensors")
    assert (loaded.spec, loaded.image_shape) == (SPEC, (1, 3))


@pytest.mark.parametrize(
    ("params", "found"),
    [
        (np.zeros(13), r"shape \(13,\) and dtype float64"),
        (np.zeros(15), r"shape \(15,\)"),
        (np.zeros((2, 7)), r"shape \(2, 7\)"),
        (np.zeros(14, "f2"), r"shape \(14,\) and dtype float16"),
        (np.zeros(14, ">f8"), r"shape \(14,\) and dtype >f8"),
        ([0.0] * 14, "list"),
    ],
)
def test_parameters_that_do_not_fit_the_network_are_no_model(params, found):
    with pytest.raises(fcgpu.ConfigError, match=f"params: {found}.*; expected .* this network's 14 parameters, float"):
        fcgpu.Model(SPEC, params)


def test_other_programs_can_read_the_tensors(tmp_path):
    from safetensors.numpy import load_file

    fcgpu.save_model(model(), tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    assert {name: t.shape for name, t in tensors.items()} == {"W1": (3, 2), "b1": (2,), "W2": (2, 2), "b2": (2,)}


def test_equal_models_are_equal_files(tmp_path):
    digests = {fcgpu.save_model(model(), tmp_path / f"{i}") for i in range(5)}
    assert len(digests) == 1
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(5)}) == 1


ONE_LINE = re.compile(r".*m\.safetensors: (not a whole safetensors|the contents|a safetensors file of another) .*")


def refusal(path):
    """The error's message; pytest.raises would take ten times as long as the reader."""
    try:
        fcgpu.load_model(path)
    except fcgpu.CheckpointError as error:
        return str(error)
    return ""


def test_every_single_bit_flip_is_detected(tmp_path):
    path = tmp_path / "m.safetensors"
    fcgpu.save_model(model(), path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        overwrite(path, whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        assert ONE_LINE.fullmatch(refusal(path)), bit
    print(f"{8 * len(whole)} bits flipped, {8 * len(whole)} detected")


def test_every_truncation_is_detected(tmp_path):
    path = tmp_path / "m.safetensors"
    fcgpu.save_model(model(), path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        overwrite(path, whole[:length])
        assert "m.safetensors: not a whole safetensors file" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole safetensors file"),
        (b"\x80\x04\x95pickled", "not a whole safetensors file"),
        (to_bytes({"weight": np.zeros(3)}), "of another program"),
        (to_bytes({"W1": np.zeros(3)}, metadata={"format": "pt"}), "of another program"),
        (to_bytes({"W1": np.zeros(3)}, metadata={"fcgpu": "[]"}), "do not match their SHA-256"),
        (to_bytes({}, metadata={"fcgpu": json.dumps({"sha256": "0"})}), "do not match their SHA-256"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert ONE_LINE.fullmatch(said := refusal(path))
    assert message in said


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors | {"W3": np.zeros((2, 2), np.float32)},
        lambda tensors: {key: tensor.astype(np.int32) for key, tensor in tensors.items()},
        lambda tensors: tensors | {"b1": tensors["b1"].astype(np.float64)},
        lambda tensors: tensors | {"W1": tensors["W1"].T.copy()},
        lambda tensors: {key: tensor for key, tensor in tensors.items() if key != "b2"},
    ],
)
def test_arrays_of_another_network_are_refused_whoever_sealed_them(tmp_path, change):
    path = tmp_path / "m.safetensors"
    fcgpu.save_model(model(), path)
    about, tensors = sealed.read(path, "model")
    sealed.write(path, about, tensors)
    assert fcgpu.load_model(path).spec == SPEC
    sealed.write(path, about, change(tensors))
    with pytest.raises(fcgpu.CheckpointError):
        fcgpu.load_model(path)


@pytest.mark.parametrize(("was", "now"), [(b'"F64"', b'"I64"'), (b"[3,2]", b"[2,3]"), (b'"W1"', b'"V1"')])
def test_the_hash_is_also_of_names_types_and_shapes(tmp_path, was, now):
    path = tmp_path / "m.safetensors"
    fcgpu.save_model(model("float64"), path)
    content = path.read_bytes()
    assert was in content
    path.write_bytes(content.replace(was, now))
    with pytest.raises(fcgpu.CheckpointError, match="do not match their SHA-256"):
        sealed.read(path, "model")


def test_a_file_in_the_format_of_another_version_is_named(tmp_path):
    path = tmp_path / "m.safetensors"
    fcgpu.save_model(model(), path)
    about, tensors = sealed.read(path, "model")
    sealed.write(path, about | {"format": 1, "fcgpu_version": "0.0.9"}, tensors)
    with pytest.raises(fcgpu.CheckpointError, match=r"format 1 of fcgpu 0\.0\.9; this is .*, which reads format 2"):
        fcgpu.load_model(path)


def test_a_checkpoint_is_not_called_a_model_of_another_version(tmp_path):
    call("train", "deep", "--recipe", "deep", "--checkpoint-every", 50, "--out", tmp_path / "run", "--quiet")
    with pytest.raises(fcgpu.CheckpointError, match=r"epoch-100\.safetensors: no model, but another file of a run"):
        fcgpu.load_model(tmp_path / "run/checkpoints/epoch-100.safetensors")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(fcgpu.CheckpointError, match="no such model file"):
        fcgpu.load_model(tmp_path / "none")
    with pytest.raises(
        fcgpu.CheckpointError, match=f"{re.escape(str(tmp_path))}: a folder; expected a model file in it"
    ):
        fcgpu.load_model(tmp_path)
    with pytest.raises(fcgpu.CheckpointError, match=r"cannot be read \(.*null.*\); expected a model file that you may"):
        fcgpu.load_model("a\0b")


@pytest.mark.skipif(os.name == "nt", reason="a link needs a right that few users of Windows have")
def test_a_link_to_a_model_is_followed(tmp_path):
    fcgpu.save_model(model(), tmp_path / "v1.safetensors")
    (tmp_path / "newest.safetensors").symlink_to("v1.safetensors")
    assert fcgpu.load_model(tmp_path / "newest.safetensors").classes == model().classes


def test_a_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    calls, names = [], {}

    def recorded(name, real):
        def call(*args):
            found = real(*args)
            if name == "open":
                names[found] = os.path.basename(args[0])  # noqa: PTH119
            calls.append((name, names.get(found if name == "open" else args[0])))
            return found

        return call

    for name in ("open", "write", "fsync", "close", "replace"):
        monkeypatch.setattr(atomic.os, name, recorded(name, getattr(os, name)))
    fcgpu.save_model(model(), tmp_path / "m.safetensors")
    monkeypatch.undo()
    temporary = calls[0][1]
    assert temporary.endswith(".tmp")
    folder = [(name, tmp_path.name) for name in ("open", "fsync", "close")]
    assert calls == [
        *((name, temporary) for name in ("open", "write", "fsync", "close")),
        ("replace", None),
        *(folder if os.name == "posix" else ()),
    ]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_failing_system_call_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call, code):
    path = tmp_path / "m.safetensors"
    fcgpu.save_model(model(), path)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(atomic.os, call, fail)
    with pytest.raises(fcgpu.CheckpointError, match=r"m\.safetensors: cannot be written"):
        fcgpu.save_model(model("float64"), path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
