"""ONNX: the checker accepts every graph, and onnxruntime computes the same from it as fcgpu."""

import json

import numpy as np
import pytest
from command import call
from given import model

import fcgpu
from fcgpu.formats import onnx as ours
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.losses import OUTPUTS

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def answer(path, X):
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"X": X.astype(np.float32)})[0]


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_the_graph_computes_what_the_model_does(tmp_path, mnist, activation, output):
    m = model(activation, output, (784, 128, 64, 10), image_shape=(28, 28))
    fcgpu.save_onnx(m, tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    X = mnist.X_test[:1000]
    expected = m.predict_proba(X)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", X), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(4, 3), (4, 3, 1), (1, 5, 5, 5, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_shapes_types_and_batches(tmp_path, sizes, dtype):
    m = model("leaky_relu", "sigmoid", sizes, dtype, classes=None, scale=2.5)
    fcgpu.save_onnx(m, tmp_path / "m.onnx")
    X = np.random.default_rng(0).standard_normal((7, sizes[0])).astype(np.float32)
    for n in (1, 7):
        np.testing.assert_allclose(answer(tmp_path / "m.onnx", X[:n]), m.predict_proba(X[:n]), atol=1e-6)


def test_one_output_of_two_classes_gives_both_probabilities(tmp_path):
    m = model("tanh", "sigmoid", (4, 3, 1), classes=("no", "yes"))
    fcgpu.save_onnx(m, tmp_path / "m.onnx")
    X = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    P = m.predict_proba(X)
    assert P.shape == (7, 2)
    np.testing.assert_array_equal(P.argmax(axis=1), (m.decision_function(X)[:, 0] > 0))
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", X), P, atol=1e-6)


def test_what_the_file_says(tmp_path):
    m = model(sizes=(4, 3, 2), classes=("cat", "dög"), image_shape=(2, 2), recipe="mine")
    digest = fcgpu.save_onnx(m, tmp_path / "a.onnx")
    assert fcgpu.save_onnx(m, tmp_path / "b.onnx") == digest
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    saved = onnx.load(tmp_path / "a.onnx")
    assert [o.version for o in saved.opset_import] == [17]
    session = runtime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["cat", "dög"]
    assert json.loads(about["image_shape"]) == [2, 2]
    assert (about["recipe"], about["output"]) == ("mine", "softmax")
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == ("X", ["n", 4], "tensor(float)")
    assert (result.name, result.shape) == ("probabilities", ["n", 2])
    values = ours.to_onnx(model("relu", "identity", (4, 1)))
    assert values.graph.output[0].name == "values"


def test_what_float32_or_the_format_cannot_hold_is_refused(tmp_path, monkeypatch):
    m = model(sizes=(4, 3, 2), dtype="float64")
    m.params[5] = 1e300
    with pytest.raises(fcgpu.ConfigError, match="float32 cannot hold"):
        fcgpu.save_onnx(m, tmp_path / "m.onnx")
    with pytest.raises(fcgpu.ConfigError, match="float32 cannot hold"):
        fcgpu.save_onnx(model(sizes=(4, 3, 2), scale=1e39), tmp_path / "m.onnx")
    monkeypatch.setattr(ours, "LARGEST", 4 * m.spec.n_params - 1)
    with pytest.raises(fcgpu.ConfigError, match="2 GiB"):
        fcgpu.save_onnx(model(sizes=(4, 3, 2)), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("absent", ["onnx", "onnx.checker"])
def test_without_onnx_or_what_it_needs_the_error_says_what_to_install(absent, monkeypatch):
    monkeypatch.delattr("onnx.checker", raising=False)
    monkeypatch.setitem(__import__("sys").modules, absent, None)
    with pytest.raises(fcgpu.MissingExtraError, match=rf"needs {absent}, which is not installed.*fcgpu\[onnx\]"):
        ours.to_onnx(model(sizes=(4, 3, 2)))


def test_the_command(tmp_path):
    m = model(sizes=(4, 3, 2))
    fcgpu.save_model(m, tmp_path / "model.safetensors")
    told = call("export", tmp_path, tmp_path / "m.onnx")
    assert (told.code, told.err) == (0, "")
    assert "m.onnx: ONNX, opset 17, 4-3-2" in told.out
    result = json.loads(call("export", tmp_path / "model.safetensors", tmp_path / "n.onnx", "--json").out)
    assert result["bytes"] == (tmp_path / "n.onnx").stat().st_size
    assert result["sha256"] == fcgpu.save_onnx(m, tmp_path / "m.onnx")


@pytest.mark.parametrize(("out", "message"), [("m.pt", "ends in .onnx"), ("none/m.onnx", "cannot be written")])
def test_the_command_refuses_in_one_line(tmp_path, out, message):
    fcgpu.save_model(model(sizes=(4, 3, 2)), tmp_path / "model.safetensors")
    told = call("export", tmp_path, tmp_path / out)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
    assert message in told.err
