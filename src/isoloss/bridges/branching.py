"""Branches of a training in somebody else's loop: where they leave, how they are cooled down, what they reached."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from isoloss.execute.cooldown import Cooldown, Cooled
from isoloss.recipe.errors import StudyError
from isoloss.worth.anytime import Point, Prediction, anytime

WHEN = ("now", "end")
RECORD = "isoloss-branches.json"


@dataclass(frozen=True)
class Branch(Cooled):
    """A cooldown of ``length`` updates that left the training after ``fork`` of them.

    ``checkpoint``: where it left from; ``result``: where the cooled model is; ``loss``: of the evaluation at its end,
    None without one; ``failure``: why there is no result.
    """

    fork: int
    length: int
    cooldown: dict[str, Any]
    checkpoint: str
    result: str | None = None
    loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failure: str = ""

    def text(self) -> str:
        """A line for a person."""
        if self.failure:
            return f"{self.head}: failed: {self.failure}"
        said = "not evaluated" if self.loss is None else f"loss {self.loss:.4f}"
        return f"{self.head}: {said}; {self.seconds:.1f} s"


class Branching:
    """The branches of one training, whichever loop it is.

    ``at``: updates after which a checkpoint is left. ``make``: builds what cools it down; None: checkpoints only.
    ``when``: ``now``, in the middle of training, or at its ``end``.
    """

    def __init__(self, at: Iterable[int], cooldown: Cooldown, make: Callable[..., Any] | None, when: str) -> None:
        self.at = tuple(sorted(set(at)))
        if not self.at or not all(isinstance(u, int) and u > 0 for u in self.at):
            raise StudyError(f"branches: at is {list(self.at)}; allowed: updates of the training, from 1")
        if when not in WHEN:
            raise StudyError(f"branches: when is {when!r}; allowed: {', '.join(WHEN)}")
        self.cooldown, self.make, self.when = cooldown, make, when
        self.branches: dict[int, Branch] = {}
        self.evaluations: dict[int, float] = {}
        """Losses of the trunk itself by update."""

    def check(self, total: int | None, behind: int, kept: Callable[[int], bool]) -> None:
        """Raise ``StudyError`` where a branch lies outside a training of ``total`` updates (None: unknown), or where it
        has left already and ``kept`` says that its checkpoint is gone.
        """
        late = [u for u in self.at if total is not None and u > total]
        if late:
            raise StudyError(
                f"branches: update {late[0]} lies beyond the training's {total} updates; allowed: up to {total}"
            )
        gone = [u for u in self.at if u < behind and u not in self.branches and not kept(u)]
        if gone:
            raise StudyError(
                f"branches: training goes on from update {behind}, and there is no checkpoint of update {gone[0]} to "
                f"branch from; allowed: updates from {behind} on"
            )

    def pending(self, behind: int) -> list[int]:
        """Updates whose checkpoint is there and not cooled down yet."""
        return [u for u in self.at if u <= behind and u not in self.branches and self.make is not None]

    def run(
        self, fork: int, checkpoint: Path, cool: Callable[[int], tuple[str, float | None, dict[str, float]]]
    ) -> None:
        """Cool one down by ``cool(updates in all) -> (result, loss, metrics)``.

        What goes wrong there is a record and a warning: the training itself goes on.
        """
        length = self.cooldown.updates(fork)
        begun = time.perf_counter()
        branch = Branch(fork, length, dict(self.cooldown.mapping), str(checkpoint))
        try:
            result, loss, metrics = cool(fork + length)
            if loss is not None and not math.isfinite(loss):
                branch = Branch(**asdict(branch) | {"failure": f"its loss is {loss:g}"})
            else:
                branch = Branch(**asdict(branch) | {"result": result, "loss": loss, "metrics": metrics})
        except Exception as error:
            branch = Branch(**asdict(branch) | {"failure": f"{type(error).__name__}: {error}"})
        branch = Branch(**asdict(branch) | {"seconds": time.perf_counter() - begun})
        if branch.failure:
            warnings.warn(f"isoloss: {branch.text()}", stacklevel=2)
        self.branches[fork] = branch

    def evaluated(self, update: int, loss: float | None) -> None:
        """Take in a loss of the trunk."""
        if loss is not None and math.isfinite(loss):
            self.evaluations[update] = loss

    @property
    def anytime(self) -> Prediction | None:
        """What a cooldown from any update would reach (``worth.anytime``); None with too little to fit it."""
        points = [Point("0", u, loss) for u, loss in sorted(self.evaluations.items())]
        points += [Point("0", b.total, b.loss, b.fork) for b in self.branches.values() if b.loss is not None]
        try:
            return anytime(points)
        except ValueError:
            return None

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "branches": [b.to_dict() for _, b in sorted(self.branches.items())],
            "evaluations": [[u, loss] for u, loss in sorted(self.evaluations.items())],
        }

    def load_state_dict(self, state: Mapping[str, Any], behind: float = math.inf) -> None:
        """Restore what ``state_dict`` returned, as far as update ``behind``; what failed is tried again."""
        rows = [Branch(**{k: v for k, v in each.items() if k != "total"}) for each in state["branches"]]
        self.branches = {b.fork: b for b in rows if b.fork <= behind and not b.failure}
        self.evaluations = {int(u): float(loss) for u, loss in state["evaluations"] if u <= behind}

    def write(self, folder: Path) -> None:
        """Keep the record in a folder; it appears at once."""
        partial = folder / f".{RECORD}-{os.getpid()}"
        partial.write_text(json.dumps(self.state_dict(), indent=2) + "\n")
        os.replace(partial, folder / RECORD)


def placed(cooldown: Cooldown, at: int | None, total: int | None) -> tuple[int, Cooldown]:
    """(first update, cooldown with its length) in place: at the end of ``total`` updates, or from ``at`` on.

    Raises ``StudyError`` where it does not fit in, or where its beginning cannot be known.
    """
    if at is None and total is None:
        raise StudyError("cooldown: the training has no known end; allowed: at=update, or a training of max_steps")
    if at is None:
        assert total is not None
        fraction = 0.2 if cooldown.fraction is None else cooldown.fraction
        length = cooldown.length or max(1, round(fraction * total))
        at = total - length
    else:
        length = cooldown.updates(at)
    if at < 0 or (total is not None and at + length > total):
        raise StudyError(
            f"cooldown: {length} updates from update {at} do not fit into a training of {total}; allowed: an end at "
            f"update {total} or before"
        )
    return at, replace(cooldown, fraction=None, length=length)


def shares(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two lists of tensors have memory in common."""
    mine = {t.data_ptr() for t in one} - {0}
    return any(t.data_ptr() in mine for t in other)
