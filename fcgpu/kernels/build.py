"""The step of an installation that compiles native.c, beside its source; without a C compiler it is left out."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags
from setuptools import Distribution, Extension

MODULE, SOURCE = "fcgpu.kernels._native", "native.c"
HEADERS = ("elementwise.h", "passes.h", "tiles.h", "tiles_float.h", "tiles_double.h")
# Numbers that are none, and errno of sqrt, are looked for by nobody while a loop runs: it may then go by vectors.
OPTIONS = [] if sys.platform == "win32" else ["-O3", "-fno-math-errno", "-fno-trapping-math"]


class CompileHook(BuildHookInterface):  # type: ignore[misc]
    """Hatchling's hook."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        for stale in (root / "fcgpu" / "kernels").glob("_native.*"):
            if stale.suffix in (".so", ".pyd"):
                stale.unlink()
        for macros in ([], [("CLONES", "")]):  # not every compiler makes a function for several processors
            try:
                compile_into(root, macros)
            except Exception as error:  # whatever a machine without a compiler, or without Python.h, comes up with
                self.app.display_warning(f"fcgpu's kernels in C are left out: {error}")
            else:
                platform = next(tag.platform for tag in sys_tags() if "manylinux" not in tag.platform)
                build_data.update(pure_python=False, tag=f"cp311-abi3-{platform}")
                return


def compile_into(root: Path, macros: list[tuple[str, str]]) -> None:
    folder = root / "fcgpu" / "kernels"
    source, *depends = (str(folder / name) for name in (SOURCE, *HEADERS))
    extension = Extension(
        MODULE, [source], depends=depends, define_macros=macros, extra_compile_args=OPTIONS, py_limited_api=True
    )
    build = Distribution({"name": "fcgpu", "ext_modules": [extension]}).get_command_obj("build_ext")
    with tempfile.TemporaryDirectory() as objects:
        build.build_temp, build.build_lib = objects, str(root)
        build.ensure_finalized()
        build.run()
