"""`fcgpu bench` and what it counts, on a simulated clock where numbers matter."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import threadpoolctl
from command import call
from device_double import double_backend

import fcgpu
from fcgpu import bench
from fcgpu.bench import Limits, Throughput
from fcgpu.workers import _blas


@pytest.fixture
def small(monkeypatch):
    """The command's work, reduced to milliseconds."""
    for name, value in {"SAMPLES": 64, "PRODUCT": 16, "COPY_BYTES": 1 << 12}.items():
        monkeypatch.setattr(bench, name, value)


def test_operations_of_a_sample_are_those_of_its_products():
    spec = fcgpu.Spec((3, 2, 4))
    forward, weights, below = 3 * 2 + 2 * 4, 3 * 2 + 2 * 4, 2 * 4
    assert bench.work_of(spec, 1).flop == 2 * (forward + weights + below)


def test_traffic_of_a_sample_is_its_features_twice_and_its_share_of_the_update():
    spec = fcgpu.Spec((3, 2, 4))
    n_params = 3 * 2 + 2 + 2 * 4 + 4
    assert bench.traffic(spec, batch=5, itemsize=8, feature_size=1) == 2 * 3 + 4 * 8 * n_params / 5


def test_limits_come_first_and_then_every_network_and_batch(small):
    cpu = fcgpu.choose("cpu")
    first, *rest = bench.measure([cpu], seconds=0.01, hidden=((8,), ()), batches=(16, "full"))
    assert isinstance(first, Limits)
    assert first.flops > 0
    assert first.bandwidth > 0
    assert [(row.sizes, row.batch) for row in rest] == [
        ((784, 8, 10), 16), ((784, 8, 10), "full"), ((784, 10), 16), ((784, 10), "full"),
    ]  # fmt: skip
    for row in rest:
        assert row.samples % 64 == 0
        assert row.seconds >= 0.01
        seconds = bench.product_seconds(fcgpu.Spec(row.sizes), first)
        assert row.compute_share == pytest.approx(row.samples_per_second * seconds)


def test_products_of_pixels_have_a_limit_of_their_own():
    limits = Limits(fcgpu.choose("cpu"), flops=12.0, pixel_flops=48.0, bandwidth=1.0)
    first, behind = 2 * 2 * (3 * 2), 3 * 2 * (2 * 4)  # layer 1: forward and dW; layer 2: also dA
    assert bench.product_seconds(fcgpu.Spec((3, 2, 4)), limits) == first / 48 + behind / 12


def timed(monkeypatch, seconds):
    """Run each work of a limit once, and report the given seconds for it, in order."""
    made_up = iter(seconds)

    def best(backend, work, share):
        work()
        return next(made_up)

    monkeypatch.setattr(bench, "_best", best)


def test_the_limit_of_pixels_is_that_of_the_unit_which_multiplies_them(small, monkeypatch):
    called = []
    unit = SimpleNamespace(multiply_bytes=lambda A, B, C, alpha, add, tiles: called.append((A.shape, B.shape, C.shape)))
    monkeypatch.setattr(bench, "compiled", SimpleNamespace(native=unit, has_tile_unit=lambda: True))
    monkeypatch.setattr(bench, "cpu_count", lambda: 2)
    timed(monkeypatch, [8.0, 64.0, 4.0, 2.0, 1.0])  # two products of float32, two of bytes, a copy
    limits = bench._limits(fcgpu.choose("cpu"), 1.0)
    layer, square = 2 * 2 * 16 * 784 * 128, 2 * 2 * 16**3
    assert (limits.flops, limits.pixel_flops) == (max(square / 8, layer / 64), layer / 2)
    assert limits.bandwidth == 2 * bench.COPY_BYTES  # read, and written
    assert called == [((16, 784), (784, 128), (16, 128))] * 2 + [((784, 16), (16, 128), (784, 128))] * 2
    monkeypatch.setattr(bench, "compiled", SimpleNamespace(has_tile_unit=lambda: False))
    timed(monkeypatch, [1e-3, 64.0, 1.0])
    limits = bench._limits(fcgpu.choose("cpu"), 1.0)
    assert limits.pixel_flops == limits.flops == square / 1e-3


@pytest.mark.parametrize("cores", [1, 2])
def test_each_core_multiplies_on_one_thread_of_blas_also_where_a_quota_leaves_one_core(cores, small, monkeypatch):
    def found():
        return {blas["num_threads"] for blas in _blas().info() if blas["user_api"] == "blas"}  # not SciPy's own

    threads, best = [], bench._best
    monkeypatch.setattr(bench, "_best", lambda *words: threads.append(found()) or best(*words))
    monkeypatch.setattr(bench, "cpu_count", lambda: cores)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = found()
        bench._limits(fcgpu.choose("cpu"), 0.01)
        assert threads
        assert all(its <= {1} for its in threads)
        assert found() == before


@pytest.mark.parametrize(("seconds", "calls", "best"), [(1.0, 3, 3.0), (20.0, 5, 2.0)])
def test_the_best_of_at_least_three_calls_counts_and_the_first_does_not(seconds, calls, best, monkeypatch):
    now, lasts = [50.0], iter([1.0, 5.0, 3.0, 4.0, 2.0, 6.0, 1.0])
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def work():
        now[0] += next(lasts)

    assert bench._best(fcgpu.choose("cpu"), work, seconds) == best
    assert len(list(lasts)) == 6 - calls


@pytest.mark.parametrize("cores", [1, 3])
def test_a_copy_reads_and_writes_as_many_bytes_as_it_says(cores, small):
    made = []

    def empty(shape, dtype=float):
        made.append(np.zeros(shape, dtype))
        return made[-1]

    work = bench._copy(replace(fcgpu.choose("cpu"), xp=SimpleNamespace(empty=empty)), cores)
    for core in range(cores):
        work.call(core)
    source, target = made
    assert source.any()
    np.testing.assert_array_equal(target, source)
    assert work.amount == source.nbytes + target.nbytes


def test_small_batches_take_256_steps_an_epoch(small, monkeypatch):
    trained, train = [], bench.train

    def noted(data, *, batch, hidden, threads, **recipe):
        trained.append((data.n_samples, batch, hidden, threads))
        return train(data, batch=batch, hidden=hidden, threads=threads, **recipe)

    monkeypatch.setattr(bench, "SAMPLES", 600)
    monkeypatch.setattr(bench, "train", noted)
    batches = (1, 2, 300, "full")
    for _ in bench.measure([fcgpu.choose("cpu")], seconds=0.01, hidden=((3,),), batches=batches, threads=1):
        pass
    samples = (256, 512, 600, 600)
    assert trained == [(n, batch, (3,), 1) for n, batch in zip(samples, batches, strict=True)]


def test_the_limits_of_a_gpu_are_those_of_its_tensor_cores(small, monkeypatch):
    """A product with pixels is three bfloat16 products; a float32 product in later layers is six."""
    pytest.importorskip("ml_dtypes")
    timed(monkeypatch, [4.0, 0.25, 1.0])
    limits = bench._limits(double_backend(on_chip=True), 1.0)
    assert limits.pixel_flops == pytest.approx(2 * 16**3 / 3 / 0.25)
    assert limits.flops == pytest.approx(2 * 16**3 / 6 / 0.25)
    timed(monkeypatch, [4.0, 1.0])
    limits = bench._limits(double_backend(), 1.0)
    assert limits.pixel_flops == limits.flops == 2 * 16**3 / 4


def test_a_gpu_is_measured_by_the_same_words(small, monkeypatch):
    """Even if it is not the caller's current GPU."""
    backend = replace(double_backend(), device="cuda:1")
    backend.xp.number = 1
    monkeypatch.setattr(bench, "GPU_SAMPLES", 32)
    limits, row = bench.measure([backend], seconds=0.01, hidden=((8,),), batches=(16,))
    assert limits.flops > 0
    assert row.backend is backend
    assert row.samples % 32 == 0


def test_the_first_epoch_is_left_out_and_the_clock_read_when_the_loss_is_there(small, monkeypatch):
    """Epochs of 0.5 s after a first one of 100 s; a clock read before the loss would see no time pass."""
    now, cpu = [0.0], fcgpu.choose("cpu")
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])

    def train(data, **recipe):
        done = 0.0
        for epoch in range(1, 1000):
            done += 100.0 if epoch == 1 else 0.5

            def fetch(done=done):
                now[0] = done
                return 1.0, 0.0, 0

            yield fcgpu.EpochEnded(epoch, 1000, epoch, 0.0, 0, 0.1, None, fetch, None, None, None, 64, True)

    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(bench, "_limits", lambda backend, seconds: Limits(backend, 1e9, 1e9, 1e9))
    _, row = bench.measure([cpu], seconds=3.0, hidden=((8,),), batches=("full",))
    assert (row.samples, row.seconds) == (7 * 64, 3.5)  # epochs 2 to 8
    bytes_a_sample = bench.traffic(fcgpu.Spec(row.sizes), batch=64, itemsize=4, feature_size=1)
    assert row.memory_share == pytest.approx(7 * 64 / 3.5 * bytes_a_sample / 1e9)


def test_the_command_prints_a_table_and_one_object(small, monkeypatch):
    for name, value in {"batches": (16, "full"), "hidden": ((8,),)}.items():
        monkeypatch.setitem(bench.measure.__kwdefaults__, name, value)
    said = call("bench", "--device", "cpu", "--seconds", "0.01", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out.splitlines()[-1])
    assert [limit["device"] for limit in found["limits"]] == ["cpu"]
    for row in found["rows"]:
        assert row["samples_per_second"] == pytest.approx(row["samples"] / row["seconds"])
    table = call("bench", "--device", "cpu", "--seconds", "0.01").out
    assert re.search(r"matrix product .* GFLOP/s", table)
    assert "784-8-10" in table


def test_a_gpu_that_is_missing_is_said(small, monkeypatch):
    def choose(device):
        if device == "cpu":
            return fcgpu.choose("cpu")
        raise fcgpu.DeviceError("there is none")

    monkeypatch.setattr("fcgpu.cli.bench.choose", choose)
    monkeypatch.setattr("fcgpu.cli.bench.measure", lambda backends, **options: iter(()))
    assert "GPU left out: there is none" in call("bench").out


def test_two_devices_stand_side_by_side(monkeypatch):
    cpu = fcgpu.choose("cpu")
    gpu = fcgpu.Backend("cupy", "cuda:0", cpu.xp, "a GPU", "asked for")

    def measure(backends, **options):
        for backend, rate in zip((cpu, gpu), (1000, 25_000), strict=True):
            yield Limits(backend, 1e9, 1e9, 1e9)
            yield Throughput(backend, (784, 8, 10), 128, rate, 1.0, 0.5, 0.25)

    monkeypatch.setattr("fcgpu.cli.bench.choose", {"cpu": cpu, "cuda": gpu}.get)
    monkeypatch.setattr("fcgpu.cli.bench.measure", measure)
    row = next(line for line in call("bench").out.splitlines() if "784-8-10" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["784-8-10", "128", "1,000 (50%, 25%)", "25,000 (50%, 25%)", "25.0"]


def test_ctrl_c_shows_what_is_known(monkeypatch):
    def measure(backends, **options):
        yield Limits(backends[0], 5e9, 6e9, 1e9)
        raise KeyboardInterrupt

    monkeypatch.setattr("fcgpu.cli.bench.measure", measure)
    said = call("bench", "--device", "cpu")
    assert said.code == 130
    assert "matrix product 5 GFLOP/s in float32, 6 with pixels" in said.out
    assert "stopped" in said.err


@pytest.mark.parametrize("words", ["0", "-1", "nan", "many", "1e9"])
def test_seconds_out_of_range_are_refused(words):
    said = call("bench", "--seconds", words)
    assert said.code == 2
    assert f"argument --seconds: '{words}': expected a number from 0.01 to 3600" in said.err
    assert said.err.count("\n") == 1
