"""The benchmark harness, tested on simulated machines whose times are known, so that no test waits for a clock."""

import dataclasses
import itertools
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from command import ROOT

import fcgpu
from bench import measure, race, startup
from bench.__main__ import main as bench_main
from bench.cases import ADAM, CHECKED, FIT, FIT_SINGLE, LOAD, PREDICT, Case
from bench.planted import delayed
from bench.rows import Writer, read
from bench.run import REFERENCE, run_case
from bench.session import PeerError, Session, confined
from bench.trust import agree
from fcgpu.host import cpu_count
from fcgpu.kernels import compiled

SMALL = Case("small", "a small case", rows=640, batch=16, rounds=2)


class Here:
    """A session in this process, with the interface of `session.Remote`."""

    def __init__(self, module, device):
        self._of = module, device
        self._session = None

    def ask(self, verb, *arguments):
        self._session = self._session or Session(*self._of)
        return getattr(self._session, verb)(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Machine:
    """Peers with given times on a machine that gradually slows down to a third of its speed, with 5 % jitter."""

    def __init__(self, seed, **seconds):
        self._random, self._count = np.random.default_rng(seed), 0
        self.calls = {name: self._call(time) for name, time in seconds.items()}
        self.called = []

    def _call(self, seconds):
        def call():
            self._count += 1
            drift = 1 + 2 * (self._count / 200)
            return float(seconds * drift * self._random.normal(1, 0.05))

        return call

    def quartiles(self, rounds=100):
        times = measure.interleave(self.calls, rounds, pause=0)
        return measure.quartiles(measure.ratios(times["slow"], times["fast"])), times


@pytest.fixture(autouse=True)
def quick(mnist, monkeypatch):
    """The digits are read once, and there is no pause between calls."""
    load = fcgpu.load
    monkeypatch.setattr(fcgpu, "load", lambda source: mnist if source == "mnist" else load(source))
    monkeypatch.setitem(measure.interleave.__kwdefaults__, "pause", 0)


@pytest.fixture
def out(tmp_path):
    return Writer(tmp_path / "rows.jsonl", None)


def run(case, modules, out):
    said = []
    times = run_case(case, modules, None, Here, out, said.append)
    return times, "\n".join(said)


@pytest.mark.parametrize("seed", range(5))
def test_a_delay_of_20_percent_shows_on_a_machine_that_drifts(seed):
    (_, ratio, _), times = Machine(seed, fast=1.0, slow=1.2).quartiles()
    assert 1.17 <= ratio <= 1.23
    assert max(times["fast"]) > 2 * min(times["fast"])


@pytest.mark.parametrize("seed", range(5))
def test_two_runs_agree_within_the_spread_they_state_and_other_peers_do_not(seed):
    one, other = (Machine(s, fast=1.0, slow=1.2).quartiles()[0] for s in (seed, seed + 100))
    assert agree(one, other)
    assert not agree(one, Machine(seed, fast=1.0, slow=1.4).quartiles()[0])


def test_the_planted_delay_is_a_fifth_of_the_call(monkeypatch):
    clock = itertools.count(step=0.001)  # each reading advances it by a millisecond
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    step = delayed.delayed(lambda: [time.perf_counter() for _ in range(1000)])
    began = time.perf_counter()
    step()
    assert time.perf_counter() - began == pytest.approx(1.2, rel=0.01)


def test_every_round_starts_one_peer_further_on():
    order = []
    calls = {name: lambda name=name: order.append(name) or 1.0 for name in "abc"}
    measure.interleave(calls, 4, pause=0)
    assert "".join(order) == "abcbcacababc"


def test_a_slow_peer_is_called_no_more_and_compared_in_its_own_rounds():
    calls = {"slow": lambda: 4.0, "fast": lambda: 2.0}
    times = measure.interleave(calls, 5, limit=5.0, pause=0)
    assert times == {"slow": [4.0, 4.0, None, None, None], "fast": [2.0, 2.0, 2.0, None, None]}
    assert measure.ratios(times["slow"], times["fast"]) == [2.0, 2.0]
    assert measure.best(times) == "fast"
    assert measure.best(times, without="fast") == "slow"


def test_quartiles_are_those_of_the_sample():
    values = [5.0, 1.0, 2.0, 4.0, 3.0]
    assert measure.quartiles(values) == (2.0, 3.0, 4.0)
    assert measure.quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_rounds_are_dealt_to_several_processes_of_each_peer_and_only_the_first_is_checked(out):
    asked = []

    class Counted(Here):
        def ask(self, verb, *words):
            asked.append((self._of[0].rpartition(".")[2], verb))
            return super().ask(verb, *words)

    times = run_case(SMALL, ["bench.peers.ours"], 4, Counted, out, lambda text: None, processes=3)
    assert len(times["ours"]) == 4
    verbs = [verb for peer, verb in asked if peer == "ours" and verb != "about"]
    assert verbs == ["check", "warm", "call", "warm", "call", "warm", "call", "call"]


def test_peers_that_do_the_same_work_get_rows(out):
    times, _ = run(SMALL, ["bench.peers.article", "bench.peers.ours"], out)
    assert set(times) == {"article", "ours"}
    rows = {row["peer"]: row for row in read([out.path]) if "ratio" in row}
    assert rows["article"]["ratio"] == 1.0
    assert rows["ours"]["best_peer"] == "article"
    assert rows["ours"]["ratio"] == pytest.approx(statistics.median(measure.ratios(times["ours"], times["article"])))
    for row in rows.values():
        assert {"versions", "commit", "date", "threads", "machine", "quartiles_seconds"} <= set(row)


@pytest.mark.parametrize("case", [SMALL, Case("full", "a small full batch", rows=100, batch=100, rounds=1)])
def test_a_peer_that_computes_something_else_is_refused(case, out):
    times, said = run(case, ["bench.planted.wrong"], out)
    assert times == {}
    assert "refused: it computes" in said
    assert "refused" in read([out.path])[-1]


def test_a_check_makes_twenty_updates_and_looks_once_more():
    full, batches = Case("full", ""), Case("batches", "", rows=6400, batch=128)
    for case, updates in ((full, 1), (batches, CHECKED)):
        assert case.checks.rows == updates * case.batch
        assert case.check_calls == 1 + CHECKED // updates
    for case in (PREDICT, LOAD, FIT):
        assert (case.checks.rows, case.check_calls) == (60_000, 1)


def test_predictions_are_compared_label_by_label():
    labels = np.arange(10_000) % 10
    assert PREDICT.agrees(labels, labels)
    wrong = labels.copy()
    wrong[:2] += 1
    assert not PREDICT.agrees(wrong, labels)
    assert not PREDICT.agrees(labels[:-1], labels)


@pytest.mark.parametrize("answer", [1.00002, float("nan"), float("inf")])
def test_a_loss_that_is_off_or_not_finite_does_not_agree(answer):
    assert SMALL.agrees(1.000001, 1.0)
    assert not SMALL.agrees(answer, 1.0)


def test_a_package_or_a_device_that_is_missing_is_named(out, tmp_path, monkeypatch):
    (tmp_path / "absent.py").write_text("import no_such_package\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("bench.run.gpu", lambda: None)
    _, said = run(SMALL, ["absent", "bench.peers.ours"], out)
    assert "absent" in said
    assert "skipped: no_such_package is not installed" in said
    skipped = {row["peer"]: row["skipped"] for row in read([out.path]) if "skipped" in row}
    assert skipped == {"absent": "no_such_package is not installed", "ours (cuda)": "no GPU on this machine"}


def test_a_case_whose_reference_is_missing_is_left_out(out, monkeypatch):
    monkeypatch.setitem(REFERENCE, "bench.peers", "no_such_package.reference")
    times, said = run(SMALL, ["bench.peers.ours"], out)
    reason = "no_such_package is not installed; no result can be checked without it"
    assert times == {}
    assert f"skipped: {reason}" in said
    assert [(row["peer"], row["skipped"]) for row in read([out.path])] == [("reference", reason)]


@pytest.mark.parametrize("command", ["calls", "tables", "report", "run"])
def test_without_other_libraries_the_commands_work_or_name_what_is_missing(command, tmp_path):
    for name in ("matplotlib", "sklearn"):
        missing = f"raise ModuleNotFoundError('not here', name={name!r})\n"
        (tmp_path / f"{name}.py").write_text(missing, encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    words = {"calls": [], "tables": [], "report": [str(rows)], "run": ["--cases=fit", f"--out={rows}"]}[command]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    command_line = [sys.executable, "-m", "bench", command, *words]
    done = subprocess.run(command_line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    code, said = {
        "calls": (2, "bench: error: sklearn is not installed: pip install "),
        "tables": (2, "bench: error: sklearn is not installed: pip install "),
        "report": (2, "bench: error: matplotlib is not installed: pip install "),
        "run": (0, "skipped: sklearn is not installed; no result can be checked without it\n"),
    }[command]
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_are_scored_and_timed():
    """The first of them: iris, which both ways learn."""
    tables = pytest.importorskip("bench.tables")
    *_, line = itertools.islice(tables.measure(1), 3)
    name, score, *figures = line.strip("| ").split(" | ")
    assert (name, score) == ("iris, 150 x 4", "accuracy")
    assert all(0.85 < float(accuracy) <= 1 for accuracy in figures[:2])
    assert all(0 <= float(seconds) < 10 for seconds in figures[2:])


def test_a_program_that_ends_without_a_word_is_left_out(out, monkeypatch):
    program = startup.Program("a program", (), ["-c", "import os; os._exit(3)"])
    monkeypatch.setattr(startup, "CASES", {"startup": ("a start", {"mute": program})})
    startup.measure(["mute"], 1, out, lambda text: None)
    assert [row["skipped"] for row in out.rows] == ["exit code 3"]


def test_predictions_of_the_article_and_of_ours_are_equal(out):
    case = Case("predict", "", rows=500, batch=500, verb="setup_predict", rounds=1, checked=0, tolerance=0.002)
    times, _ = run(case, ["bench.peers.article", "bench.peers.ours"], out)
    assert set(times) == {"article", "ours"}
    assert len(np.unique(Session("bench.peers.article").check(case))) >= 4  # otherwise a constant would pass


@pytest.mark.parametrize(("peer", "absent"), [("ours_without_amx", []), ("ours_without_c", None)])
@pytest.mark.parametrize("batch", [16, 640])
def test_fcgpu_without_a_part_of_its_c_does_the_same_work(batch, peer, absent, monkeypatch):
    session, case = Session(f"bench.peers.{peer}"), dataclasses.replace(SMALL, batch=batch)
    if not session.about()["devices"]:
        pytest.skip("this machine lacks that part")
    found = session.check(case)
    left = {} if absent is None else {name: f for name, f in vars(compiled.native).items() if name not in absent}
    monkeypatch.setattr(compiled, "native", SimpleNamespace(**left))
    session.call()
    monkeypatch.undo()
    assert case.agrees(found, Session("bench.peers.ours").check(case))
    assert compiled.has_tile_unit() == compiled.native.has_tiles()


def test_readers_of_the_csv_agree(out, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.loaders.FOLDER", tmp_path)
    case = Case("load", LOAD.title, rows=40, batch=40, peers=LOAD.peers, rounds=1, checked=0, tolerance=0.0)
    times, _ = run(case, [f"bench.loaders.{name}" for name in ("ours", "loadtxt", "genfromtxt")], out)
    assert set(times) == {"ours", "loadtxt", "genfromtxt"}


@pytest.mark.slow
@pytest.mark.parametrize("case", [FIT, FIT_SINGLE], ids=lambda case: case.name)
def test_both_estimators_learn_the_same_from_the_same_program(case, out, mnist, monkeypatch):
    pytest.importorskip("sklearn")
    fewer = dataclasses.replace(mnist, X_test=mnist.X_test[:1000], y_test=mnist.y_test[:1000])
    monkeypatch.setattr(fcgpu, "load", lambda source: fewer)
    monkeypatch.setattr("bench.run.gpu", lambda: None)
    case = dataclasses.replace(case, rows=1000, batch=1000, rounds=1)
    times, said = run(case, ["bench.estimators.ours", "bench.estimators.scikit"], out)
    assert set(times) == {"ours", "scikit"}, said
    accuracy = Session("bench.estimators.ours").check(case)
    assert 0.5 < accuracy < 1
    assert not case.agrees(accuracy - 0.003, accuracy)
    assert case.agrees(accuracy - 0.002, accuracy)


@pytest.mark.parametrize("peer", ["ours", "pytorch", "jax_scan"])
def test_adam_is_the_same_in_every_library(peer):
    case = dataclasses.replace(ADAM[0], rows=20 * 128)
    try:
        found, reference = (Session(f"bench.adam.{name}").check(case) for name in (peer, "scikit"))
    except PeerError as error:
        pytest.skip(str(error))
    assert case.agrees(found, reference)
    assert not case.agrees(1.001 * found, reference)


def test_warm_up_is_on_other_data_of_the_same_shape():
    work, other = SMALL.work("cpu"), SMALL.work("cpu", other=True)
    assert work.X.shape == other.X.shape
    assert not np.array_equal(work.X, other.X)
    assert not np.array_equal(work.y, other.y)


def test_a_peer_that_raises_is_no_end_of_the_run(out, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text(
        "from bench.peers.ours import CLOCKS, PACKAGES, TITLE\n\n\ndef setup(work):\n    raise ValueError('boom')\n",
        encoding="utf-8",
    )

    class Told(Here):
        def ask(self, *words):
            try:
                return super().ask(*words)
            except ValueError as error:
                raise PeerError(str(error)) from error

    said = []
    assert run_case(SMALL, ["broken"], None, Told, out, said.append) == {}
    assert "skipped: boom" in said[-1]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not hold a process to processors")
def test_a_peer_has_the_processors_and_the_device_it_is_given(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    before = cpu_count()
    said = "import os; print(len(os.sched_getaffinity(0)), os.environ['CUDA_VISIBLE_DEVICES'] or 'none')"
    with confined("cpu", 1):
        inside = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout
    assert inside == "1 none\n"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert "JAX_PLATFORMS" not in os.environ
    assert cpu_count() == before


def test_race_stops_the_clock_for_the_test_and_ends_at_the_target(monkeypatch):
    now = itertools.count()
    monkeypatch.setattr(race.time, "perf_counter", lambda: float(next(now)))
    right = fcgpu.load("mnist").y_test

    def train(data, seed):
        for share in (0.5, 0.975, 0.99, 1.0):
            yield lambda X, share=share: np.where(np.arange(len(right)) < share * len(right), right, -1)

    curve = race.run(train, 0.98, limit=100.0, seed=0)
    assert curve == [(1.0, 0.5), (2.0, 0.975), (3.0, 0.99)]
    assert [race.reached(curve, target) for target in (0.97, 0.98, 0.995)] == [2.0, 3.0, None]


def test_single_calls_are_timed_in_turn_and_shown_as_a_table(monkeypatch, capsys):
    calls = pytest.importorskip("bench.calls", exc_type=ImportError)
    clock, called = itertools.count(), []

    def call(name, seconds):
        called.append(name)
        next(itertools.islice(clock, seconds - 1, None))  # the clock goes on

    both = {"fcgpu": lambda: call("fcgpu", 2), "scikit-learn": lambda: call("scikit-learn", 8)}
    monkeypatch.setattr(calls, "_all_calls", lambda: iter([("a call", both)]))
    monkeypatch.setattr(calls.time, "perf_counter", lambda: 1e-6 * next(clock))
    monkeypatch.setattr(calls, "interleave", lambda *args: measure.interleave(*args, pause=0))
    assert bench_main(["calls", "--rounds", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["| a call | 3 | 9 | 0.33 |"]
    assert called == [*["fcgpu", "scikit-learn"] * 2, "scikit-learn", "fcgpu", "fcgpu", "scikit-learn"]


@pytest.mark.filterwarnings("ignore:.*Maximum iterations")
def test_every_single_call_is_one_that_both_estimators_know():
    calls = pytest.importorskip("bench.calls", exc_type=ImportError)
    random = np.random.default_rng(0)
    titles = [title for title, each in calls._of_texts(random) if [call() is not None for call in each.values()]]
    assert [title.split(",")[0] for title in titles] == ["`predict`", "`predict`", "`fit`"]


def test_a_line_that_is_no_row_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"case": "full"}\n[]\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2: not a row"):
        read([path])


@pytest.mark.slow
def test_the_readmes_command_measures_under_pytest_benchmark(tmp_path):
    """On a suite of one benchmark, with the project's pytest settings."""
    (tmp_path / "bench").mkdir()
    for name in ("pyproject.toml", "bench/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bench/test_one.py").write_text("def test_one(benchmark):\n    benchmark(len, 'x')\n", encoding="utf-8")
    readme = (ROOT / "bench/README.md").read_text(encoding="utf-8")
    line = next(line for line in readme.splitlines() if line.startswith("pytest bench "))
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")
    }  # these belong to this test's own workers
    command = [sys.executable, "-m", *shlex.split(line, comments=True)]
    done = subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads((tmp_path / "today.json").read_text())["benchmarks"]
    assert found["name"] == "test_one"
    assert found["stats"]["rounds"] > 1
