"""Callbacks in Lightning's Trainer: observers change no bit, a branch is a hand-written cooldown, resumes go on."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from isoloss.bridges.lightning import Branches, Cooldown, Observers, scheduled
from isoloss.methods.averages import EMA, WindowAverage
from isoloss.recipe.errors import StudyError

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")

TOTAL, LR, BATCH, MICRO = 24, 1e-2, 8, 2
generator = torch.Generator().manual_seed(0)
X = torch.randn(64, 4, generator=generator)
Y = X.sum(1, keepdim=True).sin() + 0.3 * torch.randn(64, 1, generator=generator)


class Module(L.LightningModule):
    def __init__(self, dropout: float = 0.1, schedule: Any = None, interval: str = "step") -> None:
        super().__init__()
        torch.manual_seed(5)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.Dropout(dropout), torch.nn.GELU(), torch.nn.Linear(16, 1)
        )
        self.schedule, self.interval = schedule, interval

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: Sequence[Tensor], index: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Sequence[Tensor], index: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=LR)
        if self.schedule is None:
            return optimizer
        if callable(self.schedule):
            made = self.schedule(optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": made, "interval": self.interval}}
        return scheduled(optimizer, self.schedule)


class Resumable:
    """Batches in a fixed order, with a state: what a resume in the middle of an epoch needs."""

    def __init__(self) -> None:
        self.at = 0

    def __len__(self) -> int:
        return 64 // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while self.at < len(self):
            self.at += 1
            yield X[(self.at - 1) * BATCH : self.at * BATCH], Y[(self.at - 1) * BATCH : self.at * BATCH]
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def make(
    folder: Path,
    callbacks: Sequence[L.Callback] = (),
    *,
    module: Module | None = None,
    loader: Any = None,
    **options: Any,
) -> tuple[L.Trainer, Module, dict[str, Any]]:
    chosen = {"max_steps": TOTAL, "callbacks": list(callbacks), "default_root_dir": str(folder), "logger": False,
              "enable_checkpointing": False, "accumulate_grad_batches": MICRO}  # fmt: skip
    trainer = L.Trainer(
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=2,
        num_sanity_val_steps=0, **chosen | options,
    )  # fmt: skip
    train = loader or DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle=True)
    val = DataLoader(TensorDataset(X[:16], Y[:16]), batch_size=8)
    return trainer, module or Module(), {"train_dataloaders": train, "val_dataloaders": val}


def go(folder: Path, *arguments: Any, resume: Path | None = None, **options: Any) -> tuple[L.Trainer, Module]:
    trainer, module, data = make(folder, *arguments, **options)
    torch.manual_seed(9)
    trainer.fit(module, **data, ckpt_path=resume and str(resume))
    return trainer, module


def flat(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


class Recorder(L.Callback):
    """Weights after every update."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights = [flat(pl_module)]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == len(self.weights):
            self.weights.append(flat(pl_module))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[L.Trainer, Module, Recorder]:
    recorder = Recorder()
    trainer, module = go(tmp_path_factory.mktemp("plain"), [recorder])
    return trainer, module, recorder


def test_observers_change_no_bit_and_see_what_there_is(
    plain: tuple[L.Trainer, Module, Recorder], tmp_path: Path
) -> None:
    _, before, recorder = plain
    seen = Observers(averages={"window": WindowAverage(4), "ema": EMA(0.9)}, noise_scale=0.9)
    logger = CSVLogger(tmp_path, "logs", "0")
    trainer, module = go(tmp_path, [seen], logger=logger)
    assert torch.equal(flat(before), flat(module))
    watch = seen.watch
    assert watch.distance is not None and watch.skipped == 0
    for update, distance in zip(watch.distance.updates, watch.distance.total, strict=True):
        there = (recorder.weights[update].double() - recorder.weights[0].double()).norm()
        assert distance == pytest.approx(float(there), rel=1e-9)
    # The window over the last four updates, by a validation of its own.
    other, module, data = make(tmp_path / "y")
    mean = torch.stack(recorder.weights[-4:]).double().mean(0).float()
    torch.nn.utils.vector_to_parameters(mean, module.parameters())
    [expected] = other.validate(module, dataloaders=data["val_dataloaders"], verbose=False)
    assert float(trainer.callback_metrics["val_loss_window"]) == pytest.approx(expected["val_loss"], rel=1e-6)
    assert len(watch.curves["val_loss"]) == 6 and len(watch.curves["loss"]) == 12
    rows = (tmp_path / "logs" / "0" / "metrics.csv").read_text().splitlines()
    assert {"weight_distance", "forecast_loss", "forecast_low", "forecast_high", "val_loss_ema"} <= set(
        rows[0].split(",")
    )
    assert seen.forecast() is None  # nothing is left to foretell


def test_the_noise_scale_is_that_of_the_gradients(tmp_path: Path) -> None:
    class Gradients(L.Callback):
        before: Tensor | None = None
        found: list[list[Tensor]] = [[]]  # noqa: RUF012

        def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            total = torch.cat([p.grad.reshape(-1).double() for p in pl_module.parameters()])
            self.found[-1].append(total if self.before is None else total - self.before)
            self.before = total
            if len(self.found[-1]) == MICRO:
                self.before = None
                self.found.append([])

    from isoloss.methods.noise_scale import NoiseScale

    seen, own = Observers(noise_scale=0.9), Gradients()
    go(tmp_path, [seen, own], max_steps=10, gradient_clip_val=0.1)
    noise = NoiseScale(0.9)
    for parts in own.found[:10]:
        noise.observe([float((MICRO * g).square().sum()) for g in parts], float(sum(parts).square().sum()), BATCH)
    assert seen.watch.noise is not None and seen.watch.skipped == 0
    assert math.isclose(seen.watch.noise.estimate.S, noise.estimate.S, rel_tol=1e-4)
    assert math.isclose(seen.watch.noise.estimate.G2, noise.estimate.G2, rel_tol=1e-3)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return bool(one == other)


@pytest.mark.parametrize("at", [8, 10])
def test_a_resume_continues_the_observers_to_the_bit(tmp_path: Path, at: int) -> None:
    def observers() -> Observers:
        return Observers(averages={"window": WindowAverage(4), "ema": EMA(0.9)}, noise_scale=0.9)

    def module() -> Module:
        return Module(dropout=0.0)

    whole = observers()
    # Listed after the observers or before: the checkpoint has what they saw up to its update.
    _, before = go(tmp_path, [Branches([at]), whole], module=module(), loader=Resumable())
    again = observers()
    _, after = go(
        tmp_path / "x", [again], module=module(), loader=Resumable(), resume=tmp_path / "branches" / f"update-{at}.ckpt"
    )
    assert torch.equal(flat(before), flat(after))
    # A validation after the checkpoint of its update is not made again by Lightning.
    whole.watch.curves["val_loss"] = [row for row in whole.watch.curves["val_loss"] if row[0] != at]
    assert same(again.watch.state_dict(), whole.watch.state_dict())
    with pytest.raises(StudyError, match="allowed: the same"):
        go(tmp_path / "y", [Observers()], module=module(), loader=Resumable(),
           resume=tmp_path / "branches" / f"update-{at}.ckpt")  # fmt: skip


@pytest.mark.parametrize("when", ["now", "end"])
def test_branches_leave_the_training_as_it_was(
    plain: tuple[L.Trainer, Module, Recorder], tmp_path: Path, when: str
) -> None:
    _, before, _ = plain
    leaving = Branches([4, 12, 16], lambda **options: make(tmp_path, **options), when=when, length=4)
    trainer, module = go(tmp_path, [leaving])
    assert torch.equal(flat(before), flat(module)) and trainer.global_step == TOTAL
    assert [(b.fork, b.total, b.failure) for b in leaving.results] == [(4, 8, ""), (12, 16, ""), (16, 20, "")]
    assert (tmp_path / "branches" / "isoloss-branches.json").is_file()
    assert leaving.anytime is not None  # three branches, six validations
    assert leaving.anytime.at(12).loss == pytest.approx(leaving.results[1].loss, rel=0.2)


SCHEDULES: dict[str, Any] = {
    "none": None,
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda u: min((u + 1) / 4, 1.0)),
    "isoloss": {"total": 1000, "warmup": 4},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("at", [8, 10])
def test_a_branch_is_the_cooldown_of_a_hand_written_loop(tmp_path: Path, schedule: str, at: int) -> None:
    def module() -> Module:
        return Module(0.0, SCHEDULES[schedule])

    def branch(**options: Any) -> Any:
        return make(tmp_path, module=module(), loader=Resumable(), **options)

    leaving = Branches([at], branch, length=5, final=0.1)
    go(tmp_path, [leaving], module=module(), loader=Resumable(), max_steps=12)
    [result] = leaving.results
    assert result.failure == ""
    saved = torch.load(result.checkpoint, weights_only=True)
    twin = module()
    twin.load_state_dict(saved["state_dict"])
    optimizer = torch.optim.AdamW(twin.parameters(), lr=LR)
    optimizer.load_state_dict(saved["optimizer_states"][0])
    for update in range(at, at + 5):
        for group in optimizer.param_groups:
            group["lr"] = LR * (0.1 + 0.9 * (1 - math.sqrt((update - at) / 5)))
        optimizer.zero_grad()
        for part in (0, 1):
            begin = (2 * update + part) % 8 * BATCH
            (twin.loss((X[begin : begin + BATCH], Y[begin : begin + BATCH])) / 2).backward()
        optimizer.step()
    cooled = torch.load(result.result or "", weights_only=True)["state_dict"]
    for name, value in twin.state_dict().items():
        assert torch.allclose(value, cooled[name], rtol=0, atol=1e-7), name
    with torch.no_grad():
        twin.eval()
        assert result.loss == pytest.approx(float(twin.loss((X[:16], Y[:16]))), rel=1e-5)
    # In place it is the same, to the bit, by its end or by where it begins.
    for callback, total in ((Cooldown(length=5, final=0.1), at + 5), (Cooldown(at=at, length=5, final=0.1), 30)):
        trainer, here = go(tmp_path / "z", [callback], module=module(), loader=Resumable(), max_steps=total)
        assert trainer.global_step == at + 5
        assert all(torch.equal(value, cooled[name]) for name, value in here.state_dict().items())


@pytest.mark.parametrize("schedule", ["none", "lambda"])
def test_a_cooldown_that_was_interrupted_goes_on(tmp_path: Path, schedule: str) -> None:
    def part(folder: str, *more: L.Callback, resume: Path | None = None, shape: str = "linear") -> Module:
        module = Module(0.0, SCHEDULES[schedule])
        callbacks = [Cooldown(shape, length=8), *more]
        return go(tmp_path / folder, callbacks, module=module, loader=Resumable(), max_steps=16, resume=resume)[1]

    saving = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=11, save_top_k=-1)
    module = Module(0.0, SCHEDULES[schedule])
    _, whole = go(
        tmp_path / "a", [Cooldown("linear", length=8), saving], module=module, loader=Resumable(), max_steps=16,
        enable_checkpointing=True,
    )  # fmt: skip
    [checkpoint] = (tmp_path / "kept").glob("*step=11.ckpt")
    assert torch.equal(flat(part("b", resume=checkpoint)), flat(whole))
    with pytest.raises(StudyError, match="from update 11, where its learning rate is"):
        part("c", resume=checkpoint, shape="square")


def test_a_training_that_is_resumed_cools_down_what_it_left_before(tmp_path: Path) -> None:
    first = Branches([4, 8])
    go(tmp_path, [first], max_steps=8)
    leaving = Branches([4, 12], lambda **options: make(tmp_path, **options), length=2)
    go(tmp_path, [leaving], max_steps=12, resume=tmp_path / "branches" / "update-8.ckpt")
    assert [(b.fork, b.failure) for b in leaving.results] == [(4, ""), (12, "")]
    with pytest.raises(StudyError, match="there is no checkpoint of update 5"):
        go(tmp_path, [Branches([5])], max_steps=12, resume=tmp_path / "branches" / "update-8.ckpt")


class Manual(Module):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def decaying(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: 1 / (1 + u))


def cosine(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)


REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a scheduler that decays": (
        lambda: {"callbacks": [Cooldown(length=4)], "module": Module(schedule=decaying)},
        "the scheduler of the training decays",
    ),
    "one without a future": (
        lambda: {"callbacks": [Branches([4])], "module": Module(schedule=cosine)},
        "set by CosineAnnealingLR",
    ),
    "steps that are epochs": (
        lambda: {"callbacks": [Cooldown(length=4)], "module": Module(schedule=decaying, interval="epoch")},
        "stepped every 1 epoch; allowed: interval 'step'",
    ),
    "manual optimization": (
        lambda: {"callbacks": [Observers()], "module": Manual(), "accumulate_grad_batches": 1},
        "allowed: automatic optimization",
    ),
    "an update beyond the end": (lambda: {"callbacks": [Branches([30])]}, "beyond the training's 24 updates"),
    "a cooldown beyond it": (lambda: {"callbacks": [Cooldown(at=22, length=4)]}, "do not fit into a training of 24"),
    "one micro-batch": (
        lambda: {"callbacks": [Observers(noise_scale=0.9)], "accumulate_grad_batches": 1},
        "found 1 micro-batches an update",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused_before_training(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    trainer, module, data = make(tmp_path, **build())
    before = flat(module)
    with pytest.raises(StudyError, match=message):
        trainer.fit(module, **data)
    assert torch.equal(before, flat(module))


def test_a_branch_that_fails_is_a_record_and_a_warning(
    plain: tuple[L.Trainer, Module, Recorder], tmp_path: Path
) -> None:
    shared = Module()

    def forgetful(**options: Any) -> Any:
        return make(tmp_path / "x")

    for build, message in (
        (lambda **options: make(tmp_path / "x", module=shared, **options), "the module that is being trained"),
        (forgetful, "did not pass its options"),
        (lambda **options: None, "returned no"),
    ):
        leaving = Branches([4], build, length=4, when="now", folder=tmp_path / "b")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _, module = go(tmp_path, [leaving], module=shared if "being" in message else None, max_steps=TOTAL)
        assert message in leaving.results[0].failure
        assert any(message in str(warning.message) for warning in caught)
        assert torch.equal(flat(module), flat(plain[1]))


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['lightning'] = None\nimport isoloss.bridges.lightning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StudyError" in done.stderr and "pip install 'isoloss[lightning]'" in done.stderr
