"""The gradient noise scale of a study, from the norms its runs wrote down: one unbiased (S, |G|^2) an arm and seed.

    S = (q - |g|^2) / (1/b - 1/B),   |G|^2 = |g|^2 - S / B        averaged over updates (`methods.noise_scale`)

q is the mean squared norm of the V micro-batches of b = B / V samples, g the gradient of the batch, before clipping.
Epochs are drawn without replacement from n samples, and no correction is made for it: with that noise,
S (1/B - 1/n), the hyperbola of updates against batch keeps its form, and its critical batch is just this ratio
S / |G|^2. Source: McCandlish et al. 2018 (1812.06162), equation 2.7 and appendix A.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isoloss.methods.noise_scale import estimate
from isoloss.worth.batch import named

if TYPE_CHECKING:
    from isoloss.recipe.run import Run
    from isoloss.worth.results import Result, Results

SETTLING = 10
"""One part in so many of a run's updates, the first, is left out: there the gradient is not yet that of training."""


def noise_of(results: Results, N: int | None = None) -> dict[str, dict[str, tuple[float, float]]]:
    """(S, |G|^2) in samples by arm (as `worth.batch.named` calls it) and seed, of runs of size `N` (default: of all).

    Of each arm the smallest batch whose runs have several micro-batches, of each seed its longest run. Averages over
    all updates but the first tenth; updates without norms (a wrapper moved the weights) are left out, and so are arms
    without any.
    """
    micro = {id(r): _micro(p.lowered.run) for p, r in zip(results.stage.planned, results.results, strict=True)}
    chosen: dict[str, dict[float, dict[str, Result]]] = {}
    for arm, r in named(results):
        if N in (None, r.N) and (micro[id(r)] or 0) > 1:
            seeds = chosen.setdefault(arm, {}).setdefault(r.facts.batch, {})
            if r.seed not in seeds or seeds[r.seed].S < r.S:
                seeds[r.seed] = r
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for arm, batches in chosen.items():
        for batch in sorted(batches):
            pairs = {
                seed: pair
                for seed, r in batches[batch].items()
                if (pair := averages(results.store.trajectory(r.key), r.facts.batch, micro[id(r)] or 1))
            }
            if pairs:
                found[arm] = pairs
                break
    return found


def averages(columns: dict[str, np.ndarray], batch: int, micro_batches: int) -> tuple[float, float] | None:
    """Averaged (S, |G|^2) in samples of one training curve; None where it has no norms of micro-batches."""
    if "micro_squared" not in columns:
        return None
    skipped = len(columns["update"]) // SETTLING
    q, squared = columns["micro_squared"][skipped:], columns["gradient_norm"][skipped:] ** 2
    known = np.isfinite(q) & np.isfinite(squared)
    if not known.any():
        return None
    # The estimator is linear in both norms, so their averages give the averages of S and |G|^2.
    pair = estimate([float(q[known].mean())] * micro_batches, float(squared[known].mean()), batch // micro_batches)
    return pair.S, pair.G2


def _micro(run: Run) -> int | None:
    """Micro-batches of a run; None where its phases differ in them or in the batch."""
    layouts = {(phase.rule.batch, phase.rule.micro_batches) for phase in run.phases}
    return layouts.pop()[1] if len(layouts) == 1 else None
