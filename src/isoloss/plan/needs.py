"""What the store lacks, arranged as segments: each begins at the nearest stored ancestor that will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from isoloss.plan.tree import Node
from isoloss.recipe.measure import Measure
from isoloss.train import observers
from isoloss.train.segment import Segment


@dataclass(frozen=True)
class Stretch:
    """What is known of one track: loadable states, offsets once trained, observer memories, a divergence."""

    states: frozenset[int] = frozenset()
    covered: tuple[tuple[int, int], ...] = ()
    sides: Mapping[str, frozenset[int]] | None = None
    diverged: int | None = None


class Memory(Protocol):
    """What planning asks of a store."""

    def stretches(self, tracks: Sequence[str]) -> Mapping[str, Stretch]: ...
    def measured(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, float]]: ...


class Nothing:
    """An empty store."""

    def stretches(self, tracks: Sequence[str]) -> Mapping[str, Stretch]:
        return {}

    def measured(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        return {}


@dataclass(frozen=True)
class Work:
    """A segment with its place in the tree: which node, what must exist first, how much of it is replay."""

    node: Node
    segment: Segment
    replayed: int

    @property
    def updates(self) -> int:
        return self.segment.end - self.segment.begin

    @property
    def waits_for(self) -> tuple[Node, int] | None:
        """The (node, offset) whose state this begins from, where it is another track's."""
        if self.segment.begin == 0 and self.node.parent is not None:
            return self.node.parent, self.node.fork
        return None


def arrange(roots: Sequence[Node], memory: Memory) -> list[Work]:
    """The segments that supply everything the tree asks for and ``memory`` lacks."""
    nodes = [node for root in roots for node in root.walk()]
    known = memory.stretches([node.track.id for node in nodes])
    asked = {(n.track.id, o): n.track.key(o) for n in nodes for o in n.measures}
    measured = memory.measured(list(asked.values()))
    wanted_forks: dict[str, set[int]] = {}
    blocked = _blocked(nodes, known)
    work: list[Work] = []
    for node in reversed(nodes):  # children before parents
        if node.track.id in blocked:
            continue
        stretch = known.get(node.track.id, Stretch())
        limit = node.length if stretch.diverged is None else stretch.diverged - 1
        lacking: dict[int, tuple[Measure, ...]] = {}
        for offset, measures in node.measures.items():
            have = measured.get(asked[node.track.id, offset], {})
            missing = tuple(m for name, m in measures.items() if name not in have)
            if missing and offset <= limit:
                lacking[offset] = missing
        forks = {o for o in wanted_forks.get(node.track.id, ()) if o <= limit and o not in stretch.states}
        found = _segments(node, stretch, lacking, forks)
        if found and node.parent and any(w.segment.begin == 0 for w in found):
            wanted_forks.setdefault(node.parent.track.id, set()).add(node.fork)
        work += found
    work.reverse()
    return work


def _blocked(nodes: Sequence[Node], known: Mapping[str, Stretch]) -> set[str]:
    """Tracks that begin at or behind a divergence."""
    found: set[str] = set()
    for node in nodes:
        if node.parent is None:
            continue
        broke = known.get(node.parent.track.id, Stretch()).diverged
        if node.parent.track.id in found or (broke is not None and node.fork >= broke):
            found.add(node.track.id)
    return found


def _segments(node: Node, stretch: Stretch, lacking: Mapping[int, tuple[Measure, ...]], forks: set[int]) -> list[Work]:
    spans: list[tuple[int, list[int]]] = []
    for target in sorted({*lacking, *forks}):
        begin = _begin(target, lacking.get(target, ()), stretch)
        if not spans or begin > spans[-1][1][-1]:
            spans.append((begin, [target]))
            continue
        # Overlapping stretches are trained once: from the later beginning that serves all their targets.
        targets = [*spans[-1][1], target]
        for candidate in (spans[-1][0], begin, 0):
            if all(_serves(candidate, t, lacking.get(t, ()), stretch) for t in targets):
                spans[-1] = (candidate, targets)
                break
    return [_work(node, stretch, begin, targets, lacking) for begin, targets in spans]


def _begin(target: int, measures: Sequence[Measure], stretch: Stretch) -> int:
    """The latest offset from which ``target`` can be supplied; 0 always serves."""
    candidates = sorted((s for s in stretch.states if s <= target), reverse=True)
    return next((s for s in candidates if _serves(s, target, measures, stretch)), 0)


def _serves(begin: int, target: int, measures: Sequence[Measure], stretch: Stretch) -> bool:
    """Whether training from ``begin`` sees all that the observers of ``target`` reach back to."""
    for measure in measures:
        if measure.observer is None or begin == 0:
            continue
        if begin in (stretch.sides or {}).get(measure.observer.id, frozenset()):
            continue
        back = observers.lookback(measure.observer)
        if back is None or begin > target - back:
            return False
    return True


def _work(
    node: Node, stretch: Stretch, begin: int, targets: Sequence[int], lacking: Mapping[int, tuple[Measure, ...]]
) -> Work:
    end = targets[-1]
    inside = range(begin - begin % node.piece + node.piece, end, node.piece)
    saves = {*inside, end, *(o for o in node.pinned if begin < o <= end)}
    measures = {o: lacking[o] for o in targets if o in lacking}
    segment = Segment(node.run, node.index, begin, end, tuple(sorted(saves)), measures)
    replayed = sum(max(0, min(end, b) - max(begin, a)) for a, b in stretch.covered)
    return Work(node, segment, replayed)
