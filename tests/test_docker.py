"""The container files: properties checked in their text, and their commands run in an empty directory tree."""

import os
import re
import sys
from pathlib import Path

import pytest
from command import ROOT
from dockerfile import Builder, stages, whole

DOCKER = ROOT / "docker"
if not DOCKER.is_dir():
    pytest.skip("these are tests of the clone: docker/ is not in the image", allow_module_level=True)

TEXT = (DOCKER / "Dockerfile").read_text()
IGNORE = (ROOT / ".dockerignore").read_text()
STAGES = stages(TEXT)
PINNED = [line for line in (DOCKER / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
TARGETS = ("cpu", "cuda12", "test")
SECRET = re.compile(r"(?i)(^|[._-])(netrc|pypirc|npmrc|id_rsa|env|git|credentials?|token|secrets?)$|pip\.conf$")


def last(target, name):
    return [i.words for i in whole(STAGES, target) if i.name == name][-1]


@pytest.mark.parametrize("target", TARGETS)
def test_no_target_runs_as_root(target):
    user, group = last(target, "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


@pytest.mark.parametrize("target", TARGETS)
def test_data_and_runs_are_volumes(target):
    assert last(target, "VOLUME") == '["/work/data", "/work/runs"]'


def test_training_is_the_default_command():
    assert last("cpu", "CMD") == last("cuda12", "CMD") == '["fcgpu", "train"]'


def test_every_version_is_pinned():
    bases = {stage.base for stage in STAGES.values()} - set(STAGES)
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in bases)
    assert PINNED
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9.]*", line) for line in PINNED)
    for stage in STAGES.values():
        for instruction in stage.instructions:
            if "pip install" in instruction.words:
                assert "--constraint /constraints.txt" in instruction.words or "--no-deps" in instruction.words


def test_no_layer_is_given_a_cache_or_a_secret():
    assert "PIP_NO_CACHE_DIR=1" in " ".join(i.words for i in STAGES["base"].instructions)
    for stage in STAGES.values():
        assert not {i.name for i in stage.instructions} & {"ADD", "ARG"}
        assert not [i for i in stage.instructions if i.name == "COPY" and i.words.split()[0] == "."]
    assert next(line for line in IGNORE.splitlines() if not line.startswith("#")) == "*"


def test_what_pip_installs_by_name_is_what_the_package_asks_for():
    import tomllib

    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = next(i.words for i in STAGES["packages"].instructions if "pip install" in i.words)
    assert named.split("/constraints.txt ")[-1].split() == [re.split("[><=]", d)[0] for d in asked["dependencies"]]
    named = next(i.words for i in STAGES["cuda12"].instructions if "pip install" in i.words)
    words = named.split("/constraints.txt ")[-1].replace("'", "").split()
    assert words == [d.split(">=")[0] for d in asked["optional-dependencies"]["cuda12"]]


def test_the_services():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert set(services) == {"train", "train-cpu", "test", "bench"}
    assert {name: service["build"]["target"] for name, service in services.items()} == {
        "train": "cuda12", "bench": "cuda12", "train-cpu": "cpu", "test": "test",
    }  # fmt: skip
    for name in ("train", "bench"):
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    for name in ("train", "train-cpu", "bench"):
        assert [volume.split("}:")[1] for volume in services[name]["volumes"]] == ["/work/data:ro", "/work/runs"]


def clean_environment(folder):
    """A minimal shell environment, the base image's Python, and access to a package index."""
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "python").symlink_to(Path(sys._base_executable).resolve())
    kept = {k: v for k, v in os.environ.items() if re.fullmatch(r"(PIP|SSL)_\w+|\w+_(proxy|PROXY)", k)}
    (folder / "home").mkdir()
    return {key: value for key, value in kept.items() if key != "PIP_CACHE_DIR"} | {
        "PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(folder / "home"), "LANG": "C.UTF-8",
    }  # fmt: skip


@pytest.mark.slow
def test_the_lines_themselves_end_with_a_trained_network_and_green_tests(tmp_path, pytestconfig):
    if not pytestconfig.getoption("thorough"):
        pytest.skip("installs from a package index and runs all tests once more: give --thorough")
    environment = clean_environment(tmp_path)
    left = []

    def look(root, instruction):
        left.extend(
            (instruction, path.relative_to(root))
            for path in root.rglob("*")
            if SECRET.search(path.name) or path.name == ".cache" or root / "tmp" in path.parents
        )

    builder = Builder(TEXT, IGNORE, ROOT, tmp_path, environment)
    builder.build("test", look)
    assert not left
    assert not list((tmp_path / "home").iterdir())
    assert set(builder.built) == {"base", "wheel", "packages", "cpu", "test"}

    found = builder.command("test", ["pip", "freeze"])
    installed = {line.lower() for line in found.stdout.splitlines() if not line.startswith("fcgpu")}
    assert installed
    assert installed <= {line.lower() for line in PINNED}

    trained = builder.command("cpu")
    assert trained.returncode == 0, trained.stderr
    (run,) = (tmp_path / "stage-cpu" / "work" / "runs").iterdir()
    assert (run / "model.safetensors").is_file()
    score = builder.command("cpu", ["fcgpu", "evaluate", f"/work/runs/{run.name}"])
    assert float(re.search(r"accuracy ([\d.]+)%", score.stdout)[1]) > 97

    green = builder.command("test")
    assert green.returncode == 0, green.stdout[-3000:]
    assert re.search(r"\d{3,} passed", green.stdout)
