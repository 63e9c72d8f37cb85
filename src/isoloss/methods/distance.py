"""How far the weights went, and how rough the loss is there: both look and change nothing.

    d(t) = ||w_t - w_0||                        global, and for each tensor; in float64, at log-spaced updates
    std(z) = sqrt(E[(L(w + z v/||v||) - L(w))^2])     over random directions v ~ N(0, 1)
    std(z) ~ z^(alpha/2)                        random walk on a random potential

Such a walk moves as d(t) ~ (log t)^(2/alpha); with alpha = 2, as measured by the authors, d = a log t + b. Source:
Hoffer et al. 2017 (arXiv 1705.08741), section 4. Their figure of std is known, its protocol is not: directions here are
isotropic over all weights together. Both growth laws are fitted by `isoloss.worth.batch.growth`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isoloss.methods.gradient_norm import CHUNK

State = dict[str, Tensor | int]


def log_spaced(update: int, per_decade: int = 8) -> bool:
    """Whether `update` is one of round(10^(i / per_decade)), i = 0, 1, ...: the same moments for every run length."""
    if update < 1 or per_decade < 1:
        return False
    near = round(per_decade * math.log10(update))
    return any(round(10 ** (i / per_decade)) == update for i in range(max(near - 1, 0), near + 2))


def squared_distances(tensors: Sequence[Tensor], start: Sequence[Tensor]) -> list[float]:
    """||w - w_0||^2 of each tensor, in float64 and a fixed order. Raises ValueError for other shapes."""
    shapes, before = [tuple(t.shape) for t in tensors], [tuple(t.shape) for t in start]
    if shapes != before:
        raise ValueError(f"distance: tensors of shapes {shapes}; allowed: {before}, as at the start")
    found = []
    with torch.no_grad():
        for tensor, origin in zip(tensors, start, strict=True):
            total = 0.0
            # Chunks keep the float64 copies in the cache.
            for now, then in zip(tensor.reshape(-1).split(CHUNK), origin.reshape(-1).split(CHUNK), strict=True):
                wide = now.double() - then.double()
                total += torch.dot(wide, wide).item()
            found.append(total)
    return found


class Distance:
    """Observer of ||w_t - w_0||: `observe(tensors, 0)` takes w_0, then `observe(tensors, update)` after every update.

    `updates`, `total` and `by_tensor` hold what was measured; memory is one copy of the weights. Raises ValueError for
    an update out of order, one before w_0, or other shapes than at the start.
    """

    lookback = None

    def __init__(self, per_decade: int = 8) -> None:
        if not isinstance(per_decade, int) or per_decade < 1:
            raise ValueError(f"Distance: per_decade is {per_decade!r}; allowed: an integer of at least 1")
        self.per_decade = per_decade
        self.update = -1
        self.updates: list[int] = []
        self.by_tensor: list[list[float]] = []
        self._start: list[Tensor] = []

    @property
    def total(self) -> list[float]:
        """Global distance at each of `updates`."""
        return [math.sqrt(math.fsum(d * d for d in row)) for row in self.by_tensor]

    def observe(self, tensors: Sequence[Tensor], update: int) -> None:
        """Measure, if `update` is one of the log-spaced ones."""
        if self.update < 0 and update != 0:
            raise ValueError(f"Distance: update {update} came first; allowed: 0, the start that is measured from")
        if update <= self.update:
            raise ValueError(f"Distance: update {update} came after {self.update}; allowed: a later one")
        self.update = update
        if update == 0:
            self._start = [t.detach().clone() for t in tensors]
        elif log_spaced(update, self.per_decade):
            self.by_tensor.append([math.sqrt(s) for s in squared_distances(tensors, self._start)])
            self.updates.append(update)

    def state_dict(self) -> State:
        """Everything that is remembered, as tensors and integers under flat names."""
        width = len(self._start)
        state: State = {
            "per_decade": self.per_decade,
            "update": self.update,
            "updates": torch.tensor(self.updates, dtype=torch.int64),
            "distances": torch.tensor(self.by_tensor, dtype=torch.float64).reshape(len(self.updates), width),
        }
        # Copies: a state must not follow a later load into the same object.
        state.update({f"start.{i}": t.clone() for i, t in enumerate(self._start)})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Restore what `state_dict` returned. Raises ValueError if it came from other settings."""
        if int(state["per_decade"]) != self.per_decade:
            raise ValueError(
                f"Distance: the state has per_decade = {state['per_decade']}; allowed: {self.per_decade}, as this has"
            )
        updates, distances = state["updates"], state["distances"]
        assert isinstance(updates, Tensor) and isinstance(distances, Tensor)
        self.update = int(state["update"])
        self.updates, self.by_tensor = updates.tolist(), distances.tolist()
        names = sorted((n for n in state if n.startswith("start.")), key=lambda n: int(n.partition(".")[2]))
        self._start = [t.clone() for n in names if isinstance(t := state[n], Tensor)]


@dataclass(frozen=True)
class Roughness:
    """Loss differences along random directions: `differences[i][j]` = L(w + z_j v_i/||v_i||) - L(w)."""

    distances: tuple[float, ...]
    differences: tuple[tuple[float, ...], ...]

    @property
    def std(self) -> list[float]:
        """sqrt(E[(L(w + z v) - L(w))^2]) at each distance, as on the authors' slides: not about the mean."""
        count = len(self.differences)
        return [math.sqrt(math.fsum(row[j] ** 2 for row in self.differences) / count) for j in range(self._width)]

    @property
    def centred(self) -> list[float]:
        """Standard deviation about the mean at each distance; NaN for one direction."""
        count = len(self.differences)
        if count < 2:
            return [math.nan] * self._width
        found = []
        for j in range(self._width):
            column = [row[j] for row in self.differences]
            mean = math.fsum(column) / count
            found.append(math.sqrt(math.fsum((v - mean) ** 2 for v in column) / (count - 1)))
        return found

    @property
    def alpha(self) -> float:
        """Twice the slope of log std in log distance, by least squares; NaN below two distances with a difference."""
        pairs = [(math.log(z), math.log(s)) for z, s in zip(self.distances, self.std, strict=True) if z > 0 and s > 0]
        if len(pairs) < 2:
            return math.nan
        x, y = (math.fsum(p[k] for p in pairs) / len(pairs) for k in (0, 1))
        slope = math.fsum((a - x) * (b - y) for a, b in pairs) / math.fsum((a - x) ** 2 for a, _ in pairs)
        return 2 * slope

    @property
    def _width(self) -> int:
        return len(self.distances)


def direction(tensors: Sequence[Tensor], seed: int, index: int) -> list[Tensor]:
    """Random unit vector number `index` over all tensors together, in float64, whatever their device."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + index) % 2**63)
    parts = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in tensors]
    norm = math.sqrt(math.fsum(torch.dot(p.reshape(-1), p.reshape(-1)).item() for p in parts))
    return [part / norm for part in parts]


def roughness(
    loss: Callable[[], float | Tensor],
    tensors: Sequence[Tensor],
    distances: Iterable[float],
    *,
    directions: int = 16,
    seed: int = 0,
) -> Roughness:
    """Loss along `directions` random directions from the weights `tensors`, which `loss()` reads.

    Costs directions x distances + 1 evaluations. The weights are put back to the bit, also after an error; `loss` must
    be deterministic and without side effects (evaluation mode, a fixed batch). The global random state is not used.
    Raises ValueError for no directions, no weights, or distances that are not above 0.
    """
    steps = tuple(float(z) for z in distances)
    if not steps or not all(math.isfinite(z) and z > 0 for z in steps):
        raise ValueError(f"roughness: distances are {steps}; allowed: numbers above 0")
    if directions < 1 or not sum(t.numel() for t in tensors):
        raise ValueError(f"roughness: {directions} directions over {len(tensors)} tensors; allowed: at least 1 of each")
    found = []
    with torch.no_grad():
        kept = [t.detach().clone() for t in tensors]
        try:
            here = float(loss())
            for index in range(directions):
                along = [v.to(t.device) for v, t in zip(direction(tensors, seed, index), tensors, strict=True)]
                row = []
                for z in steps:
                    for tensor, origin, v in zip(tensors, kept, along, strict=True):
                        tensor.copy_(origin.double() + z * v)
                    row.append(float(loss()) - here)
                found.append(tuple(row))
        finally:
            for tensor, origin in zip(tensors, kept, strict=True):
                tensor.copy_(origin)
    return Roughness(steps, tuple(found))
