"""A cooldown from a checkpoint of somebody's own loop, through a small adapter that its owner writes.

An adapter is a class or function that is called without arguments and gives an object with

    build() -> (model, optimizer)        as the training made them, before anything was loaded
    batches(update) -> iterable          the batches of update, update + 1, ...; updates count from 0
    loss(model, batch) -> Tensor         what is minimised, a scalar

and, where wanted,

    step(model, optimizer, batch) -> float   a whole update in place of zero_grad, backward, clip and step
    clip: float                          largest gradient norm
    schedule: mapping                    past of the learning rate, options of methods.lr_scheduler; default: constant
    validation() -> iterable             batches of which the mean loss is measured before and after
    names: mapping                       where the parts of the checkpoint are (execute.checkpoints)
    update: int                          updates behind it, where the checkpoint does not say
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.execute.checkpoints import Checkpoint
from isoloss.execute.cooldown import Cooldown, Cooled
from isoloss.methods.lr_scheduler import IsolossLR
from isoloss.plan.phases import form_of
from isoloss.plan.summary import importable
from isoloss.recipe.errors import RunFailed, StudyError, nearest
from isoloss.recipe.references import is_reference, load

NEEDED = ("build", "batches", "loss")
PREFIXES = ("module.", "_orig_mod.")
"""What data-parallel and compiled modules put before every name."""
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")
"""Optimizer state that has the shape of its parameter."""


@dataclass(frozen=True)
class Outside(Cooled):
    """A cooldown that was written beside its checkpoint. ``validation``: mean loss before and after, if measured."""

    path: str
    record: str
    fork: int
    length: int
    cooldown: dict[str, Any]
    lr: list[float]
    """Learning rates of the parameter groups where the cooldown begins."""
    losses: list[float] = field(repr=False)
    """Training loss of every update of the cooldown."""
    validation: dict[str, float] | None
    seconds: float
    first_update: float | None

    def text(self) -> str:
        """A few lines for a person."""
        seen = self.validation
        judged = f"; validation {seen['before']:.4f} before, {seen['after']:.4f} after" if seen else ""
        return (
            f"{self.head}\n"
            f"training loss {self.losses[0]:.4f} first, {self.losses[-1]:.4f} last{judged}; {self.seconds:.1f} s\n"
            f"{self.path}"
        )


def branch_outside(
    checkpoint: str | Path,
    adapter: str | Callable[[], Any],
    cooldown: Cooldown,
    *,
    at: int | None = None,
    out: str | Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Outside:
    """Cool a checkpoint down and write the result beside it (or to ``out``) in the same format.

    ``adapter``: ``package.module:attribute``, or the class or function itself (see above). ``at``: the update of a
    checkpoint that does not say it, or a check of the one it says. Randomness (dropout) is seeded with that update.

    Raises ``StudyError`` for all that does not fit together, before anything is trained; ``RunFailed`` for a loss that
    is not finite.
    """
    begun = time.perf_counter()
    path = Path(checkpoint)
    with importable(path.resolve().parent), torch.random.fork_rng(devices=[]):
        mine = _made(adapter)
        saved = Checkpoint(path, getattr(mine, "names", None))
        fork = _fork(mine, saved, at)
        length = cooldown.updates(fork)
        target = _target(path, out, f"{cooldown.shape.rpartition(':')[2]}-{length}")
        model, optimizer = _built(mine)
        prefix = _load_model(model, saved.model, path)
        _load_optimizer(optimizer, saved.optimizer, model, path)
        scheduler = _scheduler(optimizer, mine, saved.scheduler, fork, length, cooldown)
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        if not any(rate > 0 for rate in rates):
            raise StudyError(f"{path}: its learning rate is 0, so nothing is left to cool down")
        torch.manual_seed(fork)
        before = _validation(mine, model)
        losses: list[float] = []
        first: float | None = None
        model.train()
        batches = iter(_theirs("batches()", mine.batches, fork))
        for update in range(fork, fork + length):
            batch = _theirs("batches()", next, batches, None)
            if batch is None:
                raise StudyError(
                    f"adapter: batches({fork}) ended after {update - fork}; needed: {length}, one an update"
                )
            losses.append(_update(mine, model, optimizer, batch))
            if first is None:
                first = time.perf_counter() - begun
            if not math.isfinite(losses[-1]):
                raise RunFailed(f"the cooldown diverged: its loss at update {update} is {losses[-1]:g}")
            scheduler.step()
            if progress:
                progress(update + 1, fork + length, losses[-1])
        after = _validation(mine, model)
    state = {prefix + name: value for name, value in model.state_dict().items()}
    kept = None if saved.optimizer is None else optimizer.state_dict()
    saved.write(target, state, kept, scheduler.state_dict(), fork + length)
    record = target.with_name(f"{target.name}.json")
    result = Outside(
        str(target), str(record), fork, length, dict(cooldown.mapping), rates, losses,
        None if before is None or after is None else {"before": before, "after": after},
        time.perf_counter() - begun, first,
    )  # fmt: skip
    record.write_text(json.dumps({"checkpoint": str(path), **result.to_dict()}, indent=2, allow_nan=False) + "\n")
    return result


def _made(adapter: str | Callable[[], Any]) -> Any:
    """The adapter's object, with all that is needed."""
    if isinstance(adapter, str) and not is_reference(adapter):
        raise StudyError(f"--adapter: found {adapter!r}; allowed: package.module:attribute")
    target = load(adapter) if isinstance(adapter, str) else adapter
    if not callable(target):
        raise StudyError(f"--adapter: {adapter} is a {type(target).__name__}; allowed: a class or function")
    found = _theirs("it", target)
    lacking = [name for name in NEEDED if not callable(getattr(found, name, None))]
    if lacking:
        has = [name for name in dir(found) if not name.startswith("_")]
        hint = nearest(lacking[0], has)
        raise StudyError(f"--adapter: {adapter} lacks {', '.join(lacking)}; it has {', '.join(has) or 'nothing'}{hint}")
    return found


def _theirs(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call the user's code; what it raises becomes one message."""
    try:
        return call(*arguments)
    except Exception as error:
        raise StudyError(f"--adapter: {what} raised {type(error).__name__}: {error}") from error


def _fork(mine: Any, saved: Checkpoint, at: int | None) -> int:
    known = getattr(mine, "update", None)
    found = saved.update if known is None else int(known)
    if found is None:
        found = at
    if found is None:
        raise StudyError(
            f"{saved.path}: it does not say how many updates it has behind it; allowed: update (or step) in it, names "
            "= {'update': ...} or update = N in the adapter, or --at N"
        )
    if at is not None and at != found:
        raise StudyError(f"--at: found {at}; allowed: {found}, the update of this checkpoint, or another checkpoint")
    if found < 1:
        raise StudyError(f"{saved.path}: its update is {found}; allowed: 1 or more")
    return found


def _target(path: Path, out: str | Path | None, suffix: str) -> Path:
    """Where the result goes."""
    plain = path.resolve()
    named = f"{plain.name}-{suffix}" if plain.is_dir() else f"{plain.stem}-{suffix}{plain.suffix}"
    target = Path(out) if out is not None else plain.with_name(named)
    if target.exists():
        raise StudyError(f"--out: {target} exists already; allowed: a new name")
    if not target.parent.is_dir():
        raise StudyError(f"--out: there is no folder {target.parent}")
    if not plain.is_dir() and target.suffix != plain.suffix:
        raise StudyError(f"--out: found {target.name}; allowed: a name that ends in {plain.suffix}, as the checkpoint")
    return target


def _built(mine: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    made = _theirs("build()", mine.build)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)
            and isinstance(made[1], torch.optim.Optimizer)):  # fmt: skip
        raise StudyError("--adapter: build() returned no (model, optimizer) pair of torch")
    return made


def _load_model(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> str:
    """Load the weights, all of them; returns the prefix that their names carry in the checkpoint."""
    own = model.state_dict()
    prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in tensors) and not set(tensors) & set(own)), "")
    given = {name.removeprefix(prefix): value for name, value in tensors.items()}
    shared = {own[name].data_ptr() for name in given if name in own}
    missing = [name for name in own if name not in given and own[name].data_ptr() not in shared]
    if missing:
        raise StudyError(f"{path}: the model needs {_some(missing)}, missing there{nearest(missing[0], given)}")
    unknown = [name for name in given if name not in own]
    if unknown:
        raise StudyError(f"{path}: it has {_some(unknown)}, which the model has not{nearest(unknown[0], own)}")
    for name, value in given.items():
        if value.shape != own[name].shape:
            raise StudyError(
                f"{path}: {name!r} has shape {tuple(value.shape)}; allowed: {tuple(own[name].shape)}, as in the model"
            )
    model.load_state_dict(given, strict=False)
    return prefix


def _load_optimizer(
    optimizer: torch.optim.Optimizer, saved: dict[str, Any] | None, model: nn.Module, path: Path
) -> None:
    """Load the optimizer's state, all of it."""
    if saved is None:
        return
    names = {id(p): name for name, p in model.named_parameters()}
    own = optimizer.state_dict()
    saved = {"param_groups": own["param_groups"], **saved}
    sizes = [[len(group["params"]) for group in each["param_groups"]] for each in (saved, own)]
    if sizes[0] != sizes[1]:
        raise StudyError(
            f"{path}: its optimizer has groups of {sizes[0]} parameters; allowed: {sizes[1]}, as build() makes"
        )
    members = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    entries = {name for remembered in saved["state"].values() for name in remembered}
    for number, parameter in zip(numbers, members, strict=True):
        name = names.get(id(parameter), f"parameter {number}")
        remembered = saved["state"].get(number, {})
        lacking = [entry for entry in sorted(entries) if entry not in remembered]
        if lacking and parameter.requires_grad:
            raise StudyError(f"{path}: its optimizer has no {', '.join(lacking)} for {name!r}")
        for entry, value in remembered.items():
            if entry in MOMENTS and isinstance(value, Tensor) and value.shape != parameter.shape:
                raise StudyError(
                    f"{path}: {entry} of {name!r} has shape {tuple(value.shape)}; allowed: {tuple(parameter.shape)}"
                )
    # A deep copy: the loaded state keeps float32 tensors of the checkpoint, which are still to be compared and written.
    optimizer.load_state_dict(copy.deepcopy(saved))


def _scheduler(
    optimizer: torch.optim.Optimizer, mine: Any, saved: Any, fork: int, length: int, cooldown: Cooldown
) -> IsolossLR:
    """The past as it was and the cooldown behind it, standing at the update of the checkpoint."""
    past: Mapping[str, Any] = getattr(mine, "schedule", None) or {}
    own = isinstance(saved, Mapping) and {"update", "base_lrs", "past", "schedules"} <= set(saved)
    # Without a known past, the rate of the checkpoint is the one to start from.
    name = "initial_lr" if past or own else "lr"
    bases = [float(group.get(name, group["lr"])) for group in optimizer.param_groups]
    shape: Any = load(cooldown.shape) if is_reference(cooldown.shape) else form_of(cooldown.mapping)
    schedule = {**past, "total": fork + length, "cooldown": (shape, length, cooldown.mapping["final"])}
    try:
        scheduler = IsolossLR(optimizer, schedule, base_lr=bases)
        state = dict(saved) if own else {**scheduler.state_dict(), "update": fork, "past": [[] for _ in bases]}
        scheduler.load_state_dict(state)
    except ValueError as error:
        raise StudyError(f"--adapter: its schedule must be the past of the checkpoint: {error}") from error
    if scheduler.update != fork:
        raise StudyError(f"the checkpoint's scheduler stands at update {scheduler.update}, the checkpoint at {fork}")
    return scheduler


def _update(mine: Any, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> float:
    """One update of the user's training; its loss."""
    if hasattr(mine, "step"):
        return float(_theirs("step()", mine.step, model, optimizer, batch))
    optimizer.zero_grad(set_to_none=True)
    loss: Tensor = _theirs("loss()", mine.loss, model, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    if getattr(mine, "clip", None) is not None:
        nn.utils.clip_grad_norm_(model.parameters(), float(mine.clip))
    optimizer.step()
    return float(loss.detach())


def _validation(mine: Any, model: nn.Module) -> float | None:
    """Mean loss over the user's validation batches; None where there are none."""
    if not hasattr(mine, "validation"):
        return None
    training = model.training
    model.eval()
    with torch.no_grad():
        values = [float(_theirs("loss()", mine.loss, model, b)) for b in _theirs("validation()", mine.validation)]
    model.train(training)
    if not values:
        raise StudyError("--adapter: validation() gave no batches")
    return math.fsum(values) / len(values)


def _some(names: Iterable[str]) -> str:
    """A few of many names."""
    listed = list(names)
    return ", ".join(repr(name) for name in listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
