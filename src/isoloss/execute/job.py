"""One segment, wherever it runs: state from the store, training, pieces into the store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from isoloss.execute.saving import Saver
from isoloss.plan.lower import open_source
from isoloss.plan.needs import Work
from isoloss.recipe.errors import RunFailed, StateLost, StoreError
from isoloss.recipe.references import code_digest
from isoloss.store import Measurement, Piece, Side, Store
from isoloss.train.loop import Row
from isoloss.train.parallel.layout import Layout
from isoloss.train.segment import Segment, State, Trained, train

NEWEST = 2
"""States kept of a track that nothing can branch from, besides forks and leaves."""


@dataclass(frozen=True)
class Job:
    """A segment as it is sent to a worker: plain data, no tree."""

    id: int
    segment: Segment
    data: dict[str, Any]
    pinned: frozenset[int]
    label: str

    @classmethod
    def of(cls, id: int, work: Work, label: str) -> Job:
        """The job of a planned piece of work."""
        return cls(id, work.segment, dict(work.node.data), frozenset(work.node.pinned), label)


def execute(
    job: Job,
    store: Store,
    *,
    layout: Layout | None = None,
    halt: Callable[[], bool] = lambda: False,
    progress: Callable[[int, Row], None] = lambda offset, row: None,
    published: Callable[[Trained], None] = lambda piece: None,
    settling: float = 0.0,
) -> None:
    """Train ``job`` from the store and publish its pieces; only rank 0 of a layout writes.

    ``settling``: seconds that a state published on another machine may take to be seen here.
    Raises ``StateLost`` where the state to begin from is gone or damaged: plan again.
    """
    segment = job.segment
    track, phase, begun = segment.run.tracks[segment.track]
    source = open_source(job.data)
    if source.digest != phase.rule.data["digest"]:
        raise RunFailed(
            f"the data has changed since the plan was made: digest {source.digest[:12]}, "
            f"planned {phase.rule.data['digest'][:12]}"
        )
    _check_code(segment)
    start = None
    if begun + segment.begin > 0 or segment.run.start.weights:
        key = track.key(segment.begin)
        until = time.monotonic() + settling
        while not store.has(key) and time.monotonic() < until:
            time.sleep(0.2)
        try:
            tensors, meta, sides = store.load(key)
        except StoreError as error:
            raise StateLost(str(error)) from error
        start = State(tensors, meta, {name: (side.state, side.meta) for name, side in sides.items()})
    held: list[int] = []

    def publish(trained: Trained) -> None:
        store.publish(_piece(segment, trained, job.data))
        if trained.end in job.pinned or phase.rule.lr.stationary or trained.end == segment.end:
            return
        held.append(trained.end)
        while len(held) > NEWEST:
            store.release(track.key(held.pop(0)))

    with Saver(publish, published) as saver:

        def emit(trained: Trained) -> None:
            if layout is None or layout.rank == 0:
                saver.put(trained)

        def on_the_way(offset: int, row: Row) -> None:
            saver.look()
            progress(offset, row)

        train(segment, source, start, emit, halt=halt, progress=on_the_way, layout=layout)
    for offset in held:
        if store.has(track.key(segment.end)):
            store.release(track.key(offset))


def _check_code(segment: Segment) -> None:
    """A user's files must be those that the plan addressed."""
    rule, model = segment.run.tracks[segment.track][1].rule, segment.run.start.model
    for name, code in ((model["spec"].get("name"), model["code"]), (rule.task["name"], rule.task["code"]),
                       (rule.optimizer["name"], rule.optimizer["code"])):  # fmt: skip
        if "source" in code and code_digest(name) != code["source"]:
            raise RunFailed(f"the code of {name!r} was edited after the plan was made: run the study again")


def _piece(segment: Segment, trained: Trained, data: dict[str, Any]) -> Piece:
    run = segment.run
    track, _, begun = run.tracks[segment.track]
    end_key = track.key(trained.end)
    state = trained.state
    return Piece(
        start_key=track.key(trained.begin),
        end_key=end_key,
        start_update=begun + trained.begin,
        end_update=begun + trained.end,
        state=state.tensors if state else None,
        meta=state.meta if state else {},
        side={name: Side(*side) for name, side in state.sides.items()} if state else {},
        curve=trained.curve,
        measurements=tuple(
            Measurement(track.key(offset), begun + offset, measure.name, value)
            for offset, measure, value in trained.values
        ),
        recipes={end_key: run.recipe(begun + trained.end)},
        labels=labels(segment, data),
        status="diverged" if trained.diverged else "done",
        detail=trained.diverged or "",
        track=track.id,
        offset=trained.end,
        seconds=trained.seconds,
    )


def labels(segment: Segment, data: dict[str, Any]) -> dict[str, Any]:
    """What it takes to train the piece again from its first state, as JSON; no path of a machine."""
    _, phase, _ = segment.run.tracks[segment.track]
    return {
        "start": asdict(segment.run.start),
        "rule": {**asdict(phase.rule), "methods": list(phase.rule.methods)},
        "carry": asdict(phase.carry),
        "numerics": dict(segment.run.numerics),
        **({} if any(data.get(name) for name in ("path", "validation")) else {"data": data}),
    }
