"""Methods that a rule switches on: Ghost BatchNorm in the model, and wrappers that drive the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.methods import ghost_batchnorm
from isoloss.methods.extrapolation import FRESH, Extrapolation, asam, gradient_norm_penalty, sam
from isoloss.methods.local_sgd import LocalSGD
from isoloss.recipe.errors import StudyError
from isoloss.train.parallel.layout import Layout

Methods = Sequence[Mapping[str, Any]]
WRAPPERS = ("extrapolate", "sharpness", "local_sgd")
_PRESETS: dict[str, Callable[..., Extrapolation]] = {
    "sam": sam,
    "asam": asam,
    "gradient_norm_penalty": gradient_norm_penalty,
}
_OWN = ("past_gradient.", "worker.", "local_anchor", "slow_momentum", Extrapolation.count, LocalSGD.count)


def of_kind(methods: Methods, *kinds: str) -> Mapping[str, Any] | None:
    """The record of one of these kinds among a rule's methods."""
    return next((record for record in methods if record["kind"] in kinds), None)


def passes(methods: Methods) -> float:
    """Gradient evaluations that an update costs, in batches, on average."""
    record = of_kind(methods, "extrapolate", "sharpness")
    if record is None or record["options"].get("direction") not in FRESH:
        return 1.0
    return 1.0 + record["options"].get("share", 1.0) / record["options"]["interval"]


def share(methods: Methods) -> float:
    """Part of a worker's samples that the first gradient is taken on."""
    record = of_kind(methods, "extrapolate")
    return 1.0 if record is None else float(record["options"].get("share", 1.0))


def prepared(model: nn.Module, methods: Methods) -> nn.Module:
    """The model with Ghost BatchNorm where the rule asks for it; raise ``StudyError`` where it has no BatchNorm."""
    record = of_kind(methods, "ghost")
    if record is None:
        return model
    options = record["options"]
    try:
        return ghost_batchnorm.convert(model, options["size"], running=options["running"], grouping=options["grouping"])
    except ValueError as error:
        raise StudyError(f"training.ghost_size: {error}") from error


def by_tensor(methods: Methods) -> bool:
    """Whether a wrapper needs one tensor a parameter: noise is drawn by parameter and scaled by filter."""
    record = of_kind(methods, "extrapolate")
    return record is not None and record["options"]["direction"] == "noise"


def wrap(
    base: torch.optim.Optimizer, methods: Methods, model: nn.Module, seed: int, layout: Layout, micro_batches: int
) -> Extrapolation | LocalSGD | None:
    """The wrapper of a rule around ``base``, None where it has none; micro-batches are its workers.

    Raises ``StudyError`` where processes share micro-batches whose memory one state could not hold.
    """
    record = of_kind(methods, *WRAPPERS)
    if record is None:
        return None
    options = dict(record["options"])
    shared: dict[str, Any] = {}
    if layout.groups > 1:
        if record["kind"] == "local_sgd" or options.get("direction") == "past":
            raise StudyError(
                f"training.{record['kind']}: every micro-batch has a memory of its own here; allowed: "
                "--processes 1, or processes that shard one copy of the weights"
            )
        shared = {"reduce": lambda sums: _reduce(sums, layout), "processes": layout.groups, "rank": layout.group}
    if record["kind"] == "local_sgd":
        return LocalSGD(base, micro_batches, **options)
    if record["kind"] == "sharpness":
        return _PRESETS[options.pop("method")](base, model=model, **options, **shared)
    return Extrapolation(base, seed=seed, model=model, **options, **shared)


def own(entry: str) -> bool:
    """Whether an entry of an optimizer's state or of its groups belongs to a wrapper."""
    return entry.startswith(_OWN) or ".worker." in entry


def _reduce(sums: list[Tensor], layout: Layout) -> None:
    for each in sums:
        each.copy_(layout.combine(each))
