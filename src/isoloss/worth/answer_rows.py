"""The part of an answer that rows alone give: of a study's results, or of runs that were trained elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isoloss.laws import LawError, Points, fit, get_form, holdout
from isoloss.worth import tuned
from isoloss.worth.compare import FEWEST_SEEDS, LEVEL, Comparison, Overall, Ratio, Rows, Trend, Worth
from isoloss.worth.results import Result
from isoloss.worth.surface import surface

DRAWS = 1000
CURVE_POINTS = 60
MOST_SENTENCES = 5
BEYOND = 4.0
"""How far past the largest size a trend is drawn, as a factor."""
TREND_POINTS = 24


def summary(rows: Rows, comparison: Comparison, sharing: Mapping[str, Any], batches: Sequence[str] = ()) -> list[str]:
    """Sentences a reader can act on, the headline first; `batches`: those of the large-batch question."""
    sentences = []
    ordered = sorted(comparison.overall, key=lambda o: -o.ratios["data"].ratio)
    shown = ordered if len(ordered) <= MOST_SENTENCES else ordered[: MOST_SENTENCES - 1]
    for overall in shown:
        ratio, base = overall.ratios["data"], overall.reference
        if ratio.low is None or ratio.high is None:
            words = f"about {ratio.ratio:.2f}x the data of {base} (fewer than 3 seeds: no interval)"
        elif ratio.resolved:
            words = f"{_words(ratio)} the data of {base}"
        else:
            words = f"{_words(ratio)} the data of {base}: not resolved, the interval includes 1"
        trend = f"; {_how(overall)}" if overall.trend else ""
        sentences.append(f"At equal loss, {overall.arm} is worth {words}{trend}.")
    if len(shown) < len(ordered):
        sentences.append(f"{len(ordered) - len(shown)} more comparisons are in the table.")
    sentences += batches
    charged = [f"{o.arm} {_words(o.ratios['compute with tuning'])}" for o in shown if sharing["tuning"]["flops"]]
    if charged:
        sentences.append(
            f"With an arm's tuning added to one run at each size, the compute is worth: {', '.join(charged)}."
        )
    unshared, shared = sharing["updates"]["unshared"], sharing["updates"]["shared"]
    finished = bool(rows.results) and all(r.status == "done" for r in rows.results)
    if shared < unshared and finished:
        sentences.append(
            f"Shared stretches were trained once: {shared:,} updates instead of {unshared:,} "
            f"({1 - shared / unshared:.0%} saved)."
        )
    counts = _counts(rows)
    if not counts:
        sentences.append("No run is finished: tuning comes first. Run the study again to go on.")
    elif len(counts) > 1 or "done" not in counts:
        sentences.append("Runs: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + ".")
    return sentences


def _how(overall: Overall) -> str:
    """How an advantage, or its opposite, changes with size."""
    ratio, trend = overall.ratios["data"], overall.trend
    assert trend is not None
    behind = ratio.resolved and ratio.ratio < 1
    verdict = {"growing": "fading", "fading": "growing"}.get(trend.verdict, trend.verdict) if behind else trend.verdict
    what = "it" if not ratio.resolved else "the disadvantage" if behind else "the advantage"
    return {
        "steady": f"{what} does not change with size in this range",
        "growing": f"{what} grows with size",
        "fading": f"{what} fades with size",
    }.get(verdict, f"how {what} changes with size is not resolved")


def _words(ratio: Ratio) -> str:
    """A ratio with its interval, short."""
    interval = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.ratio:.2f}x{interval}"


def few_seeds(done: Sequence[Result]) -> list[str]:
    """Said where there are too few seeds for an interval."""
    seeds = {r.seed for r in done}
    if not 0 < len(seeds) < FEWEST_SEEDS:
        return []
    return [f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}: no intervals; {FEWEST_SEEDS} are the fewest for one."]


def short_ranges(
    done: Sequence[Result], laws: Sequence[Mapping[str, Any]], comparison: Comparison | None = None
) -> list[str]:
    """Said where a law, or a trend of worth with size, was fitted over less than a decade."""
    found = []
    trends = comparison is not None and any(overall.trends for overall in comparison.overall)
    fitted = {"N": ["a law"] * bool(laws) + ["a trend"] * trends, "D": ["a law"] * bool(laws)}
    for name, values in (("N", {r.N for r in done}), ("D", {r.D for r in done})):
        if fitted[name] and min(values, default=0) < max(values, default=0) < 10 * min(values):
            found.append(
                f"{name} ranges over a factor of {max(values) / min(values):.3g}, less than a decade: "
                f"{' or '.join(fitted[name])} fitted here says little beyond it."
            )
    return found


def diverged(results: Sequence[Result]) -> list[str]:
    """Said where runs diverged."""
    broken = sum(r.status == "diverged" for r in results)
    return [f"{broken} run{'s' if broken > 1 else ''} diverged and count nowhere: see the list."] if broken else []


def of_comparison(comparison: Comparison) -> list[str]:
    """What could not be compared, and why; what rests on fewer seeds than the rest. Cells share a sentence."""
    reasons: dict[str, list[Worth]] = {}
    for worth in comparison.by_size:
        if worth.note:
            reasons.setdefault(f": {worth.note}.", []).append(worth)
    answered = [worth for worth in comparison.by_size if worth.ratios]
    if any(worth.roots >= FEWEST_SEEDS for worth in answered):
        for worth in answered:
            if worth.roots < FEWEST_SEEDS:
                seeds = f"{worth.roots} seed{'s' if worth.roots > 1 else ''}"
                reasons.setdefault(f": {seeds} only, so no interval.", []).append(worth)
    return [where + why for why, cells in reasons.items() for where in _cells(cells)]


def _cells(found: Sequence[Worth]) -> list[str]:
    """Arms with their sizes, those of the same sizes together."""
    sizes: dict[str, list[str]] = {}
    for worth in found:
        sizes.setdefault(worth.arm, []).append(f"{worth.N:,}")
    arms: dict[tuple[str, ...], list[str]] = {}
    for arm, of in sizes.items():
        arms.setdefault(tuple(of), []).append(arm)
    return [f"{', '.join(names)} at N = {' and '.join(of)}" for of, names in arms.items()]


def of_laws(laws: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the laws of the arms leave open; arms that share a reason share a sentence."""
    said: dict[str, list[str]] = {}
    loose: dict[str, dict[str, str]] = {}
    for law in laws:
        for warning in law["warnings"]:
            what, because, why = warning.partition(", because ")
            if because and what.startswith("not identified: "):
                loose.setdefault(why, {})[law["arm"]] = warning
            elif law["arm"] not in said.setdefault(warning, []):
                said[warning].append(law["arm"])
    for why, arms in loose.items():
        few = len(arms) == 1
        sentence = next(iter(arms.values())) if few else f"parameters not identified, because {why} (section Law)"
        said[sentence] = list(arms)
    return [f"Law of {', '.join(arms)}: {sentence}" for sentence, arms in said.items()]


def _counts(rows: Rows) -> dict[str, int]:
    counts: dict[str, int] = {}
    for r in rows.results:
        counts[r.status] = counts.get(r.status, 0) + 1
    return counts


def run_record(r: Result, train: tuple[Sequence[int], Sequence[float]] = ((), ())) -> dict[str, Any]:
    """One run; `train`: updates and training losses along it."""
    return {
        "id": r.name,
        "arm": r.variant,
        "cell": dict(r.cell),
        "seed": r.seed,
        "root": r.root,
        "N": r.N,
        "N_total": r.N_total,
        "D": r.D,
        "S": r.S or None,
        "C": r.C,
        "lr": _finite(r.lr),
        **({"tuned": found} if (found := tuned.values(r.tuned)) else {}),
        "loss": r.loss,
        "loss_a": r.loss_a,
        "bits_per_byte": None if r.loss is None or r.bits is None else r.loss * r.bits,
        "metrics": {name: _finite(value) for name, value in r.metrics.items()},
        "metrics_a": {name: _finite(value) for name, value in r.metrics_a.items()},
        "status": r.status,
        "message": r.message,
        "extra": r.extra,
        "key": r.key,
        "curve": {"update": [u for u, _ in r.curve], "loss": [v for _, v in r.curve]},
        "train": {"update": list(train[0]), "loss": list(train[1])},
    }


def _ratio(ratio: Ratio) -> dict[str, Any]:
    return {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high}


def _ratios(ratios: Mapping[str, Ratio]) -> dict[str, Any]:
    both: dict[str, Any] = {name: _ratio(ratio) for name, ratio in ratios.items()}
    both["inverse"] = {name: _ratio(ratio.inverse) for name, ratio in ratios.items()}
    both["resolved"] = bool(ratios) and ratios["data"].resolved
    return both


def worth_record(worth: Worth) -> dict[str, Any]:
    """What an arm is worth at one size."""
    return {
        "arm": worth.arm,
        "reference": worth.reference,
        "N": worth.N,
        **_ratios(worth.ratios),
        "roots": worth.roots,
        "targets": list(worth.targets),
        "note": worth.note or None,
    }


def overall_record(overall: Overall) -> dict[str, Any]:
    """What an arm is worth over all sizes."""
    trends = {currency: _trend(trend) for currency, trend in overall.trends.items()}
    return {
        "arm": overall.arm,
        "reference": overall.reference,
        **_ratios(overall.ratios),
        "trend": trends.get("data"),
        "trends": trends,
    }


def _trend(trend: Trend) -> dict[str, Any]:
    """A trend with its line and band from below the smallest size to `BEYOND` times the largest."""
    first, last = trend.sizes[0], trend.sizes[-1]
    grid = sorted({*np.geomspace(first / 1.5, last * BEYOND, TREND_POINTS).tolist(), float(first), float(last)})
    band = [trend.at(N) for N in grid]
    return {
        "slope": trend.slope,
        "low": trend.low,
        "high": trend.high,
        "verdict": trend.verdict,
        "band": {
            "N": grid,
            "ratio": [ratio.ratio for ratio in band],
            "low": [ratio.low for ratio in band],
            "high": [ratio.high for ratio in band],
        },
    }


def law_records(rows: Rows, name: str, by: str | None = None) -> list[dict[str, Any]]:
    """One law for every arm that has points enough; what cannot be fitted says why. `by`: the column held out."""
    found = []
    for arm in rows.variants():
        points = rows.points(arm)
        entry: dict[str, Any] = {"arm": arm, "law": name, "formula": get_form(name).formula}
        entry |= {"parameters": [], "rows": len(points), "holdout": None, "curves": [], "warnings": []}
        entry |= {"residuals": [], "surface": None}
        try:
            _fit(entry, name, points, by)
        except LawError as error:
            entry["warnings"].append(str(error))
        found.append(entry)
    return found


def _fit(entry: dict[str, Any], name: str, points: Points, by: str | None) -> None:
    form = get_form(name)
    x = None if len(form.variables) > 1 else "D"
    fitted = fit(points, name, x=x, cluster="cluster")
    entry["warnings"] += fitted.warnings
    if fitted.diagnosis.not_identified:
        entry["warnings"].append(fitted.diagnosis.not_identified)
    draws = None
    try:
        draws = fitted.bootstrap(DRAWS)
        intervals = {p: draws.interval(p, LEVEL) for p in fitted.parameters}
    except LawError as error:
        intervals = {}
        entry["warnings"].append(str(error))
    for parameter, value in fitted.parameters.items():
        interval = intervals.get(parameter)
        low, high = (interval.low, interval.high) if interval else (None, None)
        entry["parameters"].append({"name": parameter, "value": value, "low": low, "high": high})
    D = np.asarray(points.D, float)
    for N in sorted(set(np.asarray(points.N).tolist())) if x is None else [None]:
        at = np.geomspace(D.min(), D.max() * 2, CURVE_POINTS)
        columns: dict[str, Any] = {"D": at} if N is None else {"N": np.full_like(at, N), "D": at}
        curve: dict[str, Any] = {
            "N": N,
            "x": at.tolist(),
            "loss": np.asarray(fitted.predict(**columns)).tolist(),
            "low": None,
            "high": None,
        }
        if draws is not None and intervals:
            lower, _, upper = draws.predict_band(level=LEVEL, **columns)
            curve |= {"low": np.asarray(lower).tolist(), "high": np.asarray(upper).tolist()}
        entry["curves"].append(curve)
    entry["residuals"] = _residuals(points, np.asarray(fitted.predict(points)))
    entry["surface"] = surface(fitted, draws if intervals else None, LEVEL)
    by = by or ("N" if x is None else "D")
    try:
        held = holdout(points, name, by=by, x=x)
    except LawError as error:
        entry["warnings"].append(f"no held-out check: {error}")
        return
    entry["holdout"] = {
        "by": by,
        "rmse": held.rmse,
        "rows": [
            {k: _finite(row.get(k)) for k in ("N", "D", "actual", "predicted", "low", "high")} for row in held.rows
        ],
    }


def _residuals(points: Points, predicted: np.ndarray) -> list[dict[str, Any]]:
    """What the law says where it was fitted, a row a run."""
    rows = zip(points.run, points.numbers("N"), points.numbers("D"), points.numbers("loss"), predicted, strict=True)
    return [
        {"run": str(run), "N": float(N), "D": float(D), "actual": float(loss), "predicted": float(law)}
        for run, N, D, loss, law in rows
    ]


def _finite(value: Any) -> Any:
    """Numbers that JSON has no word for become null."""
    return None if value is None or (isinstance(value, float) and not math.isfinite(value)) else float(value)
