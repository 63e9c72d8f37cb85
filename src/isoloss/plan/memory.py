"""What planning asks of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isoloss.plan.needs import Stretch
from isoloss.store import Store


class StoreMemory:
    """A store as the memory of a plan; every question looks at the store as it is now."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def stretches(self, tracks: Sequence[str]) -> Mapping[str, Stretch]:
        """What is known of each track that was ever trained on."""
        rows = self.store.on_tracks(tracks)
        ends = {row.end_key for found in rows.values() for row in found}
        stored = self.store.stored(ends)
        sides = self.store.sides_at(stored)
        result = {}
        for track, found in rows.items():
            watched: dict[str, set[int]] = {}
            for row in found:
                for observer in sides.get(row.end_key, ()):
                    watched.setdefault(observer, set()).add(row.offset)
            result[track] = Stretch(
                states=frozenset(row.offset for row in found if row.end_key in stored),
                covered=union([(row.offset - (row.end_update - row.start_update), row.offset) for row in found]),
                sides={observer: frozenset(offsets) for observer, offsets in watched.items()},
                diverged=min((row.offset for row in found if row.status == "diverged"), default=None),
            )
        return result

    def measured(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Measurements by key and name."""
        return self.store.measurements(keys)


def union(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Disjoint spans that cover the same offsets."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return tuple(merged)
