"""Compute-optimal allocation and equal-loss multipliers: from a surface, an envelope or isoFLOP parabolas.

C = k N D with k from the table where it has C (`flops_ratio`), else from a convention (6 for '6ND'). All
functions take parameter values as numbers or as arrays of draws, so that intervals propagate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws.errors import LawError
from isoloss.laws.form import Form
from isoloss.laws.points import Points

if TYPE_CHECKING:
    from isoloss.laws.bootstrap import Draws, Interval

Array = np.ndarray
Values = Mapping[str, Any]
GOLDEN = 0.6180339887498949
FLOPS_PER_ND = 6.0
WIDEST = (np.log(1e3), np.log(1e17))  # N and D are sought between these


def flops_ratio(points: Points) -> float:
    """k of C = k N D: the median of C/(N D) where the table has N, D and C, else 6 (the convention 6ND)."""
    if not {"N", "D", "C"} <= set(points.columns):
        return FLOPS_PER_ND
    with np.errstate(all="ignore"):
        ratio = points.numbers("C") / (points.numbers("N") * points.numbers("D"))
    usable = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.median(usable)) if len(usable) else FLOPS_PER_ND


def optimum(form: Form, values: Values, C: Any, k: float = FLOPS_PER_ND, **others: Any) -> dict[str, Any]:
    """N*, D* and L* that minimise a law of (N, D) at compute C = k N D.

    Closed form where the law gives G and a_opt (Hoffmann et al. 2022, equation 4), else golden-section search
    over log N. others: further variables of the law (unique tokens). Raises LawError without N and D.
    """
    _needs_surface(form)
    C = np.asarray(C, dtype=float)
    # NumPy numbers give NaN or infinity where a degenerate law has no optimum; Python's would raise.
    values = {name: np.asarray(value, dtype=float)[()] for name, value in values.items()}
    derived = form.derived()
    if set(form.variables) == {"N", "D"} and {"G", "a_opt"} <= set(derived):
        with np.errstate(all="ignore"):
            N = derived["G"](values) * (C / k) ** derived["a_opt"](values)
    else:
        shape = np.broadcast_shapes(C.shape, *(np.shape(v) for v in values.values()))
        log_pool = np.broadcast_to(np.log(C / k), shape)

        def loss(log_n: Array) -> Array:
            return np.asarray(form.predict(values, {"N": np.exp(log_n), "D": np.exp(log_pool - log_n), **others}))

        N = np.exp(_golden(loss, np.maximum(WIDEST[0], log_pool - WIDEST[1]), np.minimum(WIDEST[1], log_pool)))
    with np.errstate(all="ignore"):
        D = C / (k * N)
    return {"N": N, "D": D, "loss": form.predict(values, {"N": N, "D": D, **others})}


def _needs_surface(form: Form) -> None:
    if not {"N", "D"} <= set(form.variables):
        raise LawError(f"law {form.name!r} is a law of {', '.join(form.variables)}; allocation needs one of N and D")


def _golden(function: Callable[[Array], Array], low: Any, high: Any, steps: int = 80) -> Array:
    """Minimiser of a function that falls, then rises, elementwise."""
    low, high = np.array(low, dtype=float), np.array(high, dtype=float)
    a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    fa, fb = function(a), function(b)
    for _ in range(steps):
        left = fa < fb
        low, high = np.where(left, low, a), np.where(left, b, high)
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        fa, fb = function(a), function(b)
    return 0.5 * (low + high)


def _bisect(function: Callable[[Array], Array], target: Any, low: float, high: float, shape: Any) -> Array:
    """Where a falling function of a logarithm meets the target; NaN where it does not within the range."""
    lo, hi = np.full(shape, low), np.full(shape, high)
    at_low, at_high = function(lo), function(hi)
    for _ in range(100):
        middle = 0.5 * (lo + hi)
        above = function(middle) > target
        lo, hi = np.where(above, middle, lo), np.where(above, hi, middle)
    return np.where((at_low >= target) & (at_high <= target), np.exp(0.5 * (lo + hi)), np.nan)


def iso_loss_compute(form: Form, values: Values, loss: Any, k: float = FLOPS_PER_ND, **others: Any) -> Any:
    """Smallest compute at which the law's optimal loss reaches `loss`; NaN where it never does."""
    shape = np.broadcast_shapes(np.shape(loss), *(np.shape(v) for v in values.values()))
    return _bisect(lambda log_c: optimum(form, values, np.exp(log_c), k, **others)["loss"], loss, 15.0, 75.0, shape)


def iso_loss_data(form: Form, values: Values, loss: Any, N: Any, **others: Any) -> Any:
    """Tokens at which the law reaches `loss` with N parameters; NaN where it never does."""
    _needs_surface(form)
    shape = np.broadcast_shapes(np.shape(loss), np.shape(N), *(np.shape(v) for v in values.values()))
    return _bisect(
        lambda log_d: np.asarray(form.predict(values, {"N": N, "D": np.exp(log_d), **others})),
        loss,
        *WIDEST,
        shape,
    )


def compute_multiplier(
    form: Form,
    values: Values,
    base_form: Form,
    base: Values,
    C: Any,
    k: float = FLOPS_PER_ND,
    base_k: float | None = None,
) -> Any:
    """Compute the base law needs for the loss that the other reaches at its optimum of C, over C.

    k: FLOPs per parameter and token of the law; base_k: of the base law (the same unless given).
    """
    loss = optimum(form, values, C, k)["loss"]
    return iso_loss_compute(base_form, base, loss, k if base_k is None else base_k) / np.asarray(C, dtype=float)


def data_multiplier(form: Form, values: Values, base_form: Form, base: Values, N: Any, D: Any) -> Any:
    """Tokens the base law needs at size N for the loss that the other reaches at (N, D), over D."""
    return iso_loss_data(base_form, base, form.predict(values, {"N": N, "D": D}), N) / np.asarray(D, dtype=float)


def optimum_intervals(draws: Draws, C: float, level: float = 0.9, k: float | None = None) -> dict[str, Interval]:
    """Intervals of N*, D* and L* at compute C; k is that of the fitted table unless given."""
    form = draws.fit.form
    ratio = flops_ratio(draws.fit.points) if k is None else k

    def at(name: str) -> Callable[[Values], Any]:
        return lambda values: optimum(form, values, C, ratio)[name]

    return {name: draws.interval(at(name), level) for name in ("N", "D", "loss")}


def multiplier_interval(
    draws: Draws,
    base: Draws,
    C: float | None = None,
    N: float | None = None,
    D: float | None = None,
    level: float = 0.9,
    k: float | None = None,
) -> Interval:
    """Interval of the compute multiplier at C, or of the data multiplier at (N, D), between two fitted laws.

    k: FLOPs per parameter and token of both; unless given, each law's is that of its own table.
    Draws are matched in order: two bootstraps with one seed and the same clusters stay paired.
    Raises LawError unless either C or both N and D are given.
    """
    from isoloss.laws.bootstrap import Interval, refuse_few

    if (C is None) == (N is None or D is None):
        raise LawError("give either C (compute multiplier) or N and D (data multiplier)")
    refuse_few(min(draws.clusters, base.clusters), draws.unit)
    ratios = [flops_ratio(one.fit.points) if k is None else k for one in (draws, base)]

    def ratio(mine: Values, theirs: Values) -> Any:
        if C is not None:
            return compute_multiplier(draws.fit.form, mine, base.fit.form, theirs, C, *ratios)
        return data_multiplier(draws.fit.form, mine, base.fit.form, theirs, N, D)

    count = min(len(draws), len(base))
    sampled = ratio(
        {name: v[:count] for name, v in draws.parameters.items()},
        {name: v[:count] for name, v in base.parameters.items()},
    )
    estimate = float(ratio(draws.fit.parameters, base.fit.parameters))
    narrow = draws if draws.effective <= base.effective else base
    low, high = narrow.ends(np.asarray(sampled)[:, None], np.array([estimate]), level)
    return Interval(estimate, float(low[0]), float(high[0]), level)


@dataclass(frozen=True)
class Frontier:
    """N* against C: exponents a (of N*) and 1 - a (of D*), the optima used, and what to distrust."""

    a: float
    coefficient: float
    C: Array
    N: Array
    loss: Array
    note: str

    def optimal_size(self, C: Any) -> Any:
        """N*(C) = coefficient x C^a."""
        return self.coefficient * np.asarray(C, dtype=float) ** self.a


def envelope(points: Points, bins: int = 20) -> Frontier:
    """Approach 1: the smallest loss in each compute bin gives N*(C) (Hoffmann et al. 2022, section 3.1).

    Needs rows along training curves (C, N, loss). Raises LawError for fewer than three bins.
    """
    C, N, loss = (points.numbers(name) for name in ("C", "N", "loss"))
    edges = np.geomspace(C.min(), C.max() * (1 + 1e-12), bins + 1)
    place = np.clip(np.digitize(C, edges) - 1, 0, bins - 1)
    chosen = np.array(
        [np.flatnonzero(place == b)[np.argmin(loss[place == b])] for b in range(bins) if (place == b).any()]
    )
    # A row counts only if nothing cheaper is better: the lower envelope falls.
    falling = loss[chosen] <= np.minimum.accumulate(loss[chosen])
    chosen = chosen[falling]
    return _frontier(C[chosen], N[chosen], loss[chosen], "the smallest and largest bins see only part of the sizes")


def isoflop(points: Points, width: float = 0.1, fewest: int = 5) -> Frontier:
    """Approach 2: a parabola in log N through each group of equal C (Hoffmann et al. 2022, section 3.2).

    Groups are the densest windows of `width` decades in C with at least `fewest` sizes. Groups whose parabola
    has no minimum inside the measured sizes are left out. Raises LawError for fewer than three groups.
    """
    C, N, loss = (points.numbers(name) for name in ("C", "N", "loss"))
    found = []
    for rows in _dense_windows(np.log10(C), width, fewest):
        log_n = np.log(N[rows])
        if len(np.unique(np.round(log_n, 2))) < fewest:
            continue
        centre = log_n.mean()
        c2, c1, c0 = np.polyfit(log_n - centre, loss[rows], 2)
        place = centre - c1 / (2 * c2) if c2 > 0 else np.nan
        if c2 > 0 and log_n.min() <= place <= log_n.max():
            found.append((float(np.exp(np.log(C[rows]).mean())), float(np.exp(place)), float(c0 - c1**2 / (4 * c2))))
    if not found:
        raise LawError("no group of equal C has a parabola with a minimum inside its sizes; fit the surface instead")
    groups = np.array(sorted(found))
    note = (
        "a view, biased even without noise: a parabola is only a local picture, so wide, off-centre or "
        "drifting grids "
        "and alpha != beta move the exponent; take the fitted surface for decisions"
    )
    return _frontier(groups[:, 0], groups[:, 1], groups[:, 2], note)


def _dense_windows(x: Array, width: float, fewest: int) -> list[Array]:
    """Rows of the fullest window of x, then of the fullest among the rest, while it holds enough rows."""
    left = np.argsort(x, kind="stable")
    windows = []
    while len(left) >= fewest:
        ordered = x[left]
        ends = np.searchsorted(ordered, ordered + width, side="right")
        begin = int(np.argmax(ends - np.arange(len(left))))
        end = int(ends[begin])
        if end - begin < fewest:
            break
        windows.append(left[begin:end])
        left = np.concatenate([left[:begin], left[end:]])
    return windows


def surface(form: Form, values: Values, C: Any, k: float = FLOPS_PER_ND) -> Frontier:
    """Approach 3: N*(C) from a fitted law of (N, D), on a grid of C (Hoffmann et al. 2022, section 3.3)."""
    C = np.asarray(C, dtype=float)
    best = optimum(form, values, C, k)
    return _frontier(C, best["N"], best["loss"], "follows the fitted law; its exponent is local where the law bends")


def _frontier(C: Array, N: Array, loss: Array, note: str) -> Frontier:
    if len(C) < 3 or np.ptp(np.log(C)) == 0:
        raise LawError(f"a frontier needs optima at three or more values of C; found {len(C)}")
    a, intercept = np.polyfit(np.log(C), np.log(N), 1)
    return Frontier(float(a), float(np.exp(intercept)), C, N, loss, note)
