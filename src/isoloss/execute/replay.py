"""Training stored pieces again: an audit of determinism."""

from __future__ import annotations

import random

from isoloss.execute.stored import phase_of, start_of
from isoloss.plan.lower import open_source
from isoloss.recipe.errors import StudyError
from isoloss.store import Row, Store
from isoloss.store.tensors import encode
from isoloss.train import numerics
from isoloss.train.loop import Trainer
from isoloss.train.segment import use_threads


def replay(store: Store, row: Row) -> str | None:
    """Train one piece again from its first state; the digest reached, or None where that cannot be done here.

    It cannot where the first state was released, the data came from files, or this machine's numerics differ.
    """
    labels = store.manifest(row).labels
    if "data" not in labels:
        return None
    facts = labels["numerics"]
    here = numerics.here(facts)
    if here != facts:
        return None
    use_threads(int(facts["threads"]))
    phase = phase_of(labels, row.offset)
    trainer = Trainer(start_of(labels), phase, open_source(labels["data"]), facts)
    begin = row.offset - (row.end_update - row.start_update)
    if row.start_update > 0 or trainer.start.weights:
        if not store.has(row.start_key):
            return None
        tensors, meta, _ = store.load(row.start_key, observers=())
        trainer.load(tensors, meta, entering=begin == 0, phase=phase)
    for offset in range(begin, row.offset):
        trainer.step(offset)
    return encode(*trainer.state()).digest


def audit(store: Store, count: int, seed: int = 0) -> tuple[int, list[str]]:
    """Replay up to ``count`` random pieces; (how many could be, one line for each that gave other bits)."""
    rows = [row for row in store.pieces() if row.status == "done" and row.end_update > row.start_update]
    random.Random(seed).shuffle(rows)
    done, problems = 0, []
    for row in rows:
        if done >= count:
            break
        try:
            found = replay(store, row)
        except StudyError:  # a user's own code that is not found from here
            continue
        if found is None:
            continue
        done += 1
        if found != row.digest:
            problems.append(
                f"key {row.end_key}: trained again from update {row.start_update} to {row.end_update} the state has "
                f"digest {found[:16]}, stored is {str(row.digest)[:16]}"
            )
    return done, problems
