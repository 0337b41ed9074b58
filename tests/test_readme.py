"""What the README says of files, recipes, options, dependencies and lines of C is so, and its first programs run."""

import re
import shlex
import tomllib
from fnmatch import fnmatch
from itertools import chain

import pytest
from command import ROOT, blobs

import fcgpu
from fcgpu.cli.options import parser

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", TEXT)
SOURCES = (".py", ".c", ".h", ".cu")
in_the_clone = pytest.mark.skipif(not (ROOT / "fcgpu").is_dir(), reason="the sources are not in the image")


def rows(heading):
    """The first two cells of each row of the first table after the heading."""
    table = re.search(rf"{re.escape(heading)}.*?\n(\|.*?)\n\n", TEXT, re.DOTALL)[1]
    return [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines()[2:]]


def named():
    """Patterns of the files and folders that the table of floors names."""
    for _, cell in rows("## How it works"):
        folder = last = ""
        for name in re.findall(r"`([^`]+)`", cell):
            if name.startswith("."):  # the suffix of a file of the same name
                yield last.rpartition(".")[0] + name
                continue
            folder = name.rpartition("/")[0] if "/" in name else folder
            last = name if "/" in name or not folder else f"{folder}/{name}"
            yield last


@in_the_clone
def test_the_table_of_floors_names_every_file_and_no_other():
    root = ROOT / "fcgpu"
    files = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.suffix in SOURCES]
    apart = ("*__init__.py", "__main__.py", "version.py")
    files = [file for file in files if not any(fnmatch(file, pattern) for pattern in apart)]
    patterns = [name + "*" if name.endswith("/") else name for name in named()]
    assert [file for file in files if not any(fnmatch(file, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(file, pattern) for file in files)] == []


def test_the_recipes():
    assert sorted(name.strip("`") for name, _ in rows("The package has seven.")) == fcgpu.recipe_names()
    assert len(fcgpu.recipe_names()) == 7


@in_the_clone
def test_the_size():
    size = dict(rows("fcgpu trains"))["size"]
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert re.search(r"four dependencies \((.*?)\)", size)[1].split(", ") == [re.split("[><=]", d)[0] for d in asked]
    kernels = ROOT / "fcgpu" / "kernels"
    lines = sum(len(path.read_text().splitlines()) for path in chain(kernels.glob("*.c"), kernels.glob("*.h")))
    said = int(re.search(r"some ([\d,]+) lines of C", size)[1].replace(",", ""))
    assert abs(lines - said) < 0.1 * said


def test_the_commands_and_options():
    commands = parser().commands()
    options = {text for command in commands.values() for action in command._actions for text in action.option_strings}
    ours = [span for span in SPANS if span.startswith(("--", "fcgpu "))]
    assert len(ours) > 10
    for span in ours:
        assert set(re.findall(r"--[a-z][a-z-]*", span)) <= options, span
        assert span.startswith("--") or shlex.split(span)[1] in commands, span


def test_the_first_programs_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *_ = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    X, y = blobs(60)
    names = {"X": X, "y": y, "X_new": X[:5]}
    exec(first, names)
    assert names["finished"].train.accuracy == 1
    assert (names["model"].predict(X) == y).all()


@pytest.mark.parametrize("name", ["README.md", "bench/README.md", "tests/README.md"])
def test_lines_but_those_of_tables_fit(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []
