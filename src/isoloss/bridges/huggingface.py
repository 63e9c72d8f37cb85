"""Callbacks for ``transformers.Trainer``: a cooldown at its end, branches on its way, observers.

``Cooldown`` lets the learning rate of the training itself fall. ``Branches`` leaves checkpoints and cools each down in
a second trainer. ``Observers`` watches distance, averages and noise and says where the loss is going. The last two
change no bit of the training.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.bridges import branching, schedulers
from isoloss.bridges.branching import Branch, Branching
from isoloss.bridges.watching import LEVEL, Forecast, Watch, preserved_randomness, terms_of
from isoloss.execute.cooldown import Cooldown as Wanted
from isoloss.methods.averages import Average
from isoloss.methods.lr_scheduler import IsolossLR
from isoloss.recipe.errors import StudyError
from isoloss.worth.anytime import Prediction

try:
    from transformers import Trainer, TrainerCallback
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.trainer import TRAINER_STATE_NAME
except ImportError as error:
    raise StudyError(
        f"transformers with its Trainer is not here ({error}); pip install 'isoloss[huggingface]'"
    ) from error

__all__ = ["Branches", "Cooldown", "Observers", "scheduled"]

STATE = "isoloss-observers.pt"


def scheduled(trainer: Trainer, schedule: Mapping[str, Any] | Callable[[int], float]) -> IsolossLR:
    """Give ``trainer`` an isoloss schedule in place of ``lr_scheduler_type``; before ``train()``.

    ``schedule``: as ``IsolossLR`` takes it; a mapping without ``total`` gets the trainer's ``max_steps``. Raises
    ``StudyError`` where there is none, or where the trainer has a scheduler of the user's.
    """
    if trainer.lr_scheduler is not None and not trainer._created_lr_scheduler:
        raise StudyError(
            f"scheduled: the trainer was given a {type(trainer.lr_scheduler).__name__}; allowed: one scheduler, so "
            "optimizers=(optimizer, None)"
        )
    if isinstance(schedule, Mapping) and "total" not in schedule:
        if trainer.args.max_steps < 1:
            raise StudyError("scheduled: neither total nor max_steps is given; allowed: {'total': updates, ...}")
        schedule = {"total": trainer.args.max_steps, **schedule}
    scheduler = IsolossLR(trainer.create_optimizer(), schedule)
    holder: Any = trainer
    # What the trainer has not made itself it does not make anew when it begins.
    holder.lr_scheduler, holder._created_lr_scheduler = scheduler, False
    return scheduler


class Cooldown(TrainerCallback):
    """The learning rate falls over the last updates of a training, or from update ``at`` on, after which it ends.

    ``shape``, ``length`` or ``fraction`` (default: the last fifth), ``final``, ``exponent``: as ``isoloss.branch`` has
    them. The trainer's own scheduler must be constant there. ``result`` is what it reached. A resume needs no state.

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
    ) -> None:
        self.at, self.wanted = at, Wanted(shape, fraction, length, final, exponent)
        self.begin = self.end = 0
        self.result: Branch | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin, wanted = branching.placed(self.wanted, self.at, state.max_steps)
        self.end = self.begin + (wanted.length or 0)
        self.result = Branch(self.begin, self.end - self.begin, dict(wanted.mapping), args.output_dir)
        schedulers.cool_down(kwargs["optimizer"], kwargs["lr_scheduler"], self.begin, wanted, state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= self.end:
            control.should_training_stop = control.should_log = True
            control.should_evaluate = control.should_evaluate or args.eval_strategy != "no"

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        metrics = kwargs.get("metrics") or {}
        if self.result and state.global_step == self.end and "eval_loss" in metrics:
            self.result = Branch(
                self.begin, self.result.length, self.result.cooldown, args.output_dir, args.output_dir,
                float(metrics["eval_loss"]), _numbers(metrics),
            )  # fmt: skip


class Branches(TrainerCallback):
    """Checkpoints after updates ``at``, each cooled down by itself and evaluated, beside the training.

    ``make() -> Trainer``: a new trainer with a new model and the training's data and arguments; it resumes from the
    checkpoint and is given its own ``output_dir`` (``branches/N``) and length. Without it, only checkpoints are left.
    ``when``: ``end`` of the training, or ``now``, which needs memory for a second one. The other options are those of
    ``Cooldown``. ``results``: what was reached, kept in ``isoloss-branches.json`` of the output folder.

    Raises ``StudyError`` when training begins and a branch could not be cooled down; a branch that fails later is a
    record and a warning.
    """

    def __init__(
        self,
        at: Iterable[int],
        make: Callable[[], Trainer] | None = None,
        *,
        when: str = "end",
        shape: str = "one_minus_sqrt",
        length: int | None = None,
        fraction: float | None = None,
        final: float | None = None,
        exponent: float | None = None,
    ) -> None:
        self.branching = Branching(at, Wanted(shape, fraction, length, final, exponent), make, when)

    @property
    def results(self) -> list[Branch]:
        """Branches so far, by where they left."""
        return [branch for _, branch in sorted(self.branching.branches.items())]

    @property
    def anytime(self) -> Prediction | None:
        """What a cooldown from any update would reach, from three branches and five evaluations on."""
        return self.branching.anytime

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder, mine = Path(args.output_dir), self.branching
        if args.save_only_model or args.save_strategy == "best":
            raise StudyError(
                "branches: the trainer saves no whole checkpoints when asked (save_only_model, save_strategy='best'); "
                "allowed: save_only_model=False and another save_strategy"
            )
        if mine.when == "end" and mine.make is not None and args.save_total_limit is not None:
            raise StudyError(
                f"branches: save_total_limit={args.save_total_limit} deletes checkpoints before they are cooled down; "
                "allowed: no limit, or when='now'"
            )
        record = folder / branching.RECORD
        if state.global_step and record.is_file():
            mine.load_state_dict(json.loads(record.read_text()), state.global_step)
        mine.check(
            state.max_steps,
            state.global_step,
            lambda update: (_checkpoint(args, update) / TRAINER_STATE_NAME).is_file(),
        )
        for update in mine.at:
            schedulers.check_constant(kwargs["lr_scheduler"], update, mine.cooldown.updates(update))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in self.branching.at:
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.branching.evaluated(state.global_step, (kwargs.get("metrics") or {}).get("eval_loss"))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.branching.when == "now" and state.global_step in self.branching.at:
            self._cool(args, state, kwargs["model"])
        self._write(args, state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._cool(args, state, kwargs["model"])
        self._write(args, state)

    def _write(self, args: Any, state: Any) -> None:
        if state.is_world_process_zero:
            self.branching.write(Path(args.output_dir))

    def _cool(self, args: Any, state: Any, model: nn.Module) -> None:
        for fork in self.branching.pending(state.global_step):
            place = _checkpoint(args, fork)
            folder = Path(args.output_dir) / "branches" / str(fork)
            with preserved_randomness(fork):
                self.branching.run(fork, place, lambda total: self._cooled(fork, total, place, folder, model))  # noqa: B023
            gc.collect()

    def _cooled(
        self, fork: int, total: int, checkpoint: Path, folder: Path, trunk: nn.Module
    ) -> tuple[str, float | None, dict[str, float]]:
        assert self.branching.make is not None
        trainer = self.branching.make()
        if branching.shares(list(trainer.model.parameters()), list(trunk.parameters())):
            raise StudyError("make() returned a trainer of the model that is being trained; allowed: a new model")
        for callback in list(trainer.callback_handler.callbacks):
            if isinstance(callback, (Branches, Cooldown, Observers, *INTEGRATION_TO_CALLBACK.values())):
                trainer.remove_callback(callback)
        # A copy: the arguments may be those of the training.
        trainer.args = args = copy.copy(trainer.args)
        args.output_dir, args.max_steps, args.push_to_hub = str(folder), total, False
        args.save_strategy, args.load_best_model_at_end = "no", False
        wanted = self.branching.cooldown
        trainer.add_callback(
            Cooldown(wanted.shape, at=fork, length=total - fork, final=wanted.final, exponent=wanted.exponent)
        )
        trainer.train(resume_from_checkpoint=str(checkpoint))
        if trainer.state.global_step != total:
            raise StudyError(f"the cooldown ended at update {trainer.state.global_step} of {total}: its data ran out")
        metrics = _numbers(trainer.evaluate()) if trainer.eval_dataset is not None else {}
        trainer.save_model(str(folder))
        trainer.save_state()
        return str(folder), metrics.get("eval_loss"), metrics


class Observers(TrainerCallback):
    """Distance of the weights, averages evaluated beside them, gradient noise scale and a forecast of the end.

    ``averages``: by name, of ``isoloss.methods.averages``; each is evaluated after every evaluation of the trainer
    and logged as ``eval_NAME_loss``. ``distance``: points a decade (0: none). ``noise_scale``: look-back as a decay,
    such as 0.99; it needs ``gradient_accumulation_steps`` of 2 or more. ``warmup``: updates that a forecast leaves
    out. ``refresh``: sets BatchNorm statistics of averaged weights. ``resume_from``: the checkpoint that training goes
    on from, where that is not ``output_dir/checkpoint-N``.

    ``attach(trainer)`` adds it and lets it log (``weight_distance``, ``noise_scale``, ``forecast_loss``, ``_low``,
    ``_high``) and evaluate; in ``callbacks=[...]`` alone it only watches. Its state lies in every checkpoint.

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
        resume_from: str | Path | None = None,
    ) -> None:
        self.watch = Watch(averages=averages, distance=distance, noise_scale=noise_scale, refresh=refresh)
        self.warmup, self.resume_from = warmup, resume_from
        self.trainer: Trainer | None = None
        self._busy = False
        self._logged = self._end = 0
        self._hook: Any = None

    def attach(self, trainer: Trainer) -> Observers:
        """Add this to ``trainer``; returns itself."""
        trainer.add_callback(self)
        self.trainer = trainer
        return self

    def forecast(self, level: float = LEVEL) -> Forecast | None:
        """Where the loss will be at the training's end: of evaluations, where there are seven, else of training."""
        found = self.watch.forecast(self._end, "eval_loss", after=self.warmup, level=level)
        return found or self.watch.forecast(self._end, "loss", after=self.warmup, level=level)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self._end, self._logged = state.max_steps, state.global_step
        if self.watch.averages and self.trainer is None and args.eval_strategy != "no":
            raise StudyError("averages: they are evaluated by the trainer; allowed: Observers(...).attach(trainer)")
        if self.watch.noise and args.fp16:
            raise StudyError("noise_scale: found with fp16, whose gradients are scaled; allowed: bf16 or fp32")
        if state.global_step and self.watch.update != state.global_step:
            self.watch.load_state_dict(self._state(args, state.global_step))
        self.watch.begin(
            model, state.global_step, micro_batches=args.gradient_accumulation_steps, processes=args.world_size
        )
        if self.watch.gradients:
            self._hook = model.register_forward_pre_hook(self._forward, with_kwargs=True)

    def _state(self, args: Any, update: int) -> dict[str, Any]:
        given = [self.resume_from, args.resume_from_checkpoint, _checkpoint(args, update)]
        places = [Path(place) / STATE for place in given if isinstance(place, str | Path)]
        for place in places:
            if place.is_file():
                state: dict[str, Any] = torch.load(place, map_location="cpu", weights_only=True)
                return state
        raise StudyError(
            f"observers: training goes on from update {update}, and their state is in none of "
            f"{', '.join(map(str, places))}; allowed: resume_from=the checkpoint's folder, or no observers"
        )

    def _forward(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled() and self.watch.gradients:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim]
            self.watch.gradients.expect(len(tensors[0]), terms_of(kwargs.get("labels")))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.gradient()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.after(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs.get("logs") or {}
        if self._busy or "loss" not in logs or state.global_step <= self._logged:
            return
        # A logged loss is a mean over the updates since the last one: it belongs to their middle.
        self.watch.loss("loss", (self._logged + 1 + state.global_step) / 2, float(logs["loss"]))
        self._logged = state.global_step
        found = self.watch.values()
        if forecast := self.forecast():
            found |= {f"forecast_{name}": getattr(forecast, name) for name in ("loss", "low", "high")}
        self._log(found)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._busy:
            return
        metrics = kwargs.get("metrics") or {}
        if "eval_loss" in metrics:
            self.watch.loss("eval_loss", state.global_step, float(metrics["eval_loss"]))
        if self.trainer is None or not self.trainer.is_in_train:
            return
        for name, weights in self.watch.readable():
            with preserved_randomness(), self.watch.holding(weights):
                self._log(self._evaluated(self.trainer, f"eval_{name}"))

    def _evaluated(self, trainer: Trainer, prefix: str) -> dict[str, float]:
        """The trainer's own evaluation of the weights that are in the model now."""
        found: dict[str, float] = {}
        parts = trainer.eval_dataset
        several = isinstance(parts, dict)
        for part in parts if isinstance(parts, dict) else [None]:
            output = trainer.evaluation_loop(
                trainer.get_eval_dataloader(part),
                description="Evaluation of an average",
                prediction_loss_only=True if trainer.compute_metrics is None else None,
                metric_key_prefix=f"{prefix}_{part}" if several else prefix,
            )
            found |= _numbers(output.metrics or {})
        return {name: value for name, value in found.items() if not name.endswith("_time")}

    def _log(self, values: dict[str, float]) -> None:
        if self.trainer is not None and values:
            self._busy = True
            try:
                self.trainer.log(values)
            finally:
                self._busy = False

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = _checkpoint(args, state.global_step)
        if not state.is_world_process_zero:
            return
        if not folder.is_dir():
            warnings.warn(f"isoloss: no folder {folder}, so the observers' state was not saved", stacklevel=2)
            return
        partial = folder / f".{STATE}-{os.getpid()}"
        torch.save(self.watch.state_dict(), partial)
        os.replace(partial, folder / STATE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.end()
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _checkpoint(args: Any, update: int) -> Path:
    """Where the trainer saves the checkpoint of an update."""
    return Path(args.output_dir) / f"checkpoint-{update}"


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
