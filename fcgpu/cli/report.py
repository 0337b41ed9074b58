"""`fcgpu report`: one HTML page about run directories."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from fcgpu.errors import ConfigError
from fcgpu.formats.atomic import write_atomically
from fcgpu.host import readable
from fcgpu.report import report as page

NAME = "report.html"


def report(args: Namespace) -> int:
    out, size = write(args.runs, args.out)
    if args.json:
        print(json.dumps({"report": str(out), "bytes": size, "runs": args.runs}))
    else:
        about = f"{len(args.runs)} runs, " if len(args.runs) > 1 else ""
        print(f"{out}: {about}{readable(size)}; open it in a browser")
    return 0


def write(runs: Sequence[str], out: str | None = None) -> tuple[Path, int]:
    """Write the page to `out`; return its path and size in bytes.

    By default it is report.html in the run directory or, for several runs, in the working folder.
    Raises ConfigError, CheckpointError, MissingExtraError.
    """
    path = Path(out) if out is not None else (Path(runs[0]) if len(runs) == 1 else Path()) / NAME
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"out={str(path)!r}: expected a name that ends in .html, which is what a report is")
    content = page(runs).encode()
    write_atomically(path, content)
    return path, len(content)
