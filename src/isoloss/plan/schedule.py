"""How long work takes on several workers: the order in which it is handed out, played through in advance.

Work is handed out as in ``execute``: whenever a worker is free, it gets the first segment of the list that can begin. A
segment that leaves another track can begin as soon as the state it leaves from is stored, while the other one goes on.
No order is more than 2 - 1/W times slower on W workers than the best one (Graham 1969).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from isoloss.plan.needs import Work
from isoloss.study import Cell


@dataclass(frozen=True)
class Task:
    """``seconds`` of one worker; ``after``: (index of another task, seconds into it) when this one may begin."""

    seconds: float
    after: tuple[int, float] | None = None


@dataclass(frozen=True)
class Schedule:
    """Seconds until all is done, of all tasks together, and of the longest chain (with any number of workers)."""

    seconds: float
    work: float
    critical: float
    starts: tuple[float, ...]


def schedule(tasks: Sequence[Task], workers: int) -> Schedule:
    """List scheduling of ``tasks`` in their order; raise ``ValueError`` for a task that can never begin."""
    if workers < 1:
        raise ValueError(f"schedule: workers is {workers}; allowed: at least 1")
    starts = _play(tasks, workers)
    chain = _play(tasks, len(tasks) or 1)
    return Schedule(
        seconds=max((at + task.seconds for at, task in zip(starts, tasks, strict=True)), default=0.0),
        work=sum(task.seconds for task in tasks),
        critical=max((at + task.seconds for at, task in zip(chain, tasks, strict=True)), default=0.0),
        starts=tuple(starts),
    )


def _play(tasks: Sequence[Task], workers: int) -> list[float]:
    """When each task begins."""
    behind: dict[int, list[int]] = {}
    coming: list[tuple[float, int]] = []
    for index, task in enumerate(tasks):
        if task.after is None:
            heappush(coming, (0.0, index))
        else:
            behind.setdefault(task.after[0], []).append(index)
    starts = [-1.0] * len(tasks)
    ready: list[int] = []
    ends: list[float] = []
    now, free, left = 0.0, workers, len(tasks)
    while left:
        while coming and coming[0][0] <= now:
            heappush(ready, heappop(coming)[1])
        while ends and ends[0] <= now:
            heappop(ends)
            free += 1
        while ready and free:
            index = heappop(ready)
            starts[index] = now
            free, left = free - 1, left - 1
            heappush(ends, now + tasks[index].seconds)
            for other in behind.get(index, ()):
                after = tasks[other].after
                assert after is not None
                at = now + after[1]
                if at <= now:
                    heappush(ready, other)
                else:
                    heappush(coming, (at, other))
        if left:
            events = [*(ends[:1]), *(at for at, _ in coming[:1])]
            if not events:
                raise ValueError(f"schedule: {left} tasks wait for each other")
            now = min(events)
    return starts


def balanced(works: Sequence[Work], cells: Sequence[Cell], trials: int) -> list[Work]:
    """An order in which every arm is at about the same place, so that stopping early still compares them.

    ``cells`` of all runs that ``Node.members`` counts, the first ``trials`` of them tuning runs.
    """
    rank = dict.fromkeys(range(trials), (0, 0, 0))
    axes: dict[str, list[Any]] = {}
    for cell in cells[trials:]:
        for path, value in cell.coordinates.items():
            values = axes.setdefault(path, [])
            if value not in values:
                values.append(value)
    for index, cell in enumerate(cells[trials:]):
        at = cell.coordinates
        seed = axes["seed"].index(at["seed"]) if "seed" in at else 0
        others = sum(axes[path].index(value) for path, value in at.items() if path != "seed")
        rank[trials + index] = (1 + seed, others, cell.extra)
    position = {work.node.track.id: i for i, work in enumerate(works)}
    return sorted(
        works, key=lambda w: (min(rank[m] for m in w.node.members), position[w.node.track.id], w.segment.begin)
    )
