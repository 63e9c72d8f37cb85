"""Averages of weights from states that a store keeps: many of them from one pass.

The online averages (``average:`` in a study) watch every update of a run; these see the states that are kept, for
instance by ``checkpoint: {every: 100 updates}``. Where the sampled updates are kept, both are equal to the bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isoloss.execute.stored import Found, find, path_to, quietly, usual_amount
from isoloss.methods.averages import WindowAverage
from isoloss.plan.lower import open_source
from isoloss.plan.summary import importable
from isoloss.recipe.errors import StudyError, nearest
from isoloss.recipe.measure import PARTS, Observer
from isoloss.store import Store
from isoloss.train import observers
from isoloss.train.loop import Trainer

AMOUNT = 16_384
"""Tokens (or samples) of a validation part where the store was measured with none."""
KINDS = ("window", "ema", "lawa")
NEEDS: dict[str, tuple[str, ...]] = {"window": ("length",), "ema": ("decay",), "lawa": ("count",)}
OPTIONS: dict[str, tuple[str, ...]] = {"window": ("length", "block"), "ema": ("decay", "debias"), "lawa": ("count",)}


@dataclass(frozen=True)
class Averaged:
    """One average that ends at a state: its options, weights by name, and its loss by part (None: not measured)."""

    kind: str
    options: dict[str, Any]
    update: int
    weights: dict[str, Tensor] = field(repr=False)
    losses: dict[str, float] | None = None
    amount: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without the weights."""
        return {"kind": self.kind, "options": self.options, "update": self.update, "losses": self.losses,
                "amount": self.amount}  # fmt: skip


def averages(
    store: Store,
    key: str,
    kind: str = "window",
    *,
    every: int,
    measure: bool = True,
    amount: int | None = None,
    refresh: int = 0,
    **options: Any,
) -> list[Averaged]:
    """Averages of the weights on the way to the state at ``key`` (or the beginning of one), from one pass over states.

    A state counts where its update is a multiple of ``every``, as online. ``kind`` window: ``length`` in updates (and
    ``block``, by default the largest divisor it shares with the update of the key); ema: ``decay``, ``debias``; lawa:
    ``count``. A list of values gives every average of the product. As online, no average reaches back beyond the phase.
    ``measure``: also the loss on both validation parts, on ``amount`` tokens (None: as the store was measured);
    ``refresh``: training batches that estimate BatchNorm's running statistics anew, each the cost of a forward pass.

    Raises ``StudyError`` for options that do not fit, and for updates whose states are not kept.
    """
    if kind not in KINDS:
        raise StudyError(f"kind: found {kind!r}; allowed: {', '.join(KINDS)}{nearest(kind, KINDS)}")
    for name in options:
        if name not in OPTIONS[kind]:
            raise StudyError(
                f"{kind}: found {name!r}; allowed: {', '.join(OPTIONS[kind])}{nearest(name, OPTIONS[kind])}"
            )
    if lacking := [name for name in NEEDS[kind] if name not in options]:
        raise StudyError(f"{kind}: {', '.join(lacking)} is missing")
    rows = find(store, key)
    with importable():
        found = path_to(store, max(rows, key=lambda row: row.end_update))
        run = found.run
        track, phase, begun = run.tracks[-1]
        update = run.length
        asked = [_complete(kind, each, every, update) for each in _product(options)]
        try:
            watching = [(each, observers.build(each)) for each in (Observer(kind, options) for options in asked)]
        except (ValueError, TypeError) as error:
            raise StudyError(f"averages: {error}") from error
        back = [average.lookback for _, average in watching]
        reach = min(phase.length, max((phase.length if each is None else each for each in back), default=0))
        moments = [at for at in range(update - reach + 1, update + 1) if at % every == 0]
        keys = {at: track.key(at - begun) for at in moments}
        kept = store.stored(keys.values())
        lost = [at for at, each in keys.items() if each not in kept]
        if lost or not moments:
            raise StudyError(
                f"averages: {len(lost)} of {len(moments)} sampled states are not kept (updates "
                f"{', '.join(map(str, lost[:6]))}{' ...' if len(lost) > 6 else ''}); allowed: a multiple of what is "
                "kept as every, a shorter window, or a finer checkpoint.every in the study"
            )
        if found.data is None and measure:
            raise StudyError("averages: the run's data are files, whose place no store knows; allowed: measure=False")
        with quietly(int(run.numerics["threads"])):
            try:
                made = _watch(store, keys, watching)
            except ValueError as error:
                raise StudyError(f"averages: {error}") from error
            amount = (amount or usual_amount(store) or AMOUNT) if measure else None
            judge = _judge(store, found, amount, refresh) if amount else None
            return [
                Averaged(kind, options, update, named, judge(named) if judge else None, amount)
                for options, named in zip(asked, made, strict=True)
            ]


def _product(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the listed values."""
    lists = [list(v) if isinstance(v, Sequence) and not isinstance(v, str) else [v] for v in options.values()]
    for values in itertools.product(*lists):
        yield dict(zip(options, values, strict=True))


def _complete(kind: str, options: dict[str, Any], every: int, update: int) -> dict[str, Any]:
    """The options as an online observer of a run that ends here has them."""
    found = {**options, "every": every}
    if kind == "window" and options.get("block") is None and isinstance(options["length"], int):
        found["block"] = math.gcd(options["length"], update)
    return found


def _watch(
    store: Store, keys: Mapping[int, str], watching: Sequence[tuple[Observer, observers.Average]]
) -> list[dict[str, Tensor]]:
    """The weights of every average, each state read once.

    Windows over equal blocks share their sums, which the longest of them keeps.
    """
    sharing: dict[Any, observers.Average] = {}
    for observer, average in watching:
        place = _shared(observer)
        if place not in sharing or (average.lookback or 0) > (sharing[place].lookback or 0):
            sharing[place] = average
    layout: dict[str, Tensor] = {}
    for update in sorted(keys):
        state = store.load(keys[update], observers=()).state
        layout = {name[6:]: state[name] for name in sorted(state) if name.startswith("model/")}
        # One vector, as in the run that watches: sums over blocks then take the same path.
        flat = torch.cat([tensor.reshape(-1) for tensor in layout.values()])
        for average in sharing.values():
            if average.lookback is None or update > max(keys) - average.lookback:
                average.observe([flat], update)
    found = []
    for observer, _ in watching:
        average = sharing[_shared(observer)]
        (flat,) = (
            average.average(observer.options["length"]) if isinstance(average, WindowAverage) else average.average()
        )
        parts = flat.split([tensor.numel() for tensor in layout.values()])
        found.append({name: part.view(layout[name].shape) for name, part in zip(layout, parts, strict=True)})
    return found


def _shared(observer: Observer) -> Any:
    return ("window", observer.options["block"]) if observer.kind == "window" else observer.id


def _judge(store: Store, found: Found, amount: int, refresh: int) -> Callable[[dict[str, Tensor]], dict[str, float]]:
    """What gives the loss of weights by part, as a run measures it at its end."""
    run = found.run
    _, phase, _ = run.tracks[-1]
    trainer = Trainer(run.start, phase, open_source(found.data or {}), run.numerics)
    evaluator = trainer.evaluator()
    buffers = {name[7:]: t for name, t in store.load(found.key, observers=()).state.items() if name[:7] == "buffer/"}

    def judge(named: dict[str, Tensor]) -> dict[str, float]:
        asked = [("loss", part, amount) for part in PARTS]
        weights = trainer.parameters.gather(named)
        values = evaluator(weights, buffers, asked, refresh=refresh, seed=int(phase.rule.seeds["noise"]))
        return {part: values["loss", part, amount] for part in PARTS}

    return judge
