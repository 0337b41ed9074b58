"""Compiles native.c during installation, into the folder of its source. Without a C compiler it is left out, and on
Windows, because it is for GCC and clang.
"""

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
OPTIONS = ["-O3", "-fno-math-errno", "-fno-trapping-math"]
# One wheel for all Pythons from 3.11 on; a free-threaded Python has no such interface, and gets a wheel of its own.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
OLDEST = "cp311" if sys.version_info < (3, 15) else "cp315"  # 3.15 names the file in a way that no older one looks for


class CompileHook(BuildHookInterface):  # type: ignore[misc]
    """Hatchling's build hook: compiles native.c, and makes the wheel a platform wheel if that succeeds."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        for stale in (root / "fcgpu" / "kernels").glob("_native.*"):
            if stale.suffix in (".so", ".pyd"):
                stale.unlink()
        if sys.platform == "win32":
            return
        for macros in ([], [("CLONES", "")]):  # not every compiler supports target_clones
            try:
                compile_into(root, macros)
            except Exception as error:  # no compiler, no Python.h: errors of many kinds
                self.app.display_warning(f"fcgpu's kernels in C are left out: {error}")
            else:
                own = next(tag for tag in sys_tags() if "manylinux" not in tag.platform)
                build_data.update(pure_python=False, tag=f"{OLDEST}-abi3-{own.platform}" if LIMITED else str(own))
                return


def compile_into(root: Path, macros: list[tuple[str, str]]) -> None:
    folder = root / "fcgpu" / "kernels"
    source, depends = str(folder / SOURCE), [str(header) for header in folder.glob("*.h")]
    if LIMITED:
        macros = [*macros, ("Py_LIMITED_API", "0x030B0000")]
    extension = Extension(
        MODULE, [source], depends=depends, define_macros=macros, extra_compile_args=OPTIONS, py_limited_api=LIMITED
    )
    build = Distribution({"name": "fcgpu", "ext_modules": [extension]}).get_command_obj("build_ext")
    with tempfile.TemporaryDirectory() as objects:
        build.build_temp, build.build_lib = objects, str(root)
        build.ensure_finalized()
        build.run()
