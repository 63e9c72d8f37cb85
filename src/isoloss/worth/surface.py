"""A law of size and data as a map: lines of equal loss, the compute-optimal frontier, and which part was measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from isoloss.laws import LawError
from isoloss.laws.allocation import allocates, flops_ratio, iso_loss_data, optimum
from isoloss.laws.bootstrap import Draws
from isoloss.laws.fitting import Fit

BEYOND = 10.0
"""How far past the largest measured size and data the map goes, as a factor; at the other end it is 2."""
LINES, POINTS, BUDGETS = 10, 24, 32

Span = tuple[float, float]


def surface(fitted: Fit, draws: Draws | None, level: float) -> dict[str, Any] | None:
    """Lines, frontier and measured ranges of a law of N and D as JSON types; None for a law of anything else.

    lines: pieces of equal loss, each all inside the measured ranges of N and D or all outside (``measured``).
    frontier: N*, D* and loss at compute C = k N D, with the interval of N* at that compute where there are draws.
    """
    points = fitted.points
    try:
        allocates(fitted.form, {})
    except LawError:
        return None
    measured = {name: _range(points.numbers(name)) for name in ("N", "D")}
    extent = {name: (low / 2, high * BEYOND) for name, (low, high) in measured.items()}
    k = flops_ratio(points)
    frontier = _frontier(fitted, draws, k, level, extent, measured)
    return {
        "flops_per_nd": k,
        "measured": {name: list(span) for name, span in measured.items()},
        "extent": {name: list(span) for name, span in extent.items()},
        "lines": [piece for loss in _levels(fitted, extent) for piece in _line(fitted, loss, extent, measured)],
        "frontier": frontier,
    }


def _range(values: np.ndarray) -> Span:
    return float(values.min()), float(values.max())


def _loss(fitted: Fit, N: Any, D: Any) -> Any:
    """The law at (N, D), whatever variables it is written in."""
    k = flops_ratio(fitted.points)
    N, D = np.asarray(N, float), np.asarray(D, float)
    places = {"N": N, "D": D, "C": k * N * D, "M": D / N}
    return np.asarray(fitted.form.predict(fitted.parameters, {name: places[name] for name in fitted.form.variables}))


def _levels(fitted: Fit, extent: dict[str, Span]) -> list[float]:
    """At most `LINES` round losses between the largest and the smallest of the map's corners."""
    corners = [float(_loss(fitted, N, D)) for N in extent["N"] for D in extent["D"]]
    low, high = min(corners), max(corners)
    if not 0 < low < high < math.inf:
        return []
    rough = (high - low) / LINES
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(fitted: Fit, loss: float, extent: dict[str, Span], measured: dict[str, Span]) -> list[dict[str, Any]]:
    """One line of equal loss in pieces that end at the borders of the map and of what was measured."""
    low, high = (math.log(edge) for edge in extent["N"])
    # The line falls: it enters at the largest D, or at the smallest N, and leaves at the smallest D or the largest N.
    begin = _crossing(lambda x: float(_loss(fitted, math.exp(x), extent["D"][1])) - loss, low, high)
    end = _crossing(lambda x: float(_loss(fitted, math.exp(x), extent["D"][0])) - loss, low, high)
    begin, end = low if begin is None else begin, high if end is None else end
    if not begin < end or not _between(fitted, loss, extent):
        return []
    cuts = {begin, end}
    for N in measured["N"]:
        cuts.add(math.log(N))
    for D in measured["D"]:
        at = _crossing(lambda x, D=D: float(_loss(fitted, math.exp(x), D)) - loss, begin, end)  # type: ignore[misc]
        cuts |= set() if at is None else {at}
    pieces = []
    for left, right in pairwise(sorted(cut for cut in cuts if begin <= cut <= end)):
        if right - left < 1e-9:
            continue
        # Denser towards the smaller sizes, where the line is steep.
        sizes = np.exp(left + (right - left) * np.linspace(0, 1, POINTS) ** 2)
        data = np.asarray(iso_loss_data(fitted.form, fitted.parameters, loss, sizes, flops_ratio(fitted.points)))
        fine = np.isfinite(data)
        if fine.sum() > 1:
            middle = int(np.flatnonzero(fine)[fine.sum() // 2])
            seen = _within(sizes[middle], measured["N"]) and _within(data[middle], measured["D"])
            pieces.append({"loss": loss, "measured": seen, "N": sizes[fine].tolist(), "D": data[fine].tolist()})
    return pieces


def _between(fitted: Fit, loss: float, extent: dict[str, Span]) -> bool:
    """Whether the map holds the loss at all: between its best corner and its worst."""
    (small, large), (short, long) = extent["N"], extent["D"]
    return bool(_loss(fitted, large, long) <= loss <= _loss(fitted, small, short))


def _within(value: float, span: Span) -> bool:
    return bool(span[0] * (1 - 1e-9) <= value <= span[1] * (1 + 1e-9))


def _crossing(excess: Callable[[float], float], low: float, high: float) -> float | None:
    """Where a falling function is zero; None where it is not between the two ends."""
    from scipy.optimize import brentq

    first, last = excess(low), excess(high)
    if not (math.isfinite(first) and math.isfinite(last)) or first < 0 or last > 0:
        return None
    return float(brentq(excess, low, high, xtol=1e-13, rtol=1e-14))


def _frontier(
    fitted: Fit, draws: Draws | None, k: float, level: float, extent: dict[str, Span], measured: dict[str, Span]
) -> dict[str, Any] | None:
    """The best split of compute over the map; None where it lies outside of it everywhere."""
    least, most = (k * extent["N"][i] * extent["D"][i] for i in (0, 1))
    budgets = np.geomspace(least, most, 4 * BUDGETS)
    best = optimum(fitted.form, fitted.parameters, budgets, k)
    inside = np.flatnonzero([
        _within(float(n), extent["N"]) and _within(float(d), extent["D"])
        for n, d in zip(best["N"], best["D"], strict=True)
    ])  # fmt: skip
    if len(inside) < 2:
        return None
    chosen = np.unique(inside[np.linspace(0, len(inside) - 1, BUDGETS).round().astype(int)])
    C, N, D, loss = (np.asarray(column)[chosen] for column in (budgets, best["N"], best["D"], best["loss"]))
    low: list[float | None] = [None] * len(C)
    high = list(low)
    if draws is not None:
        table = {name: values[:, None] for name, values in draws.parameters.items()}
        with np.errstate(all="ignore"):
            drawn = np.asarray(optimum(fitted.form, table, C[None, :], k)["N"])
        ends = draws.ends(drawn, N, level)
        low, high = ([float(v) if math.isfinite(v) and v > 0 else None for v in end] for end in ends)
    largest = max(fitted.points.numbers("N") * fitted.points.numbers("D")) * k
    return {
        "C": C.tolist(), "N": N.tolist(), "D": D.tolist(), "loss": loss.tolist(), "N_low": low, "N_high": high,
        "measured": [bool(c <= largest * (1 + 1e-9)) and _within(float(n), measured["N"])
                     and _within(float(d), measured["D"]) for c, n, d in zip(C, N, D, strict=True)],
    }  # fmt: skip
