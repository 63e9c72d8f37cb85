"""What a study asks for, given what has been measured so far: a fixpoint, so that tuning is a loop over the store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from isoloss import models
from isoloss.plan.lower import Lowered, Lowering
from isoloss.plan.needs import Memory, Work, arrange
from isoloss.plan.tree import Node, grow
from isoloss.recipe.errors import StudyError
from isoloss.study import Cell, Study

TUNED_PATH = "training.optimizer.lr"


@dataclass(frozen=True)
class Trial:
    """One candidate of one arm at one tuning point; ``loss`` is on part A, infinite where it diverged."""

    arm: str
    point: Mapping[str, Any]
    cell: Cell
    lowered: Lowered
    lr: float
    loss: float | None = None


@dataclass(frozen=True)
class Choice:
    """The winner of one arm at one point; ``edge``: it lies at an end of the candidates."""

    arm: str
    point: Mapping[str, Any]
    N: int
    lr: float
    edge: bool
    losses: Mapping[float, float]


@dataclass(frozen=True)
class Planned:
    """A cell with its run.

    ``rule`` says where its learning rate comes from: given, tuned, between, nearest, or transferred over widths.
    """

    cell: Cell
    lowered: Lowered
    lr: float
    rule: str
    edge: bool

    @property
    def name(self) -> str:
        """Readable and unique in the study."""
        return name_of(self.cell)


@dataclass(frozen=True)
class Stage:
    """One answer of the fixpoint: the runs known so far, what must be trained, and whether that is all."""

    planned: tuple[Planned, ...]
    trials: tuple[Trial, ...]
    choices: tuple[Choice, ...]
    roots: tuple[Node, ...]
    work: tuple[Work, ...]
    complete: bool

    @cached_property
    def runs(self) -> list[Lowered]:
        """Every run of the stage, trials first, in the order of ``Node.members``."""
        return [t.lowered for t in self.trials] + [p.lowered for p in self.planned]

    @cached_property
    def cells(self) -> list[Cell]:
        """The cell of each of ``runs``."""
        return [t.cell for t in self.trials] + [p.cell for p in self.planned]

    @property
    def names(self) -> list[str]:
        """A name for each of ``runs``."""
        return [f"tune lr={t.lr:g} {name_of(t.cell)}" for t in self.trials] + [p.name for p in self.planned]


def folder_of(study: Study) -> Path | None:
    """Where relative paths of a study start from."""
    return study.path.resolve().parent if study.path else None


def name_of(cell: Cell) -> str:
    """``arm width=32 duration=400 updates seed=0``: the arm, then each coordinate by its last name."""
    parts = [f"{path.rpartition('.')[2]}={value}" for path, value in cell.coordinates.items()]
    return " ".join([cell.arm, *parts])


def stage(study: Study, memory: Memory, lowering: Lowering, *, alone: bool = False) -> Stage:
    """Ask ``memory`` what it has and return what comes next.

    ``alone``: every run in a key space of its own (no sharing).
    """
    cells = study.cells
    if not cells:
        raise StudyError(f"{study.name}: nothing to train: the study has no runs")
    trials = _trials(study, cells, lowering, alone)
    trials = _read(trials, memory)
    choices = _choose(trials)
    undecided = {t.arm for t in trials if t.loss is None}
    follow = study.tune.follow if study.tune else {}
    planned = []
    for cell in cells:
        leader = follow.get(cell.arm, cell.arm)
        if leader in undecided:
            continue
        mine = [c for c in choices if c.arm == leader]
        lr, rule, edge = _lr(cell, lowering, mine, study.tune.between if study.tune else "")
        planned.append(Planned(cell, lowering(cell.config, lr, where=name_of(cell), alone=alone), lr, rule, edge))
    runs = [t.lowered for t in trials] + [p.lowered for p in planned]
    roots = grow(runs)
    return Stage(
        planned=tuple(planned),
        trials=tuple(trials),
        choices=tuple(choices),
        roots=tuple(roots),
        work=tuple(arrange(roots, memory)),
        complete=not undecided,
    )


def expected(study: Study, lowering: Lowering, *, alone: bool = False) -> list[Lowered]:
    """Every run of the study, with the middle candidate for an LR that is not tuned yet: for costs in advance."""
    candidates = sorted(float(v) for v in study.tune.values[TUNED_PATH]) if study.tune else []
    found = []
    for cell in study.cells:
        given = cell.config["training"]["optimizer"]["lr"]
        lr = candidates[len(candidates) // 2] if given == "tuned" else float(given)
        found.append(lowering(cell.config, lr, where=name_of(cell), alone=alone))
    return found


def _trials(study: Study, cells: Sequence[Cell], lowering: Lowering, alone: bool) -> list[Trial]:
    if study.tune is None:
        return []
    if set(study.tune.values) != {TUNED_PATH}:
        raise StudyError(f"tune: found {', '.join(study.tune.values)}; allowed: {TUNED_PATH}")
    found = []
    for arm in dict.fromkeys(c.arm for c in cells if c.arm not in study.tune.follow):
        for point in study.tune.at:
            cell = _at(arm, point, cells)
            if cell.config["training"]["optimizer"]["lr"] != "tuned":
                continue
            # Trials are judged by their loss: nobody asks for other metrics of them.
            config = {**cell.config, "evaluation": {**cell.config["evaluation"], "metrics": []}}
            for lr in study.tune.values[TUNED_PATH]:
                where = f"tune lr={lr:g} {name_of(cell)}"
                lowered = lowering(config, float(lr), where=where, alone=alone)
                found.append(Trial(arm, point, cell, lowered, float(lr)))
    return found


def _at(arm: str, point: Mapping[str, Any], cells: Sequence[Cell]) -> Cell:
    """The arm's cell at a tuning point."""
    for cell in cells:
        if cell.arm == arm and not cell.extra and all(cell.coordinates.get(k) == v for k, v in point.items()):
            return cell
    raise StudyError(f"tune.at: no cell of arm {arm!r} lies at {dict(point)}")


def _read(trials: Sequence[Trial], memory: Memory) -> list[Trial]:
    """Losses on part A, by the measure that the arm is judged by."""
    measured = memory.measured([t.lowered.run.key(at) for t in trials for at in t.lowered.candidates])
    broken = diverged([t.lowered for t in trials], memory)
    found = []
    for index, trial in enumerate(trials):
        chosen = trial.lowered.chosen(measured)
        loss = None if chosen is None else chosen[1]
        if index in broken:
            loss = math.inf
        found.append(Trial(trial.arm, trial.point, trial.cell, trial.lowered, trial.lr, loss))
    return found


def diverged(runs: Sequence[Lowered], memory: Memory) -> dict[int, int]:
    """Index of each run that meets a divergence, and the update at which."""
    known = memory.stretches([track.id for r in runs for track, _, _ in r.run.tracks])
    found = {}
    for index, lowered in enumerate(runs):
        for track, phase, begun in lowered.run.tracks:
            stretch = known.get(track.id)
            if stretch and stretch.diverged is not None and stretch.diverged <= phase.length:
                found[index] = begun + stretch.diverged
                break
    return found


def _choose(trials: Sequence[Trial]) -> list[Choice]:
    """The candidate of lowest mean loss over the seeds of a point; where all diverged, the smallest one."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        place = sorted((k, str(v)) for k, v in trial.point.items() if k != "seed")
        groups.setdefault((trial.arm, repr(place)), []).append(trial)
    found = []
    for (arm, _), group in groups.items():
        if any(t.loss is None for t in group):
            continue
        by_lr: dict[float, list[float]] = {}
        for trial in group:
            by_lr.setdefault(trial.lr, []).append(float(trial.loss if trial.loss is not None else math.inf))
        known = {lr: sum(losses) / len(losses) for lr, losses in by_lr.items()}
        best = min(known, key=lambda lr: (known[lr], lr))
        ordered = sorted(known)
        edge = len(ordered) > 1 and best in (ordered[0], ordered[-1])
        point = {k: v for k, v in group[0].point.items() if k != "seed"}
        found.append(Choice(arm, point, group[0].lowered.facts.N, best, edge, known))
    return found


def _lr(cell: Cell, lowering: Lowering, choices: Sequence[Choice], between: str) -> tuple[float, str, bool]:
    """The cell's learning rate by its arm's choices, where it comes from, and whether a winner lies at an edge.

    Given, tuned at its size, or by the rule between the tuned sizes: log-linear in N, or the nearest one in log N.
    What width transfer makes the one tuned value serve is called transferred.
    """
    given = cell.config["training"]["optimizer"]["lr"]
    if given != "tuned":
        return float(given), "given", False
    mine = list(choices)
    durations = {c.point.get("duration") for c in mine}
    if len(durations) > 1:
        mine = [c for c in mine if c.point.get("duration") == cell.coordinates.get("duration")] or mine
    own = [c for c in mine if all(cell.coordinates[k] == v for k, v in c.point.items() if k != "duration")]
    if own:
        return _mean(own), "tuned", any(c.edge for c in own)
    N = lowering(cell.config, 1.0, where=name_of(cell)).facts.N
    by_size: dict[int, list[Choice]] = {}
    for choice in mine:
        by_size.setdefault(choice.N, []).append(choice)
    sizes = sorted(by_size)
    rates = [_mean(by_size[n]) for n in sizes]
    edge = any(c.edge for c in mine)
    if N in by_size:
        return rates[sizes.index(N)], "tuned", edge
    if between == "nearest" or sizes[0] >= N or sizes[-1] <= N:
        near = min(range(len(sizes)), key=lambda i: abs(math.log(N / sizes[i])))
        moved = len(sizes) == 1 and models.transfers(cell.config["model"])
        return rates[near], "transferred" if moved else "nearest", edge
    above = next(i for i, n in enumerate(sizes) if n > N)
    share = math.log(N / sizes[above - 1]) / math.log(sizes[above] / sizes[above - 1])
    return _rounded(rates[above - 1] * (rates[above] / rates[above - 1]) ** share), "between", edge


def _mean(choices: Sequence[Choice]) -> float:
    """Geometric mean of the winners; one winner is itself."""
    if len({c.lr for c in choices}) == 1:
        return choices[0].lr
    return _rounded(math.exp(sum(math.log(c.lr) for c in choices) / len(choices)))


def _rounded(lr: float) -> float:
    """Four significant digits: the value that is printed is the value that is used."""
    return float(f"{lr:.4g}")
