"""List scheduling against a clock that ticks, and against every schedule there is."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.plan.schedule import Task, schedule


def ticking(tasks: list[Task], workers: int) -> list[int]:
    """The same rule, literally: every tick, each free worker takes the first task that may begin."""
    starts: dict[int, int] = {}
    busy: list[int] = []
    now = 0
    while len(starts) < len(tasks):
        busy = [end for end in busy if end > now]
        for index, task in enumerate(tasks):
            if index in starts or len(busy) == workers:
                continue
            giver = task.after
            if giver is None or (giver[0] in starts and starts[giver[0]] + giver[1] <= now):
                starts[index] = now
                busy.append(now + int(task.seconds))
        now += 1
    return [starts[i] for i in range(len(tasks))]


def best(tasks: list[Task], workers: int) -> int:
    """The shortest of all schedules with integer starts, by trying every set of tasks to begin at every tick."""
    count = len(tasks)

    @cache
    def rest(now: int, starts: tuple[int, ...]) -> int:
        if -1 not in starts:
            return max(at + int(task.seconds) for at, task in zip(starts, tasks, strict=True))
        running = sum(at >= 0 and at + tasks[i].seconds > now for i, at in enumerate(starts))
        may = []
        for i, task in enumerate(tasks):
            giver = task.after
            if starts[i] < 0 and (giver is None or (starts[giver[0]] >= 0 and starts[giver[0]] + giver[1] <= now)):
                may.append(i)
        found = []
        for size in range(min(len(may), workers - running) + 1):
            for chosen in itertools.combinations(may, size):
                if not chosen and not running and may:
                    continue  # waiting with nothing at work never helps
                found.append(rest(now + 1, tuple(now if i in chosen else starts[i] for i in range(count))))
        return min(found)

    return rest(0, (-1,) * count)


@st.composite
def instances(draw: st.DrawFn, most: int, inside: bool = True) -> tuple[list[Task], int]:
    tasks: list[Task] = []
    for index in range(draw(st.integers(1, most))):
        after = None
        if index and draw(st.booleans()):
            giver = draw(st.integers(0, index - 1))
            seconds = tasks[giver].seconds
            after = giver, float(draw(st.integers(1, int(seconds)))) if inside else seconds
        tasks.append(Task(float(draw(st.integers(1, 4))), after))
    return tasks, draw(st.integers(1, 3))


@settings(max_examples=200, deadline=None)
@given(instances(8))
def test_it_is_what_a_ticking_clock_gives(instance: tuple[list[Task], int]) -> None:
    tasks, workers = instance
    assert list(schedule(tasks, workers).starts) == ticking(tasks, workers)


def every_order(tasks: list[Task], workers: int) -> list[float]:
    """Lengths of the list schedules of all orders."""
    lengths = []
    for order in itertools.permutations(range(len(tasks))):
        place = {old: new for new, old in enumerate(order)}
        moved = [tasks[i] for i in order]
        moved = [Task(t.seconds, (place[t.after[0]], t.after[1]) if t.after else None) for t in moved]
        lengths.append(schedule(moved, workers).seconds)
    return lengths


@settings(max_examples=30, deadline=None)
@given(instances(5, inside=False))
def test_some_order_is_the_best_schedule_where_tasks_wait_for_ends(instance: tuple[list[Task], int]) -> None:
    tasks, workers = instance
    assert min(every_order(tasks, workers)) == best(tasks, workers)


@settings(max_examples=30, deadline=None)
@given(instances(5))
def test_no_order_is_far_from_the_best_schedule(instance: tuple[list[Task], int]) -> None:
    tasks, workers = instance
    shortest = best(tasks, workers)
    lengths = every_order(tasks, workers)
    assert shortest <= min(lengths) and max(lengths) <= (2 - 1 / workers) * shortest
    whole = schedule(tasks, workers)
    assert max(whole.critical, whole.work / workers) <= shortest
    assert whole.critical == schedule(tasks, len(tasks)).seconds


def test_a_task_that_waits_for_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        schedule([Task(1.0, (0, 1.0))], 2)
    with pytest.raises(ValueError, match="at least 1"):
        schedule([], 0)
    assert schedule([], 1).seconds == 0.0
