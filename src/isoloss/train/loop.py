"""The update loop of one rule. Everything an update needs is a function of (rule, offset, state)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isoloss import models
from isoloss.data import Source
from isoloss.methods import schedules
from isoloss.methods.gradient_norm import global_norm
from isoloss.recipe.errors import StudyError
from isoloss.recipe.references import is_reference, load
from isoloss.recipe.run import LR, Phase, Start
from isoloss.train import optimizers, tasks
from isoloss.train.flat import FlatLayout
from isoloss.train.layout import Layout, PairwiseSum

FAR_ABOVE_START = 3.0
"""A training loss above this multiple of the run's first one is called divergence."""


class Diverged(Exception):
    """The update that could not be taken, and why."""

    def __init__(self, update: int, reason: str) -> None:
        super().__init__(f"update {update}: {reason}")
        self.update, self.reason = update, reason


@dataclass(frozen=True)
class Row:
    """What one update tells: training loss per term, gradient norm before clipping, learning rate."""

    loss: float
    gradient_norm: float
    lr: float


def learning_rate(lr: LR, offset: int) -> float:
    """LR of the update that follows ``offset`` updates of the phase."""
    if lr.shape == "constant":
        return lr.peak
    if lr.shape == "warmup":
        assert lr.length is not None
        return lr.peak * schedules.warmup(offset, lr.length)
    if lr.shape == "inverse_sqrt":
        assert lr.offset is not None
        return lr.peak * schedules.inverse_sqrt(lr.offset + offset, lr.offset)
    assert lr.length is not None
    shape: str | schedules.Form = lr.shape
    if is_reference(lr.shape):
        shape = load(lr.shape)
    return lr.peak * schedules.decay(offset, lr.length, shape=shape, final=(lr.final or 0.0) / lr.peak)


class Trainer:
    """Holds what is trained and takes updates under one phase's rule."""

    def __init__(
        self, start: Start, phase: Phase, source: Source, numerics: Mapping[str, Any], layout: Layout | None = None
    ) -> None:
        self.rule, self.source, self.start = phase.rule, source, start
        self.layout = layout or Layout()
        self.mine = self.layout.share(self.rule.micro_batches)
        self.context = int(self.rule.data["context"])
        self.task = tasks.build(self.rule.task["name"])
        self.precision = str(numerics["precision"])
        self.model = self.make_model()
        self.parameters = FlatLayout(self.model, everywhere=self.rule.optimizer.get("decay") == "all")
        self.weights = torch.empty(self.parameters.total)
        self.gradient = torch.zeros(self.parameters.total)
        for name, value in self.model.named_parameters():
            if name in self.parameters.names:
                self.parameters.named(self.weights)[name].copy_(value.detach())
        self.low: Tensor | None = None
        if self.precision == "bf16-master":
            self.model.to(torch.bfloat16)
            self.low = self.weights.to(torch.bfloat16)
        self.leaves = self.parameters.adopt(self.model, self.weights if self.low is None else self.low)
        self.optimizer = optimizers.build(self.rule.optimizer, self.parameters, self.weights, self.gradient)
        self.forward = torch.compile(self.model) if numerics["compiled"] else self.model
        self.model.train()
        if self.layout.world > 1 and self.buffers():
            raise StudyError(
                f"the model has running statistics ({', '.join(list(self.buffers())[:3])}), which processes that share "
                "micro-batches would see in parts; allowed: --processes 1"
            )
        self.update, self.samples = 0, 0
        self.first_loss: float | None = None

    def make_model(self) -> torch.nn.Module:
        """A fresh model of this run in fp32, initialised from its seed."""
        return models.build(
            self.start.model["spec"],
            vocabulary=self.source.vocabulary,
            context=self.context,
            seed=self.start.seed,
            shape=self.start.model.get("shape"),
        )

    def buffers(self) -> dict[str, Tensor]:
        """Persistent buffers by name (running statistics and the like)."""
        kept = self.model.state_dict().keys()
        return {name: value for name, value in self.model.named_buffers() if name in kept}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors by name, JSON facts) of everything the next update depends on; tensors share memory."""
        found = {f"model/{name}": view for name, view in self.parameters.named(self.weights).items()}
        found |= {f"buffer/{name}": value for name, value in self.buffers().items()}
        remembered, facts = optimizers.state(self.optimizer, self.parameters)
        found |= {f"optimizer/{name}": value for name, value in remembered.items()}
        meta = {"update": self.update, "samples": self.samples, "first_loss": self.first_loss, "optimizer": facts}
        return found, meta

    def load(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, entering: bool, phase: Phase) -> None:
        """Continue from a stored state; ``entering`` means that the phase begins here and its carry applies."""
        named = {name[6:]: value for name, value in tensors.items() if name.startswith("model/")}
        self.weights.copy_(self.parameters.gather(named))
        if self.low is not None:
            self.low.copy_(self.weights)
        for name, value in self.buffers().items():
            value.copy_(tensors[f"buffer/{name}"])
        self.update, self.samples, self.first_loss = meta["update"], meta["samples"], meta["first_loss"]
        if entering and phase.carry.data == "reset":
            self.samples = 0
        if not (entering and phase.carry.optimizer == "reset"):
            stored = {name[10:]: value for name, value in tensors.items() if name.startswith("optimizer/")}
            optimizers.load_state(self.optimizer, self.parameters, stored, meta["optimizer"])

    def step(self, offset: int) -> Row:
        """Take the update that follows ``offset`` updates of the phase; raise ``Diverged`` instead of a bad one."""
        rule = self.rule
        batch = tasks.tensors(self.source.batch(int(rule.seeds["data"]), self.samples, rule.batch, self.context))
        loss, count = self._gradient(batch)
        lr = learning_rate(rule.lr, offset)
        norm = global_norm([self.gradient]) / count
        if self.first_loss is None:
            self.first_loss = loss
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(self.update, f"training loss {loss:g}, gradient norm {norm:g}")
        if loss > FAR_ABOVE_START * self.first_loss:
            raise Diverged(self.update, f"training loss {loss:.4g} is far above its start {self.first_loss:.4g}")
        shrink = 1.0 if rule.clip is None or norm <= rule.clip else rule.clip / norm
        self.gradient.mul_(shrink / count)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        if self.low is not None:
            self.low.copy_(self.weights)
        self.update += 1
        self.samples += rule.batch
        return Row(loss, norm, lr)

    def _gradient(self, batch: Any) -> tuple[float, int]:
        """Fill ``gradient`` with the summed gradient of the batch; return its mean loss and number of terms."""
        rule = self.rule
        size = rule.batch // rule.micro_batches
        tree, losses = PairwiseSum(), PairwiseSum()
        alone = rule.micro_batches == 1
        for index in self.mine:
            torch.default_generator.manual_seed(_noise(int(rule.seeds["noise"]), self.update, index))
            part = batch if alone else tasks.part(batch, index * size, (index + 1) * size)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16-autocast"):
                total, count = self.task.loss(self.forward, part)
            slopes = torch.autograd.grad(total, self.leaves, allow_unused=True, materialize_grads=True)
            into = self.gradient if alone else torch.empty_like(self.gradient)
            torch._foreach_copy_(self.parameters.views(into), list(slopes))
            if not alone:
                tree.add(into)
            losses.add(torch.tensor([total.item(), count], dtype=torch.float64))
        if not alone:
            self.gradient.copy_(self.layout.combine(tree.total()))
        summed, terms = self.layout.combine(losses.total()).tolist()
        return summed / terms, int(terms)


def _noise(seed: int, update: int, micro_batch: int) -> int:
    """Seed of all randomness inside one micro-batch: a pure function of where it stands."""
    text = f"noise:{seed}:{update}:{micro_batch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
