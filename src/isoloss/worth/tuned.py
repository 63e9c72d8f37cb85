"""What tuning chose, tried and cost, as JSON types; beside the learning rate there is more only where it is tuned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from isoloss.plan.tuning import TUNED_PATH, Choice, Setting
from isoloss.study import Study
from isoloss.worth.results import Results, tuning_cost


def others(study: Study) -> tuple[str, ...]:
    """The tuned paths beside the learning rate."""
    return tuple(path for path in (study.tune.values if study.tune else ()) if path != TUNED_PATH)


def values(found: Mapping[str, Setting]) -> dict[str, dict[str, Any]]:
    """What tuning gave a run beside the learning rate: value, rule and edge by path."""
    return {path: dataclasses.asdict(setting) for path, setting in found.items() if path != TUNED_PATH}


def record(results: Results, variant: str, choices: Sequence[Choice]) -> dict[str, Any] | None:
    """Candidates, cost and ``choices`` of a variant; None where nothing was tuned."""
    trials, tune = results.trials(variant), results.study.tune
    if not trials or tune is None:
        return None
    updates, flops = tuning_cost(trials)
    several = bool(others(results.study))
    return {
        "candidates": sorted({t.lr for t in trials}),
        "runs": len(trials),
        "updates": updates,
        "flops": flops,
        **({"paths": {path: list(listed) for path, listed in tune.values.items()}} if several else {}),
        "choices": [
            {
                "N": c.N,
                "lr": c.lr,
                "edge": c.edge,
                "losses": [[lr, _finite(loss)] for lr, loss in sorted(c.losses.items())],
                **(_table(c) if several else {}),
            }
            for c in choices
        ],
    }


def caveats(results: Results) -> list[str]:
    """One for each path beside the learning rate whose winner lies at an edge."""
    found = []
    for path in others(results.study):
        arms = dict.fromkeys(r.arm for r in results.results if path in r.tuned and r.tuned[path].edge)
        if arms:
            words = f"The best {path} of {', '.join(arms)} lies at an edge of its candidates"
            found.append(f"{words}: widen the grid of tune.")
    return found


def unequal(results: Results) -> list[str]:
    """Said where what is compared was not tuned alike, or not at all."""
    tune = results.study.tune
    groups: dict[str, list[str]] = {}
    variants = {r.variant: r for r in results.results}
    if len(variants) < 2:
        return []
    if tune is None:
        return ["Nothing was tuned: an arm that other settings would suit better is judged too low."]
    for variant, r in variants.items():
        trials = results.trials(variant)
        if r.arm in tune.follow:
            how = f"with the values of {tune.follow[r.arm]}"
        elif not r.tuned or not trials:
            how = "with given values"
        else:
            updates, _ = tuning_cost(trials)
            how = f"over {len(trials)} runs of {updates:,} updates"
        groups.setdefault(how, []).append(variant)
    if len(groups) < 2:
        return []
    told = [f"{', '.join(names)} {how}" for how, names in groups.items()]
    return [f"Tuned unequally: {'; '.join(told)}."]


def _table(choice: Choice) -> dict[str, Any]:
    """The winner, and every candidate with its loss on part A."""
    table = [[dict(candidate), _finite(loss)] for candidate, loss in choice.table]
    return {"values": dict(choice.values), "edges": list(choice.edges), "table": table}


def _finite(loss: float) -> float | None:
    """A loss; None where it is not finite, for which JSON has no word."""
    return float(loss) if math.isfinite(loss) else None
