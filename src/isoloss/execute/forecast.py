"""The prediction of a run's time, made when it begins."""

from __future__ import annotations

from collections.abc import Sequence

from isoloss.plan import cost
from isoloss.plan.demands import Stage
from isoloss.plan.estimate import Forecast, estimate
from isoloss.plan.lower import Lowered
from isoloss.plan.needs import Memory
from isoloss.plan.speed import ROUGH_FLOPS, Speeds
from isoloss.plan.tree import grow
from isoloss.store import Store
from isoloss.study import Study

SHARE = 0.02
"""Of the time that training is roughly expected to take, what a calibration before it may take."""


def foretell(
    study: Study,
    current: Stage,
    cells: Sequence[Lowered],
    memory: Memory,
    store: Store,
    *,
    workers: int,
    threads: int,
    processes: int,
    paths: Sequence[str],
) -> Forecast:
    """What the rest of a study will take; ``cells``: all its runs, with a stand-in for what is not tuned yet."""
    roots = current.roots if current.complete else grow([t.lowered for t in current.trials] + list(cells))
    nodes = [node for root in roots for node in root.walk()]
    rest = cost.missing(current.work)[0] if current.complete else cost.shared(roots)
    speeds = Speeds(
        nodes,
        store,
        workers=workers,
        threads=threads,
        gang=processes,
        allowance=SHARE * (rest.flops + rest.evaluation_flops) / ROUGH_FLOPS / workers,
        paths=paths,
    )
    asked = [trial.cell for trial in current.trials] + list(study.cells)
    made, _ = estimate(current, roots, asked, memory, speeds)
    return Forecast(made, speeds, store)
