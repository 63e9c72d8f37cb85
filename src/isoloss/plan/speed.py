"""Seconds of a segment: from speeds that the store or the cache has, from a short calibration, or from FLOPs.

A *kind* is what decides the time of an update: model, batch, context, optimizer, methods, precision, threads; no seed,
learning rate or length. Speeds of a kind are looked for in this order:

1. pieces of the study's own stretches in the store keep their seconds (equal numerics, since these are in the address);
2. calibrations of this machine while idle, in the cache folder (``ISOLOSS_CACHE``, or ``isoloss`` in
   ``XDG_CACHE_HOME``);
3. a calibration now (``train.calibrate_speed``), of the smallest and the largest kinds first;
4. between kinds of one family: seconds against FLOPs of an update on logarithmic axes;
5. ``ROUGH_FLOPS``.
"""

from __future__ import annotations

import bisect
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoloss.plan import cost
from isoloss.plan.footprint import memory
from isoloss.plan.needs import Work
from isoloss.plan.tree import Node
from isoloss.recipe.canonical import digest
from isoloss.recipe.measure import Measure
from isoloss.store import Measurement, Piece, Store
from isoloss.store.cache import cache_folder
from isoloss.train.calibrate_speed import Job, Timing, calibrate

ROUGH_FLOPS = 2e10
"""FLOP/s of one worker assumed where nothing like a run was ever timed: small models on one CPU core."""
ROUGH_UPDATE = 1e-3
"""Seconds of an update assumed then beside its FLOPs, which not every model has."""
LIMIT = 10.0
"""Seconds of a calibration, at most."""
WORTH = 1.0
"""Seconds below which a calibration would say little."""
FASTER = 5.0
"""How much faster than ``ROUGH_FLOPS`` a thread may be, when it is asked whether an update can be measured at all."""
SOURCES = ("store", "calibration", "interpolation", "rough")
IDLE = 0.8
"""Share of the time that a calibrating process must have a processor for what it finds to be kept."""
FORMAT = 2
"""Raised when what a cached calibration means changes."""


@dataclass(frozen=True)
class Kind:
    """Segments whose updates take equally long. ``family``: kinds that differ in size and batch alone."""

    id: str
    family: str
    node: Node
    amount: int

    @property
    def flops(self) -> float:
        """FLOPs of an update."""
        return self.node.flops_per_update

    @property
    def forward(self) -> float:
        """FLOPs of the evaluation of one token (sample)."""
        return self.node.facts.forward_flops / self.node.facts.terms_per_update


@dataclass(frozen=True)
class Spent:
    """Seconds of a segment by what they are for."""

    setup: float
    updates: float
    evaluations: float
    saving: float

    @property
    def trained(self) -> float:
        """What pieces keep as their seconds."""
        return self.updates + self.evaluations

    @property
    def total(self) -> float:
        return self.setup + self.trained + self.saving


class Kinds:
    """The kind of every node, computed once each."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[str, str]] = {}

    def of(self, node: Node) -> Kind:
        """The kind of a node."""
        rule, model = node.phase.rule, node.run.start.model
        memo = node.run.root_key, node.track.phase_digest
        if memo not in self._known:
            family = {
                "model": [model["spec"].get("family"), model["spec"].get("name")],
                "optimizer": [rule.optimizer["name"], _shape(rule.optimizer["options"])],
                "methods": [_shape(m) for m in rule.methods],
                "task": rule.task["name"],
                "micro_batches": rule.micro_batches,
                "clip": rule.clip is not None,
                "numerics": node.run.numerics,
            }
            size = [family, model, rule.batch, rule.data["digest"], rule.data["context"]]
            self._known[memo] = digest(size), digest(family)
        known, family_id = self._known[memo]
        amount = max((m.amount for measures in node.measures.values() for m in measures.values()), default=0)
        return Kind(known, family_id, node, amount)


def _shape(options: Any) -> Any:
    """Options with every float reduced to whether it is zero: what decides time, not what decides numbers."""
    if isinstance(options, Mapping):
        return {name: _shape(value) for name, value in options.items()}
    if isinstance(options, list | tuple):
        return [_shape(value) for value in options]
    return bool(options) if isinstance(options, float) else options


class Speeds:
    """Speeds of all kinds of ``nodes``; ``workers`` processes of ``threads`` threads will train at once.

    ``allowance``: seconds that a calibration may take; below ``WORTH`` there is none. ``anew``: measure what is known
    too. ``gang``: processes that share the micro-batches of one run.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        store: Store | None,
        *,
        workers: int,
        threads: int = 1,
        gang: int = 1,
        allowance: float = 0.0,
        anew: bool = False,
        paths: Sequence[str] = (),
    ) -> None:
        self.workers, self.threads, self.gang = workers, threads, gang
        self.spent = 0.0
        """Seconds that the calibration took."""
        self.share = 1.0
        """Share of the time that its processes had a processor. Below ``IDLE`` other work slowed what was measured:
        it serves here and is not kept in the cache."""
        self._overhead = overhead()
        self._kinds = Kinds()
        nodes = list(nodes)
        kinds = {kind.id: kind for kind in map(self._kinds.of, nodes)}
        self._measured: dict[str, tuple[Kind, Timing, str]] = {}
        if not anew:
            for name, kind in kinds.items():
                if timing := self._cached(kind):
                    self._measured[name] = kind, timing, "calibration"
        if store is not None and not anew:
            self._read(store, nodes)
        unknown = [kind for name, kind in kinds.items() if name not in self._measured]
        if unknown and min(allowance, LIMIT) >= WORTH:
            self._measure(unknown, min(allowance, LIMIT), paths)
        self._curves: dict[str, list[tuple[Kind, Timing]]] = {}
        for kind, timing, _ in self._measured.values():
            self._curves.setdefault(kind.family, []).append((kind, timing))

    @property
    def start(self) -> float:
        """Seconds until workers can begin."""
        return self._overhead.start

    def timing(self, node: Node) -> tuple[Timing, str]:
        """(timing, one of ``SOURCES``) of a node's kind."""
        kind = self._kinds.of(node)
        if kind.id in self._measured:
            _, timing, source = self._measured[kind.id]
        elif self._measured:
            near = self._curves.get(kind.family) or [(k, t) for k, t, _ in self._measured.values()]
            timing, source = _between(near, kind), "interpolation"
        else:
            update = ROUGH_UPDATE + kind.flops / ROUGH_FLOPS
            timing, source = Timing(update, kind.forward / ROUGH_FLOPS, 0.0), "rough"
        shared = min(self.gang, node.phase.rule.micro_batches)
        return replace(timing, update=timing.update / shared), source

    def kind(self, node: Node) -> str:
        """The name of a node's kind."""
        return self._kinds.of(node).id

    def of(self, work: Work) -> Spent:
        """Seconds of a segment."""
        timing, _ = self.timing(work.node)
        updates, evaluations = self.trained(work.node, work.updates, work.segment.measures.values())
        each = self._overhead.piece + self._overhead.byte * work.node.facts.state_bytes
        return Spent(timing.setup, updates, evaluations, each * len(work.segment.saves))

    def trained(self, node: Node, updates: int, asked: Collection[Sequence[Measure]]) -> tuple[float, float]:
        """Seconds of that many updates, and of the evaluations ``asked``."""
        timing, _ = self.timing(node)
        evaluations, batches = cost.readings(asked)
        each = node.facts.forward_flops / node.facts.terms_per_update
        amount = node.facts.evaluation_flops / each if each else 0.0
        refresh = batches * timing.update * node.facts.forward_flops / node.flops_per_update if batches else 0.0
        return updates * timing.update, evaluations * amount * timing.evaluation + refresh

    def _read(self, store: Store, nodes: Sequence[Node]) -> None:
        """Speeds of stored pieces: the median over those of a kind."""
        by_track = {node.track.id: node for node in nodes}
        found: dict[str, list[float]] = {}
        for track, rows in store.on_tracks(list(by_track)).items():
            node = by_track[track]
            for row in rows:
                updates = row.end_update - row.start_update
                if updates == 0 or row.seconds <= 0:
                    continue  # an evaluation of a stored state
                inside = [list(m.values()) for o, m in node.measures.items() if row.offset - updates < o <= row.offset]
                evaluations, batches = cost.readings(inside)
                flops = evaluations * node.facts.evaluation_flops + batches * node.facts.forward_flops
                found.setdefault(self.kind(node), []).append(
                    row.seconds / (updates + flops / max(1.0, node.flops_per_update))
                )
        for node in nodes:
            kind = self._kinds.of(node)
            if kind.id in found:
                update = statistics.median(found[kind.id])
                known = self._measured.get(kind.id)
                evaluation = update / max(1.0, kind.flops) * kind.forward
                setup = known[1].setup if known else 0.0
                self._measured[kind.id] = kind, Timing(update * self.gang, evaluation, setup), "store"

    def _measure(self, kinds: Sequence[Kind], limit: float, paths: Sequence[str]) -> None:
        begun = time.monotonic()
        kinds = [kind for kind in kinds if self._measurable(kind, limit)]
        if not kinds:
            return
        jobs = [Job(k.id, k.node.run, k.node.index, k.node.data, k.amount, k.flops) for k in in_turn(kinds)]
        found = calibrate(jobs, processes=self.workers * self.gang, threads=self.threads, limit=limit, paths=paths)
        self.share, keep = found.share, found.share >= IDLE
        for kind in kinds:
            if kind.id in found.timings:
                self._measured[kind.id] = kind, found.timings[kind.id], "calibration"
                if keep:
                    _write(self._place(kind), asdict(found.timings[kind.id]))
        self._overhead = overhead(found.started, keep=keep)
        self.spent = time.monotonic() - begun

    def _measurable(self, kind: Kind, limit: float) -> bool:
        """Whether a few updates fit into the time and, in all processes at once, into memory."""
        node = kind.node
        if node.run.numerics["device"] != "cpu":
            return True
        if kind.flops > FASTER * ROUGH_FLOPS * self.threads * limit:
            return False
        needed = memory(node.run, node.index, node.data, node.facts.N_total).total
        return needed * self.workers * self.gang < available()

    def _cached(self, kind: Kind) -> Timing | None:
        kept = _kept(self._place(kind))
        return None if kept is None else Timing(**kept)

    def _place(self, kind: Kind) -> Path:
        together = f"{self.workers * self.gang} x {self.threads}"
        return cache_folder() / "speed" / f"{digest([FORMAT, machine(), together, kind.id])}.json"


def in_turn(kinds: Sequence[Kind]) -> list[Kind]:
    """The order to measure in: the smallest and largest of each family, then what halves the widest gaps."""
    families: dict[str, list[Kind]] = {}
    for kind in sorted(kinds, key=lambda k: k.flops):
        families.setdefault(kind.family, []).append(kind)
    orders = []
    for members in families.values():
        chosen = list(dict.fromkeys([0, len(members) - 1]))
        while len(chosen) < len(members):
            marks = sorted(chosen)
            gap = max(
                (m for m in range(len(marks) - 1) if marks[m + 1] - marks[m] > 1),
                key=lambda m: members[marks[m + 1]].flops / max(1.0, members[marks[m]].flops),
            )
            chosen.append((marks[gap] + marks[gap + 1]) // 2)
        orders.append([members[i] for i in chosen])
    longest = max(map(len, orders), default=0)
    return [order[turn] for turn in range(longest) for order in orders if turn < len(order)]


def _between(near: Sequence[tuple[Kind, Timing]], kind: Kind) -> Timing:
    """A timing from those of other sizes."""

    def read(value: str, at: str) -> float:
        points = [(getattr(k, at), getattr(t, value)) for k, t in near]
        return curve([p for p in points if p[1] > 0], getattr(kind, at))

    return Timing(read("update", "flops"), read("evaluation", "forward"), read("setup", "flops"))


def curve(points: Sequence[tuple[float, float]], at: float) -> float:
    """Seconds at ``at`` FLOPs through (FLOPs, seconds): straight between them on logarithmic axes.

    Beyond the ends the last slope goes on, kept between 0 (all overhead) and 1 (constant efficiency, which one point
    alone gives too). 0 without points.
    """
    merged: dict[float, list[float]] = {}
    for flops, seconds in points:
        merged.setdefault(math.log(max(1.0, flops)), []).append(math.log(seconds))
    if not merged:
        return 0.0
    xs = sorted(merged)
    ys = [statistics.fmean(merged[x]) for x in xs]
    x = math.log(max(1.0, at))
    if len(xs) == 1:
        return math.exp(ys[0] + x - xs[0])
    right = min(max(1, bisect.bisect(xs, x)), len(xs) - 1)
    slope = (ys[right] - ys[right - 1]) / (xs[right] - xs[right - 1])
    if not xs[0] <= x <= xs[-1]:
        slope = min(1.0, max(0.0, slope))
    base = 0 if x < xs[0] else right if x > xs[-1] else right - 1
    return math.exp(ys[base] + slope * (x - xs[base]))


@dataclass(frozen=True)
class Overhead:
    """Seconds until a process can begin, of storing a piece, and for each byte of its state; 0 if never measured."""

    start: float = 0.0
    piece: float = 0.0
    byte: float = 0.0


def overhead(start: float | None = None, *, keep: bool = True) -> Overhead:
    """What this machine is known to need; with ``start``, which a calibration has just found, measured anew.

    ``keep``: whether what is measured goes into the cache.
    """
    place = cache_folder() / "speed" / f"{digest([FORMAT, machine(), 'overhead'])}.json"
    if start is None:
        kept = _kept(place)
        return Overhead(**kept) if kept else Overhead()
    few, many = 1 << 10, 1 << 21
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        small, large = (min(_publish(store, size, turn) for turn in range(4)) for size in (few, many))
    found = Overhead(start, small, max(0.0, large - small) / (4 * (many - few)))
    if keep:
        _write(place, asdict(found))
    return found


def _publish(store: Store, size: int, turn: int) -> float:
    """Seconds in which a piece with a state of ``size`` fp32 numbers is stored."""
    start, end = (digest(["calibration", size, turn, at]) for at in (0, 1))
    rows = {name: np.arange(200.0) + turn for name in ("loss", "gradient_norm", "lr")}
    piece = Piece(
        start, end, 0, 200, state={"model/weight": torch.randn(size)}, curve={"update": np.arange(200), **rows},
        measurements=(Measurement(end, 200, "loss@B:1", 1.0),), track=end, offset=200,
    )  # fmt: skip
    clock = time.perf_counter()
    store.publish(piece)
    return time.perf_counter() - clock


def available() -> float:
    """Bytes of memory that are free; infinite where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text()
        return 1024.0 * int(text.partition("MemAvailable:")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return math.inf


@cache
def machine() -> str:
    """What tells this machine from others that have the same numerics."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        model = next(
            (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), ""
        )
    except OSError:
        model = ""
    return f"{platform.node()} {model or platform.processor()} {os.cpu_count()}"


def _kept(place: Path) -> dict[str, float] | None:
    try:
        kept = json.loads(place.read_text())
        return {name: float(value) for name, value in kept.items()}
    except (OSError, ValueError, AttributeError):
        return None


def _write(place: Path, content: Mapping[str, float]) -> None:
    """Keep a calibration; a cache that cannot be written is none."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.{os.getpid()}")
        partial.write_text(json.dumps(dict(content)))
        partial.replace(place)
    except OSError:
        return
