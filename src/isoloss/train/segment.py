"""Trains one segment: a stretch of one track, cut into pieces that are handed over as they end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isoloss.data import Source
from isoloss.recipe.errors import RunFailed
from isoloss.recipe.measure import SCHEDULE_FREE, Measure, Observer
from isoloss.recipe.run import Run
from isoloss.train import observers
from isoloss.train.loop import Diverged, Row, Trainer
from isoloss.train.parallel.layout import Layout
from isoloss.train.probes import Probes, initial, is_probe


@dataclass(frozen=True)
class Segment:
    """Offsets ``begin`` to ``end`` of the ``track``-th track of ``run``.

    ``saves``: offsets at which a piece ends, ascending, the last one ``end``. ``measures``: what to evaluate at
    which offset.
    """

    run: Run
    track: int
    begin: int
    end: int
    saves: tuple[int, ...]
    measures: Mapping[int, tuple[Measure, ...]]

    @property
    def observers(self) -> tuple[Observer, ...]:
        """The distinct observers that must watch for the measures, in a fixed order."""
        asked = {m.observer.id: m.observer for ms in self.measures.values() for m in ms if m.observer}
        asked.pop(SCHEDULE_FREE.id, None)
        return tuple(asked[name] for name in sorted(asked))


@dataclass(frozen=True)
class State:
    """What is loaded to begin with: tensors and facts of the trained state, and of observers by id."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    sides: Mapping[str, tuple[dict[str, Tensor], dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """One piece: from ``begin`` to ``end`` (offsets), the state there, and what was seen on the way."""

    begin: int
    end: int
    state: State | None
    curve: Mapping[str, np.ndarray]
    values: tuple[tuple[int, Measure, float], ...]
    diverged: str | None
    seconds: float


def train(
    segment: Segment,
    source: Source,
    start: State | None,
    emit: Callable[[Trained], None],
    *,
    halt: Callable[[], bool] = lambda: False,
    progress: Callable[[int, Row], None] = lambda offset, row: None,
    layout: Layout | None = None,
) -> None:
    """Train ``segment`` from ``start`` (None: the initialisation) and ``emit`` each piece when it ends.

    Tensors in an emitted state share memory with the loop: the receiver stores them before it returns.
    ``halt`` is asked after every piece. A diverged update ends the segment with a last piece without a state.
    """
    _track, phase, begun = segment.run.tracks[segment.track]
    trainer = Trainer(segment.run.start, phase, source, segment.run.numerics, layout)
    evaluator = trainer.evaluator()
    body = trainer.body
    probes = Probes(
        body.plain,
        lambda: initial(trainer.make_model(), body.plain).to(body.device),
        lambda weights, part, amount: evaluator(body.own(weights), trainer.buffers(), [("loss", part, amount)])[
            "loss", part, amount
        ],
        int(phase.rule.seeds["noise"]),
    )
    watching = {o.id: observers.build(o) for o in segment.observers}
    # An observer's memory is a function of the key, and so worth keeping, only if it saw the phase from its start.
    whole = {o.id for o in segment.observers if segment.begin == 0}
    if start is None:
        if begun + segment.begin:
            raise RunFailed(f"a segment that begins at update {begun + segment.begin} needs a stored state")
    else:
        trainer.load(start.tensors, start.meta, entering=segment.begin == 0, phase=phase)
        for observer in segment.observers:
            if segment.begin and observer.id in start.sides:
                tensors, facts = start.sides[observer.id]
                own = _each(tensors, body.own, body.parameters.total)
                watching[observer.id] = observers.unpack(observer, own, facts)
                whole.add(observer.id)

    def measure(offset: int) -> list[tuple[int, Measure, float]]:
        found = []
        noise = int(phase.rule.seeds["noise"])
        for observer_id, refresh in dict.fromkeys(m.weights for m in segment.measures[offset]):
            asked = [m for m in segment.measures[offset] if m.weights == (observer_id, refresh)]
            looked = [m for m in asked if is_probe(m)]
            asked = [m for m in asked if not is_probe(m)]
            if looked:
                read = probes(body.whole(trainer.weights), looked)
                found += [(offset, m, v) for m, v in zip(looked, read, strict=True)]
            if not asked:
                continue
            if observer_id == SCHEDULE_FREE.id:
                weights = trainer.average()
            else:
                weights = trainer.weights if observer_id is None else watching[observer_id].average()[0]
            wanted = [(m.metric, m.part, m.amount) for m in asked]
            values = evaluator(weights, trainer.buffers(), wanted, refresh=refresh, seed=noise)
            found += [(offset, m, values[m.metric, m.part, m.amount]) for m in asked]
        return found

    offset = segment.begin
    values: list[tuple[int, Measure, float]] = []
    if offset in segment.measures:
        values += measure(offset)
    for end in segment.saves:
        begin, clock = offset, time.perf_counter()
        rows: list[Row] = []
        broken: str | None = None
        reached = begin
        while offset < end and broken is None:
            try:
                row = trainer.step(offset)
            except Diverged as error:
                broken, reached = str(error), offset + 1  # the first offset that cannot be reached
                break
            offset += 1
            rows.append(row)
            for average in watching.values():
                average.observe([trainer.weights], begun + offset)
            if offset in segment.measures:
                values += measure(offset)
                worst = next((v for v in values if v[1].metric == "loss" and not math.isfinite(v[2])), None)
                if worst:
                    values = [v for v in values if v[0] != offset or math.isfinite(v[2])]
                    broken, reached = f"update {begun + offset}: {worst[1].name} is {worst[2]:g}", offset
            progress(offset, row)
        state = None
        if broken is None:
            sides = {}
            for name in sorted(whole):
                tensors, facts = observers.pack(watching[name])
                sides[name] = _each(tensors, body.whole, body.plain.total), facts
            state = State(*trainer.state(), sides=sides)
        else:
            offset = reached
        emit(
            Trained(
                begin, offset, state, _curve(rows, begun + begin), tuple(values), broken, time.perf_counter() - clock
            )
        )
        values = []
        if broken is not None or halt():
            return


def _each(tensors: Mapping[str, Tensor], change: Callable[[Tensor], Tensor], total: int) -> dict[str, Tensor]:
    """``change``, which gives ``total`` elements, of every flat vector and of the empty stacks of them."""
    kinds = {0: lambda t: t, 1: change, 2: lambda t: t.new_empty((0, total))}
    return {name: kinds[tensor.ndim](tensor) for name, tensor in tensors.items()}


def _curve(rows: list[Row], begun: int) -> dict[str, np.ndarray]:
    """Columns, one row an update; ``update`` counts the updates of the run after this one."""
    micro = [row.micro_squared for row in rows]
    return {
        "update": np.arange(begun + 1, begun + len(rows) + 1, dtype=np.int64),
        "loss": np.array([row.loss for row in rows]),
        "gradient_norm": np.array([row.gradient_norm for row in rows]),
        "lr": np.array([row.lr for row in rows]),
        **({"micro_squared": np.array(micro)} if None not in micro else {}),
    }


def use_threads(count: int) -> None:
    """Fix this process's compute threads; the count is part of the numerics."""
    torch.set_num_threads(count)
