"""The update loop of one rule. Everything an update needs is a function of (rule, offset, state)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isoloss import models
from isoloss.data import Source
from isoloss.methods import schedules
from isoloss.methods.extrapolation import Extrapolation
from isoloss.methods.local_sgd import LocalSGD
from isoloss.methods.muon import hidden_matrices
from isoloss.recipe.errors import RunFailed
from isoloss.recipe.references import is_reference, load
from isoloss.recipe.run import LR, Phase, Start
from isoloss.train import numerics as numerics_of
from isoloss.train import optimizers, tasks, wrappers
from isoloss.train.batches import Batches
from isoloss.train.body import Body
from isoloss.train.evaluate import Evaluator
from isoloss.train.parallel.layout import Layout, PairwiseSum, tree_sum
from isoloss.train.parallel.running import RunningStatistics
from isoloss.train.parallel.sharded import ShardedBody, compute_again

FAR_ABOVE_START = 3.0
"""A training loss above this multiple of the run's first one is called divergence."""


class Diverged(Exception):
    """The update that could not be taken, and why."""

    def __init__(self, update: int, reason: str) -> None:
        super().__init__(f"update {update}: {reason}")
        self.update, self.reason = update, reason


@dataclass(frozen=True)
class Row:
    """What one update tells: training loss per term, gradient norm before clipping, learning rate.

    ``micro_squared``: mean squared norm of the gradients of its micro-batches, each a mean over its own terms; with
    the norm above it gives the gradient noise scale (``methods.noise_scale``). None with one micro-batch, NaN where
    a wrapper moved the weights between them.
    """

    loss: float
    gradient_norm: float
    lr: float
    micro_squared: float | None = None


def learning_rate(lr: LR, offset: int) -> float:
    """LR of the update that follows ``offset`` updates of the phase."""
    if lr.shape == "constant":
        return lr.peak
    offset += lr.skip
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
        self.context = int(self.rule.data["context"])
        self.task = tasks.build(self.rule.task["name"])
        self.precision = str(numerics["precision"])
        device = numerics_of.use(numerics)
        model = self.make_model().to(device)
        placing = {
            "everywhere": self.rule.optimizer.get("decay") == "all",
            "factors": self._factors(model),
            "hidden": hidden_matrices(model) if self.rule.optimizer["name"] in optimizers.BY_MATRIX else (),
        }
        compiled, several = bool(numerics["compiled"]), self.rule.micro_batches > 1
        if self.layout.shard > 1:
            optimizers.check_sharded(self.rule.optimizer, self.rule.methods, numerics)
            wrapped = wrappers.of_kind(self.rule.methods, *wrappers.WRAPPERS) is not None
            self.body: Body = ShardedBody(
                model, self.layout, precision=str(numerics["precision"]), compiled=compiled, placing=placing,
                together=wrapped,
            )  # fmt: skip
        else:
            if self.layout.checkpointing:
                compute_again(model)
            self.body = Body(
                model, precision=str(numerics["precision"]), compiled=compiled, several=several, placing=placing
            )
        self.mine = self.layout.share(self.rule.micro_batches, self.body.together)
        self.model, self.parameters = self.body.model, self.body.parameters
        self.weights, self.gradient = self.body.weights, self.body.gradient
        self.optimizer = optimizers.build(
            self.rule.optimizer, self.parameters, self.weights, self.gradient, wrappers.by_tensor(self.rule.methods),
            self.body.squares,
        )  # fmt: skip
        self.wrapper = wrappers.wrap(
            self.optimizer, self.rule.methods, self.model, int(self.rule.seeds["noise"]), self.layout,
            self.rule.micro_batches,
        )  # fmt: skip
        self.running = RunningStatistics(self.model) if several else None
        if self.layout.world > 1 and self.running:
            self.running.check(self.model)
        self._batches = Batches(
            lambda samples: source.batch(int(self.rule.seeds["data"]), samples, self.rule.batch, self.context),
            self.rule.batch,
            device,
        )
        self.update, self.samples = 0, 0
        self.first_loss: float | None = None

    def make_model(self) -> torch.nn.Module:
        """A fresh model of this run in fp32, initialised from its seed."""
        model = models.build(
            self.start.model["spec"],
            vocabulary=self.source.vocabulary,
            context=self.context,
            seed=self.start.seed,
            shape=self.start.model.get("shape"),
        )
        return wrappers.prepared(model, self.rule.methods)

    def evaluator(self) -> Evaluator:
        """What measures weights of this run on the validation parts: a second model, on the run's data."""
        data, batch = int(self.rule.seeds["data"]), self.rule.batch
        return Evaluator(
            *self.body.follower(self.make_model()),
            self.task,
            lambda part, amount: self.source.validation(part, amount, self.context),
            lambda number: self.source.batch(data, number * batch, batch, self.context),
            self.layout,
        )

    def _factors(self, model: torch.nn.Module) -> dict[str, float]:
        """Factors of the learning rate by name under width transfer."""
        rules = models.transfer(
            model,
            self.start.model["spec"],
            vocabulary=self.source.vocabulary,
            context=self.context,
            shape=self.start.model.get("shape"),
        )
        column = optimizers.column(str(self.rule.optimizer["name"])) if rules else ""
        return {name: rule.lr(column) for name, rule in rules.items()}

    def average(self) -> Tensor:
        """The flat weights that a Schedule-Free optimizer is evaluated at; nothing of the training changes."""
        return optimizers.average(self.optimizer, self.weights)

    def buffers(self) -> dict[str, Tensor]:
        """Persistent buffers by name (running statistics and the like)."""
        kept = self.model.state_dict().keys()
        return {name: value for name, value in self.model.named_buffers() if name in kept}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors by name, JSON facts) of everything the next update depends on; tensors may share memory.

        Of sharded weights only the first process gets tensors, and all have to ask.
        """
        found = {f"model/{name}": view for name, view in self.parameters.named(self.weights).items()}
        found |= {f"buffer/{name}": value for name, value in self.buffers().items()}
        remembered, facts = optimizers.state(self.optimizer, self.parameters, self.wrapper is not None)
        found |= {f"optimizer/{name}": value for name, value in remembered.items()}
        meta: dict[str, Any] = {
            "update": self.update,
            "samples": self.samples,
            "first_loss": self.first_loss,
            "optimizer": facts,
        }
        if self.wrapper is not None:
            meta["wrapper"] = self._wrapper_kind
        return self.body.joined(found), meta

    @property
    def _wrapper_kind(self) -> str | None:
        record = wrappers.of_kind(self.rule.methods, *wrappers.WRAPPERS)
        return None if record is None else str(record["kind"])

    def load(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], *, entering: bool, phase: Phase) -> None:
        """Continue from a stored state; ``entering`` means that the phase begins here and its carry applies."""
        tensors = self.body.cut(tensors)
        named = {name[6:]: value for name, value in tensors.items() if name.startswith("model/")}
        if entering and phase.carry.head == "reset":
            fresh = dict(self.parameters.named(self.weights))  # still as initialised
            named |= {name: fresh[name].clone() for name in named if models.in_head(name)}
        self.weights.copy_(self.parameters.gather(named))
        self.body.follow()
        for name, value in self.buffers().items():
            value.copy_(tensors[f"buffer/{name}"])
        self.update, self.samples, self.first_loss = meta["update"], meta["samples"], meta["first_loss"]
        if entering and phase.carry.data == "reset":
            self.samples, self.first_loss = 0, None
        if not (entering and phase.carry.optimizer == "reset"):
            stored = {name[10:]: value for name, value in tensors.items() if name.startswith("optimizer/")}
            # A wrapper's memory ends with it: another one, or none, begins with the base's state alone.
            same = meta.get("wrapper") == self._wrapper_kind
            optimizers.load_state(self.optimizer, self.parameters, stored, meta["optimizer"], self.rule.optimizer, same)

    def begin_with(self, tensors: Mapping[str, Tensor], *, reset_head: bool) -> None:
        """Take over weights and buffers by name, but for the output head where it is to stay as initialised."""
        for name, value in (self.parameters.named(self.weights) | self.buffers()).items():
            if not (reset_head and models.in_head(name)):
                value.copy_(tensors[name])
        self.body.follow()

    def step(self, offset: int) -> Row:
        """Take the update that follows ``offset`` updates of the phase; raise ``Diverged`` instead of a bad one."""
        rule = self.rule
        batch = self._batches(self.samples)
        lr = learning_rate(rule.lr, offset)
        optimizers.set_lr(self.optimizer, lr)
        if self.wrapper is None:
            loss, count, micro = self._gradient(batch)
            self._judge(loss)
            norm = self._limit(count)
            self.optimizer.step()
        else:
            loss, norm = self._wrapped(self.wrapper, batch)
            micro = math.nan if rule.micro_batches > 1 else None
        self.body.follow()
        if self.running:
            self.running.settle(self.layout, self.body.together)
        self.update += 1
        self.samples += rule.batch
        return Row(loss, norm, lr, micro)

    def _judge(self, loss: float) -> None:
        """Raise ``Diverged`` for the mean loss of a batch that is not finite or far above the first one."""
        if self.first_loss is None:
            self.first_loss = loss
        if not math.isfinite(loss):
            raise Diverged(self.update, f"training loss {loss:g}")
        if loss > FAR_ABOVE_START * self.first_loss:
            raise Diverged(self.update, f"training loss {loss:.4g} is far above its start {self.first_loss:.4g}")

    def _limit(self, count: int) -> float:
        """Make the summed gradient the mean one, clipped; its norm before. Raise ``Diverged`` if that is not finite."""
        norm = self.body.norm(self.gradient) / count
        if not math.isfinite(norm):
            raise Diverged(self.update, f"gradient norm {norm:g}")
        clip = self.rule.clip
        shrink = 1.0 if clip is None or norm <= clip else clip / norm
        self.gradient.mul_(shrink / count)
        return norm

    def _wrapped(self, wrapper: Extrapolation | LocalSGD, batch: Any) -> tuple[float, float]:
        """An update of a wrapper, whose workers are the micro-batches: (mean loss, root mean square of the norms).

        Clipping comes before a step of the base, so local SGD clips every worker's own gradient.
        """
        rule = self.rule
        size = rule.batch // rule.micro_batches
        squares: list[float] = []

        def worker(index: int, samples: int) -> Callable[[], float]:
            def closure() -> float:
                self.body.follow()
                part = tasks.part(batch, index * size, index * size + samples)
                loss, count = self._slopes(part, index, self.gradient)
                self.gradient.mul_(1.0 / count)
                return loss.item() / count

            return closure

        def prepare() -> None:
            squares.append(self._limit(1) ** 2)

        share = wrappers.share(rule.methods)
        workers = [worker(index, size) for index in self.mine]
        first = [worker(index, max(1, round(share * size))) for index in self.mine]
        if isinstance(wrapper, Extrapolation):
            loss = float(wrapper.step(workers, first=first, prepare=prepare))
        else:
            loss = float(wrapper.step(workers, prepare=prepare))
        if self.layout.groups > 1:
            loss = self.layout.combine(torch.tensor([loss], dtype=torch.float64)).item() / self.layout.groups
        self.body.squares_seen()
        self._judge(loss)
        return loss, math.sqrt(math.fsum(squares) / len(squares))

    def _slopes(self, part: Any, index: int, into: Tensor) -> tuple[Tensor, int]:
        """Fill ``into`` with the summed gradient of one micro-batch; return its summed loss and number of terms."""
        seed = _noise(int(self.rule.seeds["noise"]), self.update, index)
        torch.default_generator.manual_seed(seed)
        if self.body.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        with self.running.of(index) if self.running else nullcontext():
            # An error at hand would keep alive, by its traceback, what there was no memory for.
            with suppress(torch.OutOfMemoryError):
                return self.body.slopes(lambda model: self.task.loss(model, part), into)
            raise RunFailed(self._too_large(part))

    def _too_large(self, part: Any) -> str:
        """What to say of a micro-batch for which there is no memory, found by trying smaller ones."""
        size = tasks.samples(part)
        if self.layout.shard > 1:  # the others would have to try too, and may not lack memory
            return (
                f"out of memory on {self.body.device} with {size} samples in a micro-batch; allowed: more of "
                "training.micro_batches, which is another key, a larger --shard, or training.parallel.checkpointing"
            )
        fits = size // 2
        while fits and not self._fits(tasks.part(part, 0, fits)):
            fits //= 2
        advice = "not even 1 would fit: a smaller model, or --shard"
        if fits:
            advice = f"{fits} would fit: training.micro_batches {self.rule.batch // fits}, which is another key"
        return f"out of memory on {self.body.device} with {size} samples in a micro-batch; {advice}"

    def _fits(self, part: Any) -> bool:
        try:
            self.body.slopes(lambda model: self.task.loss(model, part), torch.zeros_like(self.gradient))
        except torch.OutOfMemoryError:
            return False
        return True

    def _gradient(self, batch: Any) -> tuple[float, int, float | None]:
        """Fill ``gradient`` with the summed gradient of the batch; its mean loss, terms, and ``Row.micro_squared``."""
        rule = self.rule
        if rule.micro_batches == 1:
            loss, count = self._slopes(batch, 0, self.gradient)
            return loss.item() / count, count, None
        size = rule.batch // rule.micro_batches
        tree = PairwiseSum()
        found = []
        for index in self.mine:
            into = self.gradient if len(self.mine) == 1 else torch.zeros_like(self.gradient)
            found.append(self._slopes(tasks.part(batch, index * size, (index + 1) * size), index, into))
            tree.add(into)
        total = self.layout.combine(tree.total())
        if total.data_ptr() != self.gradient.data_ptr():
            self.gradient.copy_(total)
        rows = [
            (loss.item(), count, squared / count**2)
            for (loss, count), squared in zip(found, self.body.squares_seen(), strict=True)
        ]
        every = self.layout.collect(torch.tensor(rows, dtype=torch.float64))
        summed, terms, squares = tree_sum(list(every.unbind())).tolist()
        return summed / terms, int(terms), squares / rule.micro_batches


def _noise(seed: int, update: int, micro_batch: int) -> int:
    """Seed of all randomness inside one micro-batch: a pure function of where it stands."""
    text = f"noise:{seed}:{update}:{micro_batch}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
