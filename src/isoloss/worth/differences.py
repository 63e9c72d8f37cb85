"""Differences of final loss between any two arms at equal size, duration and seed.

A seed is one unit: its differences are averaged over sizes (and durations), and intervals are Student's t over seeds.
Fewer than three seeds give no interval.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.worth.compare import interval

if TYPE_CHECKING:
    from isoloss.worth.compare import Rows


@dataclass(frozen=True)
class Difference:
    """Loss of ``arm`` minus that of ``against`` (nats), over sizes; ``duration`` None: over all durations too."""

    arm: str
    against: str
    duration: str | None
    difference: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def words(self) -> str:
        """The difference with its interval and what it says."""
        interval = "" if self.low is None or self.high is None else f" [{self.low:+.4f}, {self.high:+.4f}]"
        verdict = ("lower" if self.difference < 0 else "higher") if self.resolved else "not resolved"
        return f"{self.difference:+.4f}{interval} nats, {verdict}"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {"resolved": self.resolved}


def differences(results: Rows, arm: str, against: str) -> list[Difference]:
    """``arm`` minus ``against`` (variants) over all durations, then at each one; empty where no runs match."""
    losses: dict[str, dict[tuple[str, int, str], float]] = {arm: {}, against: {}}
    lengths: dict[str, float] = {}
    for r in results.results:
        if r.variant in losses and r.status == "done" and r.loss is not None:
            duration = str(r.cell.get("duration", r.S))
            losses[r.variant][duration, r.N, r.seed] = r.loss
            lengths[duration] = max(lengths.get(duration, 0), r.S)
    places = losses[arm].keys() & losses[against].keys()
    found = {place: losses[arm][place] - losses[against][place] for place in places}
    durations = sorted({duration for duration, _, _ in places}, key=lambda name: lengths[name])
    groups: list[tuple[str | None, list[str]]] = [(None, durations), *((name, [name]) for name in durations)]
    made = []
    for name, members in groups:
        if means := _seed_means({p: d for p, d in found.items() if p[0] in members}):
            made.append(Difference(arm, against, name, *interval(means), len(means)))
    return made


def _seed_means(found: dict[tuple[str, int, str], float]) -> list[float]:
    """One mean a seed, over the places (duration, size) that all seeds have."""
    by_seed: dict[str, dict[tuple[str, int], float]] = {}
    for (duration, N, seed), value in found.items():
        by_seed.setdefault(seed, {})[duration, N] = value
    if not by_seed:
        return []
    common = set.intersection(*(set(places) for places in by_seed.values()))
    return [float(np.mean([places[p] for p in common])) for _, places in sorted(by_seed.items())] if common else []
