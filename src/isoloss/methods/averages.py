"""Weight averages as observers: they watch a list of tensors and never change it.

    window    mean of the last `length` updates     (Izmailov et al. 2018; Haegele et al. 2024, section 4)
    EMA       m = decay m + (1 - decay) x           (Polyak and Juditsky 1992; bias: Kingma and Ba 2015)
    LAWA      mean of the last `count` snapshots    (Kaddour 2022)

`observe(tensors, update)` is called after every update with its number, counted from 1; a sample is taken
where `update` is a multiple of `every`. Sums are float64, and a state that is saved and loaded goes on to the
bit. `lookback` is the number of last updates that an average depends on (None: all), so an observer that
starts that many updates before a measurement gives the same value. Wrong use raises ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

State = dict[str, Tensor | int]


class Average:
    """Base of the observers: the order of updates, and a state of flat tensors and integers."""

    lookback: int | None

    def __init__(self, every: int) -> None:
        self._at_least("every", every, 1)
        self.every = every
        self.first = 0
        self.update = 0
        self._like: list[Tensor] = []

    def observe(self, tensors: Sequence[Tensor], update: int) -> None:
        """Take a sample after update number `update`, if it is a multiple of `every`.

        Raises ValueError for an update out of order, a sample left out, or other shapes than before.
        """
        if update <= self.update:
            raise self._wrong(f"update {update} came after {self.update}; allowed: a later one, from 1")
        if self.first and update // self.every > self.update // self.every + 1:
            raise self._wrong(
                f"update {update} came after {self.update}, which leaves out a sample; "
                f"allowed: at least every multiple of {self.every}"
            )
        self.first = self.first or update
        self.update = update
        if update % self.every:
            return
        if not self._like:
            self._like = [torch.empty((0, *t.shape), dtype=t.dtype) for t in tensors]
        shapes, before = [tuple(t.shape) for t in tensors], [tuple(t.shape[1:]) for t in self._like]
        if shapes != before:
            raise self._wrong(f"tensors of shapes {shapes}; allowed: {before}, as at the first sample")
        with torch.no_grad():
            self._sample(tensors)

    def average(self) -> list[Tensor]:
        """The average, as new tensors of the observed dtypes. Raises ValueError where it is not defined."""
        raise NotImplementedError

    def state_dict(self) -> State:
        """Everything that is remembered, as tensors and integers under flat names."""
        state: State = {"first": self.first, "update": self.update, "every": self.every}
        state.update({f"like.{i}": t for i, t in enumerate(self._like)})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Restore what `state_dict` returned. Raises ValueError if it came from other settings."""
        for name, own in self.state_dict().items():
            if name in self._settings and _integer(state, name) != own:
                raise self._wrong(f"the state has {name} = {state.get(name)}; allowed: {own}, as this observer has")
        self.first, self.update = _integer(state, "first"), _integer(state, "update")
        self._like = _series(state, "like")

    _settings: tuple[str, ...] = ("every",)

    def _sample(self, tensors: Sequence[Tensor]) -> None:
        raise NotImplementedError

    def _as_observed(self, means: Sequence[Tensor]) -> list[Tensor]:
        return [mean.to(like.dtype) for mean, like in zip(means, self._like, strict=True)]

    def _from_start(self) -> bool:
        """Whether every sample since update 1 was seen, so that a window may be cut off there."""
        return 0 < self.first <= self.every

    def _at_least(self, name: str, value: int, low: int) -> None:
        if not isinstance(value, int) or value < low:
            raise self._wrong(f"{name} is {value!r}; allowed: an integer of at least {low}")

    def _wrong(self, message: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {message}")


class WindowAverage(Average):
    """Mean of the last `length` updates, kept as sums over blocks of `block` updates.

    A window ends at a multiple of `block` (default: `length`), and any multiple of it up to `length` can be
    read from the same sums. Near the start of training the window is cut off at update 1.
    """

    _settings = ("every", "length", "block")

    def __init__(self, length: int, every: int = 1, block: int | None = None) -> None:
        super().__init__(every)
        self._at_least("length", length, 1)
        block = length if block is None else block
        self._at_least("block", block, 1)
        if length % block or block % every:
            raise self._wrong(
                f"length {length}, block {block}, every {every}; allowed: a block that divides the length "
                f"and is a multiple of every"
            )
        self.length, self.block, self.lookback = length, block, length
        self._blocks: list[list[Tensor]] = []
        self._sums: list[Tensor] = []
        self._count = 0

    def _sample(self, tensors: Sequence[Tensor]) -> None:
        if not self._sums:
            self._sums = [torch.zeros_like(t, dtype=torch.float64) for t in tensors]
        for total, t in zip(self._sums, tensors, strict=True):
            total.add_(t)
        self._count += 1
        if self.update % self.block:
            return
        if self._count == self.block // self.every:
            self._blocks.append(self._sums)
            del self._blocks[: -(self.length // self.block)]
        self._sums, self._count = [], 0

    def average(self, length: int | None = None) -> list[Tensor]:
        """Mean over the last `length` updates (default: the whole window), as new tensors.

        Raises ValueError unless the last observed update and `length` are multiples of the block, and the
        window has been seen from its beginning.
        """
        length = self.length if length is None else length
        if length % self.block or not 0 < length <= self.length:
            raise self._wrong(f"length is {length}; allowed: multiples of {self.block} up to {self.length}")
        if not self.update or self.update % self.block:
            raise self._wrong(f"read at update {self.update}; allowed: multiples of the block of {self.block}")
        blocks = self._blocks[-(length // self.block) :]
        if len(blocks) * self.block < (min(length, self.update) if self._from_start() else length):
            raise self._wrong(
                f"observed from update {self.first}; the window of {length} that ends at {self.update} "
                f"begins at {self.update - length + 1}"
            )
        samples = len(blocks) * (self.block // self.every)
        sums = [torch.stack(parts).sum(0) if len(parts) > 1 else parts[0] for parts in zip(*blocks, strict=True)]
        return self._as_observed([total / samples for total in sums])

    def state_dict(self) -> State:
        state = super().state_dict()
        state |= {
            "length": self.length,
            "block": self.block,
            "blocks": len(self._blocks),
            "count": self._count,
        }
        for j, sums in enumerate([*self._blocks, self._sums]):
            state.update({f"sum.{j}.{i}": t for i, t in enumerate(sums)})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        super().load_state_dict(state)
        self._count, closed = _integer(state, "count"), _integer(state, "blocks")
        self._blocks = [_series(state, f"sum.{j}") for j in range(closed)]
        self._sums = _series(state, f"sum.{closed}")


class EMA(Average):
    """Exponential moving average: m = decay m + (1 - decay) x at every sample.

    `debias`: start from m = 0 and divide by 1 - decay^k after k samples; otherwise m starts at the first
    sample.
    """

    lookback = None

    def __init__(self, decay: float, every: int = 1, debias: bool = True) -> None:
        super().__init__(every)
        if not 0 <= decay < 1:
            raise self._wrong(f"decay is {decay!r}; allowed: at least 0 and below 1")
        self.decay, self.debias = decay, debias
        self._mean: list[Tensor] = []
        self._count = 0

    def _sample(self, tensors: Sequence[Tensor]) -> None:
        if not self._mean:
            start = torch.zeros_like if self.debias else torch.clone
            self._mean = [start(t.double()) for t in tensors]
        for mean, t in zip(self._mean, tensors, strict=True):
            mean.mul_(self.decay).add_(t, alpha=1.0 - self.decay)
        self._count += 1

    def average(self) -> list[Tensor]:
        if not self._count:
            raise self._wrong(f"no sample yet; the first comes at update {self.every}")
        scale = 1.0 - self.decay**self._count if self.debias else 1.0
        return self._as_observed([mean / scale for mean in self._mean])

    def state_dict(self) -> State:
        state = super().state_dict() | {"count": self._count, "debias": int(self.debias)}
        state["decay"] = torch.tensor(self.decay, dtype=torch.float64)
        state.update({f"mean.{i}": t for i, t in enumerate(self._mean)})
        return state

    _settings = ("every", "debias")

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        super().load_state_dict(state)
        if float(state["decay"]) != self.decay:
            raise self._wrong(f"the state has decay {float(state['decay'])}; allowed: {self.decay}")
        self._count, self._mean = _integer(state, "count"), _series(state, "mean")


class LAWA(Average):
    """Mean of the last `count` snapshots, one every `every` updates; of all so far near the start."""

    _settings = ("every", "snapshots")

    def __init__(self, count: int, every: int) -> None:
        super().__init__(every)
        self._at_least("count", count, 1)
        self.count = count
        self.lookback = count * every
        self._snapshots: list[list[Tensor]] = []

    def _sample(self, tensors: Sequence[Tensor]) -> None:
        self._snapshots.append([t.clone() for t in tensors])
        del self._snapshots[: -self.count]

    def average(self) -> list[Tensor]:
        kept = len(self._snapshots)
        if not kept or (kept < self.count and not self._from_start()):
            raise self._wrong(
                f"{kept} of {self.count} snapshots at update {self.update}, observed from {self.first}; "
                f"allowed: observing from update 1, or {self.lookback} updates before"
            )
        columns = zip(*self._snapshots, strict=True)
        return self._as_observed([torch.stack(column).double().mean(0) for column in columns])

    def state_dict(self) -> State:
        state = super().state_dict() | {"snapshots": self.count, "kept": len(self._snapshots)}
        for j, tensors in enumerate(self._snapshots):
            state.update({f"snapshot.{j}.{i}": t for i, t in enumerate(tensors)})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        super().load_state_dict(state)
        self._snapshots = [_series(state, f"snapshot.{j}") for j in range(_integer(state, "kept"))]


def _integer(state: Mapping[str, Tensor | int], name: str) -> int:
    if name not in state:
        raise ValueError(f"average: the state lacks {name!r}; it has {', '.join(sorted(state)) or 'nothing'}")
    return int(state[name])


def _series(state: Mapping[str, Tensor | int], prefix: str) -> list[Tensor]:
    """Own copies of prefix.0, prefix.1, ...; none where there is no prefix.0."""
    found: list[Tensor] = []
    while isinstance(tensor := state.get(f"{prefix}.{len(found)}"), Tensor):
        found.append(tensor.clone())
    return found
