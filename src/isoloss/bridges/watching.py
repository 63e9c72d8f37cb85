"""What is watched of a training in somebody else's loop, whichever loop it is; nothing here changes a bit of it.

A ``Watch`` is told of the model, of every update and of every loss; it keeps the distance of the weights from their
start, averages of the weights, the gradient noise scale and the curves of losses, all of which a checkpoint can hold.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isoloss.laws.errors import LawError
from isoloss.laws.extrapolate import extrapolate
from isoloss.methods.averages import Average
from isoloss.methods.distance import Distance
from isoloss.methods.gradient_norm import global_norm
from isoloss.methods.noise_scale import NoiseScale
from isoloss.recipe.errors import StudyError

LEVEL = 0.9
"""Of a forecast's band."""
IGNORED = -100
"""The label that losses leave out, as torch and transformers have it."""


@dataclass(frozen=True)
class Forecast:
    """The loss expected at update ``end``, seen from ``update``; the band is for one more value of the same curve.

    ``curve``: which loss; ``warnings``: what speaks against it.
    """

    update: int
    end: int
    loss: float
    low: float
    high: float
    level: float
    curve: str
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        said = f"; {'; '.join(self.warnings)}" if self.warnings else ""
        return (
            f"{self.curve} at update {self.end}, seen from {self.update}: {self.loss:.4f} "
            f"({self.level:.0%} band {self.low:.4f} to {self.high:.4f}){said}"
        )


class Watch:
    """Observers of one training; see the module.

    ``averages``: by name, of ``methods.averages``. ``distance``: points a decade, 0: none. ``noise_scale``: look-back
    as a decay (0.99: about 100 updates), None: none; it needs an update of two micro-batches or more. ``refresh``: sets
    the running statistics of a model that holds averaged weights (``torch.optim.swa_utils.update_bn`` does).
    """

    def __init__(
        self,
        *,
        averages: Mapping[str, Average] | None = None,
        distance: int = 8,
        noise_scale: float | None = None,
        refresh: Callable[[nn.Module], object] | None = None,
    ) -> None:
        self.averages = dict(averages or {})
        for name, average in self.averages.items():
            if not isinstance(average, Average) or not name.isidentifier():
                raise StudyError(
                    f"averages: found {name!r}: {type(average).__name__}; allowed: a name and a WindowAverage, EMA or "
                    "LAWA of isoloss.methods.averages"
                )
        self.distance = Distance(distance) if distance else None
        self.noise = None if noise_scale is None else NoiseScale(noise_scale)
        self.gradients: MicroGradients | None = None
        self.skipped = 0
        """Updates without an estimate of the noise scale, their micro-batches being unequal."""
        self.curves: dict[str, list[tuple[float, float]]] = {}
        self.update = 0
        self.refresh = refresh
        self._model: nn.Module | None = None
        self._weights: list[nn.Parameter] = []
        self._norm: float | None = None

    def begin(self, model: nn.Module, update: int, *, micro_batches: int = 1, processes: int = 1) -> None:
        """Take up a training that has ``update`` updates behind it: its start, or where the loaded state was saved.

        Raises ``StudyError`` where the weights are not those of the state, or what is asked for cannot be seen here.
        """
        weights = [p for p in model.parameters() if p.requires_grad]
        if any(type(p.data).__name__ == "DTensor" for p in weights):
            raise StudyError("observers: the weights are sharded (DTensor); allowed: whole weights in every process")
        normed = any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())
        if self.averages and normed and self.refresh is None:
            raise StudyError(
                "averages: the model's BatchNorm has running statistics, and those belong to the weights that gathered "
                "them; allowed: refresh=function that sets them, such as lambda m: update_bn(batches, m)"
            )
        if self.noise and (micro_batches < 2 or processes > 1):
            raise StudyError(
                f"noise_scale: found {micro_batches} micro-batches an update in {processes} processes; allowed: 2 or "
                "more (gradient accumulation) in one process"
            )
        self._weights, self._model = weights, model
        if update != self.update:
            raise StudyError(
                f"observers: training goes on from update {update}, and what they remember ends at update "
                f"{self.update}; allowed: the checkpoint that was saved with them, or observers from the first update "
                "on"
            )
        if self._norm is not None and not math.isclose(self._norm, global_norm(weights), rel_tol=1e-6):
            raise StudyError(
                f"observers: the weights at update {update} are not those that the observers were saved with; allowed: "
                "the state of the same checkpoint"
            )
        self._to_devices()
        if update == 0 and self.distance:
            self.distance = Distance(self.distance.per_decade)
            self.distance.observe(weights, 0)
        if self.noise and self.gradients is None:
            self.gradients = MicroGradients(weights, micro_batches)

    def after(self, update: int) -> None:
        """Look at the weights after update number ``update``."""
        self.update = update
        for observer in (self.distance, *self.averages.values()):
            if observer is not None:
                observer.observe(self._weights, update)

    def gradient(self) -> None:
        """Take in the gradients of the update that is about to be made."""
        if self.noise is None or self.gradients is None:
            return
        seen = self.gradients.take()
        if seen is None:
            self.skipped += 1
        else:
            self.noise.observe(*seen)

    def loss(self, curve: str, update: float, value: float) -> None:
        """Take in a loss; one that is not finite is left out."""
        if math.isfinite(value):
            self.curves.setdefault(curve, []).append((float(update), float(value)))

    def forecast(self, end: int, curve: str, *, after: int = 0, level: float = LEVEL) -> Forecast | None:
        """The end of a curve as it goes on by itself, from what came after update ``after`` (a warm-up).

        ``laws.extrapolate``: form and window by rolling origin, a band from its own errors. None with too few points
        (7), a loss that is not above 0, or at the end. A cooldown that is still to come is not in it.
        """
        rows = [(u, v) for u, v in self.curves.get(curve, ()) if u > after]
        if not rows or end <= self.update:
            return None
        try:
            found = extrapolate([u for u, _ in rows], [v for _, v in rows])
        except LawError:
            return None
        low, middle, high = found.band(end, level)
        values = (float(middle), float(low), float(high))
        return Forecast(self.update, end, *values, level, curve, tuple(found.warnings))

    def values(self) -> dict[str, float]:
        """The newest of what is seen: ``weight_distance``, ``noise_scale`` (samples)."""
        found: dict[str, float] = {}
        if self.distance and self.distance.updates:
            found["weight_distance"] = self.distance.total[-1]
        if self.noise and math.isfinite(self.noise.noise_scale):
            found["noise_scale"] = self.noise.noise_scale
        return found

    def readable(self) -> Iterator[tuple[str, list[Tensor]]]:
        """(name, weights) of the averages that are defined now: their window has been seen and ends here."""
        for name, average in self.averages.items():
            try:
                weights = average.average()
            except ValueError:
                continue
            yield name, weights

    @contextmanager
    def holding(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """The model with these weights; afterwards, and after an error, everything is as it was, to the bit."""
        assert self._model is not None
        kept = [p.detach().clone() for p in self._weights]
        buffers = [(b, b.detach().clone()) for b in self._model.buffers()]
        try:
            self.fill(self._model, weights)
            yield
        finally:
            _copy(self._weights, kept)
            _copy([b for b, _ in buffers], [b for _, b in buffers])

    def fill(self, model: nn.Module, weights: Sequence[Tensor]) -> None:
        """Put averaged weights into ``model`` (this one or a copy), with running statistics that fit them."""
        _copy([p for p in model.parameters() if p.requires_grad], weights)
        if self.refresh is not None:
            self.refresh(model)

    def end(self) -> None:
        """Take the hooks off the model."""
        if self.gradients is not None:
            self.gradients.remove()
            self.gradients = None

    def state_dict(self) -> dict[str, Any]:
        """All that is remembered, as tensors and plain types."""
        return {
            "update": self.update,
            "norm": global_norm(self._weights) if self._weights else self._norm,
            "distance": self.distance.state_dict() if self.distance else None,
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "noise": self.noise.state_dict() if self.noise else None,
            "skipped": self.skipped,
            "curves": {name: [list(row) for row in rows] for name, rows in self.curves.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned. Raises ``StudyError`` where it came from other observers."""
        mine = {"distance": bool(self.distance), "noise_scale": bool(self.noise), "averages": sorted(self.averages)}
        theirs = {
            "distance": state["distance"] is not None,
            "noise_scale": state["noise"] is not None,
            "averages": sorted(state["averages"]),
        }
        if mine != theirs:
            raise StudyError(
                f"observers: the checkpoint was saved with {theirs}; found here: {mine}; allowed: the same"
            )
        try:
            if self.distance:
                self.distance.load_state_dict(state["distance"])
            if self.noise:
                self.noise.load_state_dict(state["noise"])
            for name, average in self.averages.items():
                average.load_state_dict(state["averages"][name])
        except ValueError as error:
            raise StudyError(f"observers: {error}") from error
        self.update, self._norm, self.skipped = int(state["update"]), state["norm"], int(state["skipped"])
        self.curves = {name: [(float(u), float(v)) for u, v in rows] for name, rows in state["curves"].items()}

    def _to_devices(self) -> None:
        """Bring what was loaded to where the weights are."""
        for observer in (self.distance, *self.averages.values()):
            if observer is None:
                continue
            state = {}
            for name, value in observer.state_dict().items():
                last = name.rpartition(".")[2]
                move = isinstance(value, Tensor) and last.isdigit() and not name.startswith("like.")
                state[name] = value.to(self._weights[int(last)].device) if move else value  # type: ignore[union-attr]
            observer.load_state_dict(state)


class MicroGradients:
    """Squared norms of the gradients of an update's micro-batches and of their mean, from hooks on the parameters.

    Losses are taken to be divided by ``count``, the micro-batches of an update, as loops do it for their mean.
    ``expect`` is called before each micro-batch, ``take`` once an update. Norms are of what backward gives, before
    clipping.
    """

    def __init__(self, weights: Sequence[nn.Parameter], count: int) -> None:
        self.count = count
        self._sizes: list[int] = []
        self._terms: list[Tensor | int] = []
        self._micro: list[list[Tensor]] = []
        self._total: dict[int, Tensor] = {}
        self._handles: list[Any] = []
        for index, weight in enumerate(weights):
            self._handles.append(weight.register_hook(self._each))
            self._handles.append(weight.register_post_accumulate_grad_hook(partial(self._sum, index)))

    def expect(self, samples: int, terms: Tensor | int = 0) -> None:
        """A micro-batch of ``samples`` comes; ``terms``: labels that its loss is a mean over, where that is known."""
        self._sizes.append(samples)
        self._terms.append(terms)
        self._micro.append([])

    def take(self) -> tuple[list[float], float, list[int]] | None:
        """(|g_i|^2, |g|^2, sizes) of the update, and forget them; None unless all micro-batches are there and equal."""
        sizes, terms, micro, total = self._sizes, [int(t) for t in self._terms], self._micro, self._total
        self._sizes, self._terms, self._micro, self._total = [], [], [], {}
        if len(sizes) != self.count or len(set(sizes)) > 1 or len(set(terms)) > 1 or not total or not all(micro):
            return None
        squares = [self.count**2 * float(torch.stack([s.cpu() for s in each]).sum()) for each in micro]
        return squares, float(torch.stack([s.cpu() for s in total.values()]).sum()), sizes

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _each(self, gradient: Tensor) -> None:
        if self._micro:
            self._micro[-1].append(_squared(gradient))

    def _sum(self, index: int, weight: Tensor) -> None:
        if self._micro and weight.grad is not None:
            self._total[index] = _squared(weight.grad)


def _squared(tensor: Tensor) -> Tensor:
    """Squared Euclidean norm in float64, left on its device: reading it would make the device wait."""
    norm: Tensor = torch.linalg.vector_norm(tensor.detach(), dtype=torch.float64)
    return norm.square()


def _copy(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def terms_of(labels: Any) -> Tensor | int:
    """How many labels a loss counts; 0 where there are none."""
    return (labels != IGNORED).sum() if isinstance(labels, Tensor) else 0


@contextmanager
def preserved_randomness(seed: int | None = None) -> Iterator[None]:
    """Put all global random states back afterwards; ``seed`` them before, where one is given.

    An evaluation draws from them as well: every iterator of a ``DataLoader`` takes a seed.
    """
    plain, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else None
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        yield
    finally:
        random.setstate(plain)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)
