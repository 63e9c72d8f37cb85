"""What is read off a run: which measures at which update, and the averages of weights that are among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isoloss.recipe import catalogue
from isoloss.recipe.errors import StudyError
from isoloss.recipe.measure import PARTS, SCHEDULE_FREE, Measure, Observer
from isoloss.recipe.run import Run
from isoloss.train import probes

MOST_BLOCKS = 20
"""Sums of weights that a window average may keep."""


def amount(evaluation: Mapping[str, Any]) -> int:
    """Tokens (or samples) of each validation part."""
    return int(evaluation["tokens"] if evaluation["tokens"] is not None else evaluation["samples"])


def points(
    evaluation: Mapping[str, Any],
    total: int,
    amount: int,
    observer: Observer | None,
    refresh: int,
    updates: Callable[[str, str], int],
    tensors: Callable[[], Sequence[str]],
) -> dict[int, tuple[Measure, ...]]:
    """What to read off at which update: both parts at the end, part B along the way (both to select the best)."""
    moments = {updates(at, "evaluation.at") for at in evaluation["at"] if at != "end"}
    if evaluation["every"]:
        every = max(1, updates(evaluation["every"], "evaluation.every"))
        moments |= set(range(every, total, every))
    names = ("loss", *evaluation["metrics"])
    watched: list[tuple[Observer | None, int]] = [(None, 0), (observer, refresh)] if observer else [(None, 0)]
    along = watched if observer == SCHEDULE_FREE else watched[:1]
    judged = PARTS if evaluation["select"] == "best" else PARTS[1:]
    found: dict[int, tuple[Measure, ...]] = {
        at: tuple(Measure(name, part, amount, *w) for w in along for part in judged for name in names)
        for at in sorted(moments)
        if 0 < at < total
    }
    found[total] = tuple(Measure(name, part, amount, *w) for w in watched for part in PARTS for name in names)
    found[total] += probes.roughnesses(evaluation, amount)
    far = probes.distances(evaluation, tensors)
    for at in probes.moments(evaluation, total):
        found[at] = (*found.get(at, ()), *far)
    return found


def observer(average: Mapping[str, Any] | None, updates: Callable[[str, str], int], run: Run) -> Observer | None:
    """The arm's averager, read at the end of the run; it watches the last phase only.

    A window is kept as sums over blocks that end with the run: the block is the greatest common divisor of the
    window and the run's length.
    """
    if not average:
        return None
    options: dict[str, Any] = {k: v for k, v in average.items() if k not in ("kind", "refresh")}
    for name in ("length", "every"):
        if isinstance(options.get(name), str):
            options[name] = max(1, updates(options[name], f"average.{name}"))
    _, last, _ = run.tracks[-1]
    reach = options.get("count", 1) * options.get("every", 1)
    if average["kind"] != "window" and reach > last.length:
        raise StudyError(f"average: {reach} updates are needed; allowed: at most the last phase's {last.length}")
    semantics = catalogue.get("average", average["kind"]).semantics
    if semantics != 1:
        options["semantics"] = semantics
    if average["kind"] == "window":
        length, every = options["length"], options["every"]
        if length > last.length:
            raise StudyError(f"average.length: {length} updates; allowed: at most the last phase's {last.length}")
        options["block"] = math.gcd(length, run.length)
        if length // options["block"] > MOST_BLOCKS:
            raise StudyError(
                f"average.length: {length} updates in a run of {run.length} have the common divisor "
                f"{options['block']}: more than {MOST_BLOCKS} copies of the weights; allowed: a length that shares a "
                "larger divisor with the run"
            )
        if options["block"] % every:
            raise StudyError(
                f"average.every: {every}; allowed: a divisor of {options['block']}, which divides both the window of "
                f"{length} and the run of {run.length} updates"
            )
    return Observer(average["kind"], options)
