"""`python -m bench run | report | calls | tables | trust | gpu`."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bench import memory, race, startup
from bench.cases import TIMED, TRAIN
from bench.gpu import session
from bench.gpu.session import PARTS
from bench.rows import Writer
from bench.run import peers_of, run_case
from bench.session import PeerError, Remote
from fcgpu.streams import drop, say

WHOLE = ("startup", "memory", "race")  # cases that measure a whole process or a whole training run
CASES = (*TIMED, *WHOLE)
PACKAGES = ("bench.peers", "bench.adam", "bench.loaders", "bench.estimators", "bench.recipes")


def main(argv: list[str] | None = None) -> int:
    words = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = words.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and append rows of JSON to a file")
    run.add_argument("--cases", metavar="NAME,...", help=f"default: all of {', '.join(CASES)}")
    run.add_argument(
        "--peers", metavar="NAME,...", help="files of bench/peers, loaders, estimators and recipes; default: all"
    )
    run.add_argument("--rounds", type=int, help="default: the case's own number")
    run.add_argument("--threads", type=int, help="processors that each peer may use; default: all")
    run.add_argument("--out", type=Path, default=Path("bench/results/rows.jsonl"), help="default: %(default)s")
    report = commands.add_parser("report", help="turn rows into one HTML file and one Markdown file")
    report.add_argument("rows", type=Path, nargs="*", default=[Path("bench/results/rows.jsonl")])
    report.add_argument("--out", type=Path, default=Path("bench/results/report"), help="without suffix: %(default)s")
    calls = commands.add_parser("calls", help="single calls of the estimators, ours and scikit-learn's, as a table")
    calls.add_argument("--rounds", type=int, dest="times", help="default: 21")
    tables = commands.add_parser("tables", help="data of one's own: the recipe's scores and time, and scikit-learn's")
    tables.add_argument("--splits", type=int, dest="times", help="default: 5")
    trust = commands.add_parser(
        "trust", help="check that a planted delay is measured, that runs agree, that wrong work is refused"
    )
    trust.add_argument("--case", choices=[case.name for case in TRAIN], default="batch-10")
    trust.add_argument("--rounds", type=int, default=7)
    gpu = commands.add_parser("gpu", help="every measurement that needs a GPU, in ten minutes, as one JSON file")
    gpu.add_argument("--parts", metavar="NAME,...", help=f"default: {','.join(PARTS)}")
    gpu.add_argument(
        "--seconds", type=float, default=560.0,
        help="time limit of all parts together; the default, %(default)s, fits a limit of 600 s a command and leaves "
        "out the last parts: run them separately with --parts and --out",
    )  # fmt: skip
    gpu.add_argument(
        "--out", type=Path, default=Path("bench/results"), help="a folder for gpu.json; default: %(default)s"
    )
    args = words.parse_args(argv)
    if args.command == "gpu":
        return session.run(_chosen(args.parts, PARTS, "--parts", words), args.out, args.seconds, "cuda", say)
    try:
        if args.command in ("calls", "tables"):
            for line in import_module(f"bench.{args.command}").measure(args.times):
                print(line, flush=True)
            return 0
        if args.command == "report":
            from bench.report import write

            return write(args.rows, args.out, say)
        if args.command == "trust":
            from bench.trust import demonstrate

            return demonstrate(TIMED[args.case], args.rounds, say)
        return _run(args, words)
    except ModuleNotFoundError as error:  # `calls` and `tables` need scikit-learn, `report` matplotlib
        say(f'bench: error: {error.name} is not installed: pip install ".[bench]"')
        return 2
    except PeerError as error:  # while a case was measured, or in the reference
        say(f"bench: error: {error}")
        return 1
    except BrokenPipeError:  # the reader of a table, such as `head`, has closed it
        drop(sys.stdout)
        return 1
    except KeyboardInterrupt:
        say("bench: stopped; the rows of finished cases are written")
        return 130


def _run(args: argparse.Namespace, words: argparse.ArgumentParser) -> int:
    names = _chosen(args.cases, CASES, "--cases", words)
    everybody = {m.rpartition(".")[2]: None for package in PACKAGES for m in peers_of(package)}
    everybody |= {name: None for _, programs in startup.CASES.values() for name in programs}
    peers = _chosen(args.peers, tuple(everybody), "--peers", words)
    out = Writer(args.out, args.threads)

    def open_peer(module: str, device: str) -> Remote:
        return Remote(module, device, args.threads)

    for name in names:
        package = TIMED[name].peers if name in TIMED else "bench.recipes" if name == "race" else "bench.peers"
        modules = [module for module in peers_of(package) if module.rpartition(".")[2] in peers]
        if name in TIMED:
            run_case(TIMED[name], modules, args.rounds, open_peer, out, say)
        elif name == "memory":
            memory.measure(modules, open_peer, out, say)
        elif name == "race":
            race.measure(modules, args.rounds, open_peer, out, say)
        else:
            startup.measure(peers, args.rounds, out, say)
    say(f"{len(out.rows)} rows in {args.out}")
    return 0


def _chosen(text: str | None, known: Sequence[str], option: str, words: argparse.ArgumentParser) -> list[str]:
    """The names in a comma-separated list, or all of `known` if there is no list; an unknown name is a usage error."""
    names = text.split(",") if text else list(known)
    if unknown := [name for name in names if name not in known]:
        words.error(f"{option}: {unknown[0]!r} is not known; choose from {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
