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
PLACES = ("N", "D", "C", "M")  # variables that size and data give
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
    """N*, D* and L* that minimise a law of size and data at compute C = k N D.

    The law may be written in any two of N, D, C and M = D/N. Closed form where it gives G and a_opt (Hoffmann et
    al. 2022, equation 4) or M_opt (Gadre et al. 2024), else golden-section search over log N. others: its further
    variables (unique=25e9). Raises LawError where the law does not say how size and data trade, or lacks others.
    """
    allocates(form, others)
    C = np.asarray(C, dtype=float)
    # NumPy numbers give NaN or infinity where a degenerate law has no optimum; Python's would raise.
    values = {name: np.asarray(value, dtype=float)[()] for name, value in values.items()}
    derived = form.derived()
    with np.errstate(all="ignore"):
        if set(form.variables) == {"N", "D"} and {"G", "a_opt"} <= set(derived):
            N = derived["G"](values) * (C / k) ** derived["a_opt"](values)
        elif set(form.variables) == {"C", "M"} and "M_opt" in derived:
            N = np.sqrt(C / (k * derived["M_opt"](values)))
        else:
            shape = np.broadcast_shapes(C.shape, *(np.shape(v) for v in values.values()))
            log_pool = np.broadcast_to(np.log(C / k), shape)

            def loss(log_n: Array) -> Array:
                return np.asarray(_predict(form, values, np.exp(log_n), np.exp(log_pool - log_n), k, others))

            N = np.exp(_golden(loss, np.maximum(WIDEST[0], log_pool - WIDEST[1]), np.minimum(WIDEST[1], log_pool)))
        D = C / (k * N)
    return {"N": N, "D": D, "loss": _predict(form, values, N, D, k, others)}


def allocates(form: Form, others: Mapping[str, Any]) -> None:
    """Raise LawError unless the law says how loss depends on size and data, given its other variables."""
    known = [name for name in form.variables if name in PLACES]
    rest = [name for name in form.variables if name not in PLACES]
    if "S" in rest:
        raise LawError(
            f"law {form.name!r} is a law of {' and '.join(form.variables)}: compute per update depends on the batch "
            "size, which it leaves open, so no split of compute is defined"
        )
    if len(known) < 2:
        raise LawError(
            f"law {form.name!r} is a law of {', '.join(form.variables)} alone: it does not say what trading model size "
            "for data does, so a best split of compute is not defined; allocation needs a law of N and D"
        )
    missing = [name for name in rest if name not in others]
    if missing:
        raise LawError(
            f"law {form.name!r} also depends on {', '.join(missing)}, which compute does not tell: give "
            f"{', '.join(f'{name}=VALUE' for name in missing)}"
        )


def _predict(form: Form, values: Values, N: Any, D: Any, k: float, others: Mapping[str, Any]) -> Any:
    """The law at size N and data D, in whatever variables it is written."""
    with np.errstate(all="ignore"):
        places = {"N": N, "D": D, "C": k * np.asarray(N) * D, "M": np.asarray(D) / N}
    return form.predict(values, places | dict(others))


def _one_variable(form: Form, name: str, x: str | None) -> str | None:
    """The only variable of a law of `name` alone, else None. Raises LawError for a law of an unsaid x."""
    if form.variables == ("x",) and x is None:
        raise LawError(f"law {form.name!r} is a law of one variable: say which it is, x='C' or x='D'")
    if form.variables == (name,) or (form.variables == ("x",) and x == name):
        return form.variables[0]
    return None


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


def iso_loss_compute(
    form: Form, values: Values, loss: Any, k: float = FLOPS_PER_ND, *, x: str | None = None, **others: Any
) -> Any:
    """Smallest compute at which the law reaches `loss` (at its optimal split); NaN where it never does.

    x: what the variable of a one-variable law is ('C' for one fitted against compute). Raises LawError for laws
    that say nothing about compute.
    """
    shape = np.broadcast_shapes(np.shape(loss), *(np.shape(v) for v in values.values()))

    def reached(log_c: Array) -> Array:
        return np.asarray(_best_loss(form, values, np.exp(log_c), k, x, others))

    return _bisect(reached, loss, 15.0, 75.0, shape)


def _best_loss(form: Form, values: Values, C: Any, k: float, x: str | None, others: Mapping[str, Any]) -> Any:
    """Loss at compute C: of a law of C alone, or at the best split."""
    alone = _one_variable(form, "C", x)
    if alone is not None:
        return form.predict(values, {alone: C})
    return optimum(form, values, C, k, **others)["loss"]


def iso_loss_data(
    form: Form,
    values: Values,
    loss: Any,
    N: Any = None,
    k: float = FLOPS_PER_ND,
    *,
    x: str | None = None,
    **others: Any,
) -> Any:
    """Tokens at which the law reaches `loss` with N parameters; NaN where it never does.

    A law of data alone (Bansal et al. 2022; Kaplan's L(D); a one-variable law with x='D') takes no N.
    Raises LawError for laws that say nothing about data.
    """
    shape = np.broadcast_shapes(np.shape(loss), np.shape(N), *(np.shape(v) for v in values.values()))
    return _bisect(
        lambda log_d: np.asarray(_loss_at(form, values, N, np.exp(log_d), k, x, others)), loss, *WIDEST, shape
    )


def _loss_at(form: Form, values: Values, N: Any, D: Any, k: float, x: str | None, others: Mapping[str, Any]) -> Any:
    """Loss at (N, D), or at D of a law of data alone."""
    alone = _one_variable(form, "D", x)
    if alone is not None:
        return form.predict(values, {alone: D})
    allocates(form, others)
    if N is None:
        raise LawError(f"law {form.name!r} depends on model size: give N")
    return _predict(form, values, N, D, k, others)


def compute_multiplier(
    form: Form,
    values: Values,
    base_form: Form,
    base: Values,
    C: Any,
    k: float = FLOPS_PER_ND,
    base_k: float | None = None,
    *,
    x: str | None = None,
    **others: Any,
) -> Any:
    """Compute the base law needs for the loss that the other reaches (at its optimum) with C, over C.

    k: FLOPs per parameter and token of the law; base_k: of the base law (the same unless given). x: what the
    variable of one-variable laws is. Raises LawError for laws that say nothing about compute.
    """
    loss = _best_loss(form, values, C, k, x, others)
    base_k = k if base_k is None else base_k
    return iso_loss_compute(base_form, base, loss, base_k, x=x, **others) / np.asarray(C, dtype=float)


def data_multiplier(
    form: Form,
    values: Values,
    base_form: Form,
    base: Values,
    N: Any = None,
    D: Any = None,
    k: float = FLOPS_PER_ND,
    base_k: float | None = None,
    *,
    x: str | None = None,
    **others: Any,
) -> Any:
    """Tokens the base law needs at size N for the loss that the other reaches at (N, D), over D.

    Laws of data alone take no N. Raises LawError as `iso_loss_data`, and without D.
    """
    if D is None:
        raise LawError("give D, the tokens at which the laws are compared")
    loss = _loss_at(form, values, N, D, k, x, others)
    base_k = k if base_k is None else base_k
    return iso_loss_data(base_form, base, loss, N, base_k, x=x, **others) / np.asarray(D, dtype=float)


def optimum_intervals(
    draws: Draws, C: float, level: float = 0.9, k: float | None = None, **others: Any
) -> dict[str, Interval]:
    """Intervals of N*, D* and L* at compute C; k is that of the fitted table unless given. Raises LawError."""
    form = draws.fit.form
    ratio = flops_ratio(draws.fit.points) if k is None else k

    def at(name: str) -> Callable[[Values], Any]:
        return lambda values: optimum(form, values, C, ratio, **others)[name]

    return {name: draws.interval(at(name), level) for name in ("N", "D", "loss")}


def multiplier_interval(
    draws: Draws,
    base: Draws,
    C: float | None = None,
    N: float | None = None,
    D: float | None = None,
    level: float = 0.9,
    k: float | None = None,
    **others: Any,
) -> Interval:
    """Interval of the compute multiplier at C, or of the data multiplier at (N, D), between two fitted laws.

    k: FLOPs per parameter and token of both; unless given, each law's is that of its own table. Laws of data
    alone take D without N. Draws of one number are matched: two bootstraps with one seed and the same clusters
    stay paired. Raises LawError unless either C or D is given, and for draws that give no interval.
    """
    from isoloss.laws.bootstrap import Interval, without_value

    if (C is None) == (D is None) or (C is not None and N is not None):
        raise LawError("give either C (compute multiplier) or N and D (data multiplier)")
    draws.refuse_unusable()
    base.refuse_unusable()
    if draws.fit.x != base.fit.x:
        raise LawError(f"the laws run along different columns, {draws.fit.x} and {base.fit.x}: nothing to compare")
    ratios = [flops_ratio(one.fit.points) if k is None else k for one in (draws, base)]

    def ratio(mine: Values, theirs: Values) -> Any:
        if C is not None:
            return compute_multiplier(draws.fit.form, mine, base.fit.form, theirs, C, *ratios, x=draws.fit.x, **others)
        return data_multiplier(draws.fit.form, mine, base.fit.form, theirs, N, D, *ratios, x=draws.fit.x, **others)

    _, left, right = np.intersect1d(draws.index, base.index, return_indices=True)
    sampled = ratio(
        {name: v[left] for name, v in draws.parameters.items()},
        {name: v[right] for name, v in base.parameters.items()},
    )
    estimate = float(ratio(draws.fit.parameters, base.fit.parameters))
    narrow = draws if draws.effective <= base.effective else base
    low, high = narrow.ends(np.asarray(sampled)[:, None], np.array([estimate]), level)
    return Interval(estimate, float(low[0]), float(high[0]), level, "; ".join(without_value(np.asarray(sampled))))


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


def surface(form: Form, values: Values, C: Any, k: float = FLOPS_PER_ND, **others: Any) -> Frontier:
    """Approach 3: N*(C) from a fitted law of size and data, on a grid of C (Hoffmann et al. 2022, section 3.3)."""
    C = np.asarray(C, dtype=float)
    best = optimum(form, values, C, k, **others)
    return _frontier(C, best["N"], best["loss"], "follows the fitted law; its exponent is local where the law bends")


def _frontier(C: Array, N: Array, loss: Array, note: str) -> Frontier:
    if len(C) < 3 or np.ptp(np.log(C)) == 0:
        raise LawError(f"a frontier needs optima at three or more values of C; found {len(C)}")
    a, intercept = np.polyfit(np.log(C), np.log(N), 1)
    return Frontier(float(a), float(np.exp(intercept)), C, N, loss, note)
