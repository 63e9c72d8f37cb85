"""Time and memory of a study in advance, and what became of the prediction."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isoloss.plan.demands import Stage
from isoloss.plan.footprint import averaged, memory
from isoloss.plan.needs import Memory, Stretch, Work, arrange
from isoloss.plan.schedule import Schedule, Task, balanced, schedule
from isoloss.plan.speed import SOURCES, Speeds
from isoloss.plan.tree import Node
from isoloss.recipe.measure import Measure
from isoloss.store import Store
from isoloss.study import Cell


@dataclass(frozen=True)
class Row:
    """All segments of a kind that are still to train: ``seconds`` of one worker together, ``memory`` in bytes of a
    process; ``source``: where the speed comes from.
    """

    kind: str
    N: int
    N_total: int
    batch: int
    context: int
    optimizer: str
    methods: tuple[str, ...]
    precision: str
    segments: int
    updates: int
    update_seconds: float
    evaluation_seconds: float
    seconds: float
    memory: int
    source: str

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "N": self.N,
            "N_total": self.N_total,
            "batch": self.batch,
            "context": self.context,
            "optimizer": self.optimizer,
            "methods": list(self.methods),
            "precision": self.precision,
            "segments": self.segments,
            "updates": self.updates,
            "seconds_per_update": self.update_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "seconds": self.seconds,
            "memory_bytes": self.memory,
            "source": self.source,
        }


@dataclass(frozen=True)
class Estimate:
    """Seconds until all is trained on ``workers``, of all workers together, and of the longest chain of segments."""

    workers: int
    seconds: float
    work: float
    critical: float
    rows: tuple[Row, ...]

    @property
    def source(self) -> str:
        """Where the speed comes from that the most time depends on."""
        spent: dict[str, float] = dict.fromkeys(SOURCES, 0.0)
        for row in self.rows:
            spent[row.source] += row.seconds
        return max(spent, key=lambda name: spent[name]) if self.rows else "store"

    @property
    def memory(self) -> int:
        """Bytes of the process that needs the most."""
        return max((row.memory for row in self.rows), default=0)


class Foreseen:
    """A memory in which some work is done already."""

    def __init__(self, memory: Memory, works: Iterable[Work]) -> None:
        self._memory = memory
        self._states: dict[str, Stretch] = {}
        self._keys: dict[str, dict[str, float]] = {}
        for work in works:
            track, segment = work.node.track, work.segment
            had = self._states.get(track.id, Stretch())
            watched = {o.id: frozenset(segment.saves) for o in segment.observers}
            self._states[track.id] = Stretch(
                had.states | set(segment.saves), (*had.covered, (segment.begin, segment.end)),
                _joined(had.sides or {}, watched), had.diverged,
            )  # fmt: skip
            for offset, measures in segment.measures.items():
                self._keys.setdefault(track.key(offset), {}).update({m.name: math.nan for m in measures})

    def stretches(self, tracks: Sequence[str]) -> Mapping[str, Stretch]:
        """What is stored, and what will be."""
        found = dict(self._memory.stretches(tracks))
        for track in tracks:
            if track in self._states:
                a, b = found.get(track, Stretch()), self._states[track]
                found[track] = Stretch(
                    a.states | b.states, (*a.covered, *b.covered), _joined(a.sides or {}, b.sides or {}), a.diverged
                )
        return found

    def measured(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """What is stored, and what will be."""
        found = {key: dict(values) for key, values in self._memory.measured(keys).items()}
        for key in keys:
            if key in self._keys:
                found.setdefault(key, {}).update(self._keys[key])
        return found


def _joined(a: Mapping[str, frozenset[int]], b: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    return {name: a.get(name, frozenset()) | b.get(name, frozenset()) for name in {*a, *b}}


def estimate(
    now: Stage, roots: Sequence[Node], cells: Sequence[Cell], held: Memory, speeds: Speeds
) -> tuple[Estimate, list[Work]]:
    """What the work of a stage, and of what comes after tuning, costs on ``speeds.workers``; and that work.

    ``roots``: the tree of all runs of the study, with a stand-in for what is not tuned yet; ``cells``: the cells of
    those runs, as ``Node.members`` counts them.
    """
    trials = len(now.trials)
    first = balanced(now.work, now.cells, trials)
    later = [] if now.complete else balanced(arrange(roots, Foreseen(held, first)), cells, trials)
    plans = [played(works, speeds) for works in (first, later)]
    start = speeds.start if first else 0.0
    whole = Estimate(
        speeds.workers,
        start + sum(plan.seconds for plan in plans),
        sum(plan.work for plan in plans),
        start + sum(plan.critical for plan in plans),
        _rows([*first, *later], speeds),
    )
    return whole, [*first, *later]


def played(works: Sequence[Work], speeds: Speeds) -> Schedule:
    """The list schedule of work that is handed out in this order."""
    supplied = {(w.node.track.id, offset): i for i, w in enumerate(works) for offset in w.segment.saves}
    spent = [speeds.of(work) for work in works]
    tasks = []
    for work, cost in zip(works, spent, strict=True):
        after = None
        if work.waits_for and (giver := supplied.get((work.waits_for[0].track.id, work.waits_for[1]))) is not None:
            theirs, segment = spent[giver], works[giver].segment
            # No updates: a stored state that is only measured.
            share = (work.waits_for[1] - segment.begin) / max(1, segment.end - segment.begin)
            after = giver, theirs.setup + share * (theirs.total - theirs.setup)
        tasks.append(Task(cost.total, after))
    return schedule(tasks, speeds.workers)


def _rows(works: Sequence[Work], speeds: Speeds) -> tuple[Row, ...]:
    groups: dict[str, list[Work]] = {}
    for work in works:
        groups.setdefault(speeds.kind(work.node), []).append(work)
    rows = []
    for kind, members in groups.items():
        node = members[0].node
        rule = node.phase.rule
        timing, source = speeds.timing(node)
        spent = [speeds.of(work) for work in members]
        amount = max((m.amount for w in members for ms in w.node.measures.values() for m in ms.values()), default=0)
        evaluation = speeds.trained(node, 0, [[Measure("loss", "A", amount)]])[1]
        rows.append(
            Row(
                kind=kind,
                N=node.facts.N,
                N_total=node.facts.N_total,
                batch=rule.batch,
                context=int(rule.data["context"]),
                optimizer=str(rule.optimizer["name"]),
                methods=tuple(str(m["kind"]) for m in rule.methods),
                precision=str(node.run.numerics["precision"]),
                segments=len(members),
                updates=sum(w.updates for w in members),
                update_seconds=timing.update,
                evaluation_seconds=evaluation,
                seconds=sum(s.total for s in spent),
                memory=_memory([w.node for w in members], speeds.gang),
                source=source,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.N, row.batch, row.methods, row.kind)))


def _memory(nodes: Sequence[Node], processes: int) -> int:
    """Of the node with the most averages; all are of one kind."""

    def asked(node: Node) -> tuple[Measure, ...]:
        return tuple(m for measures in node.measures.values() for m in measures.values())

    node = max(nodes, key=lambda n: (sum(map(averaged, set(asked(n)))), bool(n.measures)))
    return memory(node.run, node.index, node.data, node.facts.N_total, asked(node), processes).total


class Forecast:
    """A prediction made when a run begins, and what its segments then took."""

    def __init__(self, made: Estimate, speeds: Speeds, store: Store) -> None:
        self.made, self.speeds, self.store = made, speeds, store
        self._begun = time.monotonic()
        self._asked: dict[str, dict[int, tuple[Measure, ...]]] = {}
        self._nodes: dict[str, Node] = {}
        self._before: set[str] = set()

    def expect(self, works: Sequence[Work]) -> None:
        """These are about to be trained: what is stored of their tracks is from before."""
        fresh = [w.node.track.id for w in works if w.node.track.id not in self._nodes]
        self._before |= {row.piece for rows in self.store.on_tracks(fresh).values() for row in rows}
        for work in works:
            self._nodes[work.node.track.id] = work.node
            self._asked.setdefault(work.node.track.id, {}).update(work.segment.measures)

    def against(self, complete: bool) -> dict[str, Any] | None:
        """Predicted and actual seconds as JSON types; None where nothing was trained.

        Of each size, of all training and of the worst kind: the pieces trained since, without setup and saving.
        ``complete``: whether all was trained that was planned; the time of the whole says something only then.
        """
        seconds = time.monotonic() - self._begun
        sizes: dict[int, list[float]] = {}
        kinds: dict[str, list[float]] = {}
        names: dict[str, Node] = {}
        for track, rows in self.store.on_tracks(list(self._nodes)).items():
            node = self._nodes[track]
            for row in rows:
                updates = row.end_update - row.start_update
                if row.piece in self._before or updates == 0 or row.seconds <= 0:
                    continue
                inside = [m for o, m in self._asked[track].items() if row.offset - updates < o <= row.offset]
                predicted = sum(self.speeds.trained(node, updates, inside))
                names[self.speeds.kind(node)] = node
                for group in (
                    sizes.setdefault(node.facts.N, [0.0] * 3),
                    kinds.setdefault(self.speeds.kind(node), [0.0] * 3),
                ):
                    for i, value in enumerate((updates, predicted, row.seconds)):
                        group[i] += value
        if not kinds:
            return None
        worst = max(kinds, key=lambda k: abs(math.log(kinds[k][2] / kinds[k][1])))
        return {
            "made": "when the run began",
            "source": self.made.source,
            "workers": self.made.workers,
            "calibration_seconds": self.speeds.spent,
            "complete": complete,
            **_compared(self.made.seconds, seconds),
            "training": _compared(*(sum(values[i] for values in sizes.values()) for i in (1, 2))),
            "worst": {
                "N": names[worst].facts.N,
                "batch": names[worst].phase.rule.batch,
                "ratio": kinds[worst][2] / kinds[worst][1],
            },
            "sizes": [
                {"N": N, "updates": int(updates), **_compared(predicted, actual)}
                for N, (updates, predicted, actual) in sorted(sizes.items())
            ],
        }


def _compared(predicted: float, actual: float) -> dict[str, float]:
    return {"predicted": predicted, "actual": actual, "ratio": actual / predicted}
