"""The measurements of a study, one result a cell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.data import Source
from isoloss.laws import Points
from isoloss.plan.demands import Planned, Stage, diverged
from isoloss.plan.lower import Facts, Lowered, open_source
from isoloss.plan.memory import StoreMemory
from isoloss.plan.tuning import TUNED_PATH, Setting, Trial
from isoloss.store import Store
from isoloss.study import Cell, Study
from isoloss.train.probes import START, reach

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
    variant: str
    """The arm, and its place on the axes of the grid beside model, duration and seed: what is compared."""
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
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the study's evaluation beside the loss: part B at the end, empty unless done; NaN where not defined."""
    metrics_a: Mapping[str, float] = field(default_factory=dict, repr=False)
    C_pretrain: float = 0.0
    """FLOPs of the earlier training that the run goes on from, whole."""
    unique: int = field(default=0, repr=False)
    """Unique training data, in the unit of D."""
    best: int = field(default=0, repr=False)
    """The update that is judged: the end, or the best by part A."""
    fixed_flops: float = field(default=0.0, repr=False)
    """The part of C that does not grow with the run: the refresh of an average's running statistics."""
    bits: float | None = field(default=None, repr=False)
    """Bits per byte in one nat of loss; None where a token has no bytes."""
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    steady: int | None = field(default=None, repr=False)
    """Updates from which losses along the way are those of shorter runs: the run's end is stationary."""
    distance: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    """(update, distance of the weights from the start), where the study asks for it."""
    roughness: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    """(distance from the final weights, spread of the loss there), where the study asks for it."""
    tuned: Mapping[str, Setting] = field(default_factory=dict, repr=False)
    """What tuning gave it, by path; the learning rate is among them where it is tuned."""


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
    estimates: dict[str, Any] | None = None
    """Predicted and actual time of the run that gave these results; None where nothing was trained for them."""

    @property
    def baseline(self) -> str:
        """The arm that others are compared with."""
        return self.study.baseline

    def answer(self, command: str = "isoloss.run") -> dict[str, Any]:
        """Everything there is to say as JSON types: what the page shows."""
        from isoloss.worth.answer import answer

        return answer(self, command=command)

    def frame(self) -> polars.DataFrame:
        """One row a run: coordinates, N, D, S, C, learning rate and what else is tuned (by path), loss and metrics on
        parts A (``_a``) and B, status.
        """
        import polars

        rows = []
        for r in self.results:
            row: dict[str, Any] = {"arm": r.arm}
            row |= {path: str(value) if isinstance(value, Mapping) else value for path, value in r.cell.items()}
            row |= {"N": r.N, "D": r.D, "S": r.S, "C": r.C, "lr": r.lr, "loss": r.loss, "loss_a": r.loss_a}
            row |= {path: _scalar(s.value) for path, s in r.tuned.items() if path != TUNED_PATH}
            row["bits_per_byte"] = None if r.loss is None or r.bits is None else r.loss * r.bits
            names = dict.fromkeys(name for other in self.results for name in other.metrics)
            row |= {name: r.metrics.get(name) for name in names}
            row |= {f"{name}_a": r.metrics_a.get(name) for name in names}
            rows.append(row | {"status": r.status, "root": r.root, "key": r.key, "message": r.message})
        return polars.DataFrame(rows, infer_schema_length=None)

    def metrics(self) -> list[dict[str, Any]]:
        """Part B of every variant and size at its longest duration, over seeds: loss and the evaluation's metrics.

        A row has arm (the variant), N, D, cell (coordinates but for duration and seed), metric, mean, sd (None below
        two values) and seeds (how many values; what is not defined is left out). No rows without metrics in the study.
        """
        return metric_rows(self.results)

    def points(self, arm: str | None = None) -> Points:
        """Finished runs (of one arm) as points for a law; ``cluster`` is the root."""
        rows = [
            {"N": r.N, "D": r.D, "S": r.S, "C": r.C, "loss": r.loss, "seed": r.seed, "run": r.name, "cluster": r.root}
            for r in self.results
            if r.status == "done" and arm in (None, r.arm, r.variant)
        ]
        return Points.from_rows(rows)

    def tuning(self, variant: str, N: int) -> float:
        """FLOPs of a variant's tuning that fall to one size: divided in proportion to the cost of an update."""
        _, total = tuning_cost(self.trials(variant))
        costs = {r.N: r.facts.flops_per_update for r in self.results if r.variant == variant}
        return total * costs[N] / sum(costs.values())

    def trials(self, variant: str) -> list[Trial]:
        """The tuning runs behind a variant: its own, or all of its arm, or of the arm it follows, where it has none."""
        axes = axes_of(self.study)
        own = [t for t in self.stage.trials if variant_of(t.cell, axes) == variant]
        arm = next((r.arm for r in self.results if r.variant == variant), variant)
        follow = self.study.tune.follow if self.study.tune else {}
        return own or [t for t in self.stage.trials if t.arm == follow.get(arm, arm)]

    def variants(self) -> list[str]:
        """Arms by their places on the other axes, the baseline's first."""
        names = {r.variant: r.arm for r in self.results}
        return sorted(names, key=lambda name: names[name] != self.baseline)

    def reference(self, variant: str) -> str | None:
        """What a variant is compared with: the baseline at its place, of the baseline itself that at the first place.

        None for what has no counterpart. Amounts of data are never compared as if they were methods.
        """
        axes = axes_of(self.study)
        arm, cell = next((r.arm, r.cell) for r in self.results if r.variant == variant)
        first = {path: values[0] for path, values in axes.items() if path != "data.size"}
        place = {path: cell[path] for path in axes} | (first if arm == self.baseline else {})
        for r in self.results:
            if r.arm == self.baseline and all(r.cell.get(path) == value for path, value in place.items()):
                return None if r.variant == variant else r.variant
        return None


def _scalar(value: Any) -> Any:
    """What a table may hold; mappings and lists as text."""
    return str(value) if isinstance(value, Mapping | list) else value


def axes_of(study: Study) -> dict[str, tuple[Any, ...]]:
    """The axes of the grid that set apart what is compared: all but model, duration, seed and what moves with them."""
    return {
        path: values
        for path, values in study.grid.items()
        if path not in ("duration", "seed", *study.linked) and not path.startswith("model.") and len(values) > 1
    }


def variant_of(cell: Cell, axes: Mapping[str, Sequence[Any]]) -> str:
    """``arm``, or ``arm · batch 64`` where there are other axes; a unit that all values share is left out."""
    return " · ".join([cell.arm, *(f"{path.rpartition('.')[2]} {_short(cell.coordinates[path], axes[path])}"
                                   for path in axes)])  # fmt: skip


def _short(value: Any, values: Sequence[Any]) -> str:
    units = {str(v).partition(" ")[2] for v in values}
    return str(value).partition(" ")[0] if len(units) == 1 else str(value)


def collect(study: Study, stage: Stage, store: Store, failures: Mapping[str, str] | None = None) -> Results:
    """Read from ``store`` what the runs of a stage measured; what is not there is missing, not an error."""
    memory = StoreMemory(store)
    failures = failures or {}
    runs = [p.lowered for p in stage.planned]
    broken = diverged(runs, memory)
    keys = {lowered.run.key(u) for lowered in runs for u in lowered.points}
    measured = memory.measured(sorted(keys))
    found = []
    axes = axes_of(study)
    for index, planned in enumerate(stage.planned):
        found.append(_result(planned, axes, measured, broken.get(index), failures.get(planned.name), store))
    return Results(study, stage, found, store, failures)


def _result(
    planned: Planned,
    axes: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, float]],
    broke: int | None,
    failure: str | None,
    store: Store,
) -> Result:
    cell, lowered, facts = planned.cell, planned.lowered, planned.lowered.facts
    run = lowered.run
    chosen = lowered.chosen(measured)
    at = run.length if chosen is None else chosen[0]
    key = run.key(at)
    at_end = measured.get(key, {})
    losses = {part: at_end.get(measure.name) for part, measure in lowered.final.items()}
    status, message = "done", ""
    if chosen is None or losses["B"] is None:
        status = "missing"
        if broke is not None:
            status = "diverged"
            message = _reason(planned, broke, store)
        elif failure is not None:
            status, message = "failed", failure
    read: dict[str, dict[str, float]] = {
        part: {
            name: at_end[measure.name]
            for name in lowered.metrics
            if (measure := lowered.at_end(name)[part]).name in at_end
        }
        for part in losses
    }
    curve: list[tuple[int, float]] = []
    distance: list[tuple[int, float]] = []
    for update, measures in sorted(lowered.points.items()):
        here = measured.get(run.key(update), {})
        for kept, wanted in ((curve, ("loss", "B", lowered.along)), (distance, ("distance", START, None))):
            name = next((m.name for m in measures if (m.metric, m.part, m.observer) == wanted), "")
            if name in here:
                kept.append((update - lowered.begun, here[name]))
    spread = [(z, at_end[m.name]) for m in lowered.points[run.length] if (z := reach(m.metric)) and m.name in at_end]
    seeds = cell.config["seed"]
    seed = str(cell.coordinates.get("seed", seeds))
    return Result(
        name=planned.name,
        arm=cell.arm,
        variant=variant_of(cell, axes),
        cell=cell.coordinates,
        seed=seed,
        extra=cell.extra,
        root=f"N={facts.N} seed={seed}",
        N=facts.N,
        N_total=facts.N_total,
        D=lowered.length * facts.terms_per_update,
        S=lowered.length,
        C=lowered.flops,
        C_pretrain=lowered.before.flops if lowered.before else 0.0,
        unique=lowered.unique,
        best=at - lowered.begun,
        fixed_flops=lowered.fixed_flops,
        lr=planned.lr,
        lr_rule=planned.rule,
        lr_edge=planned.edge,
        status=status,
        loss=losses["B"] if status == "done" else None,
        loss_a=losses["A"] if status == "done" else None,
        message=message,
        metrics=read["B"] if status == "done" else {},
        metrics_a=read["A"] if status == "done" else {},
        key=key,
        facts=facts,
        bits=bits_per_nat(open_source(lowered.data)),
        curve=tuple(curve),
        steady=_steady(lowered),
        distance=tuple(distance),
        roughness=tuple(spread),
        tuned=planned.tuned,
    )


def _steady(lowered: Lowered) -> int | None:
    """Where the stationary end of a run begins, if what is judged there can be read along the way."""
    if not lowered.run.phases[-1].rule.lr.stationary or lowered.observer != lowered.along:
        return None
    return lowered.run.tracks[-1][2] - lowered.begun


def metric_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """See `Results.metrics`."""
    names = dict.fromkeys(name for r in results for name in r.metrics)
    groups: dict[tuple[str, str], dict[int, list[Result]]] = {}
    for r in results if names else ():
        setting = {path: value for path, value in r.cell.items() if path not in ("duration", "seed")}
        if not r.extra:
            groups.setdefault((r.variant, repr(setting)), {}).setdefault(r.D, []).append(r)
    rows = []
    for (arm, _), by_D in groups.items():
        longest = max(by_D)
        ends = by_D[longest]
        cell = {path: value for path, value in ends[0].cell.items() if path not in ("duration", "seed")}
        for name in ("loss", *names):
            values = [r.loss if name == "loss" else r.metrics.get(name) for r in ends]
            known = [float(v) for v in values if v is not None and math.isfinite(v)]
            rows.append(
                {
                    "arm": arm,
                    "N": ends[0].N,
                    "D": longest,
                    "cell": cell,
                    "metric": name,
                    "mean": statistics.fmean(known) if known else None,
                    "sd": statistics.stdev(known) if len(known) > 1 else None,
                    "seeds": len(known),
                }
            )
    return rows


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
    if "loss" not in columns:
        return [], []
    updates, losses = columns["update"], columns["loss"]
    stretch = max(1, -(-len(updates) // points))
    whole = len(updates) // stretch * stretch
    if whole == 0:
        return [], []
    means = losses[:whole].reshape(-1, stretch).mean(1)
    return np.asarray(updates[:whole].reshape(-1, stretch)[:, -1]).tolist(), means.tolist()


def tuning_cost(trials: Sequence[Trial]) -> tuple[int, float]:
    """(updates, FLOPs) of tuning runs, each counted whole: the same budget for every arm.

    Earlier trainings count where they are what is tuned: each different one once.
    """
    mine = [t.lowered for t in trials]
    tried = [t.lowered.before for t in trials if any(path.startswith("pretrain.") for path in t.values)]
    mine += {before.run.key(before.run.length): before for before in tried if before}.values()
    return sum(lowered.length for lowered in mine), sum(lowered.flops for lowered in mine)
