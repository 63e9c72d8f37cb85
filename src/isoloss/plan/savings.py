"""What trunks with cooldowns save against separate runs of the same durations, in training FLOPs.

For targets T_1 < ... < T_m of one size and cooldowns of a fraction c (Haegele et al. 2024, arXiv 2405.18392)::

    separate runs                              T_1 + ... + T_m
    the trunk ends in its longest cooldown     T_m + c (T_1 + ... + T_{m-1})
    the trunk runs on to the full length       T_m + c (T_1 + ... + T_m)

The first accounting is what training the study takes. Sizes are summed in FLOPs, so a ratio depends a little on what
a FLOP count leaves out; both counts are given where they are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoloss.laws.flops import hoffmann
from isoloss.models.ladder import GPTConfig, configure
from isoloss.plan.lower import Lowered
from isoloss.plan.tree import grow
from isoloss.study import Cell
from isoloss.train.wrappers import passes

MATRICES, EVERY_TERM = "matrix products", "all terms (Hoffmann 2022)"
"""The second, of appendix F there, adds embeddings as products and the softmax."""
ENDS, RUNS_ON = "trunk ends in its longest cooldown", "trunk runs on to its full length"


@dataclass(frozen=True)
class Saving:
    """FLOPs of one arm's runs that leave shared trunks: separately, and by each accounting, under one count.

    ``against``: the arm whose runs, one for each of these, are ``separate``; the arm itself where there is none.
    """

    arm: str
    against: str
    runs: int
    trunks: int
    count: str
    separate: float
    ends: float
    runs_on: float

    @property
    def ratios(self) -> dict[str, float]:
        """FLOPs over those of separate runs, by accounting."""
        return {ENDS: self.ends / self.separate, RUNS_ON: self.runs_on / self.separate}

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        names = ("arm", "against", "runs", "trunks", "count")
        found = {name: getattr(self, name) for name in names}
        return found | {
            "separate_flops": self.separate,
            "accountings": [
                {"name": name, "flops": flops, "ratio": flops / self.separate}
                for name, flops in ((ENDS, self.ends), (RUNS_ON, self.runs_on))
            ],
        }


def savings(cells: Sequence[Cell], runs: Sequence[Lowered], baseline: str) -> list[Saving]:
    """What every arm saves whose runs of several durations leave shared trunks; ``runs``: one for each of ``cells``.

    The separate runs are those of the first arm, the baseline before others, that has a run without a trunk for each
    of them.
    """
    by_arm: dict[str, dict[str, Lowered]] = {}
    for cell, lowered in zip(cells, runs, strict=True):
        by_arm.setdefault(cell.arm, {})[repr(sorted(cell.coordinates.items()))] = lowered
    fixed = {arm: found for arm, found in by_arm.items() if not any(map(_trunk, found.values()))}
    found = []
    for arm, mine in by_arm.items():
        trunks: dict[str, list[Lowered]] = {}
        for lowered in mine.values():
            if trunk := _trunk(lowered):
                trunks.setdefault(trunk, []).append(lowered)
        if sum(map(len, trunks.values())) < len(mine) or all(len(group) == 1 for group in trunks.values()):
            continue
        rivals = sorted((other for other in fixed if fixed[other].keys() >= mine.keys()), key=lambda a: a != baseline)
        against = rivals[0] if rivals else arm
        separate = [by_arm[against][place] for place in mine]
        for count, cost in COUNTS.items():
            try:
                found.append(_saving(arm, against, list(mine.values()), separate, trunks, count, cost))
            except _Unknown:
                continue
    return found


class _Unknown(Exception):
    """A count that a model has no formula for."""


def _saving(
    arm: str,
    against: str,
    mine: Sequence[Lowered],
    separate: Sequence[Lowered],
    trunks: dict[str, list[Lowered]],
    count: str,
    cost: Callable[[Lowered], float],
) -> Saving:
    ends = sum(
        node.length * passes(node.phase.rule.methods) * cost(mine[node.members[0]])
        for root in grow(mine)
        for node in root.walk()
    )
    longest = [max(group, key=lambda lowered: lowered.run.length) for group in trunks.values()]
    # The cooldown's updates over again, at the trunk's own rule.
    on = sum(run.run.phases[-1].length * passes(run.run.phases[-2].rule.methods) * cost(run) for run in longest)
    return Saving(arm, against, len(mine), len(trunks), count, sum(map(_alone(cost), separate)), ends, ends + on)


def _alone(cost: Callable[[Lowered], float]) -> Callable[[Lowered], float]:
    return lambda one: sum(phase.length * passes(phase.rule.methods) for phase in one.run.phases) * cost(one)


def _trunk(lowered: Lowered) -> str | None:
    """The stationary track from which a run leaves for its end; None where it has none."""
    tracks = lowered.run.tracks
    if len(tracks) < 2 or not tracks[-2][1].rule.lr.stationary or tracks[-1][1].rule.lr.stationary:
        return None
    return tracks[-2][0].id


def _every_term(lowered: Lowered) -> float:
    """FLOPs of an update with embedding look-ups as products and the softmax, of a decoder."""
    model = lowered.run.start.model
    spec = model["spec"]
    if spec.get("family") != "gpt":
        raise _Unknown
    options = {name: value for name, value in spec.items() if name != "family" and value is not None}
    config = configure("gpt", options, vocabulary=model["vocabulary"], context=model["context"])
    assert isinstance(config, GPTConfig)
    # The formula has the two feed-forward matrices of a GELU; SwiGLU has three.
    feed_forward = config.hidden * (1.5 if config.mlp == "swiglu" else 1.0)
    columns = {
        "n_ctx": config.context,
        "d_model": config.width,
        "vocab": config.vocabulary,
        "n_layer": config.depth,
        "n_head": config.heads,
        "d_ff": feed_forward,
    }
    per_token = hoffmann({name: np.asarray(float(value)) for name, value in columns.items()})
    return float(per_token) * lowered.facts.terms_per_update


COUNTS: dict[str, Callable[[Lowered], float]] = {
    MATRICES: lambda lowered: lowered.facts.flops_per_update,
    EVERY_TERM: _every_term,
}
