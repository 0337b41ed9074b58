"""The parser of the command line. The options of `train` are generated from the keys of a Recipe."""

import argparse
import os
import re
import sys
from argparse import ArgumentTypeError
from contextlib import suppress
from dataclasses import Field
from glob import glob
from typing import Any, NoReturn

from fcgpu.errors import ConfigError
from fcgpu.streams import say
from fcgpu.suggest import choices, nearest
from fcgpu.train.recipe import KEYS
from fcgpu.version import __version__

FIRST = (
    "hidden",
    "activation",
    "output",
    "target_column",
    "standardize",
    "test_size",
    "optimizer",
    "learning_rate",
    "epochs",
    "batch",
    "dtype",
    "seed",
)
NOT_OPTIONS = {  # keys of a recipe that are no options, and why
    "description": "it is for the TOML file of a recipe",
    "data": "give the data as an argument without an option before it",
}
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
METAVARS = {str: "NAME", float: "X", tuple: "N,N"}
PROBA = (
    "add the probability of each class, separated by tabs; for three or more classes with output sigmoid they need not "
    "sum to 1"
)
DATA = (
    "mnist, another data set's name, a folder of IDX files, a folder of images with one sub-folder a class or with "
    "such in train and test, a .csv, .tsv or .npy file of numbers with the label in the first column (of the first two "
    "it may be another, and text), a .npz file of arrays X and y, with X_test and y_test if there are any"
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line and suggest the nearest option or command."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # -1e-3, -inf and -5,3 are values (even if not legal ones), not options
        self._negative_number_matcher = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # argparse's own hides that nobody reads it

    def error(self, message: str) -> NoReturn:
        if wrong := re.search(r"unrecognized arguments: (-\S+)", message):
            word = wrong[1].split("=")[0]
            message = f"{word} is not an option; {self._instead_of(word)}".removesuffix("; ")
        elif wrong := re.search(r"unrecognized arguments: (.+)", message):
            message = f"{wrong[1]!r} is more than {self.prog} takes"
        elif wrong := re.match("argument COMMAND: invalid choice: (['\"])(.*?)\\1", message):
            message = f"{wrong[2]!r} is not a command; {choices(wrong[2], self.commands())}"
        elif message.endswith("required: COMMAND"):
            message = f"no command given; choose from {', '.join(self.commands())}"
        say(f"{self.prog}: error: {' '.join(message.split())} (see {self.prog} --help)")
        sys.exit(2)

    def _instead_of(self, word: str) -> str:
        """A suggestion for an option that does not exist; empty if none is near."""
        key, known = word.removeprefix("--"), [action.dest for action in self._actions]
        if key in NOT_OPTIONS and "data" in known:
            return NOT_OPTIONS[key]
        options = [text for action in self._actions for text in action.option_strings]
        found = nearest(key, [text[2:] for text in options if text.startswith("--")])
        return found.replace("'", "'--", 1)

    def commands(self) -> dict[str, "Parser"]:
        """The parser of each command."""
        return next(a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction))

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but the error for an unknown option comes from the command's own parser."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            self.commands()[parsed.command].error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed


class Paths(argparse.Action):
    """Paths; on Windows, whose shells hand on patterns such as runs/* as they are, the paths that they match."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        paths: list[str] = []
        for each in values:
            is_pattern = os.name == "nt" and ("*" in each or "?" in each)
            paths += (sorted(glob(each)) if is_pattern else []) or [each]  # noqa: PTH207 - Path's is within a folder
        setattr(namespace, self.dest, paths)


def parser() -> Parser:
    main = Parser(
        prog="fcgpu",
        description="Train fully-connected networks, on a GPU with CuPy, else on the CPU.",
        epilog="`fcgpu train` with no further words trains 784-128-64-10 on the 60,000 MNIST digits in the package.",
        allow_abbrev=False,
    )
    main.add_argument("--version", action="version", version=f"fcgpu {__version__}")
    commands = main.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _train(commands)

    evaluate = _command(commands, "evaluate", "loss, accuracy and confusion matrix, or R2, of a model on data")
    _model(evaluate)
    evaluate.add_argument("data", nargs="?", metavar="DATA", help=f"{DATA}; default: what the model was trained on")
    evaluate.add_argument("--split", choices=("test", "train"), help="which part; default: test where there is one")
    _where(evaluate)
    _output(evaluate)

    predict = _command(
        commands, "predict", "one label a line for CSV, NPY, NPZ or image files; of several images with the file"
    )
    _model(predict)
    predict.add_argument(
        "inputs",
        nargs="+",
        action=Paths,
        metavar="FILE",
        help="a table, with or without labels; images, or a folder of them",
    )
    predict.add_argument("--proba", action="store_true", help=PROBA)
    _where(predict)
    _output(predict)

    export = _command(commands, "export", "a model as ONNX, for programs without fcgpu")
    _model(export)
    export.add_argument("out", metavar="FILE.onnx", help="the file to write; one that is there is replaced")
    _output(export)

    report = _command(commands, "report", "a page of HTML about a run, or comparing several: curves, mistakes, weights")
    report.add_argument("runs", nargs="+", action=Paths, metavar="RUN_DIR", help="a run directory of fcgpu train")
    where = "the file to write (default: report.html in the run directory; of several runs, in the working folder)"
    report.add_argument("--out", metavar="FILE.html", help=where)
    _output(report)

    info = _command(commands, "info", "what this machine offers, and which device would be used and why")
    info.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    _output(info)

    bench = _command(
        commands, "bench", "this machine's CPU against its GPU: training speed, and the share of its limits"
    )
    _where(bench)
    seconds = "about this long for each figure of a device, 13 in all (default: 1)"
    bench.add_argument("--seconds", type=_seconds, default=1.0, metavar="S", help=seconds)
    _output(bench)

    recipes = _command(commands, "recipes", "the recipes in the package, one of them as TOML, or the keys of all")
    which = recipes.add_mutually_exclusive_group()
    which.add_argument("name", nargs="?", metavar="NAME", help="print this recipe as TOML")
    which.add_argument("--keys", action="store_true", help="every key, what it takes, its default and meaning")
    _output(recipes)
    return main


def _train(commands: Any) -> None:
    train = _command(commands, "train", "train a network and keep it in a run directory")
    train.add_argument("data", nargs="?", metavar="DATA", help=f"{DATA}; default: the recipe's")
    train.add_argument(
        "--recipe",
        help="a recipe's name or a TOML file (default: the one with DATA's name; for DATA of your own: own)",
    )
    for key in FIRST:
        _recipe_option(train, key)
    train.add_argument("--out", metavar="DIR", help="run directory (default: runs/RECIPE-DATE-TIME)")
    train.add_argument("--resume", metavar="DIR", help="go on with the run in this run directory, from its checkpoint")
    often = "epochs, or a time as 30s or 10min; 0 for never (default: 30s)"
    train.add_argument("--checkpoint-every", type=every, default="30s", metavar="N|TIME", help=often)
    train.add_argument(
        "--keep", type=_count, default=2, metavar="N", help="checkpoints beside the best one (default: 2)"
    )
    halve = "after NaN or infinity: stop, or halve the learning rate and go on from the last checkpoint"
    train.add_argument("--on-divergence", choices=("stop", "halve"), default="stop", help=f"{halve} (default: stop)")
    board = "log for TensorBoard, into the run directory (needs the extra tensorboard)"
    train.add_argument("--tensorboard", action="store_true", help=board)
    memory = "budget, as 300MB or 2GiB (default: half of what is free, of a GPU's memory 90 %%)"
    train.add_argument("--memory", type=size, metavar="SIZE", help=memory)
    train.add_argument("--report", action="store_true", help="write report.html into the run directory, at the end")
    _where(train)
    _output(train)
    train.add_argument("--quiet", action="store_true", help="no progress, and of the results only --json's line")
    more = train.add_argument_group("more of the recipe")
    for key in KEYS:
        if key not in FIRST and key not in NOT_OPTIONS:
            _recipe_option(more, key)


def _command(commands: Any, name: str, help: str) -> Any:
    return commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False)


def _model(command: Any) -> None:
    command.add_argument("model", metavar="MODEL", help="a run directory or its model.safetensors")


def _where(command: Any) -> None:
    threads = "on the CPU; the result does not depend on it (default: all, or OMP_NUM_THREADS if that is less)"
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    command.add_argument("--threads", type=_count, metavar="N", help=threads)


def _output(command: Any) -> None:
    command.add_argument("--json", action="store_true", help="one JSON object as the last line of standard output")


def _recipe_option(group: Any, key: str) -> None:
    about: Field[Any] = KEYS[key]
    flag = "--" + key.replace("_", "-")
    words = f"{about.metadata['help']}: {about.metadata['kind'].words}".replace("%", "%%")
    if isinstance(about.default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=about.metadata["help"])
    else:
        metavar = "full|N" if key == "batch" else METAVARS.get(type(about.default), "N")
        group.add_argument(flag, metavar=metavar, help=words)


def recipe_changes(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe keys given as options, converted to the recipe's types. Raises ConfigError if that fails."""
    given = {key: getattr(args, key, None) for key in KEYS if key not in NOT_OPTIONS}
    return {key: _typed(key, value) for key, value in given.items() if value is not None}


def _typed(key: str, value: Any) -> Any:
    default = KEYS[key].default
    try:
        if isinstance(default, tuple):
            words = value.strip("[]() ")
            return tuple(_number(word) for word in words.split(",")) if words else ()
        if isinstance(default, int | float) and not isinstance(default, bool):
            return int(value) if isinstance(default, int) else float(value)
        return value if key != "batch" or value == "full" else int(value)
    except ValueError:
        raise ConfigError(f"{key}={value!r}: expected {KEYS[key].metadata['kind'].words}") from None


def _number(word: str) -> int | float:
    try:
        return int(word)
    except ValueError:
        return float(word)


def _count(text: str) -> int:
    with suppress(ValueError):
        if (number := int(text)) >= 1:
            return number
    raise ArgumentTypeError(f"{text!r}: expected a whole number of 1 or more")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0.01 <= (number := float(text)) <= 3600:
            return number
    raise ArgumentTypeError(f"{text!r}: expected a number from 0.01 to 3600")


def size(text: str) -> int:
    """Bytes, 1 or more, from text such as 300MB, 2GiB or a plain number."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([A-Za-z]*)", text)
    n = int(float(match[1]) * UNITS.get(match[2].upper(), 0)) if match else 0
    if n < 1:
        raise ArgumentTypeError(f"{text!r}: expected a size such as 300MB or 2GiB")
    return n


def every(text: str) -> tuple[int, float]:
    """(epochs, seconds) between two checkpoints, at least one of them 0, from text such as 5, 30s or 10min."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)(s|min|h)?", text)
    if not match or (not match[2] and "." in match[1]):
        raise ArgumentTypeError(f"{text!r}: expected epochs, as 5, or a time, as 30s or 10min; 0 for never")
    if match[2]:
        return 0, float(match[1]) * {"s": 1, "min": 60, "h": 3600}[match[2]]
    return int(match[1]), 0.0
