"""Local SGD: K workers take their own steps and average their parameters every H updates.

    t < S     one step of all workers:   x = U(x, mean over k of g^k(x))              (post-local SGD: S > 0)
    t >= S    own steps:                 x^k = U^k(x^k, g^k(x^k)),  k = 1..K
              after every H of them:     y = mean over k of x^k;   x^k = y
    slow momentum, instead of x^k = y:   u = beta u + (z - y) / lr;   z = z - alpha lr u;   x^k = z

U^k is the base optimizer with worker k's own momentum, which averaging does not touch. z is where the last
averaging left the workers; beta = 0 and alpha = 1 give y.

Sources: Stich 2019 (arXiv 1805.09767); Lin et al. 2020 (post-local SGD, arXiv 1808.07217); Wang et al. 2020 (slow
momentum, arXiv 1910.00643, algorithm 1, with buffers maintained).

LocalSGD runs workers on processes, or several in one process after another: the same bits. BatchedLocalSGD runs
them in one process as one batched model (torch.func): the same numbers up to rounding, faster for small models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call, vmap

from isoloss.methods._layerwise import check_gradients, check_number, check_parameters
from isoloss.methods._workers import Closure, Gradient, Tree, Wrapper, average, read, write

ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.RMSprop,
    torch.optim.Adagrad,
)  # fmt: skip
ANCHOR, SLOW = "local_anchor", "slow_momentum"


@dataclass
class _Worker:
    """Parameters of a virtual worker and the base's state of each."""

    weights: list[Tensor]
    entries: list[dict[str, Any]]


class LocalSGD(Wrapper):
    """Wrapper of any base optimizer: K virtual workers that average every ``every`` updates from update ``start``.

    workers     K, over all processes; each process holds K / processes of them, a power of two where several do
    slow_momentum, slow_lr    beta and alpha
    distributed               share the workers over the processes of ``group`` (default: all)

    ``step`` takes one callable for each worker held here, as ``Extrapolation.step`` does. After a step the
    parameters are the mean of the workers held here: after an averaging of all; on processes with one worker
    each, between averagings that worker. Each worker's parameters (``worker.k``) and momentum
    (``momentum_buffer.worker.k``) are in ``state``, so one ``state_dict`` a process restores everything. Buffers
    of the model (running statistics) are the model's own and are not averaged. Raises ValueError for options out
    of range, another number of closures than workers, sharded, complex or integer parameters, sparse gradients
    and a base that is a wrapper.
    """

    count = "local_updates"

    def __init__(
        self,
        base: torch.optim.Optimizer,
        workers: int,
        every: int,
        start: int = 0,
        *,
        slow_momentum: float = 0.0,
        slow_lr: float = 1.0,
        distributed: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        _check(type(self).__name__, workers, every, start, slow_momentum, slow_lr)
        super().__init__(base)
        if any(isinstance(p, DTensor) for p in self._parameters()):
            raise self._wrong("a parameter is sharded; allowed: parameters that every worker holds whole")
        self.processes = dist.get_world_size(group) if distributed else 1
        self.rank = dist.get_rank(group) if distributed else 0
        held = workers // self.processes
        if workers % self.processes or (self.processes > 1 and held & (held - 1)):
            raise self._wrong(
                f"{workers} workers on {self.processes} processes; allowed: the same power of two on each, so that "
                "they are added in the order of one process"
            )
        self.workers, self.held, self.every, self.start = workers, held, every, start
        self.slow_momentum, self.slow_lr, self.group = slow_momentum, slow_lr, group
        self.slow = slow_momentum != 0 or slow_lr != 1

    @property
    def passes(self) -> float:
        """Gradient evaluations per update, in batches."""
        return 1.0

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closures: Closure | Sequence[Closure] | None = None,
        *,
        prepare: Callable[[], object] | None = None,
    ) -> Any:
        """One update of every worker; the mean loss of the workers held here.

        ``prepare`` is called before every step of the base, with its gradient in ``p.grad`` (clipping).
        """
        workers = self._several(closures)
        if len(workers) != self.held:
            raise self._wrong(f"{len(workers)} closures; allowed: {self.held}, one for each worker held here")
        prepare = prepare or (lambda: None)
        update = self._together if self.update < self.start else self._apart
        loss = update(workers, prepare)
        self._advance()
        return loss

    def _evaluate(self, closure: Closure) -> tuple[Gradient, Any]:
        with torch.enable_grad():
            loss = closure()
        check_gradients(self.param_groups, type(self).__name__)
        return read(self._parameters()), loss

    def _together(self, workers: list[Closure], prepare: Callable[[], object]) -> Any:
        tree, losses = Tree(), []
        for closure in workers:
            g, loss = self._evaluate(closure)
            tree.add(g, stable=len(workers) == 1)
            losses.append(loss)
        write(self._parameters(), self._mean(tree))
        prepare()
        self.base.step()
        return average(losses)

    def _apart(self, workers: list[Closure], prepare: Callable[[], object]) -> Any:
        parameters, several = self._parameters(), self.held > 1
        steps = self.update - self.start
        # The base must not see what is ours: it tells a new parameter by its empty state.
        slow = [{key: self.state[p].pop(key) for key in (ANCHOR, SLOW) if key in self.state[p]} for p in parameters]
        if self.slow and steps == 0:
            slow = [{ANCHOR: p.detach().clone(), SLOW: torch.zeros_like(p)} for p in parameters]
        own = self._split(first=steps == 0) if several else []
        x: list[Tensor] = [p.detach() for p in parameters]
        tree, losses = Tree(), []
        for k, closure in enumerate(workers):
            if several:
                torch._foreach_copy_(x, own[k].weights)
                for p, entries in zip(parameters, own[k].entries, strict=True):
                    self.state[p] = entries
            losses.append(self._evaluate(closure)[1])
            prepare()
            self.base.step()
            if several:
                torch._foreach_copy_(own[k].weights, x)
                own[k].entries = [self.state[p] for p in parameters]
            tree.add(list(own[k].weights) if several else list(x), stable=True)
        averaging = (steps + 1) % self.every == 0
        mean = self._mean(tree) if averaging else tree.mean()
        if averaging and self.slow:
            self._slow(mean, slow)
        torch._foreach_copy_(x, [y for y in mean if y is not None])
        for worker in own if averaging else ():
            torch._foreach_copy_(worker.weights, x)
        if several:
            self._join(own)
        for p, entries in zip(parameters, slow, strict=True):
            self.state[p].update(entries)
        return average(losses)

    def _names(self) -> list[str]:
        return [f"worker.{self.rank * self.held + k}" for k in range(self.held)]

    def _split(self, first: bool) -> list[_Worker]:
        """The workers held here, from the state; the ``first`` time all as the base is now."""
        parameters, names = self._parameters(), self._names()
        found = []
        if first:
            for _ in names:
                entries = [{key: _clone(value) for key, value in self.state[p].items()} for p in parameters]
                found.append(_Worker([p.detach().clone() for p in parameters], entries))
            return found
        end = f".{names[0]}"
        kept = [[key.removesuffix(end) for key in self.state[p] if key.endswith(end)] for p in parameters]
        for name in names:
            states = [self.state[p] for p in parameters]
            entries = [{key: state[f"{key}.{name}"] for key in keys} for state, keys in zip(states, kept, strict=True)]
            found.append(_Worker([state[name] for state in states], entries))
        return found

    def _join(self, own: list[_Worker]) -> None:
        """Put the workers into the state."""
        for index, p in enumerate(self._parameters()):
            state: dict[str, Any] = {}
            for name, worker in zip(self._names(), own, strict=True):
                state[name] = worker.weights[index]
                state |= {f"{key}.{name}": value for key, value in worker.entries[index].items()}
            self.state[p] = state

    def _mean(self, tree: Tree) -> Gradient:
        """Mean over the workers of all processes, added in the order of one process."""
        if self.processes == 1:
            return tree.mean()
        whole: Gradient = []
        for part in tree.total():
            gathered = None
            if part is not None:
                parts = [torch.empty_like(part) for _ in range(self.processes)]
                dist.all_gather(parts, part.contiguous(), group=self.group)
                across = Tree()
                for each in parts:
                    across.add([each], stable=True)
                gathered = across.total()[0]
                assert gathered is not None
                gathered.mul_(1.0 / self.workers)
            whole.append(gathered)
        return whole

    def _slow(self, mean: Gradient, kept: list[dict[str, Tensor]]) -> None:
        """Slow momentum on the mean y, which becomes z. A group at lr 0 takes y."""
        rates = [group["lr"] for group in self.param_groups for _ in group["params"]]
        for y, entries, lr in zip(mean, kept, rates, strict=True):
            assert y is not None
            _slow_step(entries[ANCHOR], y, entries[SLOW], lr, self.slow_momentum, self.slow_lr)

    @torch.no_grad()
    def mean(self) -> list[Tensor]:
        """The mean of all workers now, as new tensors; every process has to call it."""
        tree = Tree()
        for name in self._names():
            tree.add([self.state[p].get(name, p.detach()) for p in self._parameters()], stable=False)
        return [y for y in self._mean(tree) if y is not None]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned: every worker held here, the anchor and the count of updates."""
        # The base's own loading expects its own entries only, and would cast counts of steps to the parameter's type.
        stored = {number: dict(entries) for number, entries in state_dict["state"].items()}
        ours = {n: {key: v for key, v in entries.items() if _is_ours(key)} for n, entries in stored.items()}
        theirs = {n: {key: v for key, v in entries.items() if not _is_ours(key)} for n, entries in stored.items()}
        super().load_state_dict({**state_dict, "state": theirs})
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        groups = [group for group in self.param_groups for _ in group["params"]]
        for p, number, group in zip(self._parameters(), numbers, groups, strict=True):
            for key, value in ours.get(number, {}).items():
                stays = key.startswith("step.") and not (group.get("fused") or group.get("capturable"))
                self.state[p][key] = _clone(value, None if stays else p.device)


class BatchedLocalSGD:
    """Local SGD with the K workers in one batched model: parameters of shape (K, ...), one vmap for all gradients.

    loss    ``loss(call, batch) -> scalar`` mean loss of one worker, where ``call(*inputs)`` is the model
    base    makes the optimizer from the list of stacked tensors; elementwise ones only (ELEMENTWISE)

    The model is read at the start and written by ``write_back``. Raises ValueError for options out of range,
    complex or integer parameters and a base that is not elementwise. Layers that change buffers in training
    (BatchNorm's running statistics) and dropout raise, from torch.func.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Callable[..., Any], Any], Tensor],
        base: Callable[[list[Tensor]], torch.optim.Optimizer],
        workers: int,
        every: int,
        start: int = 0,
        *,
        slow_momentum: float = 0.0,
        slow_lr: float = 1.0,
    ) -> None:
        who = type(self).__name__
        _check(who, workers, every, start, slow_momentum, slow_lr)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        check_parameters(trained.values(), who)
        self.model, self.workers, self.every, self.start = model, workers, every, start
        self.slow_momentum, self.slow_lr = slow_momentum, slow_lr
        self.slow = slow_momentum != 0 or slow_lr != 1
        self.update = 0
        self.stacks = {n: p.detach().expand(workers, *p.shape).clone().contiguous() for n, p in trained.items()}
        self.base = base(list(self.stacks.values()))
        if not isinstance(self.base, ELEMENTWISE):
            allowed = ", ".join(kind.__name__ for kind in ELEMENTWISE)
            raise ValueError(f"{who}: base is {type(self.base).__name__}; allowed: {allowed}, which are elementwise")
        self.anchors: dict[str, Tensor] = {}
        self.momenta: dict[str, Tensor] = {}
        fixed = {name: p.detach() for name, p in model.named_parameters() if name not in trained}
        fixed |= dict(model.named_buffers())

        def of_one(parameters: dict[str, Tensor], batch: Any) -> Tensor:
            return loss(lambda *inputs: functional_call(model, (parameters, fixed), inputs), batch)

        self._losses = vmap(of_one)

    def step(self, batch: Any) -> Tensor:
        """One update of every worker; mean loss. ``batch``: tensors, or a tree of them, of shape (K, ...)."""
        # Workers do not meet, so the gradient of the sum is every worker's own; one ordinary backward is cheapest.
        leaves = {name: x.detach().requires_grad_() for name, x in self.stacks.items()}
        losses = self._losses(leaves, batch)
        found = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
        gradients = dict(zip(leaves, found, strict=True))
        with torch.no_grad():
            apart = self.update >= self.start
            steps = self.update - self.start
            if apart and self.slow and steps == 0:
                self.anchors = {name: x[0].clone() for name, x in self.stacks.items()}
                self.momenta = {name: torch.zeros_like(x[0]) for name, x in self.stacks.items()}
            for name, x in self.stacks.items():
                g = gradients[name]
                x.grad = g if apart else _rows_mean(g).expand_as(x).contiguous()
            self.base.step()
            if apart and (steps + 1) % self.every == 0:
                lr = self.base.param_groups[0]["lr"]
                for name, x in self.stacks.items():
                    y = _rows_mean(x)
                    if self.slow:
                        _slow_step(self.anchors[name], y, self.momenta[name], lr, self.slow_momentum, self.slow_lr)
                    x.copy_(y.expand_as(x))
            self.update += 1
        return losses.detach().mean()

    @torch.no_grad()
    def write_back(self) -> None:
        """Copy the mean of the workers into the model."""
        own = dict(self.model.named_parameters())
        for name, x in self.stacks.items():
            own[name].copy_(_rows_mean(x))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        found = {"update": self.update, "base": self.base.state_dict(), "stacks": self.stacks}
        return found | {"anchors": self.anchors, "momenta": self.momenta}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned. Raises ValueError for other parameters or workers."""
        for name, x in self.stacks.items():
            given = state["stacks"].get(name)
            if given is None or given.shape != x.shape:
                found = None if given is None else tuple(given.shape)
                raise ValueError(f"BatchedLocalSGD: state of {name!r} is {found}; allowed: {tuple(x.shape)}")
            x.copy_(given)
        self.update = int(state["update"])
        self.base.load_state_dict(state["base"])
        self.anchors = {name: x.clone() for name, x in state["anchors"].items()}
        self.momenta = {name: x.clone() for name, x in state["momenta"].items()}


def _check(who: str, workers: int, every: int, start: int, slow_momentum: float, slow_lr: float) -> None:
    for name, value, low in (("workers", workers, 1), ("every", every, 1), ("start", start, 0)):
        if not isinstance(value, int) or value < low:
            raise ValueError(f"{who}: {name} is {value!r}; allowed: an integer of at least {low}")
    check_number(who, "slow_momentum", slow_momentum, high=1.0)
    check_number(who, "slow_lr", slow_lr)


def _slow_step(z: Tensor, y: Tensor, u: Tensor, lr: float, beta: float, alpha: float) -> None:
    """u = beta u + (z - y) / lr; z = z - alpha lr u; y = z, all in place."""
    if lr > 0:
        u.mul_(beta).add_((z - y).div_(lr))
        z.add_(u, alpha=-alpha * lr)
        y.copy_(z)
    else:
        z.copy_(y)


def _rows_mean(x: Tensor) -> Tensor:
    """Mean over the first index, added in the tree of ``Tree``."""
    tree = Tree()
    for row in x.unbind():
        tree.add([row], stable=x.shape[0] > 1)
    mean = tree.mean()[0]
    assert mean is not None
    return mean


def _is_ours(key: str) -> bool:
    return key in (ANCHOR, SLOW) or "worker." in key


def _clone(value: Any, device: torch.device | None = None) -> Any:
    return value.detach().clone().to(device=device) if isinstance(value, Tensor) else value
