"""The ten samples that `train` shows at its end: pictures if the terminal can show them, text otherwise."""

import contextlib
import io
import os
import re

import numpy as np
import pytest
from command import in_a_terminal
from rich.console import Console
from rich.text import Text

import fcgpu
from fcgpu.cli.samples import BLOCKS, PLAIN, show_samples

CONSOLE = Console()
COLOURS = {"TERM": "xterm", "COLORTERM": "truecolor"}
SHADES = {"TERM": "xterm-256color"}


class Screen(io.StringIO):
    """Standard output as a terminal with a given encoding."""

    encoding = "utf-8"

    def isatty(self):
        return True


class Model:
    """A model for `show_samples` with given predictions."""

    def __init__(self, answers, classes=tuple(range(10))):
        self.answers, self.classes = answers, classes

    def predict(self, X):
        return self.answers[: len(X)]


@pytest.fixture
def shown(monkeypatch, mnist):
    """The output for the first test digits; by default the fourth is predicted as an 8."""
    if os.name != "posix":
        pytest.skip("rich asks Windows what a terminal can show")

    def show(environment, columns=80, data=mnist, model=None, screen=None, recipe=None):
        for name in ("TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (environment | {"COLUMNS": str(columns)}).items():
            monkeypatch.setenv(name, value)
        screen = Screen() if screen is None else screen
        with contextlib.redirect_stdout(screen):
            show_samples(model or Model(np.array([7, 2, 1, 8, 4, 1, 4, 9, 5, 9])), data, recipe or fcgpu.Recipe())
        return screen.getvalue()

    return show


def pixels(told, i, colour):
    """The i-th picture, read back from the screen, which has five in a row: (14, 14) of `colour(style)` or ink."""
    lines = Text.from_ansi(told).split("\n")[3 + 10 * (i // 5) :][:7]
    image = np.zeros((14, 14))
    for row, line in enumerate(lines):
        for column in range(14):
            at = 16 * (i % 5) + column
            if colour:
                style = line.get_style_at_offset(CONSOLE, at)
                image[2 * row : 2 * row + 2, column] = colour(style.color), colour(style.bgcolor)
            else:
                character = BLOCKS.index(line.plain[at : at + 1] or " ")
                image[2 * row : 2 * row + 2, column] = character // 2, character % 2
    return image


def averages(X):
    return X.reshape(14, 2, 14, 2).mean((1, 3))


def test_the_digits_in_greys(shown, mnist):
    told = shown(COLOURS)
    for i in range(10):
        grey = pixels(told, i, lambda colour: colour.get_truecolor().red)
        np.testing.assert_allclose(grey, averages(mnist.X_test[i]), atol=0.5001)


@pytest.mark.parametrize("environment", [SHADES | {"NO_COLOR": "1"}, {"TERM": "xterm"}])
def test_the_digits_without_shades(shown, mnist, environment):
    told = shown(environment)
    assert not re.search(r"\x1b\[[\d;]*[34]8;", told)
    for i in range(10):
        np.testing.assert_array_equal(pixels(told, i, None), averages(mnist.X_test[i]) > 255 * PLAIN)


def test_shades_go_from_the_least_value_to_the_greatest(shown):
    X = np.random.default_rng(0).random((3, 12))
    for shape in ((3, 4), (2, 2, 3)):
        told = [shown(COLOURS, data=fcgpu.dataset(x, np.arange(3), image_shape=shape)) for x in (X, 2 * X - 1)]
        assert told[0] == told[1]
    assert "38;2;0;0;0;48;2;0;0;0m" in shown(COLOURS, data=fcgpu.dataset(0 * X + 5, np.arange(3), image_shape=(3, 4)))


@pytest.mark.parametrize(("shape", "seen"), [((2, 2), (1, 2)), ((1, 60), (1, 14)), ((60, 1), (7, 1)), ((7, 2), (4, 2))])
def test_small_pictures_are_not_enlarged_and_narrow_ones_do_not_vanish(shown, shape, seen):
    data = fcgpu.dataset(np.eye(1, np.prod(shape)), np.array([0]), image_shape=shape)
    told = Text.from_ansi(shown(COLOURS, data=data)).plain
    rows = [line.rstrip() for line in told.split("actual")[0].splitlines()[3:]]
    assert rows == ["▀" * seen[1]] * seen[0]


def test_training_samples_are_shown_if_the_recipe_says_so(shown, mnist):
    told = shown({}, screen=io.StringIO(), recipe=fcgpu.Recipe(check="train"))
    assert told.splitlines()[1:3] == ["the first 10 training samples", f"actual     {' '.join(map(str, mnist.y[:10]))}"]


def test_no_colour_is_no_colour(shown):
    assert not re.search(r"\x1b\[[\d;]*3\d", shown({"TERM": "xterm-256color", "NO_COLOR": "1"}))


@pytest.mark.parametrize(("columns", "beside"), [(30, 2), (14, 1), (80, 5), (157, 5), (158, 10)])
def test_as_many_as_fit_beside_each_other(shown, columns, beside):
    lines = Text.from_ansi(shown(COLOURS, columns)).plain.split("\n")
    assert max(map(len, lines)) <= max(columns, 25)  # 25 is the title's width
    actual = [line.split() for line in lines if line.startswith("actual")]
    assert [len(words) // 2 for words in actual] == [beside] * (10 // beside)
    assert [word for words in actual for word in words[1::2]] == list("7210414959")
    predicted = [line for line in lines if line.startswith("predicted")]
    assert re.findall(r"predicted (\d( ✗)?)", " ".join(predicted))[3] == ("8 ✗", " ✗")
    assert " ".join(predicted).count("✗") == 1
    assert re.findall(r"\x1b\[1;31m(.*?)\x1b", shown(COLOURS, columns)) == ["predicted 8 ✗"]


class Latin(Screen):
    encoding = "iso-8859-1"


@pytest.mark.parametrize(
    ("environment", "screen"),
    [({"TERM": "dumb"}, Screen), (COLOURS, Latin), (COLOURS, io.StringIO)],
    ids=["dumb", "latin", "file"],
)
def test_words_where_pictures_cannot_be(shown, environment, screen):
    assert shown(environment, screen=screen()) == (
        "\nthe first 10 test samples\n"
        "actual     7 2 1 0 4 1 4 9 5 9\n"
        "predicted  7 2 1 8 4 1 4 9 5 9\n"
        "wrong            ^\n"
    )


def test_what_is_no_picture_is_words(shown, blobs):
    right = fcgpu.dataset(blobs.X, blobs.y).y[:10]
    assert shown(COLOURS, data=fcgpu.dataset(blobs.X, blobs.y), model=Model(right)).splitlines()[1:] == [
        "the first 10 training samples", *(f"{w:<11}{' '.join(map(str, right))}" for w in ("actual", "predicted")),
    ]  # fmt: skip


def test_words_of_wide_characters_stand_above_their_predictions(shown):
    names = np.array(["犬です", "a", "猫", "a"])
    data = fcgpu.dataset(np.eye(4), names)
    assert shown(COLOURS, data=data, model=Model(names[[0, 2, 2, 3]], data.classes)).splitlines()[2:] == [
        "actual     犬です      a     猫      a",
        "predicted  犬です     猫     猫      a",
        "wrong                  ^",
    ]


def test_labels_of_64_bits_are_shown_as_they_are(shown):
    y = np.array([2**63 + 5, 7, 2**63 + 5], np.uint64)
    data = fcgpu.dataset(np.eye(3), y)
    assert shown(COLOURS, data=data, model=Model(y, data.classes)).splitlines()[2:] == [
        f"{words:<11}9223372036854775813                   7 9223372036854775813" for words in ("actual", "predicted")
    ]


def test_pictures_of_colours_other_shapes_and_long_names(shown):
    random = np.random.default_rng(0)
    X = random.integers(0, 256, (4, 20 * 64 * 3), dtype=np.uint8)
    X[0, :2] = 0, 255
    names = np.array(["a cat", "not a cat", "a cat", "a" * 100])
    data = fcgpu.dataset(X, names, image_shape=(20, 64, 3))
    told = shown(COLOURS, data=data, model=Model(names, data.classes))
    lines = Text.from_ansi(told).split("\n")
    style = lines[3].get_style_at_offset(CONSOLE, 0)
    mean = X[0].reshape(4, 5, 64, 3)[0].reshape(5, 64, 3)  # the uppermost of four rows
    mean = (mean[:, :4].sum((0, 1)) + mean[:, 4].sum(0) * 4 / 7) / (5 * (4 + 4 / 7))  # 64 columns make 14
    np.testing.assert_allclose(style.color.get_truecolor(), mean, atol=0.51)
    assert max(line.cell_len for line in lines) == 80
    assert "▀" not in shown(COLOURS | {"NO_COLOR": "1"}, data=data, model=Model(names, data.classes))


def test_values_have_no_mark(shown):
    data = fcgpu.dataset(np.eye(4), np.array([0.5, 1.5, 2.5, 3.25]), image_shape=(2, 2))
    told = Text.from_ansi(shown(COLOURS, data=data, model=Model(np.array([0.5, 1.25, 2, 3]), None))).plain
    assert re.findall(r"(?:actual|predicted) \S+", told) == [
        *(f"actual {v}" for v in ("0.5", "1.5", "2.5", "3.25")), *(f"predicted {v}" for v in ("0.5", "1.25", "2", "3")),
    ]  # fmt: skip
    assert "✗" not in told


def test_several_values_of_a_sample_stand_together(shown):
    data = fcgpu.dataset(np.eye(3), np.array([[0.5, 1], [2, 3.25], [-1, 0]]))
    assert shown(COLOURS, data=data, model=Model(data.y + 0.25, None)).splitlines()[1:] == [
        "the first 3 training samples",
        "actual          0.5,1     2,3.25       -1,0",
        "predicted   0.75,1.25   2.25,3.5 -0.75,0.25",
    ]


@pytest.mark.parametrize(("columns", "beside"), [(74, 8), (73, 7), (42, 4), (41, 3), (5, 1)])
def test_words_fold_to_the_terminal_and_not_in_a_file(shown, columns, beside):
    names = np.array([f"label {i}" for i in range(10)] + ["a label"])
    data = fcgpu.dataset(np.eye(11), names)
    model = Model(np.where(names == "label 9", "label 0", names), data.classes)
    told = shown(COLOURS, columns, data=data, model=model)
    words = [f"label {i}" for i in range(10)]
    blocks = told.partition("samples\n")[2].rstrip().split("\n\n")
    assert [len(re.findall("label", block.splitlines()[0])) for block in blocks[:-1]] == [beside] * ((10 - 1) // beside)
    assert re.findall(r"label \d", " ".join(b.splitlines()[0] for b in blocks)) == words
    assert re.findall(r"label \d", " ".join(b.splitlines()[1] for b in blocks)) == [*words[:9], "label 0"]
    assert [len(block.splitlines()) for block in blocks] == [2] * (len(blocks) - 1) + [3]
    assert blocks[-1].splitlines()[2].index("^") == blocks[-1].splitlines()[1].index("label 0") + 6
    assert max(map(len, told.splitlines()[2:])) <= max(columns, 18)
    assert len(shown(COLOURS, columns, screen=io.StringIO(), data=data, model=model).splitlines()) == 5


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_the_command_in_a_terminal(tmp_path, mnist):
    np.savez(tmp_path / "d.npz", X=mnist.X[:100].reshape(-1, 28, 28), y=mnist.y[:100])
    words = ("train", tmp_path / "d.npz", "--epochs", 1, "--out", tmp_path / "run")
    told = in_a_terminal(*words, environment=SHADES).split("the first 10 training samples")[1]
    assert "38;5;" in told
    grey = pixels(f"\n{told}", 0, lambda colour: colour.get_truecolor().red)
    np.testing.assert_allclose(grey, averages(mnist.X[0]), atol=12)  # 24 shades
