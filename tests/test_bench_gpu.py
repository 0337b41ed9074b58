"""`python -m bench gpu`: its parts run on the device double, where their times mean nothing, and finish."""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from device_double import double_backend
from test_bench import Here

import fcgpu
from bench.cases import ADAM, Case
from bench.gpu import (
    chunks,
    clock,
    compilers,
    crossover,
    few,
    limits,
    part,
    predict,
    profile,
    recipe,
    session,
    small,
    suite,
    versus,
)
from bench.gpu.page import TABLES, markdown
from bench.session import PeerError
from fcgpu import bench
from fcgpu.backend import GPU_START
from fcgpu.train import ahead, plan_gpu
from fcgpu.train.plan import work_of


@pytest.fixture
def device(monkeypatch, mnist):
    """The double as the device "cuda", with every part made small."""
    double, choose, load = double_backend(monkeypatch), fcgpu.choose, fcgpu.load
    monkeypatch.setattr(fcgpu, "choose", lambda name: double if name == "cuda" else choose(name))
    monkeypatch.setattr(fcgpu, "load", lambda source: mnist if source == "mnist" else load(source))
    for module, names in {
        clock: {"ROUNDS": 1},
        limits: {"COPY": 4096, "SENT": 4096, "LAUNCHES": 3, "SIDES": (8, 16)},
        chunks: {"STEPS": 1, "PRECISIONS": ("float32",)},
        profile: {"REPEATS": 2, "STEPS": 1},
        small: {"STEPS": 2},
        bench: {"PRODUCT": 8, "COPY_BYTES": 4096, "SAMPLES": 64, "GPU_SAMPLES": 64},
    }.items():
        for name, value in names.items():
            monkeypatch.setattr(module, name, value)
    return double


def run(parts, tmp_path, seconds=100.0, device="cpu"):
    if os.name != "posix":
        pytest.skip("a part is ended by its process group")
    said = []
    code = session.run(parts, tmp_path, seconds, device, said.append)
    return code, json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"], "\n".join(said)


@pytest.mark.slow
def test_a_part_that_fails_or_hangs_costs_nothing_but_itself(tmp_path):
    names = ("bench.planted.hanging", "bench.planted.failing")
    code, parts, _ = run(names, tmp_path)
    assert code == 1
    assert parts[names[0]]["ended"] == "stopped after 5 s"
    assert parts[names[1]]["ended"] == "failed: and at length"
    assert parts[names[1]]["rows"] == [{"device": "cpu"}]
    pid = parts[names[0]]["rows"][0]["pid"]
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or "Z" in status.read_text(encoding="ascii").split()[2]:
            break
        time.sleep(0.05)
    else:
        pytest.fail("what the part started goes on")
    assert run(names[:1], tmp_path, seconds=0.5)[1][names[0]]["ended"] == "no time left"


def test_a_part_that_is_not_there_and_a_page_that_fails_cost_nothing_but_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "markdown", lambda found: found["no such thing"])
    names = ("bench.planted.absent", "bench.planted.asking")
    code, parts, said = run(names, tmp_path)
    assert code == 1
    assert parts[names[0]]["ended"] == "failed: ModuleNotFoundError: No module named 'bench.planted.absent'"
    assert parts[names[1]]["ended"] == "done"
    assert len(parts[names[1]]["rows"]) == 1
    assert "no page: KeyError: 'no such thing'" in said
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_what_a_part_found_is_kept_where_the_session_is_ended(tmp_path, monkeypatch):
    def ended(process):
        process.kill()
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_end", ended)
    with pytest.raises(KeyboardInterrupt):
        run(("bench.planted.failing",), tmp_path)
    (line,) = (tmp_path / "bench.planted.failing.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"device": "cpu"}


def test_the_page_names_what_was_found_and_what_was_not():
    case = {"case": "full float32", "precision": "float32", "seconds": [1.0]}
    versus_rows = [
        {"peer": "ours", "title": "fcgpu"},
        {"peer": "torch", "title": "PyTorch"},
        {"peer": "gone", "title": "Gone"},
        {**case, "peer": "ours", "microseconds_per_step": 1250.5, "ratio": 0.5},
        {**case, "peer": "torch", "microseconds_per_step": 2500.0, "ratio": 1.0},
        {"case": "full float32", "peer": "gone", "skipped": "it has no card"},
    ]
    about = {"case": "full", "precision": "tf32"}
    step = {"step_microseconds": 9.0, "sum_of_launches_microseconds": 8.0, "launches": 1, "floor_microseconds": 2.5}
    launches = [{**about, "launch": "end_step", "microseconds": 3.25}, {**about, **step}]
    parts = {
        "versus": {"title": "steps", "ended": "done", "rows": versus_rows},
        "profile": {"title": "a profile", "ended": "done", "rows": launches},
        "limits": {"title": "limits", "ended": "stopped after 5 s", "rows": [{"what": "a|b", "rate": 123456.0}]},
    }
    machine = {"gpu": "a card", "cores": 3, "processor": "a processor"}
    found = {
        "machine": machine,
        "python": "3.12",
        "versions": {"numpy": "2"},
        "commit": "c",
        "date": "d",
        "parts": parts,
    }
    page = markdown(found)
    for line in (
        "|  | fcgpu | PyTorch | ratio |",
        "| full float32 | 1,250.5 | 2,500.0 | 0.50 |",
        "full float32 gone: it has no card  ",
        "| full tf32 | 9.0 | 8.0 | 1 | 2.5 |",
        "| end_step | 3.2 |",
        "This part did not finish: stopped after 5 s.",
        "| a/b | 1.235e+05 |",
    ):
        assert line in page.splitlines(), line


def test_without_a_gpu_every_part_says_so_by_name(tmp_path):
    try:
        fcgpu.choose("cuda")
    except fcgpu.DeviceError:
        code, parts, said = run(("limits",), tmp_path, device="cuda")
        assert code == 1
        assert parts["limits"]["ended"].startswith("no GPU: device='cuda': ")
        assert "limits: copies, launches and products of this machine\n  no GPU: " in said
    else:
        pytest.skip("there is a GPU")


def test_what_the_machine_can_do(device):
    found = list(limits.rows("cuda"))
    assert [row["what"] for row in found[:4]] == [
        "copy on the device", "copy from the host, pinned", "copy from the host, pageable", "launch of a kernel",
    ]  # fmt: skip
    assert found[0]["bytes_per_second"] == 2 * 4096 / 1e-3  # a round takes a millisecond on the double
    assert found[3]["seconds"] == found[3]["in_a_graph"] == pytest.approx(1e-3 / 3)
    assert len(found) == 4 + 2 * 4


TESTS = """
import os, pathlib, pytest

def test_passes(pytestconfig): assert pytestconfig.rootpath == pathlib.Path(__file__).parent
def test_fails(): assert 1 + 1 == 3
@pytest.mark.skip
def test_is_skipped(): pass
def test_ends_its_process(): os._exit(7)
@pytest.fixture
def broken(): raise ValueError("no such thing")
def test_of_what_is_broken(broken): pass
"""


@pytest.mark.slow
def test_a_suite_tells_what_became_of_every_test(tmp_path, monkeypatch):
    (tmp_path / "test_planted.py").write_text(TESTS, encoding="ascii")
    (tmp_path / "pytest.ini").write_text("[pytest]", encoding="ascii")
    monkeypatch.setattr(suite, "WORDS", ("-n", "1", "-p", "no:cacheprovider"))
    monkeypatch.setenv("PYTHONPATH", str(suite.ROOT))
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    found, *failures = suite.rows("cpu", limit=600.0)
    assert found["summary"] == "exit code 1"
    assert [found[key] for key in ("tests", "passed", "failed", "skipped")] == [5, 1, 3, 1]
    assert found["running"] == found["not_ended"] == []
    texts = {row["failure"].partition("::")[2]: (row["when"], row["text"]) for row in failures}
    assert sorted(texts) == sorted(name.partition("::")[2] for name in found["failures"])
    assert texts["test_fails"][0] == "call"
    assert "assert (1 + 1) == 3" in texts["test_fails"][1]
    assert texts["test_of_what_is_broken"][0] == "setup"
    assert "no such thing" in texts["test_of_what_is_broken"][1]
    assert "crashed" in texts["test_ends_its_process"][1]
    page = list(TABLES["suite"]([found, *failures]))
    assert page[0] == "exit code 1: 1 passed, 3 failed, 1 skipped of 5 tests.  "
    assert len(page) == 4


def test_a_suite_that_does_not_start_tells_why(monkeypatch):
    monkeypatch.setattr(suite, "WORDS", ("--no-such-option",))
    (found,) = suite.rows("cpu", limit=600.0)
    assert (found["summary"], found["tests"]) == ("exit code 4", 0)
    assert "unrecognized arguments: --no-such-option" in found["said"]


def test_a_suite_is_stopped_in_time_to_tell_what_it_has_seen(monkeypatch):
    """Also if the session leaves it only two seconds; the pytest that it runs here never ends."""
    line = json.dumps({"began": "one"})  # into the file of --watch=FILE
    program = f"import sys, time; open(sys.argv[-1][8:], 'a').write({line!r} + chr(10) + '{{'); time.sleep(60)"
    monkeypatch.setattr(suite, "words", lambda: [sys.executable, "-c", program])
    (found,) = suite.rows("cpu", limit=2.0)
    assert found["summary"] == "stopped after 1 s"
    assert found["running"] in (["one"], [])


def test_a_suite_that_was_stopped_tells_what_had_ended_and_what_had_not():
    names = ["one", "two", "three", "four", "five"]
    bad = {"name": "two", "how": "failed", "when": "call", "text": "why"}
    lines = [
        {"collected": names}, *({"began": name} for name in names[:4]), bad,
        *({"name": name, "how": "passed", "when": "teardown", "text": ""} for name in ("one", "two")),
        {"name": "three", "how": "skipped", "when": "setup", "text": ""},
    ]  # fmt: skip
    found, failure = suite.told("stopped after 3 s", lines, "...\n")
    assert [found[key] for key in ("tests", "passed", "failed", "skipped")] == [5, 1, 1, 1]
    assert found["running"] == ["four"]
    assert found["not_ended"] == ["four", "five"]
    assert found["failures"] == ["two"]
    assert failure == {"failure": "two", "when": "call", "text": "why"}


@pytest.mark.parametrize("installed", [True, False])
def test_each_gpu_test_has_its_time_where_a_plugin_can_end_it(installed, monkeypatch):
    monkeypatch.setattr(suite, "find_spec", lambda name: (name == "pytest_timeout" and installed) or None)
    assert ("--timeout=60" in suite.words()) == installed


def test_a_part_is_told_what_the_session_leaves_it(tmp_path, monkeypatch):
    told = []
    for name, rows in {
        "watches": lambda device, limit=150.0: told.append(limit) or [],
        "does_not": lambda device: told.append(device) or [],
    }.items():
        monkeypatch.setitem(sys.modules, f"planted.{name}", SimpleNamespace(rows=rows))
        assert part.main(f"planted.{name}", "cpu", str(tmp_path / "rows"), str(time.time() + 1000)) == 0
    assert 900 < told[0] <= 1000
    assert told[1] == "cpu"


def test_a_session_tells_a_part_its_time(tmp_path):
    code, parts, _ = run(("bench.planted.asking",), tmp_path, seconds=30.0)
    assert code == 0
    assert 0 < parts["bench.planted.asking"]["rows"][0]["limit"] < 30


@pytest.mark.slow
def test_own_products_are_timed_beside_cublass(device, monkeypatch):
    device.xp.attributes["MaxSharedMemoryPerBlockOptin"] = 232_448
    monkeypatch.setattr(plan_gpu, "why_layers", lambda *arguments, **options: "a test asks for it")
    for name, value in {"STEPS": 1, "REPEATS": 1, "FEATURES": 6}.items():
        monkeypatch.setattr(few, name, value)
    *alone, step = few.rows("cuda", ((16, 8, 8),), ((4, 4),), (2,))
    assert [(row["transposed"], row["multiplications"]) for row in alone] == [("", 1024), ("a", 1024), ("b", 1024)]
    for row in (*alone, step):
        assert row["own_microseconds"] > 0
        assert row["cublas_microseconds"] > 0


def test_predictions_are_timed_from_the_device_and_from_the_host(device, mnist, monkeypatch):
    monkeypatch.setattr(predict, "CALLS", 2)
    monkeypatch.setattr(fcgpu, "load", lambda source: replace(mnist, X=mnist.X[:300], y=mnist.y[:300]))
    (found,) = predict.rows("cuda", (3,))
    assert found.pop("samples") == 3
    assert min(found.values()) > 0
    assert list(found)[:2] == ["fcgpu, floats on the GPU, us", "fcgpu, bytes on the host, us"]


@pytest.mark.slow
def test_small_batches_are_timed_in_both_ways(device):
    found = list(small.rows("cuda", (7,), ("adam",)))
    assert [(row["batch"], row["cluster"], row["launches"]) for row in found] == [
        (7, "graph of 2 steps", "graph of 2 steps")
    ]


def test_a_profile_has_every_launch_of_a_step(device, monkeypatch):
    small = replace(profile.TIMED["batch-10"], rows=30)
    monkeypatch.setattr(profile, "TIMED", {"small": small})
    *launches, whole = profile.rows("cuda", ("small",), ("float32",))
    names = [row["launch"].split()[0] for row in launches]
    assert names == [
        "load", *["product", "sigmoid"] * 2, "product", "binary_cross_entropy", "end_step",
        "product", "product", "sigmoid_backward", "product", "product", "sigmoid_backward", "product",
        "gradient_descent",
    ]  # fmt: skip
    assert whole["launches"] == len(launches) == work_of(fcgpu.Spec((784, 128, 64, 10)), 10).launches
    assert not whole["why_eager"]
    assert whole["bytes_read"] == 10 * 784


@pytest.mark.slow
def test_a_profile_stays_where_learning_rates_are_known(device, monkeypatch):
    """Before the launches are noted and repeated, an epoch has run with more steps than there are known rates."""
    monkeypatch.setattr(ahead, "AHEAD", 1)
    monkeypatch.setattr(profile, "TIMED", {"small": replace(profile.TIMED["batch-10"], rows=200)})
    assert "end_step" in [row.get("launch") for row in profile.rows("cuda", ("small",), ("float32",))]


def test_tiles_of_a_full_batch(device):
    assert [row["tile"] for row in chunks.rows("cuda", tiles=(64, 25), samples=64)] == [64, 25]


def test_the_steps_from_which_a_gpu_pays_for_its_start(device):
    first, *rows = crossover.rows("cuda", hidden=((4,),), batches=(8, 64), seconds=0.001)
    assert first["gpu"] == "a double on the CPU"
    assert [(row["batch"], row["launches"]) for row in rows] == [(8, 11), (64, 11)]
    for row in rows:
        saved, steps = row["cpu_seconds"] - row["gpu_seconds"], row["steps_from_which_the_gpu_wins"]
        assert (steps is None) == (saved <= 0)
        assert steps is None or steps * saved == pytest.approx(GPU_START)


class Asked(Here):
    """`Here` with the time limit of `Remote.ask`, and a peer that exceeds it."""

    def ask(self, verb, *arguments, within=None):
        if verb == "warm" and self._of[0].endswith("scikit"):
            raise PeerError("it did not warm within 90 s")
        return super().ask(verb, *arguments)


def test_peers_are_measured_refused_or_skipped_by_name(mnist, monkeypatch):
    monkeypatch.setattr(fcgpu, "load", lambda source: mnist)
    pytest.importorskip("sklearn")
    case = Case("small", "a small case", rows=640, batch=16)
    modules = ["bench.peers.ours", "bench.peers.scikit", "bench.planted.wrong", "bench.peers.absent"]
    rows = list(versus.rows("cpu", [case], modules, Asked, rounds=2))
    by_peer = {
        (row["peer"], next(iter(set(row) & {"refused", "skipped", "ratio", "seconds", "versions"}))) for row in rows
    }
    assert ("wrong", "refused") in by_peer
    assert {row["peer"]: row["skipped"] for row in rows if "skipped" in row} == {
        "absent": "bench.peers.absent is not installed",
        "scikit": "it did not warm within 90 s",
    }
    ours = next(row for row in rows if row["peer"] == "ours" and "seconds" in row)
    assert ours["microseconds_per_step"] == pytest.approx(1e6 * np.median(ours["seconds"]) / 40)


def test_peers_that_compile_are_set_up_together(mnist, monkeypatch):
    monkeypatch.setattr(fcgpu, "load", lambda source: mnist)
    pytest.importorskip("sklearn")
    cases = [Case(f"small {precision}", "a small case", rows=64, batch=64) for precision in ("float32", "tf32")]
    rows = list(compilers.rows("cpu", cases, ("ours", "scikit"), Asked, rounds=2))
    assert [(row["case"], row["peer"]) for row in rows if "seconds" in row] == [(case.name, "ours") for case in cases]
    assert [row["skipped"] for row in rows if "skipped" in row] == 2 * ["it did not warm within 90 s"]


def test_the_cases_of_adam_are_named_once():
    assert len({case.name for case in ADAM}) == len(ADAM)
    assert {case.peers for case in ADAM} == {"bench.adam"}
    assert not any("compiled" in module for module in versus.quick("bench.adam"))


class Failing(Asked):
    """`Asked` with a peer that fails in its second timed call."""

    calls = 0

    def ask(self, verb, *arguments, within=None):
        if self._of[0].endswith("scikit") and verb == "call":
            self.calls += 1
            if self.calls == 2:
                raise PeerError("its process ended with code -9")
        return Here.ask(self, verb, *arguments)


@pytest.mark.slow
def test_a_peer_that_fails_while_it_is_timed_costs_its_own_times_alone(mnist, monkeypatch):
    monkeypatch.setattr(fcgpu, "load", lambda source: mnist)
    pytest.importorskip("sklearn")
    cases = [Case(name, "a small case", rows=640, batch=16) for name in ("one", "two")]
    rows = list(versus.rows("cpu", cases, ["bench.peers.ours", "bench.peers.scikit"], Failing, rounds=3))
    assert [(row["case"], row["peer"], row["skipped"]) for row in rows if "skipped" in row] == [
        ("one", "scikit", "its process ended with code -9")
    ]
    timed = {(row["case"], row["peer"]): row for row in rows if "seconds" in row}
    assert sorted(timed) == [("one", "ours"), ("two", "ours"), ("two", "scikit")]
    assert {len(row["seconds"]) for row in timed.values()} == {3}
    assert "ratio" not in timed["one", "ours"]
    assert timed["two", "ours"]["fastest_other"] == "scikit"


def test_peers_are_not_begun_when_the_time_is_over(mnist, monkeypatch):
    monkeypatch.setattr(fcgpu, "load", lambda source: mnist)
    case = Case("small", "a small case", rows=640, batch=16)
    *_, last = versus.rows("cpu", [case], ["bench.peers.ours"], Asked, limit=session.MARGIN)
    assert last == {"case": "small", "peer": "ours", "skipped": "no time left"}


def test_the_default_recipe_end_to_end(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("".join(f"{i % 2},{i},{-i}\n" for i in range(20)), encoding="ascii")
    found = recipe.whole("cpu", str(path), "--epochs", "1")
    assert found["process_seconds"] > found["seconds"] > 0
    assert found["device"] == "cpu"
    assert "device='cpux' is not a device" in recipe.whole("cpux")["failed"]


def test_every_precision_has_a_tolerance_and_its_cases():
    names = [case.name for case in versus.cases()]
    assert names[0] == "full float32"
    assert len(set(names)) == 9
    assert {case.precision for case in versus.cases()} == {"float32", "tf32", "bfloat16"}


def test_the_page_in_the_repository_is_that_of_its_numbers():
    results = Path(__file__).parents[1] / "bench/results"
    assert (results / "gpu.md").read_text("utf-8") == markdown(json.loads((results / "gpu.json").read_text("utf-8")))
