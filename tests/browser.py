"""A page in a real, headless Chromium: its errors and warnings, and every address that it requested."""

import contextlib
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
INSIDE = ("data:", "blob:")


@contextlib.contextmanager
def chromium():
    """A running playwright browser; skips if playwright or Chromium is missing."""
    api = pytest.importorskip("playwright.sync_api", reason='playwright is not installed: pip install ".[check]"')
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium on the path ({', '.join(NAMES)}): install it, as with apt-get install chromium")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield running
        finally:
            running.close()


class Visit:
    """A page opened from a file: playwright's page, its complaints and its requests."""

    def __init__(self, page, address):
        self.page = page
        inside = (address, *INSIDE)
        self.complaints = []  # console errors and warnings, exceptions, dialogs
        self.asked = []  # requested addresses other than the file itself
        page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(inside) or self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.context.on("page", lambda other: other is page or self.asked.append(f"window: {other.url}"))


@contextlib.contextmanager
def visit(browser, path, **options):
    """Open a file in its own browser context; options such as `viewport` and `color_scheme` are playwright's.

    When the block ends, the page must have no complaints and must have requested nothing but itself.
    """
    context = browser.new_context(**{"viewport": {"width": 1100, "height": 900}} | options)
    try:
        address = path.resolve().as_uri()
        seen = Visit(context.new_page(), address)
        seen.page.goto(address)
        yield seen
        assert seen.complaints == []
        assert seen.asked == []
    finally:
        context.close()
