"""Training reports: one self-contained HTML file, which makes no network requests."""

from collections.abc import Sequence

from fcgpu.errors import MissingExtraError


def check_extra() -> None:
    """Raise MissingExtraError if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("a report", error.name, "report") from None


def report(paths: Sequence[str]) -> str:
    """The HTML page about one run directory, or comparing several.

    Run directories are not trusted: the contents of their files are shown as text. The page says which files and data
    are missing. Raises ConfigError for a folder without a recipe, MissingExtraError without matplotlib.
    """
    check_extra()
    from fcgpu.report import layout
    from fcgpu.report.runs import read

    runs = [read(path) for path in paths]
    return layout.single(runs[0]) if len(runs) == 1 else layout.several(runs)
