"""How far the weights of a study's runs went from their start, how rough the loss is there, and what law they follow.

Both laws, d = a ln t + b and d = a t^p, are fitted where the learning rate stands at its peak (after a warm-up, before
a decay), to the geometric mean over seeds. alpha is twice the slope of log std against log distance; a random walk on
such a potential moves as d ~ (log t)^(2/alpha). Source: Hoffer et al. 2017 (1705.08741), section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.methods.distance import Roughness
from isoloss.worth.batch import growth, named
from isoloss.worth.compare import interval

if TYPE_CHECKING:
    from isoloss.worth.results import Result, Results

SAME_RATE = 1e-9


def distances_of(results: Results) -> list[dict[str, Any]]:
    """One record an arm, N and batch whose runs measured a distance or a roughness, of each seed its longest run.

    `update`, `distance` (geometric mean over seeds), `low` and `high` (over seeds); `growth` as in `worth.batch.growth`
    with the `evidence` of its seeds, or None with a `note`; `roughness` (None, or distance, std and alpha with its
    interval).
    """
    chosen: dict[tuple[str, int, int], dict[str, Result]] = {}
    for arm, r in named(results):
        if r.distance or r.roughness:
            seeds = chosen.setdefault((arm, r.N, r.facts.batch), {})
            if r.seed not in seeds or seeds[r.seed].S < r.S:
                seeds[r.seed] = r
    found = []
    for (arm, N, batch), by_seed in chosen.items():
        runs = list(by_seed.values())
        record: dict[str, Any] = {"arm": arm, "N": N, "batch": batch, "seeds": len(runs)}
        record |= _path([dict(r.distance) for r in runs])
        record |= {"growth": None, "note": None, "roughness": rough([r.roughness for r in runs if r.roughness])}
        if record["update"]:
            steady = _at_peak(results.store.trajectory(runs[0].key))
            kept = [(t, d) for t, d in zip(record["update"], record["distance"], strict=True) if t in steady]
            try:
                record["growth"] = growth([t for t, _ in kept], [d for _, d in kept])
                record["growth"]["evidence"] = _evidence([dict(r.distance) for r in runs], {t for t, _ in kept})
            except ValueError:
                record["note"] = f"{len(kept)} distances at one learning rate are too few for a law"
        found.append(record)
    return found


def _path(by_seed: Sequence[Mapping[int, float]]) -> dict[str, list[float]]:
    """Distances over seeds at the updates that all of them measured."""
    updates = sorted(set.intersection(*(set(path) for path in by_seed)))
    values = np.array([[path[u] for u in updates] for path in by_seed], float).reshape(len(by_seed), len(updates))
    with np.errstate(divide="ignore"):
        middle = np.exp(np.log(values).mean(0))
    return {
        "update": list(updates),
        "distance": middle.tolist(),
        "low": values.min(0).tolist(),
        "high": values.max(0).tolist(),
    }


def _evidence(by_seed: Sequence[Mapping[int, float]], kept: set[int]) -> dict[str, Any]:
    """Error of the power law over that of the logarithm, each seed by itself: of all points, and of what is ahead."""
    laws = [
        growth(*zip(*((t, d) for t, d in sorted(path.items()) if t in kept), strict=True))["laws"] for path in by_seed
    ]
    found: dict[str, Any] = {}
    for error in ("rmse", "ahead"):
        pairs = [(one["power-growth"][error], one["log-growth"][error]) for one in laws]
        ratios = [math.log(a / b) for a, b in pairs if a and b]
        ends = [None if end is None else math.exp(end) for end in interval(ratios)] if ratios else [None] * 3
        found[error] = dict(zip(("ratio", "low", "high"), ends, strict=True))
    return found


def _at_peak(columns: Mapping[str, np.ndarray]) -> set[int]:
    """Updates whose learning rate is the highest of the run."""
    if "lr" not in columns:
        return set()
    peak = columns["lr"].max()
    return set(columns["update"][columns["lr"] >= peak * (1 - SAME_RATE)].tolist())


def rough(by_seed: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Any] | None:
    """Root mean square over seeds of the spread of the loss, and alpha with its interval over seeds; None for none."""
    if not by_seed:
        return None
    reaches = sorted(set.intersection(*({z for z, _ in spread} for spread in by_seed)))
    table = np.array([[dict(spread)[z] for z in reaches] for spread in by_seed], float)
    # One row of differences whose root mean square is the spread itself.
    slopes = [Roughness(tuple(reaches), (tuple(row),)).alpha for row in table.tolist()]
    alphas = [alpha for alpha in slopes if math.isfinite(alpha)]
    alpha = dict(zip(("ratio", "low", "high"), interval(alphas) if alphas else (None, None, None), strict=True))
    return {"distance": reaches, "std": np.sqrt((table**2).mean(0)).tolist(), "alpha": alpha}
