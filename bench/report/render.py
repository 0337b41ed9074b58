"""Render blocks as an HTML page that needs no other file, and as Markdown."""

from collections.abc import Sequence

from bench.report.content import Block
from fcgpu.report.page import Markup, document, element, figure, table


def html(page: Sequence[Block]) -> str:
    title = next(block.text for block in page if block.kind == "title")
    return document(title, map(_html, page))


def markdown(page: Sequence[Block]) -> str:
    return "\n\n".join(text for block in page if (text := _markdown(block))) + "\n"


def _html(block: Block) -> Markup:
    match block.kind:
        case "title":
            return element("h1", block.text)
        case "heading":
            return element("h2", block.text)
        case "plot":
            return figure(Markup(block.text), block.caption)
        case "table":
            return table(block.head, block.rows)
        case "text":
            return element("p", block.text)
        case kind:
            return element("p", block.text, class_=kind)


def _markdown(block: Block) -> str:
    match block.kind:
        case "title":
            return f"# {block.text}"
        case "heading":
            return f"## {block.text}"
        case "lead" | "warning":
            return f"> {block.text}"
        case "plot":
            return ""  # the tables have the same numbers
        case "table":
            lines = [block.head, ("---",) * len(block.head), *block.rows]
            return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        case _:
            return block.text
