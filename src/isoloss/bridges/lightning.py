"""Callbacks for ``lightning.pytorch.Trainer``: a cooldown at its end, branches on its way, observers.

``Cooldown`` lets the learning rate of the training itself fall. ``Branches`` leaves checkpoints and cools each down in
a second trainer. ``Observers`` watches distance, averages and noise and says where the loss is going. The last two
change no bit of the training. All want automatic optimization with one optimizer.
"""

from __future__ import annotations

import copy
import gc
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.bridges import branching, schedulers
from isoloss.bridges.branching import Branch, Branching
from isoloss.bridges.watching import LEVEL, Forecast, Watch, preserved_randomness
from isoloss.execute.cooldown import Cooldown as Wanted
from isoloss.methods.averages import Average
from isoloss.methods.lr_scheduler import IsolossLR
from isoloss.recipe.errors import StudyError
from isoloss.worth.anytime import Prediction

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise StudyError(f"lightning is not here ({error}); pip install 'isoloss[lightning]'") from error

__all__ = ["Branches", "Cooldown", "Observers", "scheduled"]

Made = tuple[Trainer, LightningModule, Mapping[str, Any]]


def scheduled(optimizer: torch.optim.Optimizer, schedule: Mapping[str, Any] | Callable[[int], float]) -> dict[str, Any]:
    """What ``configure_optimizers`` returns for an isoloss schedule: ``IsolossLR``, stepped after every update."""
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": IsolossLR(optimizer, schedule), "interval": "step", "frequency": 1},
    }


class Cooldown(Callback):
    """The learning rate falls over the last updates of a training, or from update ``at`` on, after which it ends.

    ``shape``, ``length`` or ``fraction`` (default: the last fifth), ``final``, ``exponent``: as ``isoloss.branch`` has
    them. The module's own scheduler, if any, must be constant there. ``result`` is what it reached, with the loss
    called ``monitor`` of a validation at its end. A resume needs no state.

    Raises ``StudyError`` when training begins and it does not fit.
    """

    def __init__(
        self,
        shape: str = "one_minus_sqrt",
        *,
        at: int | None = None,
        length: int | None = None,
        fraction: float | None = None,
        final: float | None = None,
        exponent: float | None = None,
        monitor: str = "val_loss",
    ) -> None:
        self.at, self.wanted, self.monitor = at, Wanted(shape, fraction, length, final, exponent), monitor
        self.begin = self.end = 0
        self.result: Branch | None = None
        self._apply: Callable[[int], None] = lambda update: None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        optimizer, scheduler = _optimization(trainer)
        self.begin, wanted = branching.placed(self.wanted, self.at, _total(trainer))
        self.end = self.begin + (wanted.length or 0)
        self.result = Branch(self.begin, self.end - self.begin, dict(wanted.mapping), trainer.default_root_dir)
        self._apply = schedulers.cool_down(optimizer, scheduler, self.begin, wanted, trainer.global_step)
        self._apply(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._apply(trainer.global_step)
        if trainer.global_step >= self.end:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.result and trainer.global_step == self.end and not trainer.sanity_checking:
            metrics = _numbers(trainer.callback_metrics)
            self.result = Branch(
                self.begin, self.result.length, self.result.cooldown, self.result.checkpoint,
                loss=metrics.get(self.monitor), metrics=metrics,
            )  # fmt: skip


class Branches(Callback):
    """Checkpoints after updates ``at``, each cooled down by itself and validated, beside the training.

    ``make(**options) -> (trainer, module, arguments of fit)``: a new module with the training's data in a new
    ``Trainer(..., **options)``; it resumes from the checkpoint. Without it, only checkpoints are left. ``when``:
    ``end`` of the training, or ``now``, which needs memory for a second one. ``monitor``: the loss among what the
    module logs. The other options are those of ``Cooldown``. ``results``: what was reached, kept with the checkpoints
    in ``folder`` (default: ``branches`` in the trainer's ``default_root_dir``).

    Lightning itself skips no data when it resumes in the middle of an epoch: leave branches at ends of epochs, or use a
    data loader with a state.

    Raises ``StudyError`` when training begins and a branch could not be cooled down; a branch that fails later is a
    record and a warning.
    """

    def __init__(
        self,
        at: Iterable[int],
        make: Callable[..., Made] | None = None,
        *,
        when: str = "end",
        monitor: str = "val_loss",
        folder: str | Path | None = None,
        shape: str = "one_minus_sqrt",
        length: int | None = None,
        fraction: float | None = None,
        final: float | None = None,
        exponent: float | None = None,
    ) -> None:
        self.branching = Branching(at, Wanted(shape, fraction, length, final, exponent), make, when)
        self.monitor, self._folder = monitor, folder
        self._seen = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Last, so that a checkpoint has the state that the others have after the update; a new list, for this is called
        # from within the old one.
        listed: Any = trainer
        listed.callbacks = [each for each in listed.callbacks if each is not self] + [self]

    @property
    def results(self) -> list[Branch]:
        """Branches so far, by where they left."""
        return [branch for _, branch in sorted(self.branching.branches.items())]

    @property
    def anytime(self) -> Prediction | None:
        """What a cooldown from any update would reach, from three branches and five validations on."""
        return self.branching.anytime

    def state_dict(self) -> dict[str, Any]:
        return self.branching.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.branching.load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _, scheduler = _optimization(trainer)
        mine, self._seen = self.branching, trainer.global_step
        mine.check(_total(trainer), trainer.global_step, lambda update: self._place(trainer, update).is_file())
        for update in mine.at:
            schedulers.check_constant(scheduler, update, mine.cooldown.updates(update))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        update = trainer.global_step
        if update == self._seen:
            return
        self._seen = update
        if update not in self.branching.at:
            return
        trainer.save_checkpoint(self._place(trainer, update))
        if self.branching.when == "now":
            self._cool(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            loss = _numbers(trainer.callback_metrics).get(self.monitor)
            self.branching.evaluated(trainer.global_step, loss)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._cool(trainer, pl_module)

    def _place(self, trainer: Trainer, update: int) -> Path:
        """The checkpoint of an update."""
        return self._root(trainer) / f"update-{update}.ckpt"

    def _root(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "branches" if self._folder is None else Path(self._folder)

    def _cool(self, trainer: Trainer, module: LightningModule) -> None:
        for fork in self.branching.pending(trainer.global_step):
            place = self._place(trainer, fork)
            with preserved_randomness(fork), torch.enable_grad():
                self.branching.run(fork, place, lambda total: self._cooled(fork, total, place, module))  # noqa: B023
            gc.collect()
        if trainer.is_global_zero and self._root(trainer).is_dir():
            self.branching.write(self._root(trainer))

    def _cooled(
        self, fork: int, total: int, checkpoint: Path, trunk: LightningModule
    ) -> tuple[str, float | None, dict[str, float]]:
        assert self.branching.make is not None
        wanted, folder = self.branching.cooldown, checkpoint.with_suffix("")
        fall = Cooldown(wanted.shape, at=fork, length=total - fork, final=wanted.final, exponent=wanted.exponent)
        options = {"max_steps": total, "callbacks": [fall], "default_root_dir": str(folder), "logger": False}
        made = self.branching.make(**options, enable_checkpointing=False)
        if not isinstance(made, tuple) or len(made) != 3:
            raise StudyError("make() returned no (trainer, module, arguments of fit)")
        trainer, module, data = made
        if branching.shares(list(module.parameters()), list(trunk.parameters())):
            raise StudyError("make() returned the module that is being trained; allowed: a new module")
        if fall not in trainer.callbacks or trainer.max_steps != total:  # type: ignore[attr-defined]
            raise StudyError(
                "make(**options) did not pass its options to the Trainer; allowed: Trainer(..., **options)"
            )
        trainer.fit(module, **data, ckpt_path=str(checkpoint))
        if trainer.global_step != total:
            raise StudyError(f"the cooldown ended at update {trainer.global_step} of {total}: its data ran out")
        result = checkpoint.with_name(f"update-{fork}-cooled-{total}.ckpt")
        trainer.save_checkpoint(result)
        metrics: dict[str, float] = {}
        if sum(trainer.num_val_batches):
            parts = {"datamodule": data["datamodule"]} if "datamodule" in data else {}
            parts |= {"dataloaders": data["val_dataloaders"]} if "val_dataloaders" in data else {}
            for found in trainer.validate(module, **parts, verbose=False):
                metrics |= _numbers(found)
        return str(result), metrics.get(self.monitor), metrics


class Observers(Callback):
    """Distance of the weights, averages validated beside them, gradient noise scale and a forecast of the end.

    ``averages``: by name, of ``isoloss.methods.averages``; after every validation each is validated in a copy of the
    module, and what that logs is logged with ``_NAME`` behind it. ``evaluator() -> Trainer``: for that; default: a
    plain one on the same device. ``distance``: points a decade (0: none). ``noise_scale``: look-back as a decay, such
    as 0.99; it needs ``accumulate_grad_batches`` of 2 or more. ``warmup``: updates that a forecast leaves out.
    ``refresh``: sets BatchNorm statistics of averaged weights. ``monitor``: the validation loss among what the module
    logs.

    ``weight_distance``, ``noise_scale``, ``forecast_loss``, ``_low`` and ``_high`` go to the trainer's loggers, every
    ``log_every_n_steps`` updates. The state lies in every checkpoint.

    Raises ``StudyError`` when training begins and something asked for cannot be seen.
    """

    def __init__(
        self,
        *,
        averages: Mapping[str, Average] | None = None,
        distance: int = 8,
        noise_scale: float | None = None,
        warmup: int = 0,
        refresh: Callable[[nn.Module], object] | None = None,
        monitor: str = "val_loss",
        evaluator: Callable[[], Trainer] | None = None,
    ) -> None:
        self.watch = Watch(averages=averages, distance=distance, noise_scale=noise_scale, refresh=refresh)
        self.warmup, self.monitor, self.evaluator = warmup, monitor, evaluator
        self._seen = self._logged = self._end = 0
        self._losses: list[Tensor] = []

    def forecast(self, level: float = LEVEL) -> Forecast | None:
        """Where the loss will be at the training's end: of validations, where there are seven, else of training."""
        found = self.watch.forecast(self._end, self.monitor, after=self.warmup, level=level)
        return found or self.watch.forecast(self._end, "loss", after=self.warmup, level=level)

    def state_dict(self) -> dict[str, Any]:
        return self.watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.watch.load_state_dict(state_dict)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _optimization(trainer)
        if self.watch.noise and str(trainer.precision).startswith("16"):
            raise StudyError(
                f"noise_scale: found with precision {trainer.precision}, which scales gradients; allowed: bf16 or 32"
            )
        self._end, self._seen, self._logged = _total(trainer) or 0, trainer.global_step, trainer.global_step
        self._losses = []
        self.watch.begin(
            pl_module,
            trainer.global_step,
            micro_batches=trainer.accumulate_grad_batches,
            processes=trainer.world_size,
        )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.watch.gradients:
            self.watch.gradients.expect(_samples(batch))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.watch.gradient()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach())
        if trainer.global_step == self._seen:
            return
        self._seen = trainer.global_step
        self.watch.after(self._seen)
        if self._seen % (getattr(trainer, "log_every_n_steps", 0) or 1) == 0:
            self._log(trainer)

    def _log(self, trainer: Trainer) -> None:
        if self._losses:
            # The mean over the updates since the last one belongs to their middle.
            middle = (self._logged + 1 + self._seen) / 2
            self.watch.loss("loss", middle, float(torch.stack(self._losses).double().mean()))
        self._losses, self._logged = [], self._seen
        found = self.watch.values()
        if forecast := self.forecast():
            found |= {f"forecast_{name}": getattr(forecast, name) for name in ("loss", "low", "high")}
        for logger in trainer.loggers if found else ():
            logger.log_metrics(found, step=self._seen)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        for name, weights in self.watch.readable():
            with preserved_randomness():
                copied = copy.deepcopy(pl_module)
                self.watch.fill(copied, weights)
                evaluator = self.evaluator() if self.evaluator else _evaluator(trainer)
                for found in evaluator.validate(copied, dataloaders=trainer.val_dataloaders, verbose=False):
                    pl_module.log_dict({f"{metric}_{name}": value for metric, value in _numbers(found).items()})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = _numbers(trainer.callback_metrics).get(self.monitor)
        if value is not None and not trainer.sanity_checking and trainer.state.fn == "fit":
            self.watch.loss(self.monitor, trainer.global_step, value)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.watch.end()


def _evaluator(trainer: Trainer) -> Trainer:
    """A trainer that validates on one device as ``trainer`` does, and keeps quiet."""
    device = trainer.strategy.root_device
    return Trainer(
        accelerator=device.type,
        devices=1 if device.type == "cpu" else [device.index or 0],
        precision=trainer.precision,
        limit_val_batches=trainer.limit_val_batches,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _optimization(trainer: Trainer) -> tuple[torch.optim.Optimizer, Any]:
    """(optimizer, scheduler or None); raise ``StudyError`` for loops in which an update is not one step of it."""
    if not trainer.lightning_module.automatic_optimization or len(trainer.optimizers) != 1:
        raise StudyError(
            f"lightning: {len(trainer.optimizers)} optimizers, automatic_optimization = "
            f"{trainer.lightning_module.automatic_optimization}; allowed: automatic optimization of one optimizer"
        )
    for config in trainer.lr_scheduler_configs:
        if config.interval != "step" or config.frequency != 1:
            raise StudyError(
                f"lightning: the scheduler is stepped every {config.frequency} {config.interval}; allowed: interval "
                "'step' and frequency 1 in configure_optimizers (isoloss.bridges.lightning.scheduled does it)"
            )
    configs = trainer.lr_scheduler_configs
    return trainer.optimizers[0], configs[0].scheduler if configs else None


def _total(trainer: Trainer) -> int | None:
    """Updates of the training; None where that is not known."""
    total = trainer.estimated_stepping_batches
    return int(total) if math.isfinite(total) and total > 0 else None


def _samples(batch: Any) -> int:
    """Samples of a micro-batch: the length of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((size for part in parts if (size := _samples(part))), 0)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}
