"""The prefix tree: every track once, whoever walks on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from isoloss.plan.lower import Facts, Lowered
from isoloss.recipe.measure import Measure
from isoloss.recipe.run import Phase, Run, Track
from isoloss.train.wrappers import passes


@dataclass
class Node:
    """One track of the tree: a stretch under one rule, as long as its longest user.

    ``measures``: what is asked at which offset; ``forks``: offsets at which other tracks leave; ``ends``: offsets
    at which runs end; ``members``: indices of the runs that walk here.
    """

    track: Track
    phase: Phase
    run: Run
    index: int
    begun: int
    data: Mapping[str, Any]
    facts: Facts
    piece: int
    parent: Node | None
    fork: int
    length: int = 0
    measures: dict[int, dict[str, Measure]] = field(default_factory=dict)
    forks: set[int] = field(default_factory=set)
    ends: set[int] = field(default_factory=set)
    members: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    @property
    def flops_per_update(self) -> float:
        """Training FLOPs of an update here, with every gradient evaluation."""
        return self.facts.flops_per_update * passes(self.phase.rule.methods)

    @property
    def pinned(self) -> set[int]:
        """Offsets whose states are always kept: forks and leaves."""
        return self.forks | self.ends

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))


def grow(runs: Sequence[Lowered]) -> list[Node]:
    """The roots of the prefix tree of ``runs``; equal runs meet in one path."""
    nodes: dict[str, Node] = {}
    roots: list[Node] = []
    for member, lowered in enumerate(runs):
        parent: Node | None = None
        fork = 0
        for index, (track, phase, begun) in enumerate(lowered.run.tracks):
            node = nodes.get(track.id)
            if node is None:
                part = lowered.part(index)
                node = Node(track, phase, lowered.run, index, begun, part.data, part.facts, part.piece, parent, fork)
                nodes[track.id] = node
                (parent.children if parent else roots).append(node)
                if parent:
                    parent.forks.add(fork)
            if phase.length > node.length:
                node.length, node.run = phase.length, lowered.run
            node.piece = min(node.piece, lowered.part(index).piece)
            node.members.append(member)
            parent, fork = node, phase.length
        if parent:
            parent.ends.add(fork)
        _place(lowered, nodes)
    return roots


def _place(lowered: Lowered, nodes: Mapping[str, Node]) -> None:
    """Put a run's measures on the tracks where their updates lie."""
    for update, measures in lowered.points.items():
        track, _, offset = lowered.run.locate(update)
        here = nodes[track.id].measures.setdefault(offset, {})
        here.update({measure.name: measure for measure in measures})
