"""Validation: hold out the largest scale, choose by rolling origin on fit rows, compare with baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoloss.laws.calibrate import Calibration, calibrate
from isoloss.laws.errors import LawError
from isoloss.laws.fitting import Fit, fit
from isoloss.laws.form import Form
from isoloss.laws.points import Points
from isoloss.laws.registry import get_form

Array = np.ndarray
CUTS = (0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Holdout:
    """Forecasts of the largest scale from the rest.

    rows: one dict a held-out row (actual, predicted, low, high and the variables). rmse and bias: of log
    response (plain units for laws in plain units). coverage and width: of the band at `level`; width is the
    median of log(high/low). baselines: rmse of the last value and of M1 on `by`.
    """

    law: str
    by: str
    threshold: float
    level: float
    rows: list[dict[str, float]]
    rmse: float
    bias: float
    coverage: float
    width: float
    baselines: dict[str, float]
    fit: Fit
    calibration: Calibration

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        names = ("law", "by", "threshold", "level", "rmse", "bias", "coverage", "width", "baselines", "rows")
        return {name: getattr(self, name) for name in names} | {"fitted_rows": len(self.fit.points)}


def split(points: Points, by: str, top: float | None = None, above: float | None = None) -> tuple[Array, float]:
    """Mask of the held-out rows and the threshold they exceed.

    above: hold out rows whose `by` is larger. top: share of the distinct scales of `by` to hold out (default
    one fifth, at least one). Raises LawError where nothing is left on either side.
    """
    values = points.numbers(by)
    levels = np.unique(_levels(values))
    if above is None:
        share = 0.2 if top is None else top
        if not 0 < share < 1:
            raise LawError(f"top must lie between 0 and 1; found {share}")
        count = max(1, round(share * len(levels)))
        if count >= len(levels):
            raise LawError(f"hold-out by {by}: {len(levels)} distinct value(s) leave nothing to fit on")
        above = float(levels[-count - 1])
        mask = _levels(values) > above
    else:
        mask = values > above
    if not mask.any() or mask.all():
        raise LawError(
            f"hold-out by {by} above {above:g} leaves {int((~mask).sum())} rows to fit and "
            f"{int(mask.sum())} to predict; "
            f"{by} runs from {values.min():g} to {values.max():g}"
        )
    return mask, float(values[~mask].max())


def _levels(values: Array) -> Array:
    """Values with differences below half a percent removed."""
    order = np.argsort(values, kind="stable")
    logs = np.log(values[order])
    start = np.concatenate([[True], np.diff(logs) > 5e-3])
    result = np.empty_like(values)
    result[order] = values[order][np.maximum.accumulate(np.where(start, np.arange(len(values)), 0))]
    return result


def holdout(
    points: Points,
    law: str | Form,
    *,
    by: str = "C",
    top: float | None = None,
    above: float | None = None,
    level: float = 0.9,
    n: int = 500,
    seed: int = 0,
    **options: Any,
) -> Holdout:
    """Fit on the smaller scales, predict the largest, and say how it went.

    by: 'N', 'D', 'C' or any numeric column. The band adds what earlier cut-offs of the fit rows got wrong,
    growing with the log distance in `by`, to the bootstrap spread of the mean curve (where there are three
    clusters). options go to `fit`. Raises LawError.
    """
    mask, threshold = split(points, by, top, above)
    inside, outside = points.where(~mask), points.where(mask)
    fitted = fit(inside, law, **options)
    calibration = calibrate_fit(inside, fitted, by, options)
    low, middle, high = forecast(fitted, outside, by, calibration, level, n, seed)
    observed = _response(fitted, outside)
    error = fitted.form.to_space(middle) - fitted.form.to_space(observed)
    columns = list(dict.fromkeys([*fitted.problem.columns.values(), by]))
    rows = [
        {
            **{name: float(outside.numbers(name)[i]) for name in columns},
            "actual": float(observed[i]),
            "predicted": float(middle[i]),
            "low": float(low[i]),
            "high": float(high[i]),
        }
        for i in range(len(outside))
    ]
    covered = (observed >= low) & (observed <= high)
    width = np.log(high / low) if fitted.form.space == "log" else high - low
    return Holdout(
        fitted.form.name,
        by,
        threshold,
        level,
        rows,
        float(np.sqrt(np.mean(error**2))),
        float(np.mean(error)),
        float(np.mean(covered)),
        float(np.median(width)),
        _baselines(fitted, inside, outside, by),
        fitted,
        calibration,
    )


def _response(fitted: Fit, points: Points) -> Array:
    from isoloss.laws.problem import response_column

    return points.numbers(fitted.response or response_column(fitted.form, points))


def forecast(
    fitted: Fit,
    targets: Points,
    by: str,
    calibration: Calibration,
    level: float = 0.9,
    n: int = 500,
    seed: int = 0,
) -> tuple[Array, Array, Array]:
    """Low, middle and high at the rows of `targets`: bootstrap spread and calibrated error in quadrature.

    The calibrated error grows with the largest log distance from the fitted rows over `by`, N, D and C.
    """
    middle = np.atleast_1d(fitted.predict(targets))
    centre = fitted.form.to_space(middle)
    distance = reach(fitted.points, targets, by)
    below = above = calibration.half_width(distance, level)
    try:
        draws = fitted.bootstrap(n, seed)
        columns: dict[str, Any] = {c: targets.numbers(c) for c in fitted.problem.columns.values()}
        low, _, high = draws.predict_band(level, **columns)
    except LawError:
        # Fewer than three clusters: the calibrated error alone.
        low = high = middle
    with np.errstate(invalid="ignore"):
        below = np.hypot(below, np.nan_to_num(centre - fitted.form.to_space(low)))
        above = np.hypot(above, np.nan_to_num(fitted.form.to_space(high) - centre))
    return fitted.form.from_space(centre - below), middle, fitted.form.from_space(centre + above)


def calibrate_fit(points: Points, fitted: Fit, by: str, options: dict[str, Any] | None = None) -> Calibration:
    """Calibration of a law's forecasts on `points`: refit below cut-offs of `by`, score above them."""
    origins = rolling_origin(points, fitted.form, by, **(options or {}))
    values = points.numbers(by)
    history = float(np.log(values.max() / min(origin.threshold for origin in origins)))
    spread = 1.4826 * float(np.median(np.abs(fitted.residuals - np.median(fitted.residuals))))
    return calibrate([o.distance for o in origins], [o.error for o in origins], history, spread)


def reach(fitted: Points, targets: Points, by: str) -> Array:
    """Log distance of every target from the range of the fitted rows, the largest over `by`, N, D and C.

    N and D count because a law of both goes astray in either; what a table lacks is left out.
    """
    found = np.zeros(len(targets))
    shared = [name for name in ("N", "D", "C") if name in fitted and name in targets]
    for name in dict.fromkeys((by, *shared)):
        values, there = np.log(fitted.numbers(name)), np.log(targets.numbers(name))
        # A missing value says nothing about distance: fmax skips it.
        found = np.fmax(found, np.fmax(there - np.nanmax(values), np.nanmin(values) - there))
    return found


@dataclass(frozen=True)
class Origin:
    """One earlier cut-off: rows beyond it, their log distance and the error of their forecast."""

    threshold: float
    distance: Array
    error: Array


def rolling_origin(
    points: Points, law: str | Form, by: str, cuts: Sequence[float] = CUTS, **options: Any
) -> list[Origin]:
    """Forecast errors of refits below earlier cut-offs of `by` (shares of its distinct scales).

    Cut-offs with too few rows for the law are left out. Raises LawError where none is left.
    """
    form = get_form(law) if isinstance(law, str) else law
    values = points.numbers(by)
    levels = np.unique(_levels(values))
    found: list[Origin] = []
    reason = f"{by} takes only {len(levels)} distinct values"
    for threshold in sorted({float(levels[max(int(np.ceil(cut * len(levels))) - 1, 0)]) for cut in cuts}):
        inside = _levels(values) <= threshold
        if inside.all():
            continue
        try:
            early = fit(points.where(inside), form, **options)
        except LawError as error:
            reason = str(error)
            continue
        rest = points.where(~inside)
        error_there = form.to_space(np.atleast_1d(early.predict(rest))) - form.to_space(_response(early, rest))
        if np.isfinite(error_there).all():
            distance = reach(points.where(inside), rest, by)
            found.append(Origin(float(values[inside].max()), distance, error_there))
    if not found:
        raise LawError(f"law {form.name!r}: no earlier cut-off of {by} can be fitted and scored ({reason})")
    return found


def _baselines(fitted: Fit, inside: Points, outside: Points, by: str) -> dict[str, float]:
    """RMSE of the last value (the response at the largest fitted scale) and of M1 against `by`."""
    form = fitted.form
    observed = form.to_space(_response(fitted, outside))
    values, response = inside.numbers(by), _response(fitted, inside)
    last = float(np.median(response[values >= values.max() * 0.995]))
    result = {"last value": float(np.sqrt(np.mean((form.to_space(last) - observed) ** 2)))}
    if form.space == "log":
        try:
            plain = fit(inside, "m1", x=by, y=fitted.response, loss="squared")
            predicted = np.log(np.atleast_1d(plain.predict(outside)))
            result["m1"] = float(np.sqrt(np.mean((predicted - observed) ** 2)))
        except LawError:
            pass
    return result


@dataclass(frozen=True)
class Comparison:
    """Laws ranked by rolling-origin error on fit rows; the held-out block never enters the ranking."""

    by: str
    ranking: list[dict[str, Any]]

    @property
    def best(self) -> str:
        """Name of the law chosen on fit rows only."""
        return str(self.ranking[0]["law"])


def compare(
    points: Points,
    laws: Sequence[str | Form],
    *,
    by: str = "C",
    top: float | None = None,
    above: float | None = None,
    n: int = 200,
    x: str | None = None,
    **options: Any,
) -> Comparison:
    """Rank laws by rolling origin on fit rows; each one's score on the held-out largest scale is beside it.

    `fixed` pins a parameter in those laws that have it. A law that cannot be fitted is listed last with the
    reason. Raises LawError when none can.
    """
    mask, _ = split(points, by, top, above)
    inside = points.where(~mask)
    ranking: list[dict[str, Any]] = []
    for law in laws:
        form = get_form(law) if isinstance(law, str) else law
        chosen = {**options, **({"x": x} if "x" in form.variables and x else {})}
        if options.get("fixed"):
            chosen["fixed"] = {name: value for name, value in options["fixed"].items() if name in form.names}
        try:
            origins = rolling_origin(inside, form, by, **chosen)
            score = float(np.sqrt(np.mean([np.mean(o.error**2) for o in origins])))
            held = holdout(points, form, by=by, top=top, above=above, n=n, **chosen)
        except LawError as error:
            ranking.append({"law": form.name, "rolling_rmse": float("inf"), "failed": str(error)})
            continue
        ranking.append(
            {
                "law": form.name,
                "parameters": int(held.fit.problem.free.sum()),
                "rolling_rmse": score,
                "holdout_rmse": held.rmse,
                "holdout_bias": held.bias,
                "coverage": held.coverage,
                "width": held.width,
                "baselines": held.baselines,
            }
        )
    ranking.sort(key=lambda row: float(row["rolling_rmse"]))
    if "failed" in ranking[0]:
        raise LawError(f"none of the laws can be compared by {by}: {ranking[0]['failed']}")
    return Comparison(by, ranking)
