"""The answer of a study as one plain dictionary: what the page and the terminal show, and ``--json`` prints."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from isoloss.plan import cost
from isoloss.plan.demands import Stage
from isoloss.plan.lower import open_source
from isoloss.store import Store
from isoloss.worth import tuned
from isoloss.worth.answer_rows import (
    MOST_SENTENCES,
    diverged,
    few_seeds,
    law_records,
    of_comparison,
    of_laws,
    overall_record,
    run_record,
    short_ranges,
    summary,
    worth_record,
)
from isoloss.worth.anytime import anytimes
from isoloss.worth.batch_distance import distances_of
from isoloss.worth.batch_study import large_batch
from isoloss.worth.compare import LEVEL, Comparison, compare
from isoloss.worth.edges import edges
from isoloss.worth.fixed_durations import fixed_durations
from isoloss.worth.planner import export
from isoloss.worth.results import Results, axes_of, bits_per_nat, training_curve, variant_of
from isoloss.worth.transfer_study import study_transfer


def answer(results: Results, *, command: str) -> dict[str, Any]:
    """Everything there is to say about a study, as JSON types only (schema 1)."""
    store = results.store
    comparison = compare(results)
    laws = [law for name in results.study.laws for law in law_records(results, name, results.study.holdout)]
    sharing = _sharing(results.stage)
    units = _units(results)
    batches, unanswered = large_batch(results, units["D"])
    transferred, objections = study_transfer(results, units["D"])
    # Samples seen are beside the point where unique data is the question: that table stays, without comment.
    judged = Comparison(results.baseline) if transferred else comparison
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
        "runs": [run_record(r, training_curve(r, store) if r.status == "done" else ((), ())) for r in results.results],
        "metrics": results.metrics(),
        "worth": [worth_record(w) for w in comparison.by_size],
        "worth_overall": [overall_record(o) for o in comparison.overall],
        "large_batch": batches,
        "transfer": transferred,
        "distances": distances_of(results),
        "anytime": anytimes(results),
        "fixed_durations": fixed_durations(results),
        "laws": laws,
        "planner": export(results, comparison=comparison, batches=batches),
        "sharing": sharing,
        "tree": _tree(results),
        "caveats": [*caveats(results, judged, laws), *unanswered, *objections],
    }
    found["summary"] = summary(results, judged, sharing, batches["summary"] if batches else ())
    if transferred:
        several = len(transferred["sources"]) if len(transferred["sources"]) > 1 else 0
        found["summary"] = [transferred["advice"], *transferred["text"][:several], *found["summary"]]
    return found


def caveats(results: Results, comparison: Comparison, laws: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a careful reader would object, generated from the data."""
    done = [r for r in results.results if r.status == "done"]
    found = few_seeds(done)
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
    found += tuned.caveats(results) + tuned.unequal(results)
    found += short_ranges(done, laws, comparison) + diverged(results.results)
    absent = [r for r in results.results if r.status in ("missing", "failed")]
    if absent:
        found.append(f"{len(absent)} runs are not finished; run the study again to train only those.")
    unread = sum(
        r.status == "done" and len(r.metrics) < len(p.lowered.metrics)
        for p, r in zip(results.stage.planned, results.results, strict=True)
    )
    if unread:
        found.append(f"Metrics of {unread} finished runs are not measured yet: run the study again for them.")
    return found + of_comparison(comparison) + of_laws(laws)


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
    stage, axes = results.stage, axes_of(results.study)
    trials = len(stage.trials)
    paths = tuned.others(results.study)
    chosen = {"chosen": list(results.study.tune.values)} if paths and results.study.tune else {}
    found = edges(
        stage.roots,
        stage.runs,
        variant=lambda m: variant_of(stage.cells[m], axes),
        cell=lambda m: stage.cells[m].coordinates,
        trial=lambda m: m < trials,
    )
    return [{**record, **chosen} for _, _, _, record in found]


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


__all__ = ["answer", "caveats", "closed_form", "summary"]
