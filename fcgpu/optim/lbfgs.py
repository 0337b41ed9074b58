"""L-BFGS: quasi-Newton steps from the last few changes of parameters and gradient (Nocedal and Wright 2006, 7.2).

The step is a combination of the gradient and the stored s and y, whose coefficients depend only on inner products
(Byrd, Nocedal and Schnabel 1994). Those are kept on the host as small matrices, and the vectors stay on the device: one
iteration is two products of the history (2 m, n) of m pairs with a vector, one of coefficients with the history, and a
line search.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fcgpu.errors import CheckpointError, DivergenceError
from fcgpu.optim.line_search import Point, strong_wolfe

TOL = 1e-5
MOST_TRIALS = 20  # of one line search
FTOL = 2.2e-9  # relative; the factr * eps of L-BFGS-B's defaults, also in float32: on plateaus a loss falls by 1e-7


class LBFGS:
    """`step(w, g, evaluate)` moves the flat parameters w (n,), float32 or float64, by one iteration.

    history_size : number m of stored pairs s = w' - w, y = g' - g. 2 m + 4 vectors like w are allocated, all here.
    tol : stop when no entry of the gradient is larger in magnitude.
    ftol : stop when an iteration but the first, whose direction has no scale, lowers the loss by at most this fraction
        of it.
    max_fun : stop after this many evaluations; None for no limit.

    After a step, `loss` is the loss at w, `gradient` a copy of the gradient at w, and `evaluations` the number of
    evaluations so far. `strayed` is True if the last evaluation may have been at a point other than w. `finished` says
    why the optimizer has stopped, or is "" while it has not. No step raises the loss.

    Slopes are summed in float64, products with the history in w's dtype. An iteration whose line search needs one trial
    copies numbers to the host three times, apart from the loss: the slope along the direction; the slope and the
    largest gradient entry at the trial; the inner products of the new pair.

    `step` raises DivergenceError if the gradient at the start is not finite while the loss is.
    """

    learning_rate = None  # the line search finds the length of a step

    def __init__(
        self,
        w: Any,
        xp: Any,
        *,
        history_size: int = 10,
        tol: float = TOL,
        ftol: float = FTOL,
        max_fun: int | None = None,
    ) -> None:
        m = history_size
        self.xp, self.history_size, self.tol, self.ftol, self.max_fun = xp, m, tol, ftol, max_fun
        self.loss, self.evaluations, self.strayed = math.nan, 0, False
        self.gradient = xp.zeros_like(w)
        self._host = getattr(xp, "asnumpy", np.asarray)
        self._eps = float(np.finfo(w.dtype).eps)
        self._start, self._direction, self._lowest_gradient = (xp.zeros_like(w) for _ in range(3))
        self._history = xp.zeros((2 * m, w.size), dtype=w.dtype)  # s in the first half, y in the second
        self._slots: list[int] = []  # rows of the stored pairs, oldest first
        # Of the stored pairs, oldest first: y_i·y_j, and R⁻¹, where R has s_i·y_j in its upper triangle.
        self._yy, self._inverse = np.zeros((m, m)), np.zeros((m, m))
        self._along = np.zeros(2 * m)  # history · gradient
        self._products = xp.zeros((2, 2 * m), dtype=w.dtype)  # history · y, history · gradient, on the device
        self._numbers = xp.zeros((2,), dtype=np.float64)  # slope and largest gradient entry, on the device
        self._greatest, self._reason = math.nan, ""

    @property
    def finished(self) -> str:
        """Why the optimizer has stopped; "" while it has not."""
        if not self._reason and self.max_fun is not None and self.evaluations >= self.max_fun:
            return f"max_fun={self.max_fun} evaluations are made"
        return self._reason

    def step(self, w: Any, g: Any, evaluate: Callable[[], Any]) -> float:
        """Run one iteration: update w (n,) in place and return the loss at the new w.

        `evaluate` overwrites g (n,) with the gradient at w and returns the loss, a float or a device scalar. The first
        call evaluates at the initial w first. Between calls w must not change; g may be overwritten. Once `finished`, a
        call does nothing. If no trial meets the Wolfe conditions, as at a kink of relu, the trial with the lowest loss
        is taken. If no trial is below the current loss, the history is cleared and steepest descent is tried once
        before the optimizer stops. If an error, or an interrupt, leaves the call, w is what it was.
        """
        first = not self.evaluations
        if first:
            self._begin(g, evaluate)
        if self.finished:
            return self.loss
        before, remembered = self.loss, bool(self._slots)
        self._start[...] = w
        try:
            moved = self._search(w, g, evaluate)
            if not moved and remembered:
                moved = self._search(w, g, evaluate)
        except BaseException:  # an interrupt, after which a trial must not be the network that is kept
            w[...] = self._start
            raise
        if self._greatest <= self.tol:
            self._reason = f"no entry of the gradient is above tol={self.tol:g}"
        elif not moved:
            self._reason = "" if self.finished else "the line search found no step"
        elif not first and before - self.loss <= self.ftol * max(abs(before), abs(self.loss)):
            self._reason = f"the loss fell by no more than {self.ftol:g} of it"
        return self.loss

    def state_on_host(self, host: Callable[[Any], Any]) -> dict[str, Any]:
        """Everything except w that the next step depends on; device arrays are copied by `host`."""
        return {
            "history": host(self._history),
            "gradient": host(self.gradient),
            "yy": self._yy.copy(),
            "inverse": self._inverse.copy(),
            "along": self._along.copy(),
            "slots": np.array(self._slots, dtype=np.int64),
            "loss": self.loss,
            "evaluations": self.evaluations,
            "reason": self._reason,
        }

    def restore(self, state: Mapping[str, Any], to_device: Callable[[Any], Any]) -> None:
        """Load what `state_on_host` returned; its arrays are copied. The next steps are the same, bit for bit.

        Raises CheckpointError if it was saved with another number of parameters or another `history_size`.
        """
        m = self.history_size
        shapes = {"history": self._history.shape, "gradient": self.gradient.shape, "yy": (m, m)}
        state = {**state, **{name: to_device(state[name]) for name in ("history", "gradient") if name in state}}
        for name, expected in (shapes | {"inverse": (m, m), "along": (2 * m,)}).items():
            found = getattr(state.get(name), "shape", "none")
            if expected != found:
                raise CheckpointError(
                    f"the {name} of L-BFGS has shape {found}, expected {expected}: resume with the network and "
                    "history_size that it was saved with"
                )
        for name, kind in {"loss": float, "evaluations": int, "reason": str}.items():
            if not isinstance(state.get(name), kind):
                raise CheckpointError(f"the {name} of L-BFGS is {state.get(name)!r}, expected {kind.__name__}")
        slots = np.unique(state["slots"])
        if state["slots"].ndim != 1 or not np.isin(slots, range(m)).all() or len(slots) != len(state["slots"]):
            raise CheckpointError(f"the slots of L-BFGS are {state['slots']}, expected some of {m}, each once")
        if not np.all((diagonal := state["inverse"].diagonal()[: len(slots)]) > 0):
            raise CheckpointError(f"the diagonal of L-BFGS's inverse has {diagonal.min()}, expected numbers above 0")
        self._history[...], self.gradient[...] = state["history"], state["gradient"]
        self._yy, self._inverse, self._along = (np.array(state[name]) for name in ("yy", "inverse", "along"))
        self._slots = [int(slot) for slot in state["slots"]]
        self.loss, self.evaluations = float(state["loss"]), int(state["evaluations"])
        self._reason = str(state["reason"])

    def _begin(self, g: Any, evaluate: Callable[[], Any]) -> None:
        self.loss = float(evaluate())
        self.evaluations = 1
        self.gradient[...] = g
        _, self._greatest = self._measure(g)
        if not math.isfinite(self.loss):
            self._reason = f"the loss at the start is {self.loss}"
        elif not math.isfinite(self._greatest):
            wider = ", or dtype='float64'" if g.dtype == np.float32 else ""
            raise DivergenceError(
                f"the loss is {self.loss:g} in epoch 1, but an entry of its gradient {self._greatest}: "
                f"try features of a smaller scale{wider}"
            )
        elif self._greatest <= self.tol:
            self._reason = f"no entry of the gradient is above tol={self.tol:g}"

    def _search(self, w: Any, g: Any, evaluate: Callable[[], Any]) -> bool:
        """Move w along the direction to a point that meets the Wolfe conditions, else to the trial of lowest loss.

        Returns False, with the history cleared, if no trial lowered the loss.
        """
        start = lowest = Point(0.0, self.loss, self._aim())
        # Steepest descent has no natural scale: take a first step of length 1, as L-BFGS-B does.
        step = 1.0 if self._slots else 1 / math.sqrt(-start.slope or 1.0)

        def trial(step: float) -> tuple[float, float]:
            nonlocal lowest
            self._move(w, step)
            loss = float(evaluate())
            self.evaluations += 1
            slope, self._greatest = self._measure(g)
            if math.isfinite(slope) and loss < lowest.loss:
                lowest = Point(step, loss, slope)
                self._lowest_gradient[...] = g
            return loss, slope

        trials = MOST_TRIALS if self.max_fun is None else min(MOST_TRIALS, self.max_fun - self.evaluations)
        noise = self._eps * abs(self.loss)
        found = strong_wolfe(trial, start, step, max_trials=trials, noise=noise) if start.slope < 0 else None
        self.strayed = found is None
        if self.strayed:
            self._move(w, lowest.step)
            g[...] = self._lowest_gradient if lowest.step else self.gradient
            _, self._greatest = self._measure(g)
        reached = found or lowest
        if reached.step:
            self.loss = reached.loss
            self._remember(w, g, -reached.step * start.slope)
        else:
            self._slots.clear()
        return reached.step > 0

    def _move(self, w: Any, step: float) -> None:
        self.xp.multiply(self._direction, step, out=w)
        w += self._start

    def _measure(self, g: Any) -> tuple[float, float]:
        """(slope along the direction, largest magnitude of an entry) for the gradient g."""
        self._numbers[0:1] = (self._direction * g).sum(dtype=np.float64)
        self._numbers[1:2] = self.xp.abs(g).max()
        slope, greatest = self._numbers.tolist()
        return slope, greatest

    def _remember(self, w: Any, g: Any, drop: float) -> None:
        """Store s and y in a free slot or over the oldest pair; fetch the history's products with y and with g.

        drop : minus s times the gradient before the step, the decrease of the loss along its tangent.
        """
        xp, m = self.xp, self.history_size
        if len(self._slots) == m:
            slot = self._slots.pop(0)
            for matrix in (self._yy, self._inverse):
                matrix[:-1, :-1] = matrix[1:, 1:]
        else:
            slot = min(set(range(m)) - set(self._slots))
        y = self._history[m + slot]
        xp.subtract(w, self._start, out=self._history[slot])
        xp.subtract(g, self.gradient, out=y)
        self.gradient[...] = g
        xp.matmul(self._history, y, out=self._products[0])
        xp.matmul(self._history, self.gradient, out=self._products[1])
        along_y, self._along = self._host(self._products).astype(np.float64)
        k, order = len(self._slots), np.array([*self._slots, slot])
        sy, yy = along_y[order], along_y[m + order]
        # Otherwise it is rounding error, not curvature. L-BFGS-B's test, which is the same in all units of w and loss.
        if sy[k] > self._eps * drop and math.isfinite(yy[k]):
            self._slots.append(slot)
            self._yy[: k + 1, k] = self._yy[k, : k + 1] = yy
            self._inverse[:k, k] = self._inverse[:k, :k] @ sy[:k] / -sy[k]
            self._inverse[k, k] = 1 / sy[k]

    def _aim(self) -> float:
        """Set the direction to -H times the gradient, H being the inverse Hessian's estimate; return the slope."""
        xp, m = self.xp, self.history_size
        if self._slots:
            k, order, coefficients = len(self._slots), np.array(self._slots), np.zeros(2 * m)
            a, p, scale = compact(self._inverse[:k, :k], self._yy[:k, :k], self._along[order], self._along[m + order])
            coefficients[order], coefficients[m + order] = -a, scale * p
            xp.matmul(xp.asarray(coefficients, dtype=self.gradient.dtype), self._history, out=self._direction)
            self._direction -= scale * self.gradient
        else:
            xp.multiply(self.gradient, -1, out=self._direction)
        slope = float((self._direction * self.gradient).sum(dtype=np.float64))
        if slope < 0 or not self._slots:
            return slope
        self._slots.clear()  # rounding errors have made the history useless
        return self._aim()


def compact(inverse: Any, yy: Any, sg: Any, yg: Any) -> tuple[Any, Any, float]:
    """(a, p, γ) such that H g = γ (g - Σ p_i y_i) + Σ a_i s_i: Byrd, Nocedal and Schnabel (1994), equation 3.1.

    inverse : (k, k), R⁻¹, where R has s_i·y_j of the k stored pairs, oldest first, on and above its diagonal D.
    yy : (k, k), y_i·y_j. sg, yg : (k,), s_i·g and y_i·g.

    p = R⁻¹ Sᵀg and a = R⁻ᵀ (D p + γ (YᵀY p - Yᵀg)), with γ = s·y / y·y of the newest pair; γ I is the initial H.
    """
    D = 1 / inverse.diagonal()
    scale = float(D[-1] / yy[-1, -1])
    p = inverse @ sg
    return inverse.T @ (D * p + scale * (yy @ p - yg)), p, scale
