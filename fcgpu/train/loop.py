"""`train`: checks recipe and data, plans the run, and yields its events."""

from collections.abc import Generator
from functools import partial
from typing import Any

import numpy as np

from fcgpu.backend import Backend, as_numpy, choose
from fcgpu.data import CSV
from fcgpu.data.dataset import Dataset, check_weights, dataset, refuse_unknown_labels, targets
from fcgpu.data.labels import not_a_label, shown
from fcgpu.errors import ConfigError, DataError, whole
from fcgpu.host import cpu_count
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import Spec
from fcgpu.train.attempts import Attempts
from fcgpu.train.events import EpochEnded, Event
from fcgpu.train.held_out import Part, held_out, with_test_samples
from fcgpu.train.order import Order
from fcgpu.train.pixels import pixels_as_bytes
from fcgpu.train.plan import Plan, plan, work_of
from fcgpu.train.recipe import Recipe
from fcgpu.train.run import Monitor, Run
from fcgpu.train.standardized import standardization, unused, with_a_scale
from fcgpu.train.state import State

SHARES_OFF = 0.02  # how far the shares of a sample may be from adding up to 1, if they were rounded to a few digits


def train(
    data: Dataset | tuple[Any, Any] | tuple[Any, Any, Any, Any],
    recipe: Recipe | None = None,
    *,
    device: str | Backend = "auto",
    threads: int | None = None,
    memory_budget: int | None = None,
    sample_weight: Any = None,
    start: State | None = None,
    order: Any = None,
    monitor: Monitor | None = None,
    sample_ids: Any = None,
    **changes: Any,
) -> Generator[Event, None, None]:
    """Train a network and yield Started, an EpochEnded for each epoch, and Finished with the model.

        *_, finished = fcgpu.train((X, y), hidden=(128, 64), epochs=50)
        finished.model.predict(X)

    data : a Dataset, or (X, y) or (X, y, X_test, y_test), with X (n_samples, n_features) and y (n_samples,) labels or
        targets. y may also be (n_samples, n_outputs) targets: for output="sigmoid" numbers from 0 to 1, as in
        multilabel problems; for "softmax" each row must add up to 1.
    recipe, **changes : a Recipe, by default Recipe(), and keys of it to change.
    device : "auto", "cpu", "cuda", "cuda:N" or a Backend; see `choose`.
    threads : CPU threads; None for all processors, or OMP_NUM_THREADS if that is less. They change no bit of the
        result.
    memory_budget : bytes; None for half of what is free, of a GPU's memory 90 %. On the CPU it changes no bit of the
        result, and an X that is mapped from disk (np.load(..., mmap_mode="r")) does not count.
    sample_weight : (n_samples,) finite numbers of 0 or more; None for equal weights. The loss of a batch is its
        weighted mean.
    start : the State of an earlier run to resume: its epochs count, and none follow if they are all of `epochs`.
        State(params) starts from these parameters with epoch 1. With standardize they are those for the standardized
        samples, as in event.state(), not those of a Model.
    order : an object with NumPy's permutation(n), which draws the order of mini-batches. None: from the seed.
    monitor : a function of EpochEnded that returns the number that early stopping watches; less is better. Its
        attribute `what`, if it has one, names that number in Finished.stopped. None: with early_stopping the loss of
        the held-out samples, else the training loss; `tol` is then in units of standardized targets, if they are.
    sample_ids : (n_samples,) uint32, from which dropout's masks are drawn: equal ids get equal masks. None: 0, 1, ...

    Everything is checked by the call itself, before the first event. It raises DataError, ConfigError or DeviceError,
    and CheckpointError if the optimizer's state in `start` is not for this run.
    The generator raises DivergenceError when the loss is no longer finite, DeviceError when a GPU runs out of memory.
    """
    recipe = _recipe(recipe).but(**changes)
    threads, memory_budget = whole("threads", threads), whole("memory_budget", memory_budget, "of bytes")
    if not isinstance(data, Dataset):
        data = dataset(*_arrays(data))
    weights = None if sample_weight is None else check_weights(sample_weight, data.n_samples, recipe.dtype, data.name)
    if sample_ids is not None and (sample_ids := np.asarray(as_numpy(sample_ids))).shape != (data.n_samples,):
        raise DataError(f"{data.name}: sample_ids has shape {sample_ids.shape}; expected ({data.n_samples},)")
    samples = with_test_samples(Part(data, weights, sample_ids), recipe, memory_budget)
    data = samples.data
    spec, _ = fit_to(recipe, data)
    for why in unused(changes, recipe, data):
        raise ConfigError(why)
    for key in ("image_size", "target_column"):
        if changes.get(key):
            raise ConfigError(f"{key}={changes[key]!r} changes nothing for data that are loaded: give it to fcgpu.load")
    if start is not None:
        _check_start(start, spec, recipe)
    if order is not None and not callable(getattr(order, "permutation", None)):
        raise ConfigError(f"order={_shortened(order)}: expected an object with permutation(n), as NumPy's Generator")
    if monitor is not None and not callable(monitor):
        raise ConfigError(f"monitor={_shortened(monitor)}: expected a function of EpochEnded; less is better")
    batch = recipe.batch_of(data.n_samples)
    backend = choose(device, work_of(spec, batch, recipe.epochs * -(-data.n_samples // batch)), data.X)
    if recipe.precision != "float32" and not backend.on_gpu:
        raise ConfigError(
            f"precision={recipe.precision!r} is for a GPU, and this run is on the CPU ({backend.reason}): leave it out"
        )
    watched = None
    if recipe.early_stopping and monitor is None:
        samples, watched = held_out(samples, recipe, "validation_fraction", memory_budget)
    data, weights, sample_ids = samples
    y, n_threads = fit_to(recipe, data)[1], threads or cpu_count()
    with backend.enough_memory("standardize=True copies X there: free its memory, or give cupy.asnumpy(X)"):
        data = with_a_scale(data, recipe)
        standard = standardization(recipe, data, weights)
        if standard.mean is not None:
            X, times = standard.features(data.X, recipe.dtype, backend, n_threads), 1
    if standard.mean is None:
        X, times = pixels_as_bytes(data.X, backend, n_threads)
    if standard.target_mean is not None:
        y = standard.targets(targets(data, data.y), recipe.dtype)
    cut = partial(
        plan, spec, (X if backend.on_gpu else data.X, y), recipe, backend,
        threads=threads, weighted=weights is not None, beside=0 if watched is None else watched.data.X.nbytes, taken=X,
    )  # fmt: skip

    sample_order = Order(order, recipe.seed, data.n_samples)
    if start is not None and start.order:
        sample_order.restore(start.order)

    def build(made: Plan) -> Run:
        sample_order.begin()
        watch = monitor
        if watched is not None:
            watch = _loss_on(watched, recipe, backend, threads, resident=not made.chunk)
        return Run(
            recipe, data, spec, X, y, backend, made,
            times=times, standard=standard, weights=weights, start=start, order=sample_order, monitor=watch,
            tol=recipe.tol * (1.0 if monitor else standard.loss_unit), ids=sample_ids,
        )  # fmt: skip

    return Attempts(backend, cut, build).events(memory_budget)


def _recipe(given: Any) -> Recipe:
    if given is None:
        return Recipe()
    if isinstance(given, list | tuple) or hasattr(given, "__array__"):  # train(X, y), as other libraries have it
        raise ConfigError(f"recipe={_shortened(given)}: samples and labels are one argument: train((X, y), ...)")
    if not isinstance(given, Recipe):
        raise ConfigError(
            f"recipe={_shortened(given)}: expected a Recipe; fcgpu.load_recipe(name) loads one by its name or from a "
            "TOML file, and its keys may be arguments of train"
        )
    return given


def _check_start(start: Any, spec: Spec, recipe: Recipe) -> None:
    if not isinstance(start, State):
        raise ConfigError(f"start={_shortened(start)}: expected a State, such as event.state() or State(params)")
    if (found := getattr(start.params, "shape", None)) != (spec.n_params,):
        wrong = f"{start.params.size} parameters" if found else f"params={_shortened(start.params)}"
        raise ConfigError(f"start has {wrong}: expected an array of this network's {spec.n_params} parameters")
    if start.epochs > recipe.epochs:
        raise ConfigError(
            f"epochs={recipe.epochs} is less than the {start.epochs} epochs of start, which it counts, too: "
            "State(start.params) begins again with epoch 1"
        )


def _arrays(data: Any) -> Any:
    if not isinstance(data, tuple | list) or len(data) not in (2, 4):
        raise DataError(
            f"data={_shortened(data)}: expected (X, y) or (X, y, X_test, y_test), or a Dataset, which fcgpu.load(path) "
            "makes of files"
        )
    return data


def _shortened(value: Any) -> str:
    """repr(value) for an error message; if it is long, only the type."""
    words = repr(value)
    return words if len(words) <= 60 and "\n" not in words else f"a {type(value).__name__}"


def fit_to(recipe: Recipe, data: Dataset) -> tuple[Spec, Any]:
    """The Spec of a recipe's network for these data, and the training targets in the form that its loss takes.

    Raises DataError if the labels do not fit the recipe's output.
    """
    y = data.y
    if not OUTPUTS[recipe.output].classifies:
        given = targets(data, y)
        with np.errstate(over="ignore"):
            y = given.astype(recipe.dtype, copy=False)
        if not np.isfinite(y).all():
            raise DataError(
                f"{data.name}: targets run from {given.min():g} to {given.max():g}, beyond the range of "
                f"{recipe.dtype}: divide them by their standard deviation, or use dtype='float64'"
            )
        if recipe.output == "exp" and y.min() < 0:
            raise DataError(f"{data.name}: a target is {y.min():g}; output='exp' needs counts of 0 or more")
        n_outputs = y.shape[1]
    elif y.ndim == 2:
        if y.min() < 0 or y.max() > 1:
            raise DataError(
                f"{data.name}: targets of several columns run from {y.min():g} to {y.max():g}; output="
                f"{recipe.output!r} needs them from 0 to 1; for real-valued targets use output='identity'"
            )
        if recipe.output == "softmax" and np.any(off := abs(y.sum(axis=1, dtype=float) - 1) > SHARES_OFF):
            sample = int(np.argmax(off))
            raise DataError(
                f"{data.name}: targets of sample {sample} add up to {y[sample].sum():g}; output='softmax' needs shares "
                "that add up to 1; for several labels a sample use output='sigmoid'"
            )
        y = y.astype(recipe.dtype, copy=False)
        n_outputs = y.shape[1]
    elif data.classes is None:
        refuse_unknown_labels(data)
        first = ""
        if data.name.endswith((*CSV, ".npy")) and not recipe.target_column:
            other = "" if data.name.endswith(".npy") else ", unless target_column names another"
            first = f"; the label is the first column{other}"
        raise DataError(
            f"{data.name}: output={recipe.output!r} needs whole-number or text labels in one column, not "
            f"{not_a_label(y)}{first}; for real-valued targets use output='identity'"
        )
    elif len(data.classes) < 2:
        raise DataError(
            f"{data.name}: every label is {shown(data.classes)}; at least two classes are needed to classify"
        )
    else:
        n_outputs = 1 if recipe.output == "sigmoid" and len(data.classes) == 2 else len(data.classes)
    return Spec((data.n_features, *recipe.hidden, n_outputs), recipe.activation, recipe.output, recipe.init), y


def _loss_on(watched: Part, recipe: Recipe, backend: Backend, threads: int | None, *, resident: bool) -> Monitor:
    data, weights, _ = watched
    X = backend.to_device(data.X) if resident else data.X
    y = fit_to(recipe, data)[1]

    def loss(event: EpochEnded) -> float:
        model = event.model()
        Z = backend.to_host(model.decision_function(X, device=backend, threads=threads))
        return model.score_logits(Z, y, weights).loss

    return loss
