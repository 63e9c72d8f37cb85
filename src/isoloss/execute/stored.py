"""From what a store keeps with its pieces back to runs: labels to a rule, a state's key to the path that led to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from isoloss.recipe.errors import StoreError, StudyError
from isoloss.recipe.run import LR, Carry, Phase, Rule, Run, Start
from isoloss.store import Row, Store
from isoloss.train import numerics

SHORTEST = 6
"""Digits that a shortened key has at least."""


def phase_of(labels: Mapping[str, Any], length: int) -> Phase:
    """The phase that a piece's labels describe."""
    rule = dict(labels["rule"])
    rule |= {"lr": LR(**rule["lr"]), "methods": tuple(rule["methods"])}
    return Phase(Rule(**rule), length, Carry(**labels["carry"]))


def start_of(labels: Mapping[str, Any]) -> Start:
    """The start that a piece's labels describe."""
    return Start(**labels["start"])


@dataclass(frozen=True)
class Found:
    """A state that was reached: its key, the run that ends there, and the data source's options (None: from files)."""

    key: str
    run: Run
    data: dict[str, Any] | None


def find(store: Store, name: str) -> list[Row]:
    """Finished pieces that end at the one key, or lie on the one track, that begins with ``name``, latest last.

    Raises ``StudyError`` where there is none, or several.
    """
    short = name.strip().lower()
    rows = [row for row in store.pieces() if row.status == "done"]
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST},64}}", short):
        raise StudyError(
            f"checkpoint {name!r}: no such file, and no key; allowed: a study file with --run, a folder or file of a "
            f"training of your own with --adapter, or a key ({SHORTEST} to 64 hexadecimal digits, `isoloss store ls`)"
        )
    found = [row for row in rows if row.end_key.startswith(short) or row.track.startswith(short)]
    names = {row.end_key if row.end_key.startswith(short) else row.track for row in found}
    if len(names) == 1:
        return found
    if names:
        raise StudyError(f"checkpoint {name!r}: {len(names)} keys begin so: {', '.join(sorted(names)[:4])} ...")
    raise StudyError(
        f"checkpoint {name!r}: no state or track of the store at {store.location} begins so; it has "
        f"{len({row.end_key for row in rows})} keys on {len({row.track for row in rows})} tracks (isoloss store ls)"
    )


def path_to(store: Store, row: Row) -> Found:
    """The run that ends where a piece ends, read back through the pieces before it. Raises ``StoreError``."""
    manifest = store.manifest(row)
    facts, start = manifest.labels, start_of(manifest.labels)
    phases = [phase_of(facts, row.offset)]
    root = Run(start, (), facts["numerics"]).root_key
    begun = _begun(manifest.recipes.get(row.end_key), row)
    latest = {each.end_key: each for each in store.pieces() if each.status == "done"}
    while begun != root:
        if begun not in latest:
            raise StoreError(
                f"the store at {store.location} lacks the piece before {begun[:12]}, which leads to {row.end_key}"
            )
        before = store.manifest(latest[begun])
        phases.append(phase_of(before.labels, before.offset))
        begun = _begun(before.recipes.get(begun), latest[begun])
    run = Run(start, tuple(reversed(phases)), facts["numerics"])
    if run.key(run.length) != row.end_key:
        raise StoreError(f"key {row.end_key}: what is noted with it leads to another key, {run.key(run.length)}")
    return Found(row.end_key, run, facts.get("data"))


def _begun(recipe: bytes | None, row: Row) -> str:
    """Key at which the track of a piece begins."""
    found = re.search(rb'"from":"([0-9a-f]{64})"', recipe or b"")
    if found is None:
        raise StoreError(f"key {row.end_key}: the recipe that was kept with it does not say where its phase begins")
    return found[1].decode()


def check_numerics(run: Run) -> None:
    """Raise ``StudyError`` where this machine would not give the bits that a run's key stands for."""
    facts = run.numerics
    here = numerics.here(facts)
    other = [
        f"{name} {facts.get(name)!r}, here {here.get(name)!r}" for name in here if here.get(name) != facts.get(name)
    ]
    if other:
        raise StudyError(
            f"the state was trained under other numerics ({'; '.join(other)}), and a branch of it here would not be "
            "the run its key stands for; allowed: a machine and a torch of the same numerics"
        )


def usual_amount(store: Store) -> int | None:
    """Tokens (or samples) that most runs of a store were measured on."""
    seen: Counter[int] = Counter()
    for values in store.measurements({row.end_key for row in store.pieces()}).values():
        seen.update({int(m[1]) for name in values if (m := re.fullmatch(r"loss@[AB]:(\d+)", name))})
    return seen.most_common(1)[0][0] if seen else None


@contextmanager
def quietly(threads: int) -> Iterator[None]:
    """As many threads as the numerics say; afterwards those and the random state are the caller's again."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)
