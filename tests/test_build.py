"""What an installation compiles: fcgpu/kernels/build.py, through its two functions, as Hatchling calls them."""

import ast
import shutil
import subprocess
import sys
import sysconfig
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

import fcgpu
from fcgpu.kernels import compiled

KERNELS = Path(compiled.__file__).parent
HEADERS = Path(sysconfig.get_path("include"), "Python.h")
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

pytestmark = [
    pytest.mark.skipif(not (shutil.which("cc") and HEADERS.exists()), reason="there is no C compiler, or no Python.h"),
    pytest.mark.skipif(not (KERNELS / "build.py").exists(), reason="installed, and not a clone"),
]
TINY = "#include <Python.h>\nint is_nan(double x) { return x != x; }\n"


class Clone:
    """A copy of the kernels, or of a source in place of theirs."""

    def __init__(self, folder, source=None):
        pytest.importorskip("setuptools")
        self.folder, self.kernels = folder, folder / "fcgpu" / "kernels"
        self.kernels.parent.mkdir(parents=True)
        if source is None:
            shutil.copytree(KERNELS, self.kernels, ignore=shutil.ignore_patterns("*.so"))
        else:
            self.kernels.mkdir()
            shutil.copy(KERNELS / "build.py", self.kernels)
            (self.kernels / "native.c").write_text(source)
        self.stub = folder / "stub"
        plugin = self.stub / "hatchling" / "builders" / "hooks" / "plugin"
        plugin.mkdir(parents=True)
        (plugin / "interface.py").write_text("class BuildHookInterface: pass\n")
        for package in (plugin, *plugin.parents[:3]):
            (package / "__init__.py").touch()  # else a Hatchling that is installed comes first

    def build(self, before="", version="standard", **environment):
        """What the hook hands to Hatchling, the contents of the files to include, and its warnings.

        before : statements that come before it.
        """
        program = f"""
import os, sys
sys.path[:0] = [{str(self.stub)!r}, {str(self.kernels)!r}]
import build
hook, data, said = build.CompileHook(), {{}}, []
hook.root = {str(self.folder)!r}
hook.app = type("App", (), {{"display_warning": staticmethod(said.append)}})
{before}
hook.initialize({version!r}, data)
files = {{target: open(source, "rb").read() for source, target in data.pop("force_include", {{}}).items()}}
print(repr((data, files, said)))
"""
        ended = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "CC": "cc", **environment},
            check=True,
        )
        return ast.literal_eval(ended.stdout.splitlines()[-1])

    def built(self):
        return {path.name for path in self.kernels.glob("_native.*")} - {"_native.pyi"}


@pytest.mark.slow
def test_an_installation_compiles_it_or_goes_without(tmp_path):
    clone = Clone(tmp_path / "clone")
    own = "cp{0}{1}-cp{0}{1}{2}-".format(*sys.version_info[:2], "t" if FREE_THREADED else "")
    name = f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    cases = [("build.LIMITED = False", "cc", own, {name}, 0), ("build.LIMITED = False", "/nowhere/cc", "", set(), 2)]
    cases.append(("sys.platform = 'win32'", "cc", "", set(), 0))
    if not FREE_THREADED:
        oldest = "cp311" if sys.version_info < (3, 15) else "cp315"
        name = next(f"_native{end}" for end in EXTENSION_SUFFIXES if end.startswith(".abi3"))
        cases.append(("", "cc", f"{oldest}-abi3-", {name}, 0))
    for before, compiler, tag, names, warnings in cases:
        (clone.kernels / "_native.stale.so").touch()
        data, files, said = clone.build(before, CC=compiler)
        assert data.get("tag", "").startswith(tag)
        assert data.get("pure_python", True) is not bool(names)
        assert (clone.built(), set(files)) == (names, {f"fcgpu/kernels/{name}" for name in names})
        assert len(said) == warnings


def test_neither_the_folder_nor_fast_math_changes_a_bit(tmp_path):
    """-ffast-math would take NaN for a number; linked with, it would also set other programs' small numbers to 0."""
    plain, fast = (
        Clone(tmp_path / name, TINY).build(CFLAGS=flags)[1]
        for name, flags in {"a": "", "elsewhere": "-g -Ofast -ffast-math"}.items()
    )
    assert len(plain) == 1
    assert plain == fast


def test_without_target_clones_a_warning_says_so_and_nothing_else(tmp_path):
    data, files, said = Clone(tmp_path, f"#ifndef CLONES\n#error\n#endif\n{TINY}").build()
    assert not data["pure_python"]
    assert len(files) == 1
    assert [text.partition(":")[0] for text in said] == ["fcgpu's kernels in C do not compile with target_clones"]


def test_an_editable_installation_imports_it_from_the_clone(tmp_path):
    clone = Clone(tmp_path, TINY)
    data, files, said = clone.build(version="editable")
    assert not data["pure_python"]
    assert (len(clone.built()), files, said) == (1, {}, [])


def test_a_clone_that_cannot_be_written_stays_as_it_is(tmp_path):
    clone = Clone(tmp_path, TINY)
    stale = clone.kernels / f"_native{EXTENSION_SUFFIXES[-1]}"
    stale.touch()
    _, files, said = clone.build("os.access = lambda *path: False")  # a test may run as root, who can write anywhere
    assert clone.built() == {stale.name}
    assert [len(content) > 1000 for content in files.values()] == [True]
    assert said == []


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_without_target_clones_no_bit_of_a_prediction_depends_on_the_other_samples(dtype, tmp_path, monkeypatch):
    """Wide columns are then computed with fused multiplications, others without: the same ones for all samples."""
    if not hasattr(compiled.native, "logits"):
        pytest.skip("this compiler has no vector types")
    library, include = tmp_path / "_native.so", HEADERS.parent
    options = ["-O1", "-shared", "-fPIC", "-DCLONES=", "-fno-math-errno", f"-I{include}"]
    subprocess.run(["cc", *options, str(KERNELS / "native.c"), "-o", str(library)], check=True)
    spec = spec_from_file_location("_native", library)
    monkeypatch.setattr(compiled, "native", module_from_spec(spec))
    network, random = fcgpu.Spec((30, 50, 130, 3)), np.random.default_rng(0)
    model = fcgpu.Model(network, random.normal(size=network.n_params).astype(dtype))
    X = random.normal(size=(600, 30))
    whole = model.decision_function(X)
    for n in (1, 7, 150):
        np.testing.assert_array_equal(model.decision_function(X[:n]), whole[:n])
