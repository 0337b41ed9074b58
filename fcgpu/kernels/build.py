"""Compiles native.c during installation, into the folder of its source if that can be written. Without a C compiler it
is left out, and on Windows, because it is for GCC and clang.
"""

import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags
from setuptools import Distribution, Extension

MODULE, SOURCE = "fcgpu.kernels._native", "native.c"
# Nothing reads floating-point exception flags or sqrt's errno; without them the compiler can vectorize the loops.
# NaN, infinities and the order of sums have to stay what they are, whatever CFLAGS say. Without -g the file does not
# depend on the folder that it is compiled in, and has a third of the size.
OPTIONS = ["-O3", "-fno-fast-math", "-fno-math-errno", "-fno-trapping-math", "-g0"]
# One wheel for all Pythons from 3.11 on; a free-threaded Python has no such interface, and gets a wheel of its own.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
OLDEST = "cp311" if sys.version_info < (3, 15) else "cp315"  # 3.15 names the file in a way that no older one looks for


class CompileHook(BuildHookInterface):  # type: ignore[misc]
    """Hatchling's build hook: compiles native.c, and makes the wheel a platform wheel if that succeeds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root, kernels = Path(self.root), Path("fcgpu", "kernels")
        into = root
        if os.access(root / kernels, os.W_OK):
            for stale in (root / kernels).glob("_native.*"):
                if stale.suffix in (".so", ".pyd"):
                    stale.unlink()
        else:
            self.kept = tempfile.TemporaryDirectory()  # until the wheel is written, when this process ends
            into = Path(self.kept.name)
        if sys.platform == "win32":
            return
        for macros, fails in (
            ([], "do not compile with target_clones"),  # which not every compiler supports
            ([("CLONES", "")], "are left out"),
        ):
            try:
                compile_into(root, macros, into)
            except Exception as error:  # no compiler, no Python.h: errors of many kinds
                self.app.display_warning(f"fcgpu's kernels in C {fails}: {error}")
            else:
                built = next(file for file in (into / kernels).glob("_native.*") if file.suffix == ".so")
                own = next(tag for tag in sys_tags() if "manylinux" not in tag.platform)
                build_data.update(pure_python=False, tag=f"{OLDEST}-abi3-{own.platform}" if LIMITED else str(own))
                if version != "editable":  # which imports it from the clone
                    build_data["force_include"] = {str(built): (kernels / built.name).as_posix()}
                return


def compile_into(root: Path, macros: list[tuple[str, str]], into: Path | None = None) -> None:
    folder = root / "fcgpu" / "kernels"
    source, depends = str(folder / SOURCE), [str(header) for header in folder.glob("*.h")]
    if LIMITED:
        macros = [*macros, ("Py_LIMITED_API", "0x030B0000")]
    extension = Extension(
        MODULE, [source], depends=depends, define_macros=macros, py_limited_api=LIMITED,
        extra_compile_args=OPTIONS, extra_link_args=OPTIONS,
    )  # fmt: skip
    build = Distribution({"name": "fcgpu", "ext_modules": [extension]}).get_command_obj("build_ext")
    with tempfile.TemporaryDirectory() as objects:
        build.build_temp, build.build_lib = objects, str(into or root)
        build.ensure_finalized()
        build.run()
