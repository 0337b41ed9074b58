"""Blocks as a page of HTML that needs no other file, and as Markdown."""

from collections.abc import Sequence
from html import escape

from bench.report.content import Block

STYLE = """
:root { --page: #fff; --ink: #1d2430; --soft: #5b6575; --line: #d9dee6; --tint: #f4f6f9; --accent: #c8401a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14181f; --ink: #e6eaf0; --soft: #9aa5b5; --line: #343c49; --tint: #1c222c; --accent: #ff8a66; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 56rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
p { margin: .6rem 0; max-width: 44rem; }
.lead { border-left: 4px solid var(--accent); padding-left: .9rem; font-size: 1.1rem; }
.warning { border: 1px solid var(--accent); border-radius: 6px; padding: .6rem .9rem; }
figure { margin: 2rem 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 46rem; color: var(--ink); }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td + td, th + th { padding-left: .4rem; }
"""


def html(page: Sequence[Block]) -> str:
    title = next(block.text for block in page if block.kind == "title")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(map(_html, page))
        + "\n</body>\n</html>\n"
    )


def markdown(page: Sequence[Block]) -> str:
    return "\n\n".join(text for block in page if (text := _markdown(block))) + "\n"


def _html(block: Block) -> str:
    text = escape(block.text)
    match block.kind:
        case "title":
            return f"<h1>{text}</h1>"
        case "heading":
            return f"<h2>{text}</h2>"
        case "plot":
            caption = escape(block.caption)
            svg = block.text.replace("<svg ", f'<svg role="img" aria-label="{caption}" ', 1)
            return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"
        case "table":
            head = "".join(f"<th>{escape(cell)}</th>" for cell in block.head)
            body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>\n" for row in block.rows)
            top = f"<thead><tr>{head}</tr></thead>" if any(block.head) else ""
            return f'<div class="wide"><table>{top}<tbody>\n{body}</tbody></table></div>'
        case "text":
            return f"<p>{text}</p>"
        case kind:
            return f'<p class="{kind}">{text}</p>'


def _markdown(block: Block) -> str:
    match block.kind:
        case "title":
            return f"# {block.text}"
        case "heading":
            return f"## {block.text}"
        case "lead" | "warning":
            return f"> {block.text}"
        case "plot":
            return ""  # the tables have the figures
        case "table":
            lines = [block.head, ("---",) * len(block.head), *block.rows]
            return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        case _:
            return block.text
