"""The answer of a study as one plain dictionary: what the page and the terminal show, and ``--json`` prints."""

from __future__ import annotations

import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from isoloss.laws import LawError, fit, get_form, holdout
from isoloss.plan import cost
from isoloss.plan.demands import Stage
from isoloss.plan.lower import open_source
from isoloss.plan.tree import Node
from isoloss.store import Store
from isoloss.worth import tuned
from isoloss.worth.anytime import anytimes
from isoloss.worth.batch_distance import distances_of
from isoloss.worth.batch_study import large_batch
from isoloss.worth.compare import LEVEL, Comparison, Overall, Ratio, Worth, compare
from isoloss.worth.fixed_durations import fixed_durations
from isoloss.worth.results import (
    Result,
    Results,
    axes_of,
    bits_per_nat,
    training_curve,
    variant_of,
)
from isoloss.worth.transfer_study import study_transfer

DRAWS = 1000
CURVE_POINTS = 60
MOST_SENTENCES = 5


def answer(results: Results, *, command: str) -> dict[str, Any]:
    """Everything there is to say about a study, as JSON types only (schema 1)."""
    store = results.store
    comparison = compare(results)
    laws = [law for name in results.study.laws for law in _laws(results, name)]
    sharing = _sharing(results.stage)
    units = _units(results)
    batches, unanswered = large_batch(results, units["D"])
    transferred, objections = study_transfer(results, units["D"])
    # Samples seen are beside the point where unique data is the question: that table stays, without comment.
    judged = Comparison(results.study.baseline) if transferred else comparison
    found: dict[str, Any] = {
        "schema": 1,
        "study": results.study.name,
        "question": None,
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "isoloss": _version(),
        "level": LEVEL,
        "seconds": results.seconds,
        "estimates": results.estimates,
        "provenance": _provenance(results, store),
        "units": units,
        "arms": [_arm(results, name) for name in results.variants()],
        "runs": [_run(r, store) for r in results.results],
        "metrics": results.metrics(),
        "worth": [_worth(w) for w in comparison.by_size],
        "worth_overall": [_overall(o) for o in comparison.overall],
        "large_batch": batches,
        "transfer": transferred,
        "distances": distances_of(results),
        "anytime": anytimes(results),
        "fixed_durations": fixed_durations(results),
        "laws": laws,
        "sharing": sharing,
        "tree": _tree(results),
        "caveats": [*caveats(results, judged, laws), *unanswered, *objections],
    }
    found["summary"] = summary(results, judged, sharing, batches["summary"] if batches else ())
    if transferred:
        several = len(transferred["sources"]) if len(transferred["sources"]) > 1 else 0
        found["summary"] = [transferred["advice"], *transferred["text"][:several], *found["summary"]]
    return found


def summary(
    results: Results, comparison: Comparison, sharing: Mapping[str, Any], batches: Sequence[str] = ()
) -> list[str]:
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
        trend = ""
        if overall.trend:
            trend = {
                "steady": "; it does not change with size in this range",
                "growing": "; it grows with size",
                "fading": "; it fades with size",
            }.get(overall.trend.verdict, "; how it changes with size is not resolved")
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
    finished = bool(results.results) and all(r.status == "done" for r in results.results)
    if shared < unshared and finished:
        sentences.append(
            f"Shared stretches were trained once: {shared:,} updates instead of {unshared:,} "
            f"({1 - shared / unshared:.0%} saved)."
        )
    counts = _counts(results)
    if not counts:
        sentences.append("No run is finished: tuning comes first. Run the study again to go on.")
    elif len(counts) > 1 or "done" not in counts:
        sentences.append("Runs: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + ".")
    return sentences


def _words(ratio: Ratio) -> str:
    """A ratio with its interval, short."""
    interval = "" if ratio.low is None or ratio.high is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.ratio:.2f}x{interval}"


def caveats(results: Results, comparison: Comparison, laws: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a careful reader would object, generated from the data."""
    found = []
    done = [r for r in results.results if r.status == "done"]
    seeds = {r.seed for r in done}
    if 0 < len(seeds) < 3:
        found.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}: no intervals; 3 are the fewest for one.")
    untuned = [arm.name for arm in results.study.arms if arm.name not in {r.arm for r in results.results}]
    if untuned:
        found.append(f"{', '.join(untuned)}: not compared, because tuning is not finished or failed.")
    for message in dict.fromkeys(results.failures.values()):
        found.append(f"A run failed: {message}.")
    edges = {r.variant: r.arm for r in results.results if r.lr_edge}
    if edges:
        names = sorted(edges) if len(edges) <= MOST_SENTENCES else sorted(set(edges.values()))
        found.append(
            f"The best learning rate of {', '.join(names)} lies at an edge of its candidates: widen the grid of tune."
        )
    found += tuned.caveats(results)
    for name, values in (("N", {r.N for r in done}), ("D", {r.D for r in done})) if laws else ():
        if min(values, default=0) < max(values, default=0) < 10 * min(values):
            found.append(
                f"{name} ranges over a factor of {max(values) / min(values):.3g}, less than a decade: "
                "a law fitted here says little beyond it."
            )
    broken = [r for r in results.results if r.status == "diverged"]
    if broken:
        found.append(f"{len(broken)} run{'s' if len(broken) > 1 else ''} diverged and count nowhere: see the list.")
    absent = [r for r in results.results if r.status in ("missing", "failed")]
    if absent:
        found.append(f"{len(absent)} runs are not finished; run the study again to train only those.")
    unread = sum(
        r.status == "done" and len(r.metrics) < len(p.lowered.metrics)
        for p, r in zip(results.stage.planned, results.results, strict=True)
    )
    if unread:
        found.append(f"Metrics of {unread} finished runs are not measured yet: run the study again for them.")
    for worth in comparison.by_size:
        if worth.note:
            found.append(f"{worth.arm} at N = {worth.N:,}: {worth.note}.")
    return found + _of_laws(laws)


def _of_laws(laws: Sequence[Mapping[str, Any]]) -> list[str]:
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


def _counts(results: Results) -> dict[str, int]:
    counts: dict[str, int] = {}
    for r in results.results:
        counts[r.status] = counts.get(r.status, 0) + 1
    return counts


def _arm(results: Results, name: str) -> dict[str, Any]:
    stage, axes = results.stage, axes_of(results.study)
    mine = [p for p in stage.planned if variant_of(p.cell, axes) == name]
    arm = mine[0].cell.arm
    rates: dict[int, dict[str, Any]] = {}
    for planned in mine:
        rates.setdefault(
            planned.lowered.facts.N,
            {
                "N": planned.lowered.facts.N,
                "width": planned.cell.config["model"].get("width"),
                "lr": planned.lr,
                "rule": planned.rule,
                "edge": planned.edge,
            }
            | ({"tuned": found} if (found := tuned.values(planned.tuned)) else {}),
        )
    choices = [
        c
        for c in stage.choices
        if c.arm == arm and all(mine[0].cell.coordinates.get(path) == c.point.get(path) for path in axes)
    ]
    return {
        "name": name,
        "baseline": name == results.variants()[0],
        "line": describe(results.study.arm(arm).overrides),
        "lr": [rates[N] for N in sorted(rates)],
        "tuning": tuned.record(results, name, choices),
    }


def describe(overrides: Mapping[str, Any]) -> str:
    """An arm's overrides in one line."""

    def words(value: Any) -> str:
        if isinstance(value, Mapping):
            return ", ".join(
                f"{k} {words(v)}" if not isinstance(v, Mapping) else f"{k}: {words(v)}" for k, v in value.items()
            )
        return str(value)

    return "; ".join(f"{name}: {words(value)}" for name, value in overrides.items()) or "the study as it stands"


def _run(r: Result, store: Store) -> dict[str, Any]:
    updates, losses = training_curve(r, store) if r.status == "done" else ([], [])
    return {
        "id": r.name,
        "arm": r.variant,
        "cell": dict(r.cell),
        "seed": r.seed,
        "root": r.root,
        "N": r.N,
        "N_total": r.N_total,
        "D": r.D,
        "S": r.S,
        "C": r.C,
        "lr": r.lr,
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
        "train": {"update": updates, "loss": losses},
    }


def _ratio(ratio: Ratio) -> dict[str, Any]:
    return {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high}


def _ratios(ratios: Mapping[str, Ratio]) -> dict[str, Any]:
    both: dict[str, Any] = {name: _ratio(ratio) for name, ratio in ratios.items()}
    both["inverse"] = {name: _ratio(ratio.inverse) for name, ratio in ratios.items()}
    both["resolved"] = bool(ratios) and ratios["data"].resolved
    return both


def _worth(worth: Worth) -> dict[str, Any]:
    return {
        "arm": worth.arm,
        "reference": worth.reference,
        "N": worth.N,
        **_ratios(worth.ratios),
        "roots": worth.roots,
        "targets": list(worth.targets),
        "note": worth.note or None,
    }


def _overall(overall: Overall) -> dict[str, Any]:
    trend = overall.trend
    return {
        "arm": overall.arm,
        "reference": overall.reference,
        **_ratios(overall.ratios),
        "trend": trend and {"slope": trend.slope, "low": trend.low, "high": trend.high, "verdict": trend.verdict},
    }


def _laws(results: Results, name: str) -> list[dict[str, Any]]:
    """One law for every arm that has points enough; what cannot be fitted says why."""
    found = []
    for arm in results.variants():
        points = results.points(arm)
        entry: dict[str, Any] = {"arm": arm, "law": name, "formula": get_form(name).formula}
        entry |= {"parameters": [], "rows": len(points), "holdout": None, "curves": [], "warnings": []}
        try:
            _fit(entry, name, points, results)
        except LawError as error:
            entry["warnings"].append(str(error))
        found.append(entry)
    return found


def _fit(entry: dict[str, Any], name: str, points: Any, results: Results) -> None:
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
    by = results.study.holdout or ("N" if x is None else "D")
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


def _sharing(stage: Stage) -> dict[str, Any]:
    apart, together = cost.unshared(stage.runs), cost.shared(stage.roots)
    trials = [t.lowered for t in stage.trials]
    charged = cost.unshared(trials) if trials else cost.NONE
    return {
        "updates": {"shared": together.updates, "unshared": apart.updates},
        "flops": {"shared": together.flops, "unshared": apart.flops},
        "evaluation_flops": together.evaluation_flops,
        "tuning": {"updates": charged.updates, "flops": charged.flops},
        "closed_form": closed_form(stage),
    }


def closed_form(stage: Stage) -> dict[str, Any] | None:
    """The published saving, T_m + c sum_{i<m} T_i over sum T_i, of the arms that are a trunk with cooldowns.

    Haegele et al. 2024 (notebook form), for the first arm whose runs differ in duration only and end in a cooldown.
    """
    for arm in dict.fromkeys(p.cell.arm for p in stage.planned):
        mine = [p for p in stage.planned if p.cell.arm == arm]
        cooldown = mine[0].cell.config["schedule"].get("cooldown")
        if not cooldown or cooldown.get("fraction") is None or mine[0].cell.config["schedule"]["shape"] != "constant":
            continue
        durations = sorted({p.lowered.run.length for p in mine})
        if len(durations) < 2:
            continue
        c = float(cooldown["fraction"])
        together = durations[-1] + c * sum(durations[:-1])
        return {
            "arm": arm,
            "ratio": together / sum(durations),
            "formula": f"({durations[-1]} + {c:g} x ({' + '.join(map(str, durations[:-1]))})) / "
            f"({' + '.join(map(str, durations))})",
        }
    return None


def _tree(results: Results) -> list[dict[str, Any]]:
    """The stretches between forks, of the runs of the study; tuning runs are counted where they walk."""
    found: list[dict[str, Any]] = []
    stage, axes = results.stage, axes_of(results.study)
    trials = len(stage.trials)
    numbers: dict[str, int] = {}
    paths = tuned.others(results.study)
    chosen = {"chosen": list(results.study.tune.values)} if paths and results.study.tune else {}

    def add(node: Node, parent: str | None, seen: str) -> None:
        cuts = sorted({*node.forks, *node.ends, node.length} - {0})
        begin, above = 0, parent
        here: dict[int, str] = {0: parent} if parent else {}
        for end in cuts:
            members = [m for m in node.members if _reaches(stage, m, node, end)]
            arms = list(dict.fromkeys(variant_of(stage.cells[m], axes) for m in members))
            numbers[seen] = numbers.get(seen, 0) + 1
            name = f"{seen}.{numbers[seen]}"
            kind = {"warmup": "warmup", "constant": "trunk"}.get(node.phase.rule.lr.shape, "branch")
            first = stage.cells[members[0]]
            found.append(
                {
                    "id": name,
                    "parent": above,
                    "start": node.begun + begin,
                    "end": node.begun + end,
                    "arms": arms,
                    "cells": len(members),
                    "label": f"{'+'.join(arms)} {node.phase.rule.lr.shape}",
                    "kind": kind,
                    "reused": len(members) > 1,
                    "tuning": all(m < trials for m in members),
                    **chosen,
                    "lr": node.phase.rule.lr.peak,
                    "cell": {p: v for p, v in first.coordinates.items() if p != "duration"},
                    "N": node.facts.N,
                    "flops": (end - begin) * node.flops_per_update,
                }
            )
            begin, above = end, name
            here[end] = name
        for child in node.children:
            add(child, here.get(child.fork), seen)

    for number, root in enumerate(stage.roots):
        add(root, None, f"{number}")
    return found


def _reaches(stage: Stage, member: int, node: Node, end: int) -> bool:
    """Whether a run walks on a track as far as ``end``."""
    lowered = stage.runs[member]
    return any(track.id == node.track.id and phase.length >= end for track, phase, _ in lowered.run.tracks)


def _provenance(results: Results, store: Store) -> dict[str, Any]:
    first = results.stage.runs[0]
    source = open_source(first.data)
    return {
        "numerics": dict(first.run.numerics),
        "data": {"digest": source.digest, **{k: v for k, v in source.describe().items() if k != "digest"}},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "scipy", "polars", "safetensors")},
        },
        "study_file": results.study.text,
        "store": store.name,
    }


def _units(results: Results) -> dict[str, Any]:
    first = results.stage.runs[0]
    source = open_source(first.data)
    if source.kind != "tokens":
        return {"D": "samples", "loss": "nats per sample", "bits_per_byte": None}
    unit = "byte" if source.bytes_per_token == 1 else "token"
    return {"D": "tokens", "loss": f"nats per {unit}", "bits_per_byte": bits_per_nat(source)}


def _version() -> str:
    return importlib.metadata.version("isoloss")


def _finite(value: Any) -> Any:
    """Numbers that JSON has no word for become null."""
    return None if value is None or (isinstance(value, float) and not math.isfinite(value)) else float(value)


__all__ = ["answer", "caveats", "closed_form", "summary"]
