"""`fcgpu report`: its numbers are the run's, file contents appear only as text, no page makes a network request."""

import base64
import io
import json
import math
import os
import re
import sys
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from browser import visit
from command import call, csv

import fcgpu

pytest.importorskip("matplotlib", reason='matplotlib is not installed: pip install ".[report]"')

from fcgpu.host import readable
from fcgpu.report import classes, curves, facts, judged, plots, runs, values
from fcgpu.report import pictures as drawn
from fcgpu.report.page import EMPTY, Markup, document, element
from fcgpu.train.recipe_files import to_toml

SHAPE = (9, 8)
TAGS = {
    *("html", "head", "meta", "title", "style", "script", "body", "section", "footer", "h1", "h2", "h3", "p", "div"),
    *("span", "b", "strong", "kbd", "br", "ul", "ol", "li", "dl", "dt", "dd", "details", "summary", "figure"),
    *("figcaption", "img", "canvas", "button", "table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "defs", "clippath", "g", "path", "rect", "use", "text"),
}
EVIL = "<script>window.ran = 1</script>\"'><img src=x onerror='window.ran = 1'>$\\frac{$=HYPERLINK(\"http://x.invalid\")&lt;"


def blots(n, seed):
    """Pictures of three classes, of which a small network gets a few wrong: uint8 (n, 72), labels (n,)."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = random.integers(0, 150, (n, *SHAPE))
    for i, kind in enumerate(y):
        X[i, 3 * kind : 3 * kind + 3, 2:6] += 80
    return X.reshape(n, -1).astype(np.uint8), y


def idx(folder, X, y, kind):
    """The two files of MNIST's format."""
    folder.mkdir(exist_ok=True)
    for name, array in ((f"{kind}-images-idx3-ubyte", X.reshape(-1, *SHAPE)), (f"{kind}-labels-idx1-ubyte", y)):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (folder / name).write_bytes(head + array.astype(np.uint8).tobytes())


def train(*words):
    result = call("train", *words, "--device", "cpu", "--quiet")
    assert result.code == 0, result.err


def page(*words):
    """The page of `fcgpu report words...`."""
    result = call("report", *words, "--json")
    assert result.code == 0, result.err
    with open(json.loads(result.out)["report"], encoding="utf-8") as file:
        return file.read()


class Page(HTMLParser):
    """Fails at an element that is not closed in order, or that the browser does not know."""

    def __init__(self, html):
        super().__init__(convert_charrefs=False)
        self.open = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in EMPTY or self.open.pop() == tag

    def handle_data(self, data):
        assert "<" not in data or self.open[-1] in ("script", "style")


def read(html):
    """The text of a page, without markup."""
    Page(html)
    text = re.sub(r"<(style|svg|script).*?</\1>|<[^>]*>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(text).split())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A run on pictures with its own report; tests must not change it."""
    folder = tmp_path_factory.mktemp("pictures")
    idx(folder / "data", *blots(200, 1), "train")
    idx(folder / "data", *blots(90, 2), "t10k")
    recipe = ("--hidden", 5, "--epochs", 40, "--learning-rate", "0.02", "--batch", "full", "--alpha", 0)
    recipe += ("--checkpoint-every", 0)
    train(folder / "data", *recipe, "--out", folder / "run", "--report")
    return folder


def copied(pictures, tmp_path):
    os.makedirs(tmp_path / "run")
    for file in (pictures / "run").iterdir():
        (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "run"


def test_the_figures_are_those_of_the_run(pictures):
    html = (pictures / "run/report.html").read_text(encoding="utf-8")
    result = json.loads((pictures / "run/result.json").read_text())
    words = read(html)
    assert "<title>Training report: run</title>" in html
    assert "<h1>own</h1>" in html
    assert "The axis of the accuracy is stretched" in words
    assert f"test accuracy {100 * result['test_accuracy']:.2f} %" in words
    assert f"{result['samples_per_second']:,.0f} samples/s" in words
    model = fcgpu.load_model(pictures / "run/model.safetensors")
    X, y = blots(90, 2)
    P = model.predict_proba(X)
    wrong = [i for i in np.argsort(P[np.arange(90), y], kind="stable") if P[i].argmax() != y[i]]
    assert 0 < len(wrong) < 24, "the data are to be learned, but for a few"
    assert f"{len(wrong)} of 90 test samples are answered wrongly" in words
    rows = re.findall(r'<th scope="row" title="\d">\d</th>(.*?)</tr>', html)
    found = [[int(n) for n in re.findall(r'class="(?:hit|miss|none)"[^>]*>(\d+)<', row)] for row in rows]
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (y, P.argmax(axis=1)), 1)
    assert found == expected.tolist()
    shares = re.findall(r'class="hit" style="--share: (\d+)%"', html)
    assert shares == [f"{10 + 50 * expected[i, i] / expected[i].sum():.0f}" for i in range(3)]
    mistakes = html[html.index("The worst mistakes") : html.index("Drawn by lot")]
    assert [int(n) for n in re.findall(r"number (\d+)", mistakes)] == wrong
    marks = re.findall(r'<figure( class="wrong")?><img .*?predicted (\d), is (\d)"', html)
    assert len(marks) == len(wrong) + classes.DRAWN
    assert all(bool(mark) == (said != actual) for mark, said, actual in marks)
    shown = re.search(r'base64,([^"]*)" alt="sample (\d+): predicted (\d), is (\d)"', mistakes)
    i = int(shown[2])
    assert (int(shown[3]), int(shown[4])) == (P[i].argmax(), y[i])
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(base64.b64decode(shown[1])))
    assert np.asarray(image).ravel().tolist() == X[i].tolist()
    norms = np.linalg.norm(model.spec.layers(model.params)[0].W, axis=0)
    assert [int(i) for i in re.findall(r'alt="unit (\d+)"', html)] == np.argsort(-norms).tolist()
    assert "All units, each as a picture of its inputs, on a scale of its own: orange is positive" in words
    recipe, rest = words[words.index("Recipe data") :].split("All other keys, at their defaults")
    assert all(line in recipe for line in ("hidden 5", "learning_rate 0.02", "epochs 40", "batch full"))
    assert "momentum 0.9" in rest
    assert "device cpu" in rest
    assert "plan batch 200, tile {tile}, lanes {lanes}, threads {threads}".format(**result) in rest
    assert f"ended {result['ended'][:10]} {result['ended'][11:19]} UTC" in rest
    assert f"model's SHA-256 {result['model_sha256']}" in rest


@pytest.mark.parametrize(
    ("p", "said"),
    [(0, "0 %"), (1e-9, "<1 %"), (0.004, "<1 %"), (0.005, "<1 %"), (0.0051, "1 %"), (0.42, "42 %"), (0.994, "99 %"),
     (0.995, ">99 %"), (1 - 1e-9, ">99 %"), (1, "100 %")],
)  # fmt: skip
def test_a_probability_is_0_or_100_percent_only_if_it_is_exactly_that(p, said):
    assert classes._percent(p) == said.replace(" ", "\u00a0")


def test_of_many_features_the_first_few_are_shown():
    X = np.array([[1, 0.5, -2, 3.14159, 1e9, 0], [6, 5, 4, 3, 2, 1]])
    assert classes.feature_words(X) == ["1, 0.5, -2, 3.142, 1e+09, 0", "6, 5, 4, 3, 2, 1"]
    assert classes.feature_words(np.c_[X, X]) == ["1, 0.5, -2, 3.142, 1e+09, 0, \u2026", "6, 5, 4, 3, 2, 1, \u2026"]


def seen(picture):
    """The pixels of an img element."""
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([^"]*)"', picture)[1]))))


def test_weights_are_orange_or_blue_and_those_of_colours_are_colours():
    W = np.array([[0.02], [-0.02], [0.01], [0]]) * [0, 1, 100]
    blank, unit, larger = map(seen, drawn.weights(W, (2, 2), ["a", "b", "c"]))
    assert not blank[..., 3].any()
    assert (unit == larger).all()
    orange, blue = [217, 88, 15], [56, 116, 217]
    assert unit.reshape(4, 4).tolist() == [[*orange, 255], [*blue, 255], [*orange, 128], [*blue, 0]]
    W = np.array([[3.0], [-3.0], [0.0]])
    assert seen(*drawn.weights(W, (1, 1, 3), ["a"])).tolist() == [[[255, 0, 128]]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_pictures_are_as_bright_as_the_data_allow(dtype):
    """The darkest and the brightest are 0 and 1 / scale for bytes, else the least and the greatest of the data."""
    X = np.array([[0, 50], [100, 25]]).astype(dtype)
    data = fcgpu.dataset(X, np.arange(2), scale=0.005)
    shown = [seen(picture).tolist() for picture in drawn.samples(data, (1, 2), X, ["a", "b"])]
    assert shown == ([[[0, 64]], [[128, 32]]] if dtype == np.uint8 else [[[0, 128]], [[255, 64]]])


def test_only_large_pictures_are_shrunk_and_only_small_ones_keep_hard_edges():
    for side, pixelated in ((40, True), (41, False), (96, False), (200, False)):
        data = fcgpu.dataset(np.zeros((1, 2 * side)), np.zeros(1, int))
        (picture,) = drawn.samples(data, (2, side), data.X, ["a"])
        assert seen(picture).shape[1] == min(side, 96)
        assert ('class="pixels"' in picture) == pixelated


def test_the_curves_are_the_history(pictures):
    found = runs.read(str(pictures / "run")).history
    lines = [json.loads(line) for line in (pictures / "run/history.jsonl").read_text().splitlines()]
    for key in ("epoch", "seconds", "loss", "accuracy"):
        assert found[key].tolist() == [line[key] for line in lines]
    assert (found["loss"] - found["penalty"] > 0).all()
    tested = [line["epoch"] for line in lines if "test_loss" in line]
    assert tested == [1, *range(2, 41, 2)]
    assert np.isfinite(found["test_accuracy"]).sum() == len(tested)


def test_a_page_in_a_browser(browser, pictures):
    for width, scheme in ((390, "dark"), (1200, "light")):
        size = {"width": width, "height": 800}
        with visit(browser, pictures / "run/report.html", viewport=size, color_scheme=scheme) as seen:
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
            assert seen.page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            assert seen.page.locator("figure > svg").count() == 4
            colour = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (colour == "rgb(255, 255, 255)") == (scheme == "light")
            drawn = "getComputedStyle(document.querySelector('figure > svg path[style*=\"--c0\"]')).stroke"
            assert re.fullmatch(r"rgb\(\d+, \d+, \d+\)", seen.page.evaluate(drawn))


@pytest.fixture
def hostile(tmp_path):
    """A malicious run directory, made to attack whoever opens its report."""
    folder = tmp_path / "<b onclick=alert(1)>&'\"$x$"
    folder.mkdir()
    X, y = blots(60, 3)
    labels = np.array([EVIL, "</script><script>window.ran = 1</script>", "${1}\u202e"])[y]
    np.savez(tmp_path / "data.npz", X=X, y=labels)
    recipe = fcgpu.Recipe(
        name=EVIL, description=EVIL + "x" * 5000, data=str(tmp_path / "data.npz"), hidden=(3,), epochs=2, batch=60
    )
    *_, done = fcgpu.train(fcgpu.load(tmp_path / "data.npz"), recipe, device="cpu")
    with_shape = fcgpu.Model(**vars(done.model) | {"image_shape": SHAPE, "recipe": EVIL})
    fcgpu.save_model(with_shape, folder / "model.safetensors")
    (folder / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    lines = [
        '{"epoch": 1, "seconds": 1e999, "loss": NaN, "accuracy": -Infinity}',
        '{"epoch": 2, "seconds": 2, "loss": 1e308, "accuracy": 1' + "0" * 400 + ', "test_loss": -1e308}',
        json.dumps({"epoch": 3, "seconds": EVIL, "loss": EVIL, "accuracy": [EVIL], EVIL: EVIL}),
        '{"epoch": 4, "seconds": 3, "loss": 1.5, "accuracy": 0.5, "test_loss": 1.25, "test_accuracy": 7}',
        '{"epoch": 5, "seconds": -1e20, "loss": -3, "accuracy": true}',
        '{"epoch": 1' + "0" * 5000 + "}",
        "[" * 100_000,
        EVIL,
    ]
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
    said = dict.fromkeys(
        ("device", "hardware", "why", "ended", "system", "fcgpu_version", "python", "stopped", "model_sha256"), EVIL
    )
    said |= {"packages": {EVIL: EVIL}, "blas": [EVIL], "seconds": EVIL, "batch": 10**300, "test_accuracy": math.nan}
    (folder / "result.json").write_text(json.dumps(said))
    return folder


def test_nothing_of_a_hostile_run_runs(browser, hostile, tmp_path):
    alone, both = tmp_path / "alone.html", tmp_path / "both.html"
    page(hostile, "--out", alone)
    page(hostile, hostile, "--out", both)
    for path in (alone, both):
        with visit(browser, path) as seen:
            assert seen.page.evaluate("window.ran") is None
            assert seen.page.locator("[onclick], [onerror], img:not([src^='data:'])").count() == 0
            assert seen.page.locator("script").count() == (2 if path == alone else 0)  # those of the drawing page
            assert EVIL in seen.page.locator("body").inner_text()
    assert "history.jsonl: 3 of the lines read are not" in read(alone.read_text(encoding="utf-8"))


def test_the_page_forbids_what_an_escape_would_miss(browser, tmp_path):
    """The same payload as markup: the content security policy in the page stops it. Without the policy it runs."""
    ours = Markup("<script>document.title = 'ours'</script>")
    (tmp_path / "page.html").write_text(document("title", [ours]).replace("</body>", f"{EVIL}</body>"))
    (tmp_path / "open.html").write_text(f"<title>title</title>{EVIL}")
    request = "fetch('data:,x').then(() => 'sent', () => 'refused')"
    ran = []
    for name in ("page.html", "open.html"):
        with pytest.raises(AssertionError), visit(browser, tmp_path / name) as seen:
            ran.append((seen.page.title(), seen.page.evaluate("window.ran"), seen.page.evaluate(request)))
    assert ran == [("ours", None, "refused"), ("title", 1, "sent")]


def test_text_is_text():
    assert element("p", "<b>", element("i", "&"), title='"') == '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    assert element("p", aria_label="a_b", class_=None) == '<p aria-label="a_b"></p>'
    assert element("p", "a\0b\u202ec\ud800") == "<p>a\ufffdb\ufffdc\ufffd</p>"
    assert len(element("p", "x" * 10**6)) < 3000


@pytest.mark.parametrize(
    ("gone", "said", "left"),
    [
        ("model.safetensors", "No model: ", "Learning curves"),
        ("history.jsonl", "No history.jsonl: ", "Which classes"),
        ("result.json", "This run has not come to its end: epoch 40 of 40", "Which classes"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(pictures, tmp_path, gone, said, left):
    run = copied(pictures, tmp_path)
    (run / gone).unlink()
    words = read(page(run))
    assert said in words
    assert left in words
    assert ("There is no history to draw." in words) == (gone == "history.jsonl")
    accuracy = json.loads((pictures / "run/result.json").read_text())["test_accuracy"]
    assert f"test accuracy {100 * accuracy:.2f} %" in words  # without result.json it is the history's last
    if hasattr(os, "mkfifo"):
        os.mkfifo(run / gone)  # a reader must not wait for it
        assert runs.read(str(run)).missing


def test_of_a_run_that_has_only_begun_the_recipe_is_shown(pictures, tmp_path):
    run = copied(pictures, tmp_path)
    for name in ("model.safetensors", "history.jsonl", "result.json"):
        (run / name).unlink()
    assert "come to its end: it has no history yet." in read(page(run))


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, " " * (1 << 20) + "{}"], ids=len)
def test_a_result_that_is_none_is_left_out(pictures, tmp_path, content):
    run = copied(pictures, tmp_path)
    (run / "result.json").write_text(content)
    found = runs.read(str(run))
    assert found.result == {}
    assert found.missing == ["result.json: not the result of a run."]


def test_data_that_are_gone_or_others_are_said_to_be(pictures, tmp_path):
    run = copied(pictures, tmp_path)
    recipe = (run / "recipe.toml").read_text()
    other = csv(tmp_path / "other.csv", [0, 1, 0], np.ones((3, 2)))
    for data, said in ((tmp_path / "gone.csv", "no such file or folder"), (other, "2 features")):
        (run / "recipe.toml").write_text(recipe.replace(json.dumps(str(pictures / "data")), json.dumps(str(data))))
        words = read(page(run))
        assert re.search(f"Nothing is shown of the samples: .*{said}", words)
        assert "Weights of the first layer" in words


def test_test_samples_that_have_changed_are_noticed(pictures, tmp_path):
    run, said = copied(pictures, tmp_path), "not those of the run any more"
    assert said not in read((pictures / "run/report.html").read_text(encoding="utf-8"))
    idx(tmp_path / "data", *blots(200, 1), "train")
    idx(tmp_path / "data", *blots(90, 9), "t10k")
    recipe = (run / "recipe.toml").read_text()
    other = recipe.replace(json.dumps(str(pictures / "data")), json.dumps(str(tmp_path / "data")))
    (run / "recipe.toml").write_text(other)
    assert said in read(page(run))


def test_the_note_on_the_curves_is_true_of_every_rule(tmp_path):
    X, y = blots(60, 1)
    np.savez(tmp_path / "d.npz", X=X, y=y)
    for rule, after in (("lbfgs", True), ("rprop", False), ("momentum", False)):
        train(tmp_path / "d.npz", "--hidden", 5, "--epochs", 3, "--optimizer", rule, "--alpha", 0,
              "--out", tmp_path / rule)  # fmt: skip
        found = runs.read(str(tmp_path / rule))
        assert (found.last("loss") == pytest.approx(found.number("train_loss"), rel=1e-5)) is after
        assert "before each update, lbfgs's after it" in read(page(tmp_path / rule))


def test_training_samples_that_have_changed_are_noticed(tmp_path):
    X, y = blots(60, 1)
    np.savez(tmp_path / "d.npz", X=X, y=y)
    for name, words in {"run": (), "held": ("--early-stopping",)}.items():
        train(tmp_path / "d.npz", "--hidden", 5, "--epochs", 20, "--out", tmp_path / name, *words)
        assert "not those of the run any more" not in read(page(tmp_path / name))
    np.savez(tmp_path / "d.npz", X=X, y=y[::-1])
    assert "The training samples are not those of the run any more" in read(page(tmp_path / "run"))


def kinds():
    random = np.random.default_rng(4)
    X = random.standard_normal((120, 4))
    values = np.c_[X[:, 0] + X[:, 1], X[:, 2]] + 0.1 * random.standard_normal((120, 2))
    return {
        "regression": ({"X": X, "y": values}, ("--output", "identity")),
        "multilabel": ({"X": X, "y": (values > 0).astype(float)}, ("--output", "sigmoid")),
        "binary": ({"X": X, "y": (values[:, 0] > 0).astype(int)}, ("--output", "sigmoid", "--early-stopping")),
        "many": ({"X": np.repeat(X[:40], 3, axis=0), "y": np.arange(120) // 3}, ()),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_model(tmp_path, kind):
    arrays, words = kinds()[kind]
    np.savez(tmp_path / "d.npz", **arrays)
    train(tmp_path / "d.npz", "--hidden", 4, "--epochs", 30, *words, "--out", tmp_path / "run")
    html = page(tmp_path / "run")
    said = read(html)
    assert "There are no test samples" in said
    model = fcgpu.load_model(tmp_path / "run/model.safetensors")
    X, y = arrays["X"], arrays["y"]
    P = model.predict_proba(X).astype(np.float64)
    if kind == "regression":
        fit = 1 - ((P - y) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
        assert [float(v) for v in re.findall(r"output \d (-?\d\.\d{4})", said)] == pytest.approx(fit, abs=1e-4)
        for j, error in enumerate((P - y).T):
            root, mean = f"{np.sqrt(np.mean(error**2)):.4g}", f"{np.abs(error).mean():.4g}"
            assert re.search(rf"output {j} \S+ {re.escape(root)} {re.escape(mean)} ", said)
        worst = np.argmax(np.abs(P - y).max(axis=1))
        numbers = (", ".join(f"{value:.4g}" for value in row) for row in (P[worst], y[worst], X[worst]))
        assert f"sample predicted actual features {worst} {' '.join(numbers)} " in said
        assert "The axis of the accuracy" not in said
        assert html.count("<svg") == 2 + 2 * y.shape[1]
    elif kind == "multilabel":
        assert f"{100 * np.mean(((P > 0.5) == y).all(axis=1)):.2f} % of the 120 training samples have every" in said
        has, given = y[:, 1] == 1, P[:, 1] > 0.5
        shares = has[given].mean(), given[has].mean(), (has == given).mean()
        right, found, in_all = (f"{100 * share:.2f} %" for share in shares)
        assert f"label 1 {has.sum()} {given.sum()} {found} {right} {in_all}" in said
    elif kind == "binary":
        wrong = (P[:, 1] > 0.5) != y
        assert f"{wrong.sum()} of 120 training samples" in said
        assert re.search("training validation", said)
    else:
        assert "only the most frequent mistakes" in said
        assert "taken for" in said
    assert ("<dt>training loss</dt>" in html) == (kind in ("regression", "multilabel"))  # where there is no accuracy


def test_sigmoid_outputs_are_labels_only_if_no_target_is_between():
    model = SimpleNamespace(spec=fcgpu.Spec((1, 1), output="sigmoid"))
    for middle in (0.0, 0.5):
        y = np.array([[0.0], [middle], [1.0]])
        first = next(values.sections(SimpleNamespace(model=model, y=y, predicted=y, split="test")))
        assert ("Label by label" in str(first)) == (middle == 0)
    model.spec = fcgpu.Spec((1, 1), output="identity")
    y = np.array([[0.0], [1.0]])
    first = next(values.sections(SimpleNamespace(model=model, y=y, predicted=y, split="test")))
    assert "Predicted and actual" in str(first)


def test_no_hidden_layers_are_none():
    assert facts.words(()) == "none"
    assert facts.words((5, 3)) == "5, 3"


def test_of_many_labels_the_first_are_listed():
    model, y = SimpleNamespace(spec=fcgpu.Spec((1, 60), output="sigmoid")), np.eye(3, 60)
    html = "".join(values.sections(SimpleNamespace(model=model, y=y, predicted=y, split="test")))
    assert "label 49" in html
    assert "label 50" not in html
    assert "The other 10 labels are left out." in html


def test_a_plot_has_the_pages_colours_and_ids_of_its_own():
    curves = [plots.Line(np.arange(2), np.array([1, y]), 3) for y in (0.5, 0.5, 0.4)]
    one, same, other = (plots.losses([curve], "epochs") for curve in curves)
    assert one == same
    ids, others = (set(re.findall('id="([^"]*)"', svg)) for svg in (one, other))
    assert ids.isdisjoint(others)
    assert set(re.findall(r'(?:url\(|href=")#([^")]*)', one)) <= ids
    assert set(re.findall(r"(?:stroke|fill): (var.*?|currentColor|#0\w*)[;\"]", one)) == {
        "var(--c3)", "var(--line)", "currentColor"
    }  # fmt: skip
    assert "<metadata" not in one


@pytest.fixture
def axes(monkeypatch):
    """A function of a plot that gives its axes."""
    monkeypatch.setattr(plots, "svg", lambda figure: figure.axes[0])
    return lambda draw, *curves: draw([plots.Line(np.arange(len(y)), np.array(y, float), 0) for y in curves], "epochs")


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([1, 0.2], "linear"), ([1, 0.1], "linear"), ([1, 0.09], "log"), ([1, 0], "linear"), ([1, -0.01], "linear")],
)
def test_the_losses_are_on_a_logarithmic_axis_if_they_span_more_than_ten(losses, scale, axes):
    assert axes(plots.losses, losses).get_yscale() == scale
    assert axes(plots.losses, losses[:1], losses[1:]).get_yscale() == scale


@pytest.mark.parametrize(
    ("accuracies", "limits", "ticks"),
    [
        ([0.5, 0.9, 0.97], (0.45, 0.976), [0.5, 0.8, 0.9, 0.95]),
        ([0.04, 0.999], (0, 0.9992), [0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]),
        ([0.88, 1], (0.83, 1), [0.9, 1]),
        ([0.31, 0.7], (0.26, 0.76), [0.3, 0.4, 0.5, 0.6, 0.7]),
        ([0.41, 0.42], (0.36, 0.536), [0.4, 0.44, 0.48, 0.52]),
        ([1, 1], (0.95, 1), [1]),
    ],
)
def test_the_axis_of_accuracies_holds_all_of_them(accuracies, limits, ticks, axes):
    found = axes(plots.accuracies, accuracies)
    assert found.get_ylim() == pytest.approx(limits)
    assert [tick for tick in found.get_yticks() if limits[0] <= tick <= limits[1]] == pytest.approx(ticks)
    heights = found.transAxes.inverted().transform(found.transData.transform([(0, y) for y in accuracies]))[:, 1]
    assert ((heights >= -1e-9) & (heights <= 1 + 1e-9)).all()
    assert heights[1] > heights[0] or accuracies[1] == accuracies[0]


@pytest.mark.parametrize("last", [1, 2, 3, 20, 97, 10_000_000])
def test_epochs_are_whole(last, monkeypatch):
    monkeypatch.setattr(plots, "svg", lambda figure: figure.axes[0].get_xticks())
    ticks = plots.losses([plots.Line(np.array([1, last]), np.ones(2), 0)], "epochs")
    assert (ticks == np.rint(ticks)).all()
    assert 0 < ticks[1] <= last


@pytest.mark.parametrize("seconds", [3e-5, 0.0175, 0.0207, 0.9, 1.5, 17.5, 3700, 1e6])
def test_labels_beside_each_other_do_not_touch(seconds):
    """At ten points a digit takes 6.4; those of eight ticks as 0.0025 ran into each other."""
    x = np.linspace(0.4, 1, 30) * seconds
    svg = plots.losses([plots.Line(x, np.linspace(1, 0.5, 30), 0)], "seconds of training")
    *labels, name = re.findall(r'text-anchor: middle;[^>]* x="([\d.]+)"[^>]*>([^<]*)</text>', svg)
    assert name[1] == "seconds of training"
    assert 3 <= len(labels) <= 7
    ends = [(float(at) - 3.2 * len(text), float(at) + 3.2 * len(text)) for at, text in labels]
    assert all(end + 3 < start for (_, end), (start, _) in pairwise(ends))
    assert ends[-1][1] < 72 * plots.WIDTH


@pytest.mark.parametrize(
    ("losses", "labels"),
    [([2.2, 0.12], ["0.2", "0.5", "1", "2"]), ([5, 0.04], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"]),
     ([1e4, 0.5], ["1", "10", "100", "1000", "10000"])],
)  # fmt: skip
def test_a_logarithmic_axis_of_few_decades_has_labels_between(losses, labels):
    svg = plots.losses([plots.Line(np.arange(2), np.array(losses), 0)], "epochs")
    found = re.findall(r"text-anchor: end;[^>]*>([^<]+)</text>", svg)
    assert sorted(found, key=float) == labels


def test_ten_runs_have_ten_colours():
    css = (Path(curves.__file__).with_name("page.css")).read_text()
    for mode in css.split("prefers-color-scheme: dark"):
        assert len(set(re.findall(r"--c\d: (#\w{6})", mode))) == 10
    lines = [plots.Line(np.arange(2), np.array([1, 0.5]), colour) for colour in range(10)]
    assert len(set(re.findall(r"stroke: var\(--c(\d)\)", plots.losses(lines, "epochs")))) == 10


def test_test_figures_older_than_the_model_are_said_to_be(pictures, tmp_path):
    """A stopped run has none of its last epoch, but of one epoch in `epochs / 25`."""
    run = copied(pictures, tmp_path)
    (run / "result.json").unlink()
    assert "Its test figures" not in read(page(run))
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    (run / "history.jsonl").write_text("".join(lines[:37]))
    said = read(page(run))
    assert "epoch 37 of 40 is the last in its history" in said
    assert "aren't known. Its test figures are of epoch 36." in said
    assert f"test accuracy {100 * json.loads(lines[35])['test_accuracy']:.2f} %" in said


def test_a_histogram_holds_every_error_and_a_scatter_plot_some_of_many(axes):
    errors = np.r_[np.random.default_rng(0).normal(0, 1, 2000), 1e9, -1e9]
    bars = plots.histogram(errors).patches
    assert sum(bar.get_height() for bar in bars) == len(errors)
    assert max(bar.get_x() + bar.get_width() for bar in bars) < 10
    assert sum(bar.get_height() for bar in plots.histogram(np.zeros(5)).patches) == 5
    diagonal, points = plots.scatter(errors, errors + 1, 3).lines
    assert len(points.get_xdata()) == plots.SCATTERED
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [-1e9, 1e9 + 1]
    np.testing.assert_allclose(points.get_ydata() - points.get_xdata(), 1, atol=1e-6)


def test_several_runs_are_compared(pictures, tmp_path):
    for name, words in (("a", ("--epochs", 3)), ("b", ("--epochs", 5, "--activation", "tanh"))):
        train(pictures / "data", "--hidden", 4, *words, "--out", tmp_path / name)
    html = page(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both.html")
    table = html[html.index("What differs") :]
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', table)
    assert [(key, re.findall("<td>(.*?)</td>", cells)) for key, cells in rows] == [
        ("activation", ["relu", "tanh"]),
        ("epochs", ["3", "5"]),
    ]
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in "ab"]
    assert "dotted: training; solid: test" in read(html)
    assert "stroke-dasharray" in html
    assert "stroke-dasharray" not in (pictures / "run/report.html").read_text(encoding="utf-8")
    best = max(result["test_accuracy"] for result in results)
    assert f"<b>{100 * best:.2f} %</b>" in html
    assert html.count("<b>") == 4  # the best accuracy, loss, time and speed
    once = runs.read(str(tmp_path / "a"))
    assert "<b>" not in facts.compared([once, once], ["one", "other"])
    assert html.count("<svg") == 4


def test_a_run_alone_has_a_colour_for_each_curve_and_of_several_each_has_one(pictures, monkeypatch):
    drawn, run = [], runs.read(str(pictures / "run"))
    monkeypatch.setitem(curves.DRAWN, "loss", lambda lines, x: drawn.append(lines) or Markup("<svg ></svg>"))
    for names in (["a"], ["a", "b"]):
        assert [*curves.section([run] * len(names), names)]
    looks = [[(line.colour, line.dashed) for line in lines] for lines in drawn[::2]]  # against epochs
    assert looks == [[(0, False), (1, False)], [(0, True), (0, False), (1, True), (1, False)]]


def test_runs_that_differ_by_their_machines_only_are_told_apart(pictures, tmp_path):
    def differing():
        both = [runs.read(str(path)) for path in (pictures / "run", run)]
        return read("".join(facts.differing(both, ["one", "other"])))

    run = copied(pictures, tmp_path)
    assert "Only the results: " in differing()
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"fcgpu_version": "0.0"}))
    assert differing().endswith(f"one other fcgpu version {result['fcgpu_version']} 0.0")


def test_values_beyond_all_measure_are_no_traceback(tmp_path):
    recipe = fcgpu.Recipe(data=str(tmp_path / "d.npz"), output="identity", hidden=(2,), epochs=1)
    (tmp_path / "recipe.toml").write_text(to_toml(recipe))
    for y in ([1e308, -1e308, 0.5, 1.5], [1e17, 1e17 + 16, 1e17, 1e17], [0.5, 0.5, 0.5, 0.5]):
        X = np.ones((4, 2))
        *_, done = fcgpu.train((X, np.array([0.5, 0.7, 0.1, 0.2])), recipe, device="cpu")
        fcgpu.save_model(done.model, tmp_path / "model.safetensors")
        np.savez(tmp_path / "d.npz", X=X, y=np.array(y))
        assert "Predicted and actual" in read(page(tmp_path))


@pytest.mark.parametrize("piece", [100, 4096, 16 << 20])
def test_a_long_history_is_thinned(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "PIECE", piece)
    lines = [{"epoch": i, "loss": 1 / i} | ({"test_loss": 2 / i} if i % 999 == 0 else {}) for i in range(1, 10_000)]
    torn = '{"epoch": 10000, "lo'
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + torn)
    (tmp_path / "recipe.toml").write_text(to_toml(fcgpu.Recipe()))
    files = runs.read(str(tmp_path))
    assert not [words for words in files.missing if words.startswith("history")]
    found = files.history
    assert len(found["epoch"]) <= runs.MOST_POINTS + 10
    assert found["epoch"][-1] == 9999
    assert np.isfinite(found["test_loss"]).sum() == 10
    assert found["epoch"][0] == 1
    steps = np.diff(found["epoch"])
    assert steps.min() > 0
    assert steps.max() == 8  # 4,999 of every second line are too many, and 2,500 of every fourth


def test_of_a_huge_history_the_first_lines_are_read(pictures, tmp_path, monkeypatch):
    path = copied(pictures, tmp_path) / "history.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    three = len(b"".join(whole[:3]))
    for most, n in ((three - 1, 2), (three, 3), (three + 1, 3)):
        monkeypatch.setattr(runs, "MOST_BYTES", most)
        found = runs.read(str(path.parent))
        assert found.history["epoch"].tolist() == list(range(1, n + 1))
        assert found.missing == ["history.jsonl: only its first 0 MiB were read."]
    monkeypatch.setattr(runs, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(runs, "MOST_LINES", 7)
    found = runs.read(str(path.parent))
    assert found.history["epoch"].tolist() == list(range(1, 8))
    assert found.missing == ["history.jsonl: only its first 7 lines were read."]


def test_a_history_of_more_than_64_mib_is_read_to_its_end(pictures, tmp_path):
    path = copied(pictures, tmp_path) / "history.jsonl"
    line = f'{{"epoch": %d, "loss": 1.0, "filler": "{1000 * "x"}"}}\n'
    path.write_text("".join(line % i for i in range(1, 70_001)))
    found = runs.read(str(path.parent))
    assert found.history["epoch"][-1] == 70_000
    assert not found.missing


def test_a_history_without_line_ends_is_not_read_to_its_end(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "PIECE", 1 << 20)
    path = copied(pictures, tmp_path) / "history.jsonl"
    path.write_bytes(b"x" * (5 << 20))
    found = runs.read(str(path.parent))
    assert len(found.history["epoch"]) == 0
    assert found.missing == ["history.jsonl: only its first 2 MiB were read."]


def test_a_report_is_refused_in_one_line(pictures, tmp_path):
    for words, said in (
        ((tmp_path,), "no recipe.toml there; expected a run directory"),
        ((pictures / "run", "--out", tmp_path / "a.pdf"), "expected a name that ends in .html"),
        ((pictures / "run", "--out", tmp_path / "no/a.html"), "cannot be written"),
    ):
        result = call("report", *words)
        assert (result.code, result.out) == (2, "")
        assert re.fullmatch(f"fcgpu: error: .*{re.escape(said)}.*\n", result.err)


def test_without_matplotlib_the_install_line_comes_before_the_training(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for words in (("report", pictures / "run"), ("train", "deep", "--out", tmp_path / "run", "--report")):
        result = call(*words)
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert 'pip install "fcgpu[report]"' in result.err
    assert not (tmp_path / "run").exists()


def test_a_training_names_its_report(pictures, tmp_path):
    run = ("--hidden", 2, "--epochs", 1, "--device", "cpu", "--report", "--out", tmp_path / "run")
    result = call("train", pictures / "data", *run)
    path = tmp_path / "run/report.html"
    assert result.out.endswith(f"\n{path}: {readable(path.stat().st_size)}; open it in a browser\n")
    result = call("train", pictures / "data", *run[:-1], tmp_path / "other", "--json")
    assert json.loads(result.out)["report"] == str(tmp_path / "other/report.html")


def test_a_report_that_is_refused_costs_no_result(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("fcgpu.cli.report.NAME", "missing/report.html")
    run = ("--hidden", 2, "--epochs", 1, "--device", "cpu", "--out", tmp_path / "run", "--report", "--json")
    result = call("train", pictures / "data", *run)
    assert result.code == 2
    assert json.loads(result.out)["epochs"] == 1
    assert "report.html: cannot be written" in result.err
    fcgpu.load_model(tmp_path / "run/model.safetensors")


def test_one_output_of_two_classes_has_both_probabilities(tmp_path):
    X = np.array([[-1.0], [2.0]])
    np.savez(tmp_path / "d.npz", X=X, y=np.array([0, 1]))
    train(tmp_path / "d.npz", "--output", "sigmoid", "--hidden", "", "--epochs", 1, "--out", tmp_path / "run")
    run = runs.read(str(tmp_path / "run"))
    found = judged.judged(run.model, run.recipe)
    second = 1 / (1 + np.exp(-run.model.decision_function(X)[:, 0]))
    np.testing.assert_array_equal(found.predicted, second > 0.5)
    assert found.sure == pytest.approx(np.maximum(second, 1 - second))
    assert found.own == pytest.approx([1 - second[0], second[1]])
