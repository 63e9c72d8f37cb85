"""The measurements of a study, one result a cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.data import Source
from isoloss.laws import Points
from isoloss.plan.demands import Planned, Stage, Trial, diverged
from isoloss.plan.lower import Facts, open_source
from isoloss.plan.memory import StoreMemory
from isoloss.store import Store
from isoloss.study import Study

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True)
class Result:
    """What one cell gave. ``loss``: part B at the end (nats per token or sample), None unless ``status`` is done.

    D in tokens (samples for vectors), S in updates, C in training FLOPs with every gradient evaluation. ``root``:
    the unit of resampling, runs of one initialisation and data order.
    """

    name: str
    arm: str
    cell: Mapping[str, Any]
    seed: str
    extra: bool
    root: str
    N: int
    N_total: int
    D: int
    S: int
    C: float
    lr: float
    lr_rule: str
    lr_edge: bool
    status: str
    loss: float | None
    loss_a: float | None
    message: str
    key: str
    facts: Facts = field(repr=False)
    bits: float | None = field(default=None, repr=False)
    """Bits per byte in one nat of loss; None where a token has no bytes."""
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)


@dataclass
class Results:
    """All results of a study with what is needed to account for them."""

    study: Study
    stage: Stage
    results: list[Result]
    store: Store
    failures: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    stopped: bool = False
    trained: int = 0
    replayed: int = 0

    def answer(self, command: str = "isoloss.run") -> dict[str, Any]:
        """Everything there is to say as JSON types: what the page shows."""
        from isoloss.worth.answer import answer

        return answer(self, command=command)

    def frame(self) -> polars.DataFrame:
        """One row a run: coordinates, N, D, S, C, learning rate, losses on parts A and B, status."""
        import polars

        rows = []
        for r in self.results:
            row: dict[str, Any] = {"arm": r.arm}
            row |= {path: str(value) if isinstance(value, Mapping) else value for path, value in r.cell.items()}
            row |= {"N": r.N, "D": r.D, "S": r.S, "C": r.C, "lr": r.lr, "loss": r.loss, "loss_a": r.loss_a}
            row["bits_per_byte"] = None if r.loss is None or r.bits is None else r.loss * r.bits
            rows.append(row | {"status": r.status, "root": r.root, "key": r.key, "message": r.message})
        return polars.DataFrame(rows, infer_schema_length=None)

    def points(self, arm: str | None = None) -> Points:
        """Finished runs (of one arm) as points for a law; ``cluster`` is the root."""
        rows = [
            {"N": r.N, "D": r.D, "S": r.S, "C": r.C, "loss": r.loss, "seed": r.seed, "run": r.name, "cluster": r.root}
            for r in self.results
            if r.status == "done" and (arm is None or r.arm == arm)
        ]
        return Points.from_rows(rows)

    def tuning(self, arm: str, N: int) -> float:
        """FLOPs of an arm's tuning that fall to one size: divided in proportion to the cost of an update."""
        _, total = tuning_cost(self.stage.trials, arm)
        costs = {r.N: r.facts.flops_per_update for r in self.results if r.arm == arm}
        return total * costs[N] / sum(costs.values())

    def arms(self) -> list[str]:
        """Names of arms, the baseline first."""
        names = dict.fromkeys(r.arm for r in self.results)
        return sorted(names, key=lambda name: name != self.study.baseline)


def collect(study: Study, stage: Stage, store: Store, failures: Mapping[str, str] | None = None) -> Results:
    """Read from ``store`` what the runs of a stage measured; what is not there is missing, not an error."""
    memory = StoreMemory(store)
    failures = failures or {}
    runs = [p.lowered for p in stage.planned]
    broken = diverged(runs, memory)
    keys = {lowered.run.key(u) for lowered in runs for u in lowered.points}
    measured = memory.measured(sorted(keys))
    found = []
    for index, planned in enumerate(stage.planned):
        found.append(_result(planned, measured, broken.get(index), failures.get(planned.name), store))
    return Results(study, stage, found, store, failures)


def _result(
    planned: Planned,
    measured: Mapping[str, Mapping[str, float]],
    broke: int | None,
    failure: str | None,
    store: Store,
) -> Result:
    cell, lowered, facts = planned.cell, planned.lowered, planned.lowered.facts
    run = lowered.run
    key = run.key(run.length)
    at_end = measured.get(key, {})
    losses = {part: at_end.get(measure.name) for part, measure in lowered.final.items()}
    status, message = "done", ""
    if losses["A"] is None or losses["B"] is None:
        status = "missing"
        if broke is not None:
            status = "diverged"
            message = _reason(planned, broke, store)
        elif failure is not None:
            status, message = "failed", failure
    curve = []
    for update, measures in sorted(lowered.points.items()):
        name = next((m.name for m in measures if m.part == "B" and m.observer is None), None)
        value = measured.get(run.key(update), {}).get(name or "")
        if value is not None:
            curve.append((update, value))
    seeds = cell.config["seed"]
    seed = str(cell.coordinates.get("seed", seeds))
    return Result(
        name=planned.name,
        arm=cell.arm,
        cell=cell.coordinates,
        seed=seed,
        extra=cell.extra,
        root=f"N={facts.N} seed={seed}",
        N=facts.N,
        N_total=facts.N_total,
        D=run.length * facts.terms_per_update,
        S=run.length,
        C=run.length * facts.flops_per_update,
        lr=planned.lr,
        lr_rule=planned.rule,
        lr_edge=planned.edge,
        status=status,
        loss=losses["B"] if status == "done" else None,
        loss_a=losses["A"] if status == "done" else None,
        message=message,
        key=key,
        facts=facts,
        bits=bits_per_nat(open_source(lowered.data)),
        curve=tuple(curve),
    )


def bits_per_nat(source: Source) -> float | None:
    """Bits per byte in one nat per token."""
    if source.kind != "tokens" or not math.isfinite(source.bytes_per_token):
        return None
    return 1 / (math.log(2) * source.bytes_per_token)


def _reason(planned: Planned, update: int, store: Store) -> str:
    """What the store noted where the run broke off."""
    return store.divergence(planned.lowered.run.key(update)) or f"update {update}"


def training_curve(result: Result, store: Store, points: int = 200) -> tuple[list[int], list[float]]:
    """(updates, training loss) of a run, thinned by means over equal stretches to at most ``points``."""
    columns = store.trajectory(result.key)
    if not columns:
        return [], []
    updates, losses = columns["update"], columns["loss"]
    stretch = max(1, -(-len(updates) // points))
    whole = len(updates) // stretch * stretch
    if whole == 0:
        return [], []
    means = losses[:whole].reshape(-1, stretch).mean(1)
    return np.asarray(updates[:whole].reshape(-1, stretch)[:, -1]).tolist(), means.tolist()


def tuning_cost(trials: tuple[Trial, ...], arm: str) -> tuple[int, float]:
    """(updates, FLOPs) of an arm's tuning runs, each counted whole: the same budget for every arm."""
    mine = [t.lowered for t in trials if t.arm == arm]
    updates = sum(lowered.run.length for lowered in mine)
    return updates, sum(lowered.run.length * lowered.facts.flops_per_update for lowered in mine)
