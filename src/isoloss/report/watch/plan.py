"""The plan of a study as a watcher looks at it: runs, the tracks they walk on, and the tree of stretches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from isoloss.plan import cost
from isoloss.plan.demands import Stage, expected, name_of, stage
from isoloss.plan.estimate import played
from isoloss.plan.lower import Lowered, Lowering
from isoloss.plan.needs import Memory, Work, arrange
from isoloss.plan.schedule import balanced
from isoloss.plan.speed import SOURCES, Speeds
from isoloss.plan.summary import on_path
from isoloss.plan.tree import Node, grow
from isoloss.report import tree as trees
from isoloss.report.palette import Style, styles
from isoloss.report.tidy import Json
from isoloss.store import Store
from isoloss.study import Cell, Study
from isoloss.worth.edges import edges
from isoloss.worth.results import axes_of, variant_of


@dataclass(frozen=True)
class Watched:
    """A run that is looked for. ``settled``: nothing of it waits for tuning. ``moments``: (update, key, name of the
    loss on part B) along the way, where the trained weights are evaluated.
    """

    name: str
    variant: str
    cell: Cell
    lowered: Lowered
    trial: bool
    settled: bool
    lr: float | None
    moments: tuple[tuple[int, str, str], ...] = field(repr=False)

    @property
    def seed(self) -> str:
        return str(self.cell.coordinates.get("seed", self.cell.config["seed"]))

    @property
    def place(self) -> tuple[str, ...]:
        """What its twins of other seeds share with it."""
        at = sorted((path, str(value)) for path, value in self.cell.coordinates.items() if path != "seed")
        return (self.variant, *(f"{path}={value}" for path, value in at))

    @property
    def falls(self) -> bool:
        """Whether its learning rate falls on the way to the end."""
        return any(not phase.rule.lr.stationary for phase in self.lowered.run.phases if phase.rule.lr.shape != "warmup")


class Plan:
    """All runs of a study, those of tuning first; values that are not tuned yet are the middle candidates."""

    def __init__(self, study: Study, memory: Memory, lowering: Lowering, *, alone: bool = False) -> None:
        """Raises StudyError where the study is wrong."""
        self.study, self._alone = study, alone
        with on_path(study):
            self.stage: Stage = stage(study, memory, lowering, alone=alone)
            usual = [] if self.stage.complete else expected(study, lowering, alone=alone)
        axes = axes_of(study)
        planned = {p.name: p for p in self.stage.planned}
        self.runs: list[Watched] = []

        def add(name: str, cell: Cell, lowered: Lowered, trial: bool, settled: bool, lr: float | None) -> None:
            moments = tuple(
                (update, lowered.run.key(update), measure.name)
                for update, measures in sorted(lowered.points.items())
                for measure in measures
                if (measure.metric, measure.part, measure.observer) == ("loss", "B", lowered.along)
            )
            self.runs.append(Watched(name, variant_of(cell, axes), cell, lowered, trial, settled, lr, moments))

        for name, trial in zip(self.stage.names, self.stage.trials, strict=False):
            add(name, trial.cell, trial.lowered, True, True, trial.lr)
        for index, cell in enumerate(study.cells):
            if (found := planned.get(name_of(cell))) is not None:
                add(found.name, found.cell, found.lowered, False, True, found.lr)
            else:
                add(name_of(cell), cell, usual[index], False, False, None)
        self.roots: list[Node] = grow([run.lowered for run in self.runs])
        self.nodes: list[Node] = [node for root in self.roots for node in root.walk()]
        self.number: dict[str, int] = {node.track.id: index for index, node in enumerate(self.nodes)}

    @property
    def complete(self) -> bool:
        """Whether tuning has settled everything."""
        return self.stage.complete

    @property
    def undecided(self) -> set[str]:
        """Arms whose tuning goes on."""
        return {trial.arm for trial in self.stage.trials if trial.loss is None}

    @cached_property
    def keys(self) -> list[str]:
        """Every key at which something is measured."""
        return sorted({run.lowered.run.key(update) for run in self.runs for update in run.lowered.points})

    @cached_property
    def updates(self) -> tuple[int, int]:
        """Updates of the plan: with shared stretches trained once, and of every run alone."""
        return cost.shared(self.roots).updates, cost.unshared([run.lowered for run in self.runs]).updates

    @cached_property
    def look(self) -> dict[str, Style]:
        """Colours and markers by variant, as on the page of the results."""
        names = list(dict.fromkeys(run.variant for run in self.runs if not run.trial))
        first = [run.variant for run in self.runs if run.cell.arm == self.study.baseline and not run.trial]
        names.sort(key=lambda name: name not in first)
        return styles(names, names[0])

    def work(self, memory: Memory) -> tuple[list[Work], list[Work]]:
        """What is left to train: what can be trained now, and what waits for tuning; in the order it is handed out."""
        cells = [run.cell for run in self.runs]
        trials = len(self.stage.trials)
        left = balanced(arrange(self.roots, memory), cells, trials)
        now = [work for work in left if any(self.runs[m].settled for m in work.node.members)]
        held = {id(work) for work in now}
        return now, [work for work in left if id(work) not in held]

    def speeds(self, store: Store, workers: int, threads: int) -> Speeds:
        """How fast its kinds of stretches are, from the store and from what this machine remembers; times nothing."""
        return Speeds(self.nodes, store, workers=workers, threads=threads)

    def left(self, memory: Memory, speeds: Speeds) -> tuple[float, str]:
        """(seconds until all is trained, where the speed comes from that the most of it depends on)."""
        now, later = self.work(memory)
        spent = dict.fromkeys(SOURCES, 0.0)
        for work in (*now, *later):
            spent[speeds.timing(work.node)[1]] += speeds.of(work).total
        seconds = sum(played(works, speeds).seconds for works in (now, later) if works)
        return seconds, max(spent, key=lambda name: spent[name])

    # What the page is sent once

    def to_dict(self) -> Json:
        """Runs, tracks, arms and the tree as JSON types; runs and tracks are referred to by their places here."""
        return {
            "study": self.study.name,
            "arms": [{"name": name, "css": s.css, "glyph": s.glyph} for name, s in self.look.items()],
            "runs": [self._run(run) for run in self.runs],
            "tracks": [self._track(node) for node in self.nodes],
            "tree": [_shape(shape, self.look) for shape in trees.shapes(list(self._edges()))[: trees.MOST_SHAPES]],
        }

    def _run(self, run: Watched) -> Json:
        lowered = run.lowered
        return {
            "name": run.name,
            "arm": run.variant,
            "cell": {path: _plain(value) for path, value in run.cell.coordinates.items()},
            "seed": run.seed,
            "N": lowered.facts.N,
            "S": lowered.length,
            "begun": lowered.begun,
            "trial": run.trial,
            "settled": run.settled,
            "lr": run.lr,
            "along": len(run.moments),
            "tracks": [[self.number[track.id], phase.length] for track, phase, _ in lowered.run.tracks],
        }

    def _track(self, node: Node) -> Json:
        members = [self.runs[m] for m in node.members]
        settled = [run for run in members if not run.trial] or members
        return {
            "begun": node.begun,
            "length": node.length,
            "N": node.facts.N,
            "shape": node.phase.rule.lr.shape,
            "arms": list(dict.fromkeys(run.variant for run in settled)),
            "trial": all(run.trial for run in members),
            "runs": node.members,
            # Updates of earlier training on other data are drawn by nobody.
            "own": any(node.index >= len(r.lowered.before.run.phases) if r.lowered.before else True for r in members),
        }

    def _edges(self) -> Iterator[Json]:
        """The stretches between forks, as ``report.tree`` takes them, each with its part of a track."""
        found = edges(
            self.roots,
            [run.lowered for run in self.runs],
            variant=lambda m: self.runs[m].variant,
            cell=lambda m: {path: _plain(value) for path, value in self.runs[m].cell.coordinates.items()},
            trial=lambda m: self.runs[m].trial,
        )
        for node, begin, end, record in found:
            yield {**record, "part": [self.number[node.track.id], begin, end]}


def _shape(shape: trees.Shape, look: Mapping[str, Style]) -> Json:
    """Trees of one shape, drawn once: stretches in lanes, each with the parts of tracks that it stands for."""
    above: dict[int, int] = {}
    stretches: list[Json] = []
    for stretch in shape.root.walk():
        edge = stretch.edge
        stretches.append(
            {
                "lane": stretch.lane,
                "above": above.get(id(stretch)),
                "start": edge["start"],
                "end": edge["end"],
                "arms": trees.arms_of(edge, look),
                "runs": edge["cells"],
                "shared": edge["reused"],
                "trial": edge["tuning"],
                "leaf": not stretch.children,
                "words": trees.describe(stretch, shape.members, look),
                "parts": [one["part"] for one in stretch.edges],
            }
        )
        above |= {id(child): stretch.lane for child in stretch.children}
    return {
        "members": shape.members,
        "cells": shape.cells,
        "updates": shape.updates,
        "lanes": shape.lanes,
        "stretches": stretches,
    }


def _plain(value: Any) -> Any:
    """A coordinate as JSON types."""
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
