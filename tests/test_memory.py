"""A memory budget never changes a bit of the result; data larger than the budget stay on disk."""

import gc
import tracemalloc

import numpy as np
import pytest
from command import call

import fcgpu
from fcgpu.data import npy
from fcgpu.data.features import check_features
from fcgpu.report.judged import judged
from fcgpu.train.checkpoint import fingerprint
from fcgpu.train.loop import fit_to
from fcgpu.train.pixels import Pixels, is_mapped
from fcgpu.train.plan import plan
from fcgpu.train.run import Run
from fcgpu.train.staircase import EPOCHS, staircase

N, FEATURES, CPU = 40_000, 100, fcgpu.choose("cpu")
RECIPE = fcgpu.Recipe(hidden=(128,), epochs=2)


@pytest.fixture(scope="module", params=["dense", "sparse"])
def table(request, tmp_path_factory):
    """A file of 16 MB with labels and features; sparse features are trained in another order."""
    random = np.random.default_rng(7)
    made = random.standard_normal((N, 1 + FEATURES)).astype(np.float32)
    if request.param == "sparse":
        made[random.random(made.shape) < np.linspace(0, 1.2, 1 + FEATURES)] = 0
    made[:, 0] = np.arange(N) % 3
    path = tmp_path_factory.mktemp("memory") / "table.npy"
    np.save(path, made)
    return path


def least(data, recipe, **where):
    """The smallest budget that the plan accepts."""
    spec, y = fit_to(recipe, data)
    low, high = 0, 2**30
    while high - low > 1:
        middle = (low + high) // 2
        try:
            plan(spec, (data.X, y), recipe, CPU, memory_budget=middle, **where)
            high = middle
        except fcgpu.DeviceError:
            low = middle
    return high


def trained(data, recipe, **where):
    started, *_, done = fcgpu.train(data, recipe, device="cpu", **where)
    return started.plan, done.model.params


@pytest.mark.parametrize(
    "changes",
    [{"optimizer": "lbfgs"}, {"dtype": "float64"}, {"batch": 18_000, "dropout": 0.2}],
    ids=["lbfgs", "float64", "batches"],
)
def test_data_larger_than_the_budget_give_the_same_bits(changes, table):
    recipe = RECIPE.but(**changes)
    ample, expected = trained(fcgpu.load(table), recipe)
    data = fcgpu.load(table, memory_budget=4_000_000)
    assert is_mapped(data.X)
    smallest = least(data, recipe)
    fitted = []
    assert data.X.nbytes > smallest
    for budget in (smallest, 5 * smallest):
        cut, found = trained(data, recipe, threads=3, memory_budget=budget)
        assert cut.bytes <= budget
        assert (cut.tile, cut.lanes) == (ample.tile, ample.lanes)
        assert found.tobytes() == expected.tobytes()
        fitted.append((cut.threads, cut.held))
    assert fitted[0] == (1, 2)
    assert fitted[-1] == (3, ample.lanes)


def test_what_is_allocated_stays_within_the_budget(table):
    budget = 6_000_000
    tracemalloc.start()
    data = fcgpu.load(table, memory_budget=budget)
    cut, _ = trained(data, RECIPE, memory_budget=budget, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.X.nbytes > 2.5 * budget
    assert 0.5 * cut.bytes < peak < 1.2 * budget


def test_a_run_with_little_memory_goes_on_with_much(table, tmp_path):
    words = ("train", table, "--hidden", 128, "--epochs", 3, "--device", "cpu", "--quiet")
    for name, memory in (("little", "7MB"), ("much", "1GB")):
        result = call(*words, "--out", tmp_path / name, "--memory", memory, "--checkpoint-every", 1, "--keep", 3)
        assert result.code == 0, result.err
    model = tmp_path / "little/model.safetensors"
    model.unlink()
    for epoch in (2, 3):
        (tmp_path / f"little/checkpoints/epoch-{epoch}.safetensors").unlink()
    result = call("train", "--resume", tmp_path / "little", "--device", "cpu", "--quiet")
    assert (result.code, result.err) == (0, "fcgpu: going on after epoch 1 of 3\n")
    assert model.read_bytes() == (tmp_path / "much/model.safetensors").read_bytes()


def test_early_stopping_does_not_copy_what_does_not_fit(table):
    data = fcgpu.load(table, memory_budget=4_000_000)
    with pytest.raises(fcgpu.ConfigError, match=r"copies the samples, and the 15\.3 MiB of .* raise the memory budget"):
        next(fcgpu.train(data, RECIPE.but(early_stopping=True), device="cpu", memory_budget=4_000_000))
    with pytest.raises(fcgpu.DeviceError, match="on cpu: raise the budget, or use"):  # they are on disk as .npy already
        next(fcgpu.train(data, RECIPE, device="cpu", memory_budget=1000))
    for budget in (40_000_000, None):
        events = fcgpu.train(data, RECIPE.but(early_stopping=True), device="cpu", memory_budget=budget)
        assert next(events).plan.samples == 36_000


def test_a_budget_that_nothing_fits_names_the_least(mnist):
    spec = fcgpu.Spec((784, 128, 64, 10))
    smallest = least(mnist, RECIPE.but(hidden=(128, 64)))
    arguments = (spec, (mnist.X, mnist.y), fcgpu.Recipe(), CPU)
    with pytest.raises(
        fcgpu.DeviceError, match=r"memory budget of 1\.0 MiB is too small.*need at least 5\d\.\d MiB .*npy"
    ):
        plan(*arguments, memory_budget=2**20)
    cut = plan(*arguments, memory_budget=smallest)
    assert (cut.threads, cut.held, cut.lanes, cut.bytes) == (1, 2, 16, smallest)


def test_fewer_lanes_are_held_before_fewer_threads_are_used(mnist):
    arguments = (fcgpu.Spec((784, 128, 64, 10)), (mnist.X, mnist.y), fcgpu.Recipe(), CPU)
    cut = plan(*arguments, threads=8)
    seen = []
    while True:
        seen.append((cut.threads, cut.held))
        try:
            cut = plan(*arguments, threads=8, memory_budget=cut.bytes - 1)
        except fcgpu.DeviceError:
            break
    assert seen == [(8, 16), (8, 9), (7, 8), (6, 7), (5, 6), (4, 5), (3, 4), (2, 3), (1, 2)]


@pytest.mark.parametrize("change", [lambda a: a, np.asfortranarray, lambda a: a.astype(a.dtype.newbyteorder())])
def test_a_mapped_table_is_the_table(change, tmp_path):
    table = np.random.default_rng(0).standard_normal((50, 4))
    table[:, 0] = np.arange(50) % 2
    np.save(tmp_path / "t.npy", change(table))
    whole, mapped = fcgpu.load(tmp_path / "t.npy"), fcgpu.load(tmp_path / "t.npy", memory_budget=1000)
    assert not is_mapped(whole.X)
    assert is_mapped(mapped.X) == (change(table).dtype.isnative and change(table).flags.c_contiguous)
    for name in ("X", "y"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(whole, name))
    assert {**vars(mapped), "X": 0, "y": 0} == {**vars(whole), "X": 0, "y": 0}


def test_a_table_to_be_mapped_is_checked_as_any(tmp_path):
    path = tmp_path / "t.npy"
    np.save(path, np.zeros((50, 4)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(fcgpu.DataError, match="needs 1600 bytes, found 1592"):
        npy.load_npy(path, 10)


@pytest.fixture
def peak():
    """A function that calls another one and returns (its result, the bytes that it had allocated at most)."""

    def measured(function, *args):
        tracemalloc.start()
        result = function(*args)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return result, most

    return measured


def test_the_logits_of_many_classes_are_never_all_in_memory(peak):
    random = np.random.default_rng(0)
    n, k = 10_000, 3_000
    spec = fcgpu.Spec((4, k))
    model = fcgpu.Model(spec, random.standard_normal(spec.n_params).astype(np.float32), tuple(range(k)))
    X, y = random.standard_normal((n, 4)).astype(np.float32), random.integers(0, k, n)
    Z = model.decision_function(X)
    whole, score = model.score_logits(Z, y), peak(model.score, X, y)
    assert score[0] == whole
    assert score[1] < 1.2 * Z.nbytes  # a fifth of what the loss of all at once takes
    predicted, most = peak(model.predict, X)
    np.testing.assert_array_equal(predicted, Z.argmax(axis=1))
    assert most < 0.5 * Z.nbytes
    X[9_000] = 1e38
    for use in (lambda: model.predict(X), lambda: model.score(X, y)):
        with pytest.raises(fcgpu.DivergenceError, match="outputs for sample 9000 are not finite"):
            use()


def test_a_report_does_not_hold_the_probabilities_of_many_classes(peak, tmp_path):
    n, k = 10_000, 3_000
    spec = fcgpu.Spec((1, k))
    model = fcgpu.Model(spec, np.linspace(-1, 1, spec.n_params).astype(np.float32), tuple(range(k)))
    X, y = np.linspace(-1, 1, n).astype(np.float32)[:, None], np.arange(n) % k
    np.savez(tmp_path / "d.npz", X=X, y=y)
    found, most = peak(judged, model, fcgpu.Recipe(data=str(tmp_path / "d.npz")))
    assert most < 4 * n * k
    P = model.predict_proba(X)
    np.testing.assert_array_equal(found.predicted, P.argmax(axis=1))
    np.testing.assert_array_equal(found.sure, P.max(axis=1))
    np.testing.assert_array_equal(found.own, P[np.arange(n), y])


def test_the_keys_of_many_steps_take_little_memory(peak):
    X = np.zeros((10_000, 1), np.float32)
    changes = {"hidden": (1,), "dropout": 0.5, "batch": 1, "epochs": 1}
    _, most = peak(lambda: list(fcgpu.train((X, np.arange(len(X)) % 2), device="cpu", **changes)))
    assert most < 200 * len(X)


def test_wide_data_are_looked_at_a_few_samples_at_a_time(peak):
    wide = np.broadcast_to(np.float32(1), (4096, 5000))  # which take no memory
    assert peak(check_features, wide, "X")[1] < 1e7
    found, most = peak(fingerprint, fcgpu.Dataset(wide, np.zeros(4096)))
    assert found["X"].startswith("float32 4096x5000 ")
    assert most < 2e7
    pixels = np.zeros((1000, 50_000), np.float32)
    pixels[::3, ::7] = 3
    cut = plan(fcgpu.Spec((50_000, 2)), (pixels, np.zeros(1000, int)), fcgpu.Recipe(hidden=()), CPU, threads=1)
    made, most = peak(Pixels(pixels, 1).copy, 1)
    assert most < made.nbytes + 1e7
    stairs, most = peak(lambda: staircase(made, cut, EPOCHS, drawn=False))
    assert stairs.features[0] == 0
    assert most < made.nbytes


@pytest.fixture
def runs():
    """A function that counts the runs in memory, of which the cycle collector has freed none."""
    gc.collect()
    gc.disable()
    yield lambda: sum(isinstance(o, Run) for o in gc.get_objects())
    gc.enable()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "options",
    [{}, {"solver": "lbfgs"}, {"early_stopping": True}, {"callbacks": [lambda event: hasattr(event, "loss")]}],
    ids=["adam", "lbfgs", "early stopping", "stopped by a callback"],
)
def test_an_estimator_frees_its_run(options, runs):
    """A run has the data, on a GPU in device memory, and the next one may need that room."""
    pytest.importorskip("sklearn")
    X, y = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 2
    model = fcgpu.MLPClassifier((4,), max_iter=2, device="cpu", **options).fit(X, y)
    assert not runs()
    model.partial_fit(X, y) if not options else model.predict(X)
    assert not runs()


def test_a_run_is_freed_though_its_monitor_keeps_events(runs):
    class Keeps(list):
        def __call__(self, event):
            self.append(event)
            return event.loss

    X, y, keeps = np.ones((6, 5)), np.arange(6) % 2, Keeps()
    events = fcgpu.train((X, y), epochs=3, device="cpu", monitor=keeps)
    assert len(list(events)) == 5
    assert len(keeps) == 3
    assert runs() == 1  # the events have it
    del keeps, events
    assert not runs()
