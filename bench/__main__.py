"""`python -m bench run | report | trust`."""

import argparse
import sys
from pathlib import Path

from bench import memory, race, startup
from bench.cases import TIMED, TRAIN
from bench.rows import Writer
from bench.run import peers_of, run_case
from bench.session import Remote

WHOLE = ("startup", "memory", "race")  # cases that are processes or whole trainings
CASES = (*TIMED, *WHOLE)


def main(argv: list[str] | None = None) -> int:
    words = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = words.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and append rows of JSON to a file")
    run.add_argument("--cases", metavar="NAME,...", help=f"default: all of {', '.join(CASES)}")
    run.add_argument("--peers", metavar="NAME,...", help="files of bench/peers, loaders and recipes; default: all")
    run.add_argument("--rounds", type=int, help="default: what the case says")
    run.add_argument("--threads", type=int, help="processors that each peer may use; default: all")
    run.add_argument("--out", type=Path, default=Path("bench/results/rows.jsonl"), help="default: %(default)s")
    report = commands.add_parser("report", help="turn rows into one HTML file and one Markdown file")
    report.add_argument("rows", type=Path, nargs="*", default=[Path("bench/results/rows.jsonl")])
    report.add_argument("--out", type=Path, default=Path("bench/results/report"), help="without suffix: %(default)s")
    trust = commands.add_parser(
        "trust", help="show that a planted delay shows, that runs agree, that a cheat is refused"
    )
    trust.add_argument("--case", choices=[case.name for case in TRAIN], default="batch-128")
    trust.add_argument("--rounds", type=int, default=101)
    args = words.parse_args(argv)
    if args.command == "report":
        from bench.report import write

        return write(args.rows, args.out, say)
    if args.command == "trust":
        from bench.trust import demonstrate

        return demonstrate(TIMED[args.case], args.rounds, say)
    return _run(args, words)


def _run(args: argparse.Namespace, words: argparse.ArgumentParser) -> int:
    names = args.cases.split(",") if args.cases else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        words.error(f"--cases: {unknown[0]!r} is not a case; choose from {', '.join(CASES)}")
    out = Writer(args.out, args.threads)

    def open_peer(module: str, device: str) -> Remote:
        return Remote(module, device, args.threads)

    for name in names:
        package = TIMED[name].peers if name in TIMED else "bench.recipes" if name == "race" else "bench.peers"
        modules = [m for m in peers_of(package) if not args.peers or m.rpartition(".")[2] in args.peers.split(",")]
        if name in TIMED:
            run_case(TIMED[name], modules, args.rounds, open_peer, out, say)
        elif name == "memory":
            memory.measure(modules, open_peer, out, say)
        elif name == "race":
            race.measure(modules, args.rounds, open_peer, out, say)
        else:
            startup.measure(args.peers, args.rounds, out, say)
    say(f"{len(out.rows)} rows in {args.out}")
    return 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
