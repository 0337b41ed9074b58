"""`python -m bench report`: turn rows into one HTML file and one Markdown file, for readers new to the project."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def write(paths: Sequence[Path], out: Path, say: Callable[[str], None]) -> int:
    """Write out.html, which needs no other file, and out.md, without the plots; returns the exit code."""
    from bench import rows
    from bench.report import render
    from bench.report.content import blocks

    try:
        found = rows.read(paths)
        if not found:
            raise ValueError(f"no rows in {', '.join(map(str, paths))}: run `python -m bench run` first")
    except (OSError, ValueError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 2
    page = list(blocks(found))
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix, rendered in ((".html", render.html(page)), (".md", render.markdown(page))):
        path = out.with_suffix(suffix)
        path.write_text(rendered, encoding="utf-8")
        say(f"wrote {path}")
    return 0
