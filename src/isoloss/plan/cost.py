"""What a plan costs: updates, terms of data, FLOPs, disk; with and without sharing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isoloss.plan.lower import Lowered
from isoloss.plan.needs import Work
from isoloss.plan.tree import Node
from isoloss.recipe.measure import Measure
from isoloss.train import probes


@dataclass(frozen=True)
class Cost:
    """Sums over a plan; FLOPs of training include every gradient evaluation and the refresh of running statistics,
    evaluations are apart."""

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
        evaluations, _ = readings(lowered.points.values())
        total += Cost(0, 0, 0.0, evaluations * lowered.facts.evaluation_flops)
        for part in filter(None, (lowered.before, lowered)):
            total += Cost(part.length, part.length * part.facts.terms_per_update, part.flops, 0.0)
    return total


def shared(roots: Sequence[Node]) -> Cost:
    """Every track of the tree trained once."""
    total = NONE
    for node in (n for root in roots for n in root.walk()):
        total += _of(node, node.length, [list(measures.values()) for measures in node.measures.values()])
    return total


def missing(work: Sequence[Work]) -> tuple[Cost, int]:
    """(cost of what is still to be trained, updates in it that are replay)."""
    total = NONE
    for item in work:
        total += _of(item.node, item.updates, item.segment.measures.values())
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


def readings(asked: Iterable[Sequence[Measure]]) -> tuple[int, int]:
    """(passes over a validation part, training batches that refresh statistics) of what is asked, state by state.

    Metrics of the same weights on the same part share one pass; parts share one refresh.
    """
    evaluations = batches = 0
    for measures in asked:
        judged = [m for m in measures if not probes.is_probe(m)]
        evaluations += len({(m.weights, m.part, m.amount) for m in judged})
        evaluations += sum(probes.evaluations(m) for m in measures if probes.is_probe(m))
        batches += sum(refresh for _, refresh in {m.weights for m in judged})
    return evaluations, batches


def _of(node: Node, updates: int, asked: Iterable[Sequence[Measure]]) -> Cost:
    facts = node.facts
    evaluations, batches = readings(asked)
    return Cost(
        updates,
        updates * facts.terms_per_update,
        updates * node.flops_per_update + batches * facts.forward_flops,
        evaluations * facts.evaluation_flops,
    )
