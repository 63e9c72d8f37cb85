"""How much memory one process needs to train under a rule: a sum of what is held at the worst moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from isoloss import models
from isoloss.plan.lower import Lowered, open_source
from isoloss.recipe.measure import Measure
from isoloss.recipe.run import Rule, Run
from isoloss.train import observers, tasks
from isoloss.train.evaluate import CHUNK

PROGRAM = 640 * 2**20
"""Bytes of a process with Python, torch and its libraries before it trains."""
WORD = 4
"""Bytes of an fp32 number."""
LARGEST = 3
"""How many results of the size of the largest one (logits, mostly) are held where the loss is computed."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process by what they are for."""

    program: int
    state: int
    """Weights, their copy in bf16, optimizer's moments, averages."""
    gradients: int
    activations: int
    """Kept for the backward pass of one micro-batch, and what that pass itself holds of the largest."""
    evaluation: int
    """A second model, and the largest activations of one part of a validation set."""
    saving: int
    """The copy of the state that is read at the beginning and written at the end of a piece."""

    @property
    def total(self) -> int:
        """Bytes at the worst moment; activations of training and of evaluation are never held together."""
        return self.program + self.state + self.gradients + self.saving + max(self.activations, self.evaluation)


def memory(
    run: Run,
    track: int,
    data: Mapping[str, Any],
    total: int,
    measures: tuple[Measure, ...] = (),
    processes: int = 1,
) -> Memory:
    """Bytes that one of ``processes`` needs for a track of ``run``, a model of ``total`` parameters."""
    rule = run.phases[track].rule
    low = WORD // 2 * total if run.numerics["precision"] == "bf16-master" else 0
    kept = WORD * total * (1 + moments(rule))
    averages = sum(averaged(m) for m in {m.observer.id: m for m in measures if m.observer}.values()) * total
    # The flat gradient, those that autograd returns before they are copied there, and the levels of the pairwise sum.
    held = 2 + (max(1, rule.micro_batches // processes).bit_length() if rule.micro_batches > 1 else 0)
    kept_activations, largest = _activations(run, track, data)
    judged = LARGEST * largest * CHUNK * rule.micro_batches // rule.batch
    return Memory(
        program=PROGRAM,
        state=kept + low + averages,
        gradients=WORD * total * held,
        activations=kept_activations + (LARGEST - 1) * largest,
        evaluation=WORD * total + judged if measures else 0,
        saving=kept + averages,
    )


def moments(rule: Rule) -> int:
    """Vectors of the weights' size that the optimizer remembers; two for those of a user's own."""
    name, options = rule.optimizer["name"], rule.optimizer["options"]
    if name in ("sgd", "lars"):
        return 1 if options.get("momentum") else 0
    return 1 if name == "schedule_free_sgd" else 2


def averaged(measure: Measure) -> int:
    """Bytes a parameter that the memory of an average takes; sums are in float64."""
    observer = measure.observer
    if observer is None or observer.kind not in ("window", "lawa", "ema"):
        return 0
    made = observers.build(observer)
    if observer.kind == "lawa":
        return WORD * int(observer.options["count"])
    if observer.kind == "window":
        return 2 * WORD * (1 + int(made.length) // int(made.block))  # type: ignore[attr-defined]
    return 2 * WORD


def activations(lowered: Lowered) -> int:
    """Bytes that the forward pass of one micro-batch keeps for the backward pass; nothing is computed.

    0 for a model or task that cannot be traced without data.
    """
    return _activations(lowered.run, len(lowered.run.phases) - 1, lowered.data)[0]


def _activations(run: Run, track: int, data: Mapping[str, Any]) -> tuple[int, int]:
    """(bytes kept for the backward pass of a micro-batch, bytes of the largest of them)."""
    rule, start = run.phases[track].rule, run.start.model
    size = rule.batch // rule.micro_batches
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    source = open_source(data)
    batch = source.batch(int(rule.seeds["data"]), 0, size, int(rule.data["context"]))
    try:
        # A plan may be of models that no machine here could hold.
        with torch.device("meta"), _Weightless():
            model = models.build(
                start["spec"],
                vocabulary=start["vocabulary"],
                context=start["context"],
                seed=0,
                shape=start.get("shape"),
            )
        model = model.to("meta")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            tasks.build(rule.task["name"]).loss(model, _on_meta(tasks.tensors(batch)))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return 0, 0
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    mine = [nbytes for storage, nbytes in kept.items() if storage not in own]
    return sum(mine), max(mine, default=0)


class _Weightless(TorchFunctionMode):
    """Keeps ``skip_init`` from giving tensors without content a place in memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty_like:
            options["device"] = "meta"
        return func(*args, **options)


def _on_meta(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch.to("meta")
    return tuple(_on_meta(part) for part in batch)
