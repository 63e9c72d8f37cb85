"""How much memory a worker needs for a run: what a cluster's scheduler is told."""

from __future__ import annotations

from collections.abc import Iterable

from isoloss.plan.footprint import PROGRAM, memory
from isoloss.plan.lower import Lowered
from isoloss.recipe.canonical import digest


def footprint(runs: Iterable[Lowered], processes: int = 1) -> int:
    """Bytes that one of ``processes`` needs for the most demanding of ``runs``, an estimate from above for most."""
    seen: dict[str, int] = {}
    for lowered in runs:
        track = len(lowered.run.phases) - 1
        rule = lowered.run.phases[track].rule
        asked = tuple(m for measures in lowered.points.values() for m in measures)
        observed = sorted({m.observer.id for m in asked if m.observer})
        memo = digest([dict(lowered.run.start.model), rule.data["digest"], rule.batch, rule.micro_batches, observed])
        if memo not in seen:
            seen[memo] = memory(lowered.run, track, lowered.data, lowered.facts.N_total, asked, processes).total
    return max(seen.values(), default=PROGRAM)
