"""Training reports: one file of HTML that holds all it shows and asks the network for nothing."""

from collections.abc import Sequence

from fcgpu.errors import MissingExtraError


def check_extra() -> None:
    """Raises MissingExtraError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise MissingExtraError("a report", "matplotlib", "report") from None


def report(paths: Sequence[str]) -> str:
    """The page about the run in one run directory, or one that compares several.

    A run directory may be a stranger's: what its files say is shown as text. Data and files that are missing are said
    to be. Raises ConfigError for a folder without a recipe, MissingExtraError without matplotlib.
    """
    check_extra()
    from fcgpu.report import layout
    from fcgpu.report.runs import read

    runs = [read(path) for path in paths]
    return layout.single(runs[0]) if len(runs) == 1 else layout.several(runs)
