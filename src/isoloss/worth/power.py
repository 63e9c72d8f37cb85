"""What a design can resolve: the smallest worth that would be told from 1, from a few pilot seeds.

For one arm and size let s be the standard deviation between seeds of log worth (pooled over sizes, as an interval
pools it) and n the seeds of the study. Its interval will reach

    t(nu) s / sqrt(n),   nu = sizes (n - 1)

to either side, Student's t at the level of all intervals. s comes from the pilot seeds alone. Where it comes from is
told too: noise of the loss (paired difference of log loss between seeds, at equal N and D) over the slope of the
baseline's curve (log loss against log D).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from isoloss.laws import Points
from isoloss.worth.compare import FEWEST_SEEDS, Rows, compare, student
from isoloss.worth.results import Result

PILOT = 2
MOST_SEEDS = 200


@dataclass(frozen=True)
class _Seed:
    """The runs of one seed, as a comparison reads them."""

    whole: Rows
    seed: str

    @property
    def baseline(self) -> str:
        return self.whole.baseline

    @property
    def results(self) -> Sequence[Result]:
        return [r for r in self.whole.results if r.seed == self.seed]

    def variants(self) -> list[str]:
        return self.whole.variants()

    def reference(self, variant: str) -> str | None:
        return self.whole.reference(variant)

    def tuning(self, variant: str, N: int) -> float:
        return 0.0

    def points(self, arm: str | None = None) -> Points:
        return self.whole.points(arm)


@dataclass(frozen=True)
class Power:
    """Of one arm at one size: ``smallest`` worth in data that the study's ``seeds`` would resolve, and ``needed``
    seeds to resolve ``wanted`` (None beyond 200).

    ``spread``: of log worth between the pilot's seeds, with its degrees of freedom; ``noise`` of log loss and ``slope``
    of the curve, NaN where the arms have no duration in common.
    """

    arm: str
    reference: str
    sizes: tuple[int, ...]
    seeds: int
    pilot: tuple[str, ...]
    spread: float
    freedom: int
    noise: float
    slope: float
    smallest: float
    wanted: float
    needed: int | None

    def to_dict(self) -> dict[str, Any]:
        """JSON types; None for what is not known."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def power(results: Rows, pilot: int = PILOT, wanted: float = 1.1) -> list[Power]:
    """What the study resolves, judged by its first ``pilot`` seeds that have finished runs; one row an arm.

    Raises ValueError for fewer than two pilot seeds, in the request or in the results, or ``wanted`` not above 1.
    """
    if pilot < 2 or not wanted > 1:
        raise ValueError(f"power: found {pilot} pilot seeds and worth {wanted:g}; allowed: 2 or more, and more than 1")
    done = [r for r in results.results if r.status == "done"]
    seeds = list(dict.fromkeys(r.seed for r in results.results))
    trained = [seed for seed in seeds if any(r.seed == seed for r in done)][:pilot]
    if len(trained) < pilot:
        raise ValueError(f"power: {len(trained)} seeds have finished runs; allowed: {pilot} or more")
    alone = [compare(_Seed(results, seed)) for seed in trained]
    values: dict[tuple[str, str], dict[int, list[float]]] = {}
    for comparison in alone:
        for worth in comparison.by_size:
            if "data" in worth.ratios:
                sizes = values.setdefault((worth.arm, worth.reference), {})
                sizes.setdefault(worth.N, []).append(math.log(worth.ratios["data"].ratio))
    found = []
    for (arm, reference), sizes in values.items():
        whole = {N: logs for N, logs in sizes.items() if len(logs) == pilot}
        if not whole:
            continue
        spread = math.sqrt(float(np.mean([np.var(logs, ddof=1) for logs in whole.values()])))
        noise, slope = _origins(arm, reference, [r for r in done if r.seed in trained])
        found.append(
            Power(
                arm,
                reference,
                tuple(sorted(whole)),
                len(seeds),
                tuple(trained),
                spread,
                len(whole) * (pilot - 1),
                noise,
                slope,
                math.exp(_reach(spread, len(seeds), len(whole))),
                wanted,
                next(
                    (
                        n
                        for n in range(FEWEST_SEEDS, MOST_SEEDS + 1)
                        if _reach(spread, n, len(whole)) <= math.log(wanted)
                    ),
                    None,
                ),
            )
        )
    return found


def _reach(spread: float, seeds: int, sizes: int) -> float:
    """Half the width of the interval of log worth at one size."""
    if seeds < FEWEST_SEEDS:
        return math.inf
    return student(sizes * (seeds - 1)) * spread / math.sqrt(seeds)


def _origins(arm: str, reference: str, done: Sequence[Result]) -> tuple[float, float]:
    """(noise of the paired difference of log loss between seeds, slope of the reference's log loss in log D)."""
    loss: dict[str, dict[tuple[int, int], dict[str, float]]] = {arm: {}, reference: {}}
    for r in done:
        if r.variant in loss and r.loss:
            loss[r.variant].setdefault((r.N, r.D), {})[r.seed] = math.log(r.loss)
    squares = [
        np.var([mine[seed] - loss[reference][place][seed] for seed in mine if seed in loss[reference][place]], ddof=1)
        for place, mine in loss[arm].items()
        if len(mine.keys() & loss[reference].get(place, {}).keys()) > 1
    ]
    slopes = []
    for N in {N for N, _ in loss[reference]}:
        ends = sorted(D for n, D in loss[reference] if n == N)
        if len(ends) > 1:
            first, last = (float(np.mean(list(loss[reference][N, D].values()))) for D in (ends[0], ends[-1]))
            slopes.append((first - last) / math.log(ends[-1] / ends[0]))
    return (
        math.sqrt(float(np.mean(squares))) if squares else math.nan,
        float(np.mean(slopes)) if slopes else math.nan,
    )
