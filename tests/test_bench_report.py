"""The report on synthetic rows: its numbers are those of the rows, and everything left out is named."""

import re
from html.parser import HTMLParser

import pytest

from bench import report
from bench.report.select import cases, seconds_to
from bench.rows import Writer

pytest.importorskip("matplotlib")
TITLES = {"ours": "fcgpu", "swift": "Swift", "slow": "Slow & Sons"}


def timed(case, peer, seconds, **more):
    median = sorted(seconds)[len(seconds) // 2]
    row = {"case": case, "title": f"training, {case}", "peer": peer, "peer_title": TITLES[peer.split()[0]]}
    row |= {"device": "cpu", "samples": 100, "batch": 10, "seconds": seconds, "median_seconds": median}
    row |= {"quartiles_seconds": [min(seconds), max(seconds)], "samples_per_second": 100 / median}
    return row | {"versions": {TITLES[peer.split()[0]].lower(): "1.0"}} | more


def add_run(out):
    for case, batch in (("full", 100), ("batch-10", 10)):
        out.add(**timed(case, "slow", [4.0, 8.0, 16.0], batch=batch))
        out.add(**timed(case, "ours", [1.0, 2.0, 4.0], batch=batch))
        out.add(**timed(case, "swift", [2.0, 4.0, 5.0], batch=batch))
        out.add(case=case, title="", peer="absent", skipped="absent is not installed")
    out.add(case="full", title="", peer="cheat", refused="it computes 2, not 1")
    for peer, peak in (("slow", 4e8), ("ours", 1e8)):
        title = TITLES[peer]
        out.add(case="memory", title="peak memory", peer=peer, peer_title=title, device="cpu", peak_bytes=peak,
                before_bytes=peak / 2, versions={})  # fmt: skip
        curves = [[(1.0, 0.96), (2.0, 0.985)], [(1.0, 0.971), (3.0, 0.981)], [(1.0, 0.971), (4.0, 0.979)]]
        to = {"0.97": [2.0, 1.0, 1.0], "0.98": [2.0, 3.0, None]}
        out.add(case="race", title="time to accuracy", peer=peer, peer_title=title, device="cpu", recipe="with care",
                curves=curves, seconds_to=to, versions={})  # fmt: skip


@pytest.fixture
def pages(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.rows.gpu", lambda: None)
    monkeypatch.setattr("bench.rows.os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    out = Writer(tmp_path / "rows.jsonl", None)
    add_run(out)
    assert report.write([out.path], tmp_path / "report", lambda text: None) == 0
    return [(tmp_path / f"report.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "md")]


def test_ratios_are_taken_round_by_round(pages):
    for page in pages:
        assert "0.50 (0.50 to 0.65) " in re.sub(r"\s*[|<]", " <", page)  # from 1/2, 2/4, 4/5, not from the medians, 2/4
        assert "0.25 (0.25 to 0.25)" in page
        assert "2.00 times as fast as the fastest other library, Swift" in page


def test_what_was_left_out_is_named(pages):
    for page in pages:
        assert "refused: it computes 2, not 1" in page
        assert "skipped: absent is not installed" in page
        assert "with care" in page
        assert "400 MB" in page


def test_the_page_is_complete_in_itself_and_well_formed(pages):
    html, markdown = pages
    assert "Slow &amp; Sons" in html
    assert not re.search(r'(src|href)="(?!#)', html.replace("xlink:", ""))
    assert "@import" not in html
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'href="#([^"]*)"', html):
        assert target in ids
    assert html.count("<svg") == html.count("<figure>") == 4
    assert "<svg" not in markdown

    class Balanced(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Balanced()
    parser.feed(html)
    assert parser.open == []


def test_only_the_last_run_of_a_case_counts(tmp_path, monkeypatch):
    old, new = (dict(timed("full", "ours", [t]), date=date) for t, date in ((9.0, "2026-01-01"), (1.0, "2026-01-02")))
    (case,) = cases([new, old])
    assert case.rows == [new]


def test_half_of_the_seeds_must_reach_an_accuracy():
    assert seconds_to({"seconds_to": {"0.98": [2.0, 3.0, None]}}, "0.98") == 3.0
    assert seconds_to({"seconds_to": {"0.98": [2.0, None, None]}}, "0.98") is None


def test_a_busy_machine_and_a_changed_tree_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.rows.os.getloadavg", lambda: (999.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr("bench.rows.commit", lambda: "abc1234+")
    out = Writer(tmp_path / "rows.jsonl", None)
    add_run(out)
    report.write([out.path], tmp_path / "report", lambda text: None)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "kept the machine busy" in page
    assert "not committed" in page
    monkeypatch.undo()
    monkeypatch.setattr("bench.rows.os.getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)
    monkeypatch.setattr("bench.rows.commit", lambda: "abc1234")
    monkeypatch.setattr("bench.rows.time.strftime", lambda how: "9999-01-01")
    add_run(Writer(out.path, None))
    report.write([out.path], tmp_path / "report", lambda text: None)
    assert "Provisional" not in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_run_in_which_everybody_was_skipped_is_a_page_that_says_so(tmp_path):
    out = Writer(tmp_path / "rows.jsonl", None)
    out.add(case="full", title="training, full", peer="absent", skipped="absent is not installed")
    assert report.write([out.path], tmp_path / "report", lambda text: None) == 0
    assert "skipped: absent is not installed" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_no_rows_is_one_line(tmp_path, capsys):
    assert report.write([tmp_path / "none.jsonl"], tmp_path / "report", print) == 2
    assert "none.jsonl" in capsys.readouterr().err
