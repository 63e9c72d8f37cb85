"""Optimizers over the flat vector, and their state by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isoloss.methods.lamb import LAMB
from isoloss.methods.lars import LARS
from isoloss.methods.muon import MuonAdamW
from isoloss.methods.schedule_free import ScheduleFree, ScheduleFreeAdamW, ScheduleFreeSGD
from isoloss.recipe import catalogue
from isoloss.recipe.errors import RunFailed, StudyError
from isoloss.recipe.references import is_reference, load
from isoloss.train.flat import FlatLayout
from isoloss.train.parallel.squares import Squares
from isoloss.train.wrappers import by_tensor, own

FUSED: dict[str, Callable[..., torch.optim.Optimizer]] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
AVERAGING: dict[str, Callable[..., ScheduleFree]] = {
    "schedule_free_adamw": ScheduleFreeAdamW,
    "schedule_free_sgd": ScheduleFreeSGD,
}
LAYER_WISE: dict[str, Callable[..., torch.optim.Optimizer]] = {"lamb": LAMB, "lars": LARS}
BY_MATRIX: dict[str, Callable[..., torch.optim.Optimizer]] = {"muon": MuonAdamW}
ELEMENTWISE = (*FUSED, *AVERAGING)
BUILT_IN = (*ELEMENTWISE, *LAYER_WISE, *BY_MATRIX)


def build(
    record: Mapping[str, Any],
    layout: FlatLayout,
    flat: Tensor,
    gradient: Tensor,
    apart: bool = False,
    squares: Squares | None = None,
) -> torch.optim.Optimizer:
    """The optimizer a rule names, stepping on views of ``flat`` with views of ``gradient``.

    Elementwise ones get one tensor a group of the layout unless ``apart``. The others and a user's own
    ``package.module:attribute`` get one tensor a parameter. A group without decay has ``weight_decay`` 0 and no trust
    ratios. The learning rate is set before every step, by ``set_lr``. ``squares`` gives norms of whole
    tensors, of which there may be only parts here.
    """
    name, options = record["name"], dict(record["options"])
    decay = options.pop("weight_decay", 0.0)
    groups: list[dict[str, Any]] = []
    whole = name in ELEMENTWISE and not apart
    for (group, weights, views), (_, gradients, slopes) in zip(
        layout.groups(flat), layout.groups(gradient), strict=True
    ):
        members, their = ([weights], [gradients]) if whole else (views, slopes)
        if name in LAYER_WISE and not apart:
            members, their = [layout.lines(view) for view in views], [layout.lines(view) for view in slopes]
        for member, slope in zip(members, their, strict=True):
            member.grad = slope
            if squares is not None:
                member.whole_squares = squares.of  # type: ignore[attr-defined]
        groups.append({"params": members, "weight_decay": decay / group.factor if group.decays else 0.0})
        if group.factor != 1.0:
            groups[-1]["factor"] = group.factor
        if name in LAYER_WISE:
            # nvlamb decides by the weight decay itself.
            groups[-1]["adapt"] = None if options["variant"] == "nvlamb" else group.decays
        if name in BY_MATRIX:
            groups[-1]["muon"] = group.hidden
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    if name in FUSED:
        return FUSED[name](groups, lr=0.0, fused=True, **options)
    if name in BUILT_IN:
        return (AVERAGING | LAYER_WISE | BY_MATRIX)[name](groups, lr=0.0, **options)
    if not is_reference(name):
        raise StudyError(f"optimizer {name!r} is not {', '.join(BUILT_IN)} or package.module:attribute")
    try:
        made: torch.optim.Optimizer = load(name)(groups, lr=1.0, **options)
    except TypeError as error:
        raise StudyError(f"optimizer {name!r} does not take these options: {error}") from error
    base = torch.optim.Optimizer
    if type(made).state_dict is not base.state_dict or type(made).load_state_dict is not base.load_state_dict:
        raise StudyError(
            f"optimizer {name!r} keeps its state in a state_dict of its own, so a stored run could not go on from it; "
            "allowed: optimizers whose state is in .state and .param_groups"
        )
    return made


def check_sharded(record: Mapping[str, Any], methods: Sequence[Mapping[str, Any]], numerics: Mapping[str, Any]) -> None:
    """Raise ``StudyError`` for what needs whole parameters, which no process has when they are sharded."""
    if numerics["compiled"]:
        raise StudyError(
            "training.compile: with a sharded copy of the weights other graphs are compiled, so other bits come out "
            "under the same key; allowed: --shard 1, or compile: false"
        )
    allowed = (*ELEMENTWISE, *LAYER_WISE)
    if record["name"] not in allowed:
        raise StudyError(
            f"training.optimizer.name: {record['name']} steps on whole matrices, which are sharded here; allowed: "
            f"--shard 1, or one of {', '.join(allowed)}"
        )
    if by_tensor(methods):
        raise StudyError(
            "training.extrapolate.direction: noise is drawn for whole parameters, which are sharded here; allowed: "
            "--shard 1, or another direction"
        )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of every group, with the factor of its width transfer."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)


def average(optimizer: torch.optim.Optimizer, flat: Tensor) -> Tensor:
    """The x of a Schedule-Free optimizer that steps on parts of ``flat``, as a new flat vector."""
    assert isinstance(optimizer, ScheduleFree)
    found = torch.zeros_like(flat)
    members = [member for group in optimizer.param_groups for member in group["params"]]
    for member, x in zip(members, optimizer.average(), strict=True):
        found[member.storage_offset() :][: x.numel()] = x.reshape(-1)
    return found


def column(name: str) -> str:
    """The learning rates that an optimizer takes under width transfer, adam or sgd; raise ``StudyError`` for others."""
    for found in ("adam", "sgd"):
        if name in catalogue.names("optimizer", found):
            return found
    allowed = [*catalogue.names("optimizer", "adam"), *catalogue.names("optimizer", "sgd")]
    raise StudyError(f"model.parametrisation: mup with the optimizer {name!r}; allowed with it: {', '.join(allowed)}")


def state(
    optimizer: torch.optim.Optimizer, layout: FlatLayout, wrapped: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by ``entry/parameter name`` or ``entry/#group``, JSON facts) of everything that is remembered."""
    found: dict[str, Tensor] = {}
    facts: dict[str, Any] = {}
    for index, (member, inside) in enumerate(_walk(optimizer, layout)):
        for entry, value in optimizer.state.get(member, {}).items():
            if isinstance(value, Tensor) and value.shape == member.shape:
                flat = value.reshape(-1)
                for name, place, shape in inside:
                    found[f"{entry}/{name}"] = flat[place].view(shape)
            elif isinstance(value, Tensor):
                found[f"{entry}/#{index}"] = value
            elif value is None or isinstance(value, bool | int | float | str):
                facts[f"{entry}/#{index}"] = value
            else:
                raise RunFailed(f"optimizer state {entry!r} is a {type(value).__name__}: it cannot be stored")
    groups = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in optimizer.param_groups]
    if type(optimizer) not in FUSED.values() or wrapped:
        facts["groups"] = [{k: v for k, v in g.items() if isinstance(v, bool | int | float | str)} for g in groups]
    return found, facts


def load_state(
    optimizer: torch.optim.Optimizer,
    layout: FlatLayout,
    stored: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    record: Mapping[str, Any],
    same_wrapper: bool = True,
) -> None:
    """Restore what ``state`` returned; what the rule's ``record`` says of the groups stays.

    Without ``same_wrapper`` the memory of the wrapper that saved the state is left out.
    """
    if not same_wrapper:
        stored = {key: value for key, value in stored.items() if not own(key)}
        facts = {key: value for key, value in facts.items() if not own(key)}
    for index, (member, inside) in enumerate(_walk(optimizer, layout)):
        remembered: dict[str, Any] = {}
        entries = {key.rpartition("/#")[0] for key in stored if key.endswith(f"/#{index}")}
        where = member.device if record["name"] in FUSED else "cpu"  # of step counters
        remembered.update({entry: stored[f"{entry}/#{index}"].to(where, copy=True) for entry in entries})
        for key in stored:
            entry, _, name = key.partition("/")
            if name == inside[0][0]:
                whole = torch.zeros(member.numel(), dtype=stored[key].dtype, device=member.device)
                for each, place, _ in inside:
                    whole[place] = stored[f"{entry}/{each}"].reshape(-1)
                remembered[entry] = whole.view(member.shape)
        for key, value in facts.items():
            if key.endswith(f"/#{index}"):
                remembered[key.rpartition("/#")[0]] = value
        if remembered:
            optimizer.state[member] = remembered
    said = {"weight_decay", "adapt", "factor", "muon", *record["options"]}
    for group, remembered in zip(optimizer.param_groups, facts.get("groups", []), strict=False):
        kept = {key: value for key, value in remembered.items() if key not in said}
        group.update({key: value for key, value in kept.items() if same_wrapper or not own(key)})


def _walk(
    optimizer: torch.optim.Optimizer, layout: FlatLayout
) -> Iterator[tuple[Tensor, list[tuple[str, slice, tuple[int, ...]]]]]:
    """Every tensor the optimizer steps on, and the parameters in it: name, place in it, shape."""
    for group in optimizer.param_groups:
        for member in group["params"]:
            found = []
            for i in layout.inside(member):
                begin = layout.places[i] - member.storage_offset()
                found.append((layout.names[i], slice(begin, begin + layout.sizes[i]), layout.shapes[i]))
            yield member, found
