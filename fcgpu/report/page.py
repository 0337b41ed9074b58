"""Builds a self-contained HTML page. Whatever is not `Markup` is escaped, so that it cannot become markup or script."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

LONGEST = 2000  # a text is cut after this many characters
EMPTY = ("img", "meta", "br")  # elements without an end tag


class Markup(str):
    """Trusted HTML, made by `element` or `svg`. Every other str is text, to be escaped."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any value as HTML: cut to LONGEST, escaped, and with characters that cannot be printed replaced."""
    if isinstance(value, Markup):
        return value
    words = str(value)
    words = words if len(words) <= LONGEST else f"{words[:LONGEST]}\u2026"
    return Markup(escape("".join(c if c.isprintable() or c in "\n\u00a0" else "\ufffd" for c in words)))


def element(tag: str, /, *content: object, **attributes: object) -> Markup:
    """<tag attribute="value">content</tag>. `class_` becomes class, `aria_label` aria-label; None omits one."""
    named = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    words = "".join(f' {key}="{text(value)}"' for key, value in named)
    return Markup(f"<{tag}{words}>" if tag in EMPTY else f"<{tag}{words}>{join(content)}</{tag}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """All parts as HTML, each escaped unless it is Markup."""
    return Markup(between.join(map(text, parts)))


def table(head: Sequence[object], rows: Iterable[Sequence[object]], class_: str | None = None) -> Markup:
    """A table whose rows have their heading in the first cell. If it is wider than the page, it scrolls by itself."""
    top = element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))) if any(head) else ""
    body = (
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    )
    return element("div", element("table", top, element("tbody", *body), class_=class_), class_="wide", tabindex="0")


def figure(svg: Markup, words: object, *, caption: bool = True) -> Markup:
    """A figure with a description: as its label for screen readers and, if `caption`, below it."""
    named = Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{text(words)}" ', 1))
    return element("figure", named, element("figcaption", words) if caption else "")


def document(title: object, body: Iterable[object]) -> str:
    """The whole page. Its content security policy forbids network requests, and all scripts but those in the body."""
    content = join(body, "\n")
    scripts = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    head = join(
        (
            element("meta", charset="utf-8"),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Markup(Path(__file__).with_name("page.css").read_text("utf-8"))),
        ),
        "\n",
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{content}\n</body>\n</html>\n'


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
