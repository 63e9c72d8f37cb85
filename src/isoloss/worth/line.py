"""Loss along the straight line between a run's weights before and after its cooldown.

Both ends are states of the store: where the run's last phase begins (the fork) and where it ends. A connected basin
shows as a smooth fall without a barrier (Haegele et al. 2024, arXiv 2405.18392, section 4).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from isoloss.execute.stored import quietly
from isoloss.methods.interpolate import barrier, loss_along_line
from isoloss.plan.lower import open_source
from isoloss.recipe.errors import nearest
from isoloss.recipe.measure import PARTS
from isoloss.train.loop import Trainer

if TYPE_CHECKING:
    import torch

    from isoloss.plan.demands import Planned
    from isoloss.worth.results import Results

REFRESH = 32
"""Training batches that estimate running statistics at each point, for models that have them."""


@dataclass(frozen=True)
class Line:
    """Losses (part B, nats per token or sample) at ``at``: 0 before the cooldown, 1 at the run's end.

    ``begin`` and ``end``: the updates of the two states. ``barrier``: greatest rise above the chord, 0 at least.
    """

    run: str
    begin: int
    end: int
    at: tuple[float, ...]
    loss: tuple[float, ...]
    barrier: float

    @property
    def monotone(self) -> bool:
        """Whether the loss never rises from one point to the next."""
        return all(after <= before for before, after in zip(self.loss, self.loss[1:], strict=False))

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self) | {"at": list(self.at), "loss": list(self.loss), "monotone": self.monotone}


def line(results: Results, run_name: str, points: int = 11) -> Line:
    """Loss along the line between the two states of one run of a study, by its own evaluator; trains nothing.

    ``run_name``: a name in ``results.results``. Running statistics, where the model has them, are estimated anew at
    every point. Raises ValueError for an unknown run, one without a last phase of its own, or fewer than 2 points;
    StoreError where a state is not in the store.
    """
    if points < 2:
        raise ValueError(f"line: found {points} points; allowed: 2 or more")
    planned = next((p for p in results.stage.planned if p.name == run_name), None)
    if planned is None:
        names = [p.name for p in results.stage.planned]
        raise ValueError(
            f"line: found no run {run_name!r}; allowed: names of results.results{nearest(run_name, names)}"
        )
    run = planned.lowered.run
    _, last, begun = run.tracks[-1]
    if not begun or last.rule.lr.stationary:
        raise ValueError(f"line: {run_name} has no cooldown or other decay after a first phase; allowed: runs with one")
    at = tuple(i / (points - 1) for i in range(points))
    with quietly(int(run.numerics["threads"])):
        losses = _losses(results, planned, begun, at)
    return Line(run_name, begun, run.length, at, tuple(losses), barrier(at, losses))


def _losses(results: Results, planned: Planned, begun: int, at: tuple[float, ...]) -> list[float]:
    lowered = planned.lowered
    run = lowered.run
    _, phase, _ = run.tracks[-1]
    trainer = Trainer(run.start, phase, open_source(lowered.data), {**run.numerics, "compiled": False})
    evaluate = trainer.evaluator()

    def weights(update: int) -> torch.Tensor:
        stored = results.store.load(run.key(update), observers=()).state
        return trainer.parameters.gather({name[6:]: t for name, t in stored.items() if name.startswith("model/")})

    moved = weights(run.length)
    refresh = REFRESH if trainer.buffers() else 0
    wanted = ("loss", PARTS[1], lowered.amount)
    return loss_along_line(
        lambda: evaluate(moved, {}, [wanted], refresh=refresh, seed=int(phase.rule.seeds["noise"]))[wanted],
        [moved],
        [weights(begun)],
        [moved],
        at,
    )
