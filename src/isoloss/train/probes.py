"""Readings of the weights themselves: how far they went, and how rough the loss is around them.

Both are functions of a state, so any stored state can supply them; nothing is watched along the way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isoloss.methods import distance
from isoloss.recipe.measure import PARTS, Measure
from isoloss.train.flat import FlatLayout

START = "start"
"""Stands for the part where a distance is measured from: the run's initialisation."""
_DISTANCE = re.compile(r"distance(?:\((.*)\))?")
_ROUGHNESS = re.compile(r"loss_std\(z=([^,]+),directions=(\d+)\)")

Evaluate = Callable[[Tensor, str, int], float]
"""(flat weights, part, amount) -> loss."""


def distances(evaluation: Mapping[str, Any], names: Callable[[], Sequence[str]]) -> tuple[Measure, ...]:
    """The distances that a study asks for at one update; ``names`` of the trained tensors are asked if needed."""
    asked = evaluation["distance"]
    if asked is None:
        return ()
    tensors = names() if asked["tensors"] else ()
    return tuple(Measure(metric, START, 0) for metric in ("distance", *(f"distance({name})" for name in tensors)))


def moments(evaluation: Mapping[str, Any], total: int) -> list[int]:
    """The updates up to ``total`` at which distances are read: log-spaced, the same for every length, and the end."""
    asked = evaluation["distance"]
    if asked is None:
        return []
    return [u for u in range(1, total) if distance.log_spaced(u, asked["per_decade"])] + [total]


def roughnesses(evaluation: Mapping[str, Any], amount: int) -> tuple[Measure, ...]:
    """The spreads of the loss that a study asks for at the end."""
    asked = evaluation["roughness"]
    if asked is None:
        return ()
    directions = asked["directions"]
    return tuple(Measure(f"loss_std(z={z:g},directions={directions})", PARTS[1], amount) for z in asked["distances"])


def is_probe(measure: Measure) -> bool:
    """Whether a measure is read off the weights here, not by an evaluation of a task."""
    return bool(_DISTANCE.fullmatch(measure.metric) or _ROUGHNESS.fullmatch(measure.metric))


def evaluations(measure: Measure) -> int:
    """Evaluations of the loss that a measure costs by itself."""
    found = _ROUGHNESS.fullmatch(measure.metric)
    if found:
        return int(found[2])
    return 0 if _DISTANCE.fullmatch(measure.metric) else 1


def reach(metric: str) -> float | None:
    """The distance z of a spread of the loss by its metric's name; None for any other."""
    found = _ROUGHNESS.fullmatch(metric)
    return float(found[1]) if found else None


class Probes:
    """Reads probes of one model; ``start`` makes the flat initial weights, once they are needed."""

    def __init__(self, layout: FlatLayout, start: Callable[[], Tensor], evaluate: Evaluate, seed: int) -> None:
        self.layout, self.evaluate, self.seed = layout, evaluate, seed
        self._make = start
        self._start: Tensor | None = None

    def __call__(self, weights: Tensor, asked: Sequence[Measure]) -> list[float]:
        """Values of the asked probes of these flat weights, which are left as they are."""
        spread = self._spread(weights, [m for m in asked if _ROUGHNESS.fullmatch(m.metric)])
        return [spread[m] if m in spread else self._distance(weights, m.metric) for m in asked]

    def _distance(self, weights: Tensor, metric: str) -> float:
        if self._start is None:
            self._start = self._make()
        found = _DISTANCE.fullmatch(metric)
        assert found is not None
        now, then = self.layout.named(weights), self.layout.named(self._start)
        names = [found[1]] if found[1] else list(now)
        squares = distance.squared_distances([now[n] for n in names], [then[n] for n in names])
        return math.sqrt(math.fsum(squares))

    def _spread(self, weights: Tensor, asked: Sequence[Measure]) -> dict[Measure, float]:
        groups: dict[tuple[str, int, int], list[Measure]] = {}
        for measure in asked:
            found = _ROUGHNESS.fullmatch(measure.metric)
            assert found is not None
            groups.setdefault((measure.part, measure.amount, int(found[2])), []).append(measure)
        values: dict[Measure, float] = {}
        for (part, amount, directions), members in groups.items():
            moved = weights.detach().clone()
            reaches = [float(reach(m.metric) or 0) for m in members]
            rough = distance.roughness(
                lambda moved=moved, part=part, amount=amount: self.evaluate(moved, part, amount),  # type: ignore[misc]
                [moved], reaches, directions=directions, seed=self.seed,
            )  # fmt: skip
            values |= dict(zip(members, rough.std, strict=True))
        return values


def initial(model: torch.nn.Module, layout: FlatLayout) -> Tensor:
    """The flat weights of a fresh model."""
    return layout.gather({name: value.detach() for name, value in model.named_parameters()})
