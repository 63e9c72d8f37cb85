"""The tree of a study's runs as stretches between forks, as ``report.tree`` draws them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from isoloss.plan.lower import Lowered
from isoloss.plan.tree import Node


def edges(
    roots: Sequence[Node],
    runs: Sequence[Lowered],
    variant: Callable[[int], str],
    cell: Callable[[int], Mapping[str, Any]],
    trial: Callable[[int], bool],
) -> Iterator[tuple[Node, int, int, dict[str, Any]]]:
    """Node, first and last offset on its track, and the record of each stretch; those who led to it come first.

    ``variant``, ``cell`` and ``trial`` tell of a run, by its number: its arm with what it is compared in, its
    coordinates, and whether it is one of tuning.
    """

    def below(node: Node, parent: str | None, tree: int, count: Iterator[int]) -> Iterator[Any]:
        begin, above = 0, parent
        here: dict[int, str | None] = {0: parent}
        shape = node.phase.rule.lr.shape
        for end in sorted({*node.forks, *node.ends, node.length} - {0}):
            members = [m for m in node.members if _reaches(runs[m], node, end)]
            arms = list(dict.fromkeys(variant(m) for m in members))
            name = f"{tree}.{next(count)}"
            record = {
                "id": name,
                "parent": above,
                "start": node.begun + begin,
                "end": node.begun + end,
                "arms": arms,
                "cells": len(members),
                "label": f"{'+'.join(arms)} {shape}",
                "kind": {"warmup": "warmup", "constant": "trunk"}.get(shape, "branch"),
                "reused": len(members) > 1,
                "tuning": all(trial(m) for m in members),
                "lr": node.phase.rule.lr.peak,
                "cell": {path: value for path, value in cell(members[0]).items() if path != "duration"},
                "N": node.facts.N,
                "flops": (end - begin) * node.flops_per_update,
            }
            yield node, begin, end, record
            begin, above = end, name
            here[end] = name
        for child in node.children:
            yield from below(child, here.get(child.fork), tree, count)

    for number, root in enumerate(roots):
        yield from below(root, None, number, itertools.count(1))


def _reaches(lowered: Lowered, node: Node, end: int) -> bool:
    """Whether a run walks on a track as far as ``end``."""
    return any(track.id == node.track.id and phase.length >= end for track, phase, _ in lowered.run.tracks)
