"""Extrapolation: take the gradient at a point near the weights, update from the weights. One operator, many names.

State x, base optimizer with step U, workers k = 1..K, extrapolation step size h, momentum mu of the base:

    x^k = x - h d^k                                              extrapolation (``up``: x + h d^k)
    y^k = x^k - lr mu b                                          look-ahead (``nesterov``): where momentum leads
    g   = mean of grad f^k(y^k) over k                           (``mix`` a: (1 - a) mean of grad f^k(x) + a g)
    x   = U(x, g)

    direction d^k   gradient    mean gradient at x                            extragradient        1 + s passes
                    local       worker k's own gradient at x                  local extragradient  1 + s passes
                    past        worker k's gradient of the update before      optimistic           1 pass
                    past-mean   mean gradient of the update before            optimistic           1 pass
                    noise       i.i.d. Gaussian or uniform noise              smoothing            1 pass
    s = share of a worker's samples that the first gradient is taken on

    normalise       global      d / ||d||                                     with ``up``: SAM
                    adaptive    T^2 d / ||T d||, T = |x| + eta                with ``up``: ASAM

Sources: Lin et al. 2020 (arXiv 2006.05720), algorithm 1; Korpelevich 1976; Popov 1980 (past); Foret et al. 2021
(SAM, arXiv 2010.01412); Kwon et al. 2021 (ASAM, arXiv 2102.11600); Zhao et al. 2022 (gradient-norm penalty,
arXiv 2202.03599, mix a = penalty / h).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from isoloss.methods._layerwise import check_gradients, check_number, local, squared_norms
from isoloss.methods._workers import Closure, Gradient, Reduce, Tree, Wrapper, average, copied, read, write
from isoloss.recipe.errors import nearest

DIRECTIONS = ("gradient", "local", "past", "past-mean", "noise")
FRESH = ("gradient", "local")
"""Directions that cost a gradient of their own."""
NORMALISE = ("none", "global", "adaptive")
NOISE = ("gaussian", "uniform")
SCALES = ("lr", "fixed")


_FROZEN = ContextVar("frozen_statistics", default=False)


def statistics_frozen() -> bool:
    """Whether the present pass leaves running statistics alone."""
    return _FROZEN.get()


@contextmanager
def frozen_statistics(model: nn.Module | None) -> Iterator[None]:
    """Leave with the running statistics (``running_*``, ``num_batches_tracked``) that were found on entering."""
    kept = []
    for name, buffer in model.named_buffers() if model is not None else ():
        if name.rpartition(".")[2].startswith(("running_", "num_batches_tracked")):
            kept.append((buffer, buffer.clone()))
    token = _FROZEN.set(True)
    try:
        yield
    finally:
        _FROZEN.reset(token)
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)


class Extrapolation(Wrapper):
    """Wrapper of any base optimizer that takes the gradient at an extrapolated point.

    size        h: a distance, or a multiple of the group's lr (``scale="lr"``, so that it decays with it)
    begin, end  first update that extrapolates, and first one that no longer does, counted from 0
    interval    extrapolate every so many updates, from ``begin``; the others are plain
    share       part of a worker's samples that ``first`` closures use: cost accounting (``passes``) only
    model       its running statistics are left alone by the extra pass: the one at x, or with ``up`` the one at
                the moved point
    seed        of the noise, which is a function of (seed, update, worker, parameter)
    noise       gaussian (standard deviation 1) or uniform (in [-1, 1]); ``per_filter``: scaled so that every
                filter's noise has the norm of the filter (first index; tensors below two dimensions are one)
    reduce      adds a list of tensors over processes, in place; ``processes`` of them, of which this is ``rank``

    Parameters, groups and state are the base's own, so one ``state_dict`` restores everything. What a sharded
    parameter (DTensor) holds here moves by a norm over all shards; its gradient is its processes' mean already, so
    that a worker is a closure, not a process. A gradient that is not finite makes the update not finite. Raises
    ValueError for options that do not go together, a base that is a wrapper itself, complex or integer
    parameters, sparse gradients and a missing closure.
    """

    count = "extrapolation_updates"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        direction: str = "gradient",
        size: float = 1.0,
        scale: str = "lr",
        *,
        up: bool = False,
        normalise: str = "none",
        eta: float = 0.01,
        mix: float = 1.0,
        nesterov: bool = False,
        share: float = 1.0,
        begin: int = 0,
        end: int | None = None,
        interval: int = 1,
        noise: str = "gaussian",
        per_filter: bool = False,
        seed: int = 0,
        model: nn.Module | None = None,
        reduce: Reduce | None = None,
        processes: int = 1,
        rank: int = 0,
    ) -> None:
        for name, value, allowed in (
            ("direction", direction, DIRECTIONS),
            ("scale", scale, SCALES),
            ("normalise", normalise, NORMALISE),
            ("noise", noise, NOISE),
        ):
            if value not in allowed:
                raise self._wrong(f"{name} is {value!r}; allowed: {', '.join(allowed)}{nearest(str(value), allowed)}")
        check_number("Extrapolation", "size", size)
        check_number("Extrapolation", "eta", eta)
        for name, number in (("mix", mix), ("share", share)):
            if not 0 <= number <= 1:
                raise self._wrong(f"{name} is {number!r}; allowed: from 0 to 1")
        for name, count, low in (("begin", begin, 0), ("interval", interval, 1), ("processes", processes, 1)):
            if not isinstance(count, int) or count < low:
                raise self._wrong(f"{name} is {count!r}; allowed: an integer of at least {low}")
        if mix < 1 and direction not in FRESH:
            raise self._wrong(f"mix {mix:g} with direction {direction!r}; allowed: {' and '.join(FRESH)}, or mix 1")
        if mix < 1 and share < 1:
            raise self._wrong(f"mix {mix:g} with share {share:g}; allowed: share 1, as the gradient at x is mixed in")
        if (processes > 1) != (reduce is not None):
            raise self._wrong(
                f"{processes} processes {'with' if reduce else 'without'} reduce; allowed: both or neither"
            )
        super().__init__(base)
        for group in self.param_groups:
            if nesterov and not (group.get("momentum") and not group.get("nesterov")):
                raise self._wrong(
                    f"nesterov over {type(base).__name__} with momentum {group.get('momentum')} and nesterov "
                    f"{group.get('nesterov')}; allowed: a base with momentum above 0 and its own nesterov off"
                )
        self.model, self.reduce, self.processes, self.rank = model, reduce, processes, rank
        self.direction, self.size, self.scale, self.up, self.normalise = direction, size, scale, up, normalise
        self.eta, self.mix, self.nesterov, self.share = eta, mix, nesterov, share
        self.begin, self.end, self.interval = begin, end, interval
        self.noise, self.per_filter, self.seed = noise, per_filter, seed
        self._weights: list[Tensor] = []

    @property
    def passes(self) -> float:
        """Gradient evaluations per update, in batches, while it extrapolates (begin <= update < end), on average."""
        if self.direction not in FRESH or self.mix == 0 or self.size == 0:
            return 1.0
        return 1.0 + self.share / self.interval

    def passes_at(self, update: int) -> float:
        """Gradient evaluations that this update costs, in batches."""
        extra = self.direction in FRESH and self._active(update)
        return 1.0 + self.share if extra else 1.0

    def _active(self, update: int) -> bool:
        inside = self.begin <= update and (self.end is None or update < self.end)
        return inside and (update - self.begin) % self.interval == 0 and self.size > 0 and self.mix > 0

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closures: Closure | Sequence[Closure] | None = None,
        *,
        first: Closure | Sequence[Closure] | None = None,
        prepare: Callable[[], object] | None = None,
    ) -> Any:
        """One update; the mean loss of the workers' last passes.

        ``closures``: one callable, or one a virtual worker of this process. Each fills ``p.grad`` with its own
        mean gradient at the current parameters (over what was there) and returns the loss. ``first``: as many
        that do so on fewer samples, for the extrapolation. ``prepare``: called before the base steps, with the
        final gradient in ``p.grad`` and the parameters back at x (clipping belongs here).
        """
        workers = self._several(closures)
        firsts = workers if first is None else self._several(first, "first closures")
        if len(firsts) != len(workers):
            raise self._wrong(f"{len(firsts)} first closures for {len(workers)} workers; allowed: one each")
        gradient, loss, past = self._gradient(workers, firsts)
        write(self._parameters(), gradient)
        if prepare is not None:
            prepare()
        self.base.step()
        for worker, each in past.items():
            self._remember(worker, each, new=True)
        self._advance()
        return loss

    def _gradient(self, workers: list[Closure], firsts: list[Closure]) -> tuple[Gradient, Any, dict[int, Gradient]]:
        """(mean gradient, loss, gradients by worker that are to be remembered); the parameters are back at x."""
        active, fresh = self._active(self.update), self.direction in FRESH
        alike = not active or self.direction in ("gradient", "past-mean")
        x = [local(p) for p in self._parameters()]
        at_x, losses_at_x = Tree(), []
        if active and self.direction == "gradient":
            for closure in firsts:
                g, loss = self._evaluate(closure, frozen=not self.up)
                at_x.add(g, stable=len(firsts) == 1 and self.mix == 1)
                losses_at_x.append(loss)
            mean_at_x = at_x.mean(self.reduce, self.processes)
        at_y, losses = Tree(), []
        past: dict[int, Gradient] = {}
        look = self._look_ahead()
        moves = active or look is not None
        if moves:
            self._keep(x)
        try:
            for k, closure in enumerate(workers):
                if moves and k > 0 and not alike:
                    torch._foreach_copy_(x, self._weights)
                if active and self.direction == "local":
                    d, loss = self._evaluate(firsts[k], frozen=not self.up)
                    losses_at_x.append(loss)
                    if self.mix < 1:
                        at_x.add(d, stable=False)
                if moves and (k == 0 or not alike):
                    if active and self.direction == "gradient":
                        d = mean_at_x
                    elif active and self.direction == "noise":
                        d = self._draw(self.rank * len(workers) + k)
                    elif active and not fresh:
                        d = self._recall(k if self.direction == "past" else 0)
                    if active:
                        self._move(x, d)
                    if look is not None:
                        _add(x, look, 1.0)
                g, loss = self._evaluate(closure, frozen=self.up and active and fresh)
                losses.append(loss)
                if self.direction == "past" and not self._remember(k, g):
                    past[k] = copied(g)
                at_y.add(g, stable=len(workers) == 1)
        finally:
            if moves:
                torch._foreach_copy_(x, self._weights)
        gradient = at_y.mean(self.reduce, self.processes)
        if active and self.mix < 1:
            if self.direction == "local":
                mean_at_x = at_x.mean(self.reduce, self.processes)
            gradient = _mixed(mean_at_x, gradient, self.mix)
        if self.direction == "past-mean" and not self._remember(0, gradient):
            past[0] = copied(gradient)
        shown = losses_at_x if losses_at_x and self.share == 1 else losses
        return gradient, average(shown), past

    def _evaluate(self, closure: Closure, frozen: bool) -> tuple[Gradient, Any]:
        """(gradient in the memory of ``p.grad``, loss) at the current parameters."""
        with torch.enable_grad(), frozen_statistics(self.model) if frozen else nullcontext():
            loss = closure()
        check_gradients(self.param_groups, "Extrapolation")
        return read(self._parameters()), loss

    def _keep(self, x: list[Tensor]) -> None:
        """Copy x, from which it is restored to the bit."""
        if [w.shape for w in self._weights] != [each.shape for each in x]:
            self._weights = [torch.empty_like(each) for each in x]
        torch._foreach_copy_(self._weights, x)

    def _move(self, x: list[Tensor], d: Gradient) -> None:
        """x = x - h d, normalised; with ``up`` x + h d."""
        factor = 1.0 if self.up else -1.0
        if self.normalise == "adaptive":
            T = [each.abs().add_(self.eta) for each in x]
            d = [None if g is None else t * g for t, g in zip(T, d, strict=True)]
        if self.normalise != "none":
            present = [(g, p) for g, p in zip(d, self._parameters(), strict=True) if g is not None]
            norm = math.sqrt(squared_norms([g for g, _ in present], [p for _, p in present]).sum().item())
            factor = factor / norm if norm != 0 else 0.0
        if self.normalise == "adaptive":
            d = [None if g is None else t * g for t, g in zip(T, d, strict=True)]
        place = 0
        for group in self.param_groups:
            h = self.size * group["lr"] if self.scale == "lr" else self.size
            part = slice(place, place + len(group["params"]))
            _add(x[part], d[part], factor * h)
            place = part.stop

    def _look_ahead(self) -> Gradient | None:
        """-lr mu b: the step that the base would take without a gradient; None where there is none."""
        if not self.nesterov:
            return None
        found: Gradient = []
        for group in self.param_groups:
            for p in group["params"]:
                b = self.state.get(p, {}).get("momentum_buffer")
                found.append(None if b is None else local(b) * (-group["lr"] * group["momentum"]))
        return found if any(each is not None for each in found) else None

    def _recall(self, worker: int) -> Gradient:
        name = f"past_gradient.{worker}"
        found = [self.state.get(p, {}).get(name) for p in self._parameters()]
        return [None if g is None else local(g) for g in found]

    def _remember(self, worker: int, gradient: Gradient, new: bool = False) -> bool:
        """Keep a gradient in the state; False: not all have a place yet, which only ``new`` makes.

        A place is made after the base has stepped: bases tell a new parameter by its empty state.
        """
        name = f"past_gradient.{worker}"
        present = [(self.state[p], p, g) for p, g in zip(self._parameters(), gradient, strict=True) if g is not None]
        for state, p, _ in present:
            if name not in state:
                if not new:
                    return False
                state[name] = torch.zeros_like(p)
        torch._foreach_copy_([local(state[name]) for state, _, _ in present], [g for _, _, g in present])
        return True

    def _draw(self, worker: int) -> Gradient:
        """Noise of a worker at this update, the same however parameters are sharded."""
        found: Gradient = []
        for index, p in enumerate(self._parameters()):
            text = f"extrapolation:{self.seed}:{self.update}:{worker}:{index}".encode()
            seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
            generator = torch.Generator(device=p.device).manual_seed(seed)
            n = torch.empty(p.shape, dtype=p.dtype, device=p.device)
            n = n.normal_(generator=generator) if self.noise == "gaussian" else n.uniform_(-1, 1, generator=generator)
            if self.per_filter:
                whole = p.full_tensor() if isinstance(p, DTensor) else p
                size, length = _filter_norms(whole), _filter_norms(n)
                n *= torch.where(length == 0, 0.0, size / length)
            if isinstance(p, DTensor):
                same = [Replicate()] * p.device_mesh.ndim
                n = DTensor.from_local(n, p.device_mesh, same, run_check=False).redistribute(placements=p.placements)
            found.append(local(n))
        return found


def sam(base: torch.optim.Optimizer, rho: float = 0.05, **options: Any) -> Extrapolation:
    """SAM (Foret et al. 2021): the gradient at x + rho g / ||g||; ``direction="local"``: every worker its own g."""
    return Extrapolation(base, size=rho, scale="fixed", up=True, normalise="global", **options)


def asam(base: torch.optim.Optimizer, rho: float = 0.5, eta: float = 0.01, **options: Any) -> Extrapolation:
    """ASAM (Kwon et al. 2021): the gradient at x + rho T^2 g / ||T g||, T = |x| + eta."""
    return Extrapolation(base, size=rho, scale="fixed", up=True, normalise="adaptive", eta=eta, **options)


def gradient_norm_penalty(base: torch.optim.Optimizer, r: float = 0.1, a: float = 0.8, **options: Any) -> Extrapolation:
    """Penalty on ||g|| (Zhao et al. 2022): (1 - a) g + a grad f(x + r g / ||g||); the penalty's weight is a r."""
    return Extrapolation(base, size=r, scale="fixed", up=True, normalise="global", mix=a, **options)


def _add(x: Sequence[Tensor], d: Gradient, factor: float) -> None:
    """x = x + factor d, in place, where there is a d."""
    present = [(each, g) for each, g in zip(x, d, strict=True) if g is not None]
    if present and factor != 0:
        torch._foreach_add_([each for each, _ in present], [g for _, g in present], alpha=factor)


def _mixed(first: Gradient, second: Gradient, a: float) -> Gradient:
    """(1 - a) first + a second, in the memory of the second."""
    for g, h in zip(first, second, strict=True):
        if g is not None and h is not None:
            h.mul_(a).add_(g, alpha=1.0 - a)
    return second


def _filter_norms(tensor: Tensor) -> Tensor:
    """Norm of every filter (first index), so that it multiplies the tensor; below two dimensions of the whole."""
    dims = tuple(range(1 if tensor.ndim > 1 else 0, tensor.ndim))
    return torch.linalg.vector_norm(tensor.detach(), dim=dims or None, keepdim=True)
