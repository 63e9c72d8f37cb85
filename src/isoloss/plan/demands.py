"""What a study asks for, given what has been measured so far: a fixpoint, so that tuning is a loop over the store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from isoloss.plan.lower import Lowered, Lowering
from isoloss.plan.needs import Memory, Work, arrange
from isoloss.plan.tree import Node, grow
from isoloss.plan.tuning import (
    TUNED_PATH,
    Choice,
    Setting,
    Trial,
    beyond,
    choose,
    filled,
    label,
    middle,
    rate,
    settings,
)
from isoloss.recipe.errors import StudyError
from isoloss.study import Cell, Study


@dataclass(frozen=True)
class Planned:
    """A cell with its run.

    ``rule`` says where its learning rate comes from: given, tuned, between, nearest, or transferred over widths.
    ``tuned``: every value that tuning gave it, by path.
    """

    cell: Cell
    lowered: Lowered
    lr: float
    rule: str
    edge: bool
    tuned: Mapping[str, Setting] = field(default_factory=dict)

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
        return [f"tune {label(t.values)} {name_of(t.cell)}" for t in self.trials] + [p.name for p in self.planned]


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
    trials = _read(_trials(study, cells, lowering, alone), memory)
    while study.tune and (further := beyond(trials, study.tune)):
        trials += _read([_trial(*one, cells, lowering, alone) for one in further], memory)
    choices = choose(trials, study.tune) if study.tune else []
    undecided = {t.arm for t in trials if t.loss is None}
    follow = study.tune.follow if study.tune else {}
    planned = []
    for cell in cells:
        leader = follow.get(cell.arm, cell.arm)
        if leader in undecided:
            continue
        mine = [c for c in choices if c.arm == leader]
        planned.append(_planned(cell, study, mine, lowering, alone))
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
    """Every run of the study, with the middle candidates for values that are not tuned yet: for costs in advance.

    Raises ``StudyError`` where a run would be wrong with any of the others too.
    """
    usual = middle(study.tune)
    found = [_lowered(cell, usual, lowering, name_of(cell), alone) for cell in study.cells]
    tried = {repr([v for path, v in one.items() if path != TUNED_PATH]): one for one in _candidates(study)}
    places = {repr((c.arm, [v for k, v in c.coordinates.items() if k != "seed"])): c for c in study.cells}
    for cell, values in product(places.values(), tried.values() if len(tried) > 1 else ()):
        _lowered(cell, values, lowering, f"tune {label(values)} {name_of(cell)}", alone)
    return found


def _candidates(study: Study) -> tuple[dict[str, Any], ...]:
    return study.tune.candidates() if study.tune else ()


def _lowered(cell: Cell, values: Mapping[str, Any], lowering: Lowering, where: str, alone: bool) -> Lowered:
    """A cell with values for what is tuned."""
    return lowering(filled(cell, values).config, rate(cell, values), where=where, alone=alone)


def _planned(cell: Cell, study: Study, choices: Sequence[Choice], lowering: Lowering, alone: bool) -> Planned:
    """A cell with what its arm's choices give it."""
    tuned: dict[str, Setting] = {}
    if study.tune is not None:
        usual = middle(study.tune)
        tuned = settings(
            cell, lambda: _lowered(cell, usual, lowering, name_of(cell), alone).facts.N, choices, study.tune
        )
    values = {path: setting.value for path, setting in tuned.items()}
    lr = tuned.get(TUNED_PATH) or Setting(rate(cell, {}), "given", False)
    lowered = _lowered(cell, values, lowering, name_of(cell), alone)
    return Planned(filled(cell, values), lowered, lr.value, lr.rule, lr.edge, tuned)


def _trials(study: Study, cells: Sequence[Cell], lowering: Lowering, alone: bool) -> list[Trial]:
    if study.tune is None:
        return []
    return [
        _trial(arm, point, values, cells, lowering, alone)
        for arm in dict.fromkeys(c.arm for c in cells if c.arm not in study.tune.follow)
        for point in study.tune.at
        for values in study.tune.candidates()
    ]


def _trial(
    arm: str,
    point: Mapping[str, Any],
    values: Mapping[str, Any],
    cells: Sequence[Cell],
    lowering: Lowering,
    alone: bool,
) -> Trial:
    cell = filled(_at(arm, point, cells), values)
    # Trials are judged by their loss: nobody asks for other metrics of them.
    config = {**cell.config, "evaluation": {**cell.config["evaluation"], "metrics": []}}
    lr = rate(cell, values)
    lowered = lowering(config, lr, where=f"tune {label(values)} {name_of(cell)}", alone=alone)
    return Trial(arm, point, cell, lowered, lr, values=values)


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
        found.append(replace(trial, loss=loss))
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
