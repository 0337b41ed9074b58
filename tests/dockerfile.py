"""Read and run a Dockerfile without Docker: every stage runs in a folder that replaces the root directory.

This does not test the base image, users (everything runs as the user of the tests) and isolation. A path in the image
is one that begins with a name in ROOTS; every instruction uses it as a path below the stage's folder.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from typing import NamedTuple

ROOTS = ("opt", "src", "tmp", "wheels", "work", "constraints.txt")
IMAGE_PATH = re.compile(rf"(?<![\w./-])/(?={'|'.join(map(re.escape, ROOTS))})")
MOUNT = re.compile(r"--mount=(\S+)\s*")


class Instruction(NamedTuple):
    name: str
    words: str


class Stage(NamedTuple):
    base: str
    name: str
    instructions: list


def stages(text):
    """The stages of a Dockerfile, in order, each with its instructions; continued lines are joined."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, words = line.split(maxsplit=1)
        if name == "FROM":
            base, _, stage = words.split()
            found.append(Stage(base, stage, []))
        else:
            found[-1].instructions.append(Instruction(name, " ".join(words.split())))
    return {stage.name: stage for stage in found}


def whole(all_stages, name):
    """Every instruction that makes the image of a target, those of its base stages first."""
    stage = all_stages[name]
    return (whole(all_stages, stage.base) if stage.base in all_stages else []) + stage.instructions


def allowed(ignore, path):
    """Whether a .dockerignore written as an allow-list includes `path`, relative to the context."""
    names = [line[1:] for line in ignore.splitlines() if line.startswith("!")]
    return any(path == name or path.startswith(f"{name}/") for name in names)


class Builder:
    """Runs stages of `text` in `folder`; `context` is the repository's root, `environment` that of RUN."""

    def __init__(self, text, ignore, context, folder, environment):
        self.stages, self.ignore, self.context, self.folder = stages(text), ignore, context, folder
        self.environment = environment
        self.root = folder / "root"  # of the running stage: one path for all, since paths in an image do not change
        self.built = {}

    def build(self, name, after=lambda root, instruction: None):
        """Build a target and the stages it needs; `after` is called after each instruction."""
        for needed in self._needs(name):
            if needed not in self.built:
                self._run_stage(self.stages[needed], after)

    def command(self, name, words=None):
        """Run the CMD of a built target, or another command; the tree keeps what the command writes."""
        self._enter(self._tree(name))
        *_, cmd = (i for i in whole(self.stages, name) if i.name == "CMD")
        self.workdir, self.env = self.built[name]
        result = self._process(shlex.join(words or json.loads(cmd.words)))
        self._leave(name)
        return result

    def _tree(self, name):
        return self.folder / f"stage-{name}"

    def _needs(self, name):
        """Names of the stages to run, in order: base stages, and those from which COPY or a mount takes files."""
        stage = self.stages[name]
        others = [m for i in stage.instructions for m in re.findall(r"from=(\w+)", i.words)]
        needed = [n for other in (stage.base, *others) if other in self.stages for n in self._needs(other)]
        return list(dict.fromkeys([*needed, name]))

    def _run_stage(self, stage, after):
        self._enter(self._tree(stage.base) if stage.base in self.stages else None)
        self.workdir, self.env = self.built.get(stage.base, ("/", dict(self.environment)))
        self.env = dict(self.env)
        for instruction in stage.instructions:
            getattr(self, f"_{instruction.name.lower()}")(instruction.words)
            after(self.root, instruction)
        self.built[stage.name] = (self.workdir, self.env)
        self._leave(stage.name)

    def _enter(self, tree):
        if tree:
            shutil.copytree(tree, self.root, symlinks=True)
        else:
            (self.root / "tmp").mkdir(parents=True)

    def _leave(self, name):
        shutil.rmtree(self._tree(name), ignore_errors=True)
        self.root.rename(self._tree(name))

    def _here(self, text):
        return IMAGE_PATH.sub(f"{self.root}/", text)

    def _place(self, path):
        """The place of a path in the image, absolute or relative to WORKDIR."""
        return self.root / os.path.join(self.workdir, path).lstrip("/")

    def _process(self, command):
        return subprocess.run(
            ["/bin/sh", "-c", self._here(command)], cwd=self._place("."), env=self.env, capture_output=True, text=True,
            check=False, timeout=3600,
        )  # fmt: skip

    def _env(self, words):
        for pair in shlex.split(words):
            key, value = pair.split("=", 1)
            self.env[key] = self._here(value).replace("$PATH", self.env["PATH"])

    def _workdir(self, words):
        self.workdir = words
        self._place(".").mkdir(parents=True, exist_ok=True)

    def _copy(self, words):
        *sources, target = words.split()
        for source in sources:
            assert allowed(self.ignore, source), f".dockerignore keeps {source} from the builder"
            self._take(self.context / source, self._place(target) / (source if target == "./" else ""))

    def _take(self, source, target):
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "results"), dirs_exist_ok=True)
        else:
            shutil.copy(source, target)

    def _run(self, words):
        mounted = []
        for mount in MOUNT.findall(words):
            options = dict(option.split("=") for option in mount.split(","))
            assert options["type"] == "bind"
            from_context = "from" not in options
            tree = self.context if from_context else self._tree(options["from"])
            assert not from_context or allowed(self.ignore, options["source"])
            mounted.append(self.root / options["target"].lstrip("/"))
            mounted[-1].symlink_to(tree / options["source"].lstrip("/"))
        result = self._process(MOUNT.sub("", words))
        for link in mounted:
            link.unlink()
        assert result.returncode == 0, f"RUN {words}\n{result.stdout}{result.stderr}"

    def _said(self, words):
        """VOLUME, USER and CMD change no files."""

    _volume = _user = _cmd = _said
