"""What a plan costs: updates, terms of data, FLOPs, disk; with and without sharing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isoloss.plan.lower import Lowered
from isoloss.plan.needs import Work
from isoloss.plan.tree import Node


@dataclass(frozen=True)
class Cost:
    """Sums over a plan; FLOPs of training include every gradient evaluation, evaluations are apart."""

    updates: int
    terms: int
    flops: float
    evaluation_flops: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.updates + other.updates,
            self.terms + other.terms,
            self.flops + other.flops,
            self.evaluation_flops + other.evaluation_flops,
        )


NONE = Cost(0, 0, 0.0, 0.0)


def unshared(runs: Sequence[Lowered]) -> Cost:
    """Every distinct run trained from its own beginning."""
    total = NONE
    seen: set[tuple[str, str]] = set()
    for lowered in runs:
        end = lowered.run.key(lowered.run.length)
        judged = lowered.observer.id if lowered.observer else ""
        if (end, judged) in seen:
            continue
        seen.add((end, judged))
        facts, length = lowered.facts, lowered.run.length
        evaluations = sum(len(measures) for measures in lowered.points.values())
        total += Cost(
            length,
            length * facts.terms_per_update,
            length * facts.flops_per_update,
            evaluations * facts.evaluation_flops,
        )
    return total


def shared(roots: Sequence[Node]) -> Cost:
    """Every track of the tree trained once."""
    total = NONE
    for node in (n for root in roots for n in root.walk()):
        evaluations = sum(len(measures) for measures in node.measures.values())
        total += _of(node, node.length, evaluations)
    return total


def missing(work: Sequence[Work]) -> tuple[Cost, int]:
    """(cost of what is still to be trained, updates in it that are replay)."""
    total = NONE
    for item in work:
        evaluations = sum(len(measures) for measures in item.segment.measures.values())
        total += _of(item.node, item.updates, evaluations)
    return total, sum(item.replayed for item in work)


def disk(roots: Sequence[Node]) -> int:
    """Bytes of states that are kept when all is trained: forks, leaves, and every piece of a stationary track."""
    total = 0
    for node in (n for root in roots for n in root.walk()):
        kept = set(node.pinned)
        if node.phase.rule.lr.stationary:
            kept |= set(range(node.piece, node.length, node.piece))
        total += len(kept) * node.facts.state_bytes
    return total


def _of(node: Node, updates: int, evaluations: int) -> Cost:
    facts = node.facts
    return Cost(
        updates,
        updates * facts.terms_per_update,
        updates * facts.flops_per_update,
        evaluations * facts.evaluation_flops,
    )
