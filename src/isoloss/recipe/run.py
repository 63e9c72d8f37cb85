"""A run is a path: a start and phases, each a stretch of updates under one rule.

Addresses (``key``)::

    key at the root          = H(schema, start, numerics)
    key at update t of phase = H(schema, key at the phase's start, H(rule, carry, numerics), t)

A rule whose horizon matters has it inside (``LR.length``); a stationary rule has none, so the key of a
constant-LR stretch never depends on how long it will be. Two runs with one key have, to the bit, one state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from isoloss.recipe.canonical import digest, encode

SCHEMA = 1
"""Raised when the meaning of an address changes; frozen-key tests guard it."""


@dataclass(frozen=True)
class LR:
    """Learning rate as a pure function of the updates since the phase began.

    ``shape``: ``constant``, ``warmup`` (up to ``peak`` over ``length`` updates), ``inverse_sqrt`` (after a warm-up
    of ``offset`` updates) or a decay form of ``methods.schedules`` from ``peak`` to ``final`` over ``length``.
    ``skip``: updates of the form that lie behind already when the phase begins.
    """

    shape: str
    peak: float
    final: float | None = None
    length: int | None = None
    offset: int | None = field(default=None, metadata={"neutral": None})
    code: str | None = field(default=None, metadata={"neutral": None})
    skip: int = field(default=0, metadata={"neutral": 0})

    @property
    def stationary(self) -> bool:
        """Whether every update sees the same value."""
        return self.shape == "constant"


@dataclass(frozen=True)
class Rule:
    """Everything that decides an update; names carry their semantics number or the hash of their source."""

    data: Mapping[str, Any]
    task: Mapping[str, Any]
    batch: int
    micro_batches: int
    optimizer: Mapping[str, Any]
    lr: LR
    clip: float | None
    seeds: Mapping[str, int]
    methods: tuple[Mapping[str, Any], ...] = field(default=(), metadata={"neutral": ()})
    addition: int = field(default=0, metadata={"neutral": 0})
    """Semantics number of how several micro-batches are added up; 0 where an update has one."""

    @cached_property
    def digest(self) -> str:
        return digest(self)


@dataclass(frozen=True)
class Carry:
    """What crosses into a phase: ``keep`` or ``reset`` of the optimizer's state, the data cursor and the output head.

    A head that is reset begins as at the run's start.
    """

    optimizer: str = "keep"
    data: str = "keep"
    head: str = field(default="keep", metadata={"neutral": "keep"})


KEEP = Carry()


@dataclass(frozen=True)
class Phase:
    """``length`` updates under one rule."""

    rule: Rule
    length: int
    carry: Carry = KEEP


@dataclass(frozen=True)
class Start:
    """Where a run begins: a model's resolved record and the seed of its initialisation.

    ``weights``: hash of a file with the initial weights, in place of the model's own initialisation.
    ``alone`` keeps a run's states apart from all others' (training without sharing, for checks); it decides no bit.
    """

    model: Mapping[str, Any]
    seed: int
    alone: str | None = field(default=None, metadata={"neutral": None})
    weights: str | None = field(default=None, metadata={"neutral": None})


@dataclass(frozen=True)
class Track:
    """One rule from one start: the line on which states are addressed by an offset."""

    start_key: str
    phase_digest: str

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(f"track:{SCHEMA}:{self.start_key}:{self.phase_digest}".encode()).hexdigest()

    def key(self, offset: int) -> str:
        """Address of the state after ``offset`` updates; offset 0 is the start itself."""
        if offset == 0:
            return self.start_key
        text = f"state:{SCHEMA}:{self.start_key}:{self.phase_digest}:{offset}"
        return hashlib.sha256(text.encode()).hexdigest()


def normalise(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """Drop empty phases and merge neighbours that follow one stationary rule without a reset."""
    merged: list[Phase] = []
    for phase in phases:
        if phase.length < 0:
            raise ValueError(f"a phase cannot have {phase.length} updates")
        if phase.length == 0:
            continue
        last = merged[-1] if merged else None
        if last and phase.carry == KEEP and last.rule == phase.rule and phase.rule.lr.stationary:
            merged[-1] = Phase(last.rule, last.length + phase.length, last.carry)
        else:
            merged.append(phase)
    return tuple(merged)


@dataclass(frozen=True)
class Run:
    """One complete training under one ``numerics``; phases are normalised on construction."""

    start: Start
    phases: tuple[Phase, ...]
    numerics: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", normalise(self.phases))

    @property
    def length(self) -> int:
        """Updates in all."""
        return sum(phase.length for phase in self.phases)

    @cached_property
    def root_key(self) -> str:
        return digest(["root", SCHEMA, self.start, self.numerics])

    @cached_property
    def tracks(self) -> tuple[tuple[Track, Phase, int], ...]:
        """(track, phase, absolute update at which it begins), in order."""
        found = []
        numerics = digest(self.numerics)
        key, begun = self.root_key, 0
        for phase in self.phases:
            track = Track(key, phase_digest(phase, numerics))
            found.append((track, phase, begun))
            key, begun = track.key(phase.length), begun + phase.length
        return tuple(found)

    def locate(self, update: int) -> tuple[Track, Phase, int]:
        """The (track, phase, offset) of the state after ``update`` updates; a border belongs to the earlier one."""
        if not 0 <= update <= self.length:
            raise ValueError(f"update {update} is outside this run of {self.length} updates")
        for track, phase, begun in self.tracks:
            if update <= begun + phase.length:
                return track, phase, update - begun
        raise ValueError("a run without phases has no tracks")

    def key(self, update: int) -> str:
        """Address of the state after ``update`` updates."""
        if update == 0:
            return self.root_key
        track, _, offset = self.locate(update)
        return track.key(offset)

    def recipe(self, update: int) -> bytes:
        """The canonical text behind ``key(update)``, kept beside it so that a mismatch can be read as a diff."""
        if update == 0:
            return encode(["root", SCHEMA, self.start, self.numerics])
        track, phase, offset = self.locate(update)
        return encode({"from": track.start_key, "rule": phase.rule, "carry": phase.carry, "at": offset,
                       "numerics": self.numerics, "schema": SCHEMA})  # fmt: skip

    def updates(self) -> Iterator[tuple[int, Rule, int]]:
        """The resolved stream: (absolute update, rule, update within the phase)."""
        for _, phase, begun in self.tracks:
            for offset in range(phase.length):
                yield begun + offset, phase.rule, offset


def phase_digest(phase: Phase, numerics_digest: str) -> str:
    """Digest of what one phase does, its length left out."""
    head = "" if phase.carry.head == "keep" else f":head={phase.carry.head}"
    text = f"phase:{SCHEMA}:{phase.rule.digest}:{phase.carry.optimizer}:{phase.carry.data}{head}:{numerics_digest}"
    return hashlib.sha256(text.encode()).hexdigest()
