"""The drawing page in a real browser: it computes what fcgpu does, and recognises digits drawn with a mouse."""

import base64
import io

import given
import numpy as np
import pytest
from browser import visit
from command import call
from strokes import DIGITS

import fcgpu
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.report.drawing import LARGEST, drawing
from fcgpu.report.page import Markup, document

PREDICT = """([text, n, i]) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const width = bytes.length / n, root = document.querySelectorAll(".fcgpu-drawing")[i];
    return Array.from({ length: n }, (_, row) => root.predict(bytes.subarray(row * width, (row + 1) * width)));
}"""
SEEN = 'document.querySelector(".seen").toDataURL().split(",")[1]'


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """784-128-64-10 after three epochs of Adam, about a second, with 97 % test accuracy; and its report."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("digits") / "run"
    words = ("--optimizer", "adam", "--learning-rate", 0.003, "--schedule", "constant", "--alpha", 0, "--batch", 256)
    told = call("train", *words, "--epochs", 3, "--device", "cpu", "--out", folder, "--quiet", "--report")
    assert (told.code, told.err) == (0, "")
    return folder


@pytest.fixture(scope="module")
def trained(run):
    return fcgpu.load_model(run / "model.safetensors")


def model(activation="tanh", output="softmax", shape=(28, 28), outputs=10, **changes):
    sizes = (shape[0] * shape[1], 9, 7, outputs)
    return given.model(activation, output, sizes, **{"image_shape": shape, **changes})


def page(path, *models):
    path.write_text(document("Drawing", [Markup(drawing(each)) for each in models]), encoding="utf-8")
    return path


def predict(tab, X, i=0):
    """(labels, probabilities) for uint8 X (n, n_features), from the i-th drawing area of the page."""
    said = tab.evaluate(PREDICT, [base64.b64encode(X.tobytes()).decode(), len(X), i])
    return [one["label"] for one in said], np.array([one["probabilities"] for one in said])


def draw(tab, strokes, size=1.0):
    """Draw strokes with the mouse, in the upper left part `size` of the canvas."""
    tab.locator(".pad").scroll_into_view_if_needed()
    paper = tab.locator(".pad").bounding_box()
    for stroke in strokes:
        (x, y), *rest = [(paper["x"] + size * x * paper["width"], paper["y"] + size * y * paper["height"])
                         for x, y in stroke]  # fmt: skip
        tab.mouse.move(x, y)
        tab.mouse.down()
        for x, y in rest:
            tab.mouse.move(x, y)
        tab.mouse.up()


def seen(tab):
    """The network's input (height, width), 0 to 255."""
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(base64.b64decode(tab.evaluate(SEEN)))).convert("L")).astype(float)


def text(tab, name):
    return tab.locator(f".{name}").inner_text()


def test_500_digits_through_the_reports_own_forward_pass(browser, run, trained, mnist):
    X = mnist.X_test[:500]
    assert (run / "report.html").stat().st_size < 3e6
    with visit(browser, run / "report.html") as visited:
        labels, P = predict(visited.page, X)
    expected = trained.predict_proba(X)
    np.testing.assert_allclose(P, expected, atol=1e-4, rtol=0)
    assert labels == [str(label) for label in trained.predict(X)]
    assert np.mean(np.array(labels, int) == mnist.y_test[:500]) > 0.93


def test_every_activation_and_output_side_by_side_in_one_page(browser, tmp_path, mnist):
    X = mnist.X_test[:50]
    pairs = [(activation, output) for activation in HIDDEN_ACTIVATIONS for output in OUTPUTS]
    models = [model(*pair, dtype=("float32", "float64")[i % 2]) for i, pair in enumerate(pairs)]
    models.append(model("tanh", "sigmoid", outputs=1, classes=("no", "yes")))
    with visit(browser, page(tmp_path / "page.html", *models)) as visited:
        for i, m in enumerate(models):
            labels, P = predict(visited.page, X, i)
            expected = m.predict_proba(X)
            assert np.ptp(expected) > 0.01
            np.testing.assert_allclose(P, expected, atol=1e-6, rtol=1e-6)
            if m.classes is None:
                assert set(labels) == {None}
            else:
                assert labels == [str(label) for label in m.predict(X)]


@pytest.mark.slow
def test_digits_drawn_with_the_mouse_in_a_report(browser, run):
    told = {}
    with visit(browser, run / "report.html") as visited:
        tab = visited.page
        assert text(tab, "label") == "–"
        for digit, strokes in DIGITS.items():
            before = text(tab, "bars")
            draw(tab, strokes)
            told[digit] = text(tab, "label")
            assert text(tab, "bars") != before
            assert text(tab, "said") == f"{told[digit]}, {text(tab, 'sure')}"
            tab.get_by_role("button", name="Clear").click()
            assert text(tab, "label") == "–"
    assert sum(label == str(digit) for digit, label in told.items()) >= 8, told


def test_a_drawing_is_prepared_as_mnists_digits_were(browser, tmp_path):
    """In any corner and size: scaled to 20 pixels in height or width, with its centre of mass in pixel 14."""
    with visit(browser, page(tmp_path / "page.html", model())) as visited:
        for digit, size in ((7, 1.0), (7, 0.5), (2, 0.8)):
            draw(visited.page, DIGITS[digit], size)
            image = seen(visited.page)
            rows, columns = np.flatnonzero(image.sum(1)), np.flatnonzero(image.sum(0))
            assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
            for axis in (0, 1):
                mean = (image.sum(1 - axis) * np.arange(28)).sum() / image.sum()
                assert abs(mean - 14) <= 0.51
            assert image.max() == 255
            assert ((image > 20) & (image < 235)).sum() > 20  # grey edges
            visited.page.keyboard.press("Escape")
            assert not seen(visited.page).any()


def test_averages_are_of_areas(browser, tmp_path):
    """For another image shape the drawing is only shrunk: its total ink is that of a pen of that width."""
    with visit(browser, page(tmp_path / "page.html", model(shape=(9, 16)))) as visited:
        draw(visited.page, [[(0.2, 0.3), (0.8, 0.7)]])
        image = seen(visited.page) / 255
        assert image.shape == (9, 16)
        pen, length = 16 / 12, np.hypot(0.6 * 16, 0.4 * 9)  # in pixels of the network's input
        assert image.sum() == pytest.approx(pen * length + np.pi * pen**2 / 4, rel=0.01)
        for axis, middle in ((0, 7.5), (1, 4)):
            along = image.sum(axis)
            assert (along * np.arange(len(along))).sum() / image.sum() == pytest.approx(middle, abs=0.03)
        assert "shrunk to 16 × 9" in text(visited.page, "note")


def test_the_keyboard_draws(browser, tmp_path, trained):
    with visit(browser, page(tmp_path / "page.html", trained)) as visited:
        tab, press = visited.page, visited.page.keyboard.press
        press("Tab")
        assert tab.evaluate('document.activeElement.matches(".pad:focus-visible")')
        assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert tab.locator(".pen").is_visible()
        for key in ["Shift+ArrowUp"] * 2 + [" "] + ["Shift+ArrowDown"] * 4 + [" "]:
            press(key)
        assert text(tab, "label") == text(tab, "said").split(",")[0] == "1"
        one = seen(tab)
        press("ArrowDown")
        np.testing.assert_array_equal(seen(tab), one)  # the pen was lifted
        for key in ["Shift+ArrowLeft", " ", *["Shift+ArrowRight"] * 3, " "]:
            press(key)
        assert np.abs(seen(tab) - one).max() > 100
        press("Backspace")
        np.testing.assert_array_equal(seen(tab), one)
        press("Escape")
        assert (text(tab, "label"), text(tab, "said")) == ("–", "The paper is empty")
        press("Tab")
        assert not tab.locator(".pen").is_visible()
        assert tab.evaluate("document.activeElement.textContent") == "Undo"


def test_a_finger_draws_and_does_not_scroll(browser, tmp_path, trained):
    options = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
    with visit(browser, page(tmp_path / "page.html", trained), color_scheme="dark", **options) as visited:
        tab = visited.page
        assert tab.evaluate("document.documentElement.scrollWidth") == 320
        paper = tab.locator(".pad").bounding_box()
        hand = tab.context.new_cdp_session(tab)

        def touch(kind, *points):
            places = [{"x": paper["x"] + x * paper["width"], "y": paper["y"] + y * paper["height"]} for x, y in points]
            hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        first, *rest = DIGITS[1][0]
        touch("touchStart", first)
        for point in rest:
            touch("touchMove", point)
        touch("touchEnd")
        assert text(tab, "label") == "1"
        assert tab.evaluate("scrollY") == 0


def test_many_classes_with_hostile_names(browser, tmp_path):
    names = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "{{js}}", *map(str, range(20)))
    with visit(browser, page(tmp_path / "page.html", model(outputs=23, classes=names))) as visited:
        draw(visited.page, DIGITS[3])
        rows = visited.page.locator(".bars li")
        assert rows.count() == 10
        shown = [float(row.split()[-2]) for row in rows.all_inner_texts()]
        assert shown == sorted(shown, reverse=True)
        assert text(visited.page, "label") in names
        assert visited.page.locator("img").count() == 0


def test_values_are_shown_as_numbers(browser, tmp_path):
    m = model("relu", "identity", outputs=2)
    with visit(browser, page(tmp_path / "page.html", m)) as visited:
        draw(visited.page, DIGITS[3])
        told = [float(v) for v in text(visited.page, "label").split(",")]
        expected = m.predict_proba(seen(visited.page).reshape(1, -1))[0]
        np.testing.assert_allclose(told, expected, rtol=0.01, atol=2e-3)


@pytest.mark.parametrize(("scale", "ink", "expected"), [(1 / 16, None, 16), (1.0, None, 255), (1.0, 1.0, 1)])
def test_a_pixel_under_the_pen_has_the_value_that_the_datas_have(scale, ink, expected):
    assert f'"ink": {float(expected)}' in drawing(model(scale=scale), ink)


@pytest.mark.parametrize(
    "changes",
    [{"image_shape": None}, {"shape": (14, 6), "image_shape": (14, 2, 3)}, {"output": "identity", "outputs": 13}],
)
def test_no_page_for_what_cannot_be_drawn(changes):
    assert drawing(model()).startswith("<section")
    assert drawing(model(**changes)) == ""


def test_no_page_that_is_too_large_to_open():
    spec = fcgpu.Spec((784, LARGEST // 784, 10))
    assert drawing(fcgpu.Model(spec, np.zeros(spec.n_params, np.float32), tuple(range(10)), image_shape=(28, 28))) == ""
