"""A cooldown from any state of a store: a new phase of the same rule, under the key that a study's run would have."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from isoloss import models
from isoloss.execute import job
from isoloss.execute.cooldown import Cooldown, Cooled
from isoloss.execute.stored import check_numerics, find, path_to, quietly, usual_amount
from isoloss.plan.demands import folder_of, stage
from isoloss.plan.lower import Facts, Lowered, Lowering, open_source
from isoloss.plan.memory import StoreMemory
from isoloss.plan.needs import arrange
from isoloss.plan.summary import importable, on_path
from isoloss.plan.tree import grow
from isoloss.recipe import catalogue
from isoloss.recipe.errors import RunFailed, StateLost, StudyError, nearest
from isoloss.recipe.measure import PARTS, SCHEDULE_FREE, Measure
from isoloss.recipe.run import Phase, Run
from isoloss.store import Store
from isoloss.study import Study
from isoloss.study.resolve import EVALUATION_SAMPLES, EVALUATION_TOKENS
from isoloss.train.loop import Row, learning_rate

ATTEMPTS = 3
"""How often a state that vanishes under way is looked for again."""
Progress = Callable[[int, int, Row], None]
"""Called with (update reached, updates in all, what the update told)."""


@dataclass(frozen=True)
class Branched(Cooled):
    """A cooldown that is in the store.

    ``fork``: updates before it; ``key``: of its last state; ``losses`` there by part, on ``amount`` tokens (or samples)
    each; ``trained``: updates that the store lacked, those of the trunk among them; ``first_update``: seconds until the
    first of them was taken, None where all was there.
    """

    key: str
    fork_key: str
    fork: int
    length: int
    cooldown: dict[str, Any]
    losses: dict[str, float]
    amount: int
    trained: int
    seconds: float
    first_update: float | None

    def text(self) -> str:
        """A few lines for a person."""
        losses = ", ".join(f"{value:.4f} on {part}" for part, value in self.losses.items())
        return (
            f"{self.head}\n"
            f"loss {losses} ({self.amount:,} each); {self.trained} updates trained in {self.seconds:.1f} s\n"
            f"key {self.key}"
        )


def branch_key(
    store: Store, name: str, cooldown: Cooldown, *, at: int | None = None, amount: int | None = None,
    progress: Progress | None = None,
) -> Branched:  # fmt: skip
    """A cooldown from the state whose key, or from the track whose name, begins with ``name``.

    ``at``: the update it leaves the run at; None: at the key, or at the newest state kept of the track. ``amount``:
    tokens (or samples) of each validation part; None: what the store was measured with. Raises ``StudyError``.
    """
    begun = time.perf_counter()
    rows = find(store, name)
    row = max(rows, key=lambda r: r.end_update)
    if at is None and not all(each.end_key == row.end_key for each in rows):
        kept = store.stored({each.end_key for each in rows})
        if not kept:
            raise StudyError(f"checkpoint {name!r}: its states were released; allowed: --at, to train to one again")
        row = max((each for each in rows if each.end_key in kept), key=lambda r: r.end_update)
    with importable():
        found = path_to(store, row)
        check_numerics(found.run)
        if found.data is None:
            raise StudyError(
                f"checkpoint {name!r}: its data are files, whose place no store knows; allowed: the study it belongs "
                "to, as in isoloss branch STUDY.yaml --run NAME"
            )
        run = _leave(found.run, found.run.length if at is None else at, cooldown)
        return _train(_lowered(store, run, found.data, amount), store, cooldown, begun, progress)


def branch_study(
    store: Store, study: Study, name: str | None, cooldown: Cooldown, *, at: int | None = None,
    amount: int | None = None, threads: int = 1, progress: Progress | None = None,
) -> Branched:  # fmt: skip
    """A cooldown from a run of a study, measured as the study measures.

    ``name``: the run's, or as many of its words as tell it from others. ``at``: the update; None: at the newest state
    kept of the run's constant stretch. Raises ``StudyError``.
    """
    begun = time.perf_counter()
    with on_path(study):
        lowering = Lowering(threads=threads, base=folder_of(study))
        memory = StoreMemory(store)
        now = stage(study, memory, lowering)
        planned = _named(dict(zip((p.name for p in now.planned), now.planned, strict=True)), name, at)
        config = {**planned.cell.config, "average": None}
        if amount is not None:
            unit = "tokens" if config["evaluation"]["tokens"] is not None else "samples"
            config["evaluation"] = {**config["evaluation"], unit: amount}
        run = planned.lowered.run
        source, update = (run, at) if at is not None else _newest(run, memory, planned.name)
        lowered = lowering(
            config, planned.lr, where=f"branch of {planned.name}", path=lambda _: _leave(source, update, cooldown)
        )
        points = {moment: measures for moment, measures in lowered.points.items() if moment > update}
        return _train(replace(lowered, points=points), store, cooldown, begun, progress)


def _leave(run: Run, fork: int, cooldown: Cooldown) -> Run:
    """The run that follows ``run`` for ``fork`` updates and then cools down."""
    if not 1 <= fork <= run.length:
        raise StudyError(f"--at: found update {fork}; allowed: 1 to {run.length}, which this run reaches")
    phases: list[Phase] = []
    for _, phase, begun in run.tracks:
        if begun < fork:
            phases.append(replace(phase, length=min(phase.length, fork - begun)))
    rule = phases[-1].rule
    level = learning_rate(rule.lr, phases[-1].length)
    if not level > 0:
        raise StudyError(f"--at: the learning rate is {level:g} after update {fork}, so nothing is left to cool down")
    length = cooldown.updates(fork)
    return Run(run.start, (*phases, Phase(replace(rule, lr=cooldown.lr(level, length)), length)), run.numerics)


def _newest(run: Run, memory: StoreMemory, name: str) -> tuple[Run, int]:
    """The run, lengthened where need be, and the update of the newest state kept of its last constant stretch."""
    index = max((i for i, (_, p, _) in enumerate(run.tracks) if p.rule.lr.stationary), default=len(run.phases) - 1)
    track, phase, begun = run.tracks[index]
    states = memory.stretches([track.id]).get(track.id)
    if states is None or not states.states:
        raise StudyError(
            f"--run: the store keeps no state of {name} there; allowed: run the study first, or name an update (--at)"
        )
    offset = max(states.states)
    return Run(run.start, (*run.phases[:index], replace(phase, length=offset)), run.numerics), begun + offset


def _named(planned: dict[str, Any], name: str | None, at: int | None) -> Any:
    """The run of that name; several are one where they share the state that is asked for."""
    words = (name or "").split()
    found = [p for each, p in planned.items() if each == name]
    found = found or [p for each, p in planned.items() if set(words) <= set(each.split())]
    several = {_place(p.lowered.run, at) for p in found}
    if words and len(several) == 1:
        return found[0]
    some = [p.name for p in found] or list(planned)
    shown = "; ".join(some[:6]) + (" ..." if len(some) > 6 else "")
    if not planned:
        raise StudyError("--run: no run of the study is decided yet, its learning rates are to be tuned first")
    what = "no name" if not words else f"{name!r}" + (", which several runs are called" if found else "")
    raise StudyError(f"--run: found {what}; allowed: {shown}{nearest(name or '', planned)}")


def _place(run: Run, at: int | None) -> str:
    """What two runs that leave from one state have in common."""
    if at is None:
        return next((t.id for t, p, _ in reversed(run.tracks) if p.rule.lr.stationary), run.tracks[-1][0].id)
    return run.key(at) if 0 <= at <= run.length else run.root_key


def _lowered(store: Store, run: Run, data: dict[str, Any], amount: int | None) -> Lowered:
    """A run without a study: what its record says, measured on both parts at its end."""
    model, rule = run.start.model, run.phases[-1].rule
    source = open_source(data)
    amount = amount or usual_amount(store) or (EVALUATION_TOKENS if source.kind == "tokens" else EVALUATION_SAMPLES)
    counts = models.describe(
        model["spec"], vocabulary=model["vocabulary"], context=model["context"], shape=model.get("shape")
    )
    averaging = rule.optimizer["name"] in catalogue.names("optimizer", "averaging")
    weights = (None, SCHEDULE_FREE) if averaging else (None,)
    return Lowered(
        run=run,
        points={run.length: tuple(Measure("loss", part, amount, each) for each in weights for part in PARTS)},
        facts=Facts.of(counts, source, rule.batch, int(rule.data["context"]), amount),
        data=data,
        observer=SCHEDULE_FREE if averaging else None,
        amount=amount,
        piece=run.length,
    )


def _train(lowered: Lowered, store: Store, cooldown: Cooldown, begun: float, progress: Progress | None) -> Branched:
    """Train here, one segment after the other, what the store lacks; publish and measure it."""
    run, memory = lowered.run, StoreMemory(store)
    track, _, fork = run.tracks[-1]
    first: list[float] = []
    trained = 0
    with quietly(int(run.numerics["threads"])):
        for _attempt in range(ATTEMPTS):
            works = arrange(grow([lowered]), memory)
            if not works:
                break
            try:
                for number, work in enumerate(works):
                    absolute = work.segment.run.tracks[work.segment.track][2]

                    def seen(offset: int, row: Row, absolute: int = absolute) -> None:
                        if not first:
                            first.append(time.perf_counter() - begun)
                        if progress:
                            progress(absolute + offset, run.length, row)

                    job.execute(job.Job.of(number, work, "branch"), store, progress=seen)
                    trained += work.updates - work.replayed
            except StateLost:
                continue
    end = track.key(run.phases[-1].length)
    stretches = memory.stretches([t.id for t, _, _ in run.tracks])
    for each, phase, at in run.tracks:
        broke = stretches[each.id].diverged if each.id in stretches else None
        if broke is not None and broke <= phase.length:
            raise RunFailed(f"the branch diverged at update {at + broke}: {store.divergence(each.key(broke))}")
    losses = {part: store.measurement(end, measure.name) for part, measure in lowered.final.items()}
    if None in losses.values():
        raise RunFailed(f"the branch could not be trained: the state it leaves from does not stay in {store.location}")
    return Branched(
        key=end,
        fork_key=track.start_key,
        fork=fork,
        length=run.phases[-1].length,
        cooldown=dict(cooldown.mapping),
        losses={part: float(value) for part, value in losses.items() if value is not None},
        amount=lowered.amount,
        trained=trained,
        seconds=time.perf_counter() - begun,
        first_update=first[0] if first else None,
    )
