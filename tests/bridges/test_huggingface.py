"""Callbacks in the real Trainer: observers change no bit, a branch is a hand-written cooldown, resumes go on."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from isoloss.bridges.huggingface import STATE, Branches, Cooldown, Observers, scheduled
from isoloss.methods.averages import EMA, WindowAverage
from isoloss.methods.noise_scale import NoiseScale
from isoloss.recipe.errors import StudyError

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

TOTAL, WARMUP, LR, BATCH, MICRO = 24, 4, 1e-2, 4, 2
generator = torch.Generator().manual_seed(0)
IDS = [torch.randint(0, 16, (9,), generator=generator) for _ in range(160)]
DATA = [{"input_ids": ids, "labels": ids} for ids in IDS]


def built(dropout: float = 0.1) -> GPT2LMHeadModel:
    torch.manual_seed(7)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=16, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout,
        )
    )  # fmt: skip


def make(
    folder: Path, callbacks: Sequence[TrainerCallback] = (), *, total: int = TOTAL, dropout: float = 0.1, **options: Any
) -> Trainer:
    arguments = {
        "output_dir": str(folder), "max_steps": total, "per_device_train_batch_size": BATCH,
        "gradient_accumulation_steps": MICRO, "learning_rate": LR, "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": WARMUP, "logging_steps": 2, "save_strategy": "no", "eval_strategy": "steps", "eval_steps": 4,
        "report_to": [], "disable_tqdm": True, "seed": 3, "optim": "adamw_torch", "use_cpu": True,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    return Trainer(
        model=built(dropout),
        args=TrainingArguments(**arguments | options),
        train_dataset=DATA,
        eval_dataset=DATA[:16],
        callbacks=list(callbacks),
    )


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def observers(**options: Any) -> Observers:
    return Observers(averages={"window": WindowAverage(4), "ema": EMA(0.9)}, noise_scale=0.9, **options)


class Recorder(TrainerCallback):
    """Weights after every update, gradients of every micro-batch, batches as the model gets them."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.micro: list[list[Tensor]] = [[]]
        self.batches: list[dict[str, Tensor]] = []
        self._before: Tensor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append(flat(kwargs["model"]))

        def seen(model: Any, arguments: Any, given: dict[str, Any]) -> None:
            if model.training:
                self.batches.append(dict(given))

        kwargs["model"].register_forward_pre_hook(seen, with_kwargs=True)

    def _gradient(self, model: torch.nn.Module) -> None:
        total = torch.cat([p.grad.detach().reshape(-1).double() for p in model.parameters() if p.grad is not None])
        self.micro[-1].append(total if self._before is None else total - self._before)
        self._before = total

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._gradient(kwargs["model"])

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._gradient(kwargs["model"])
        self._before = None
        self.micro.append([])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append(flat(kwargs["model"]))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Recorder]:
    """The training with nothing of isoloss in it."""
    recorder = Recorder()
    trainer = make(tmp_path_factory.mktemp("plain"), [recorder], max_grad_norm=0.0)
    trainer.train()
    return trainer, recorder


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Observers]:
    folder = tmp_path_factory.mktemp("watched")
    trainer = make(folder, max_grad_norm=0.0, save_strategy="steps", save_steps=10)
    seen = observers().attach(trainer)
    trainer.train()
    return trainer, seen


def test_observers_change_no_bit_and_see_what_there_is(
    plain: tuple[Trainer, Recorder], watched: tuple[Trainer, Observers]
) -> None:
    (before, recorder), (trainer, seen) = plain, watched
    assert torch.equal(flat(before.model), flat(trainer.model))
    assert recorder.weights[-1].numel() == flat(trainer.model).numel()
    watch = seen.watch
    assert watch.distance is not None and watch.noise is not None and watch.skipped == 0
    for update, distance in zip(watch.distance.updates, watch.distance.total, strict=True):
        there = (recorder.weights[update].double() - recorder.weights[0].double()).norm()
        assert distance == pytest.approx(float(there), rel=1e-9)
    noise = NoiseScale(0.9)
    for parts in recorder.micro[:TOTAL]:
        assert len(parts) == MICRO
        noise.observe([float((MICRO * g).square().sum()) for g in parts], float(sum(parts).square().sum()), BATCH)
    assert math.isclose(watch.noise.estimate.S, noise.estimate.S, rel_tol=1e-4)
    assert math.isclose(watch.noise.estimate.G2, noise.estimate.G2, rel_tol=1e-3)


def test_averages_are_evaluated_beside_the_weights(
    plain: tuple[Trainer, Recorder], watched: tuple[Trainer, Observers], tmp_path: Path
) -> None:
    (_, recorder), (trainer, _) = plain, watched
    logged = {row["step"]: row["eval_window_loss"] for row in trainer.state.log_history if "eval_window_loss" in row}
    assert sorted(logged) == [4, 8, 12, 16, 20, 24]
    other = make(tmp_path)
    for update, loss in logged.items():
        mean = torch.stack(recorder.weights[update - 3 : update + 1]).double().mean(0).float()
        torch.nn.utils.vector_to_parameters(mean, other.model.parameters())
        assert loss == pytest.approx(other.evaluate()["eval_loss"], rel=1e-6)
    assert any("eval_ema_loss" in row for row in trainer.state.log_history)


def test_what_is_seen_is_logged_with_a_forecast(watched: tuple[Trainer, Observers]) -> None:
    trainer, seen = watched
    rows = [row for row in trainer.state.log_history if "forecast_loss" in row]
    assert rows and rows[-1]["step"] == TOTAL - 2
    assert rows[0]["forecast_low"] < rows[0]["forecast_loss"] < rows[0]["forecast_high"]
    assert rows[0]["step"] == 14  # the seventh training loss
    assert all("weight_distance" in row for row in rows)
    # A mean over two updates belongs to their middle.
    assert [u for u, _ in seen.watch.curves["loss"]] == [u + 1.5 for u in range(0, TOTAL, 2)]
    assert seen.forecast() is None  # nothing is left to foretell


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return bool(one == other)


@pytest.mark.parametrize("moved", [False, True])
def test_a_resume_continues_the_observers_to_the_bit(
    watched: tuple[Trainer, Observers], tmp_path: Path, moved: bool
) -> None:
    trainer, whole = watched
    checkpoint = Path(trainer.args.output_dir) / "checkpoint-10"
    assert (checkpoint / STATE).is_file()
    folder = tmp_path / "elsewhere" if moved else Path(trainer.args.output_dir)
    again = make(folder, max_grad_norm=0.0)
    seen = observers(resume_from=checkpoint if moved else None).attach(again)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(flat(again.model), flat(trainer.model))
    assert same(seen.watch.state_dict(), whole.watch.state_dict())


def test_a_resume_without_the_observers_state_is_refused(watched: tuple[Trainer, Observers], tmp_path: Path) -> None:
    checkpoint = Path(watched[0].args.output_dir) / "checkpoint-10"
    again = make(tmp_path, max_grad_norm=0.0)
    observers().attach(again)
    with pytest.raises(StudyError, match=r"from update 10, and their state is in none of .*resume_from="):
        again.train(resume_from_checkpoint=str(checkpoint))


BRANCHES = {"length": 4, "shape": "one_minus_sqrt"}


@pytest.fixture(scope="module", params=["now", "end"])
def branched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Branches]:
    folder = tmp_path_factory.mktemp("branched")
    leaving = Branches([8, 13, 18], lambda: make(folder / "x", max_grad_norm=0.0), when=request.param, **BRANCHES)
    trainer = make(folder, [leaving], max_grad_norm=0.0)
    trainer.train()
    return trainer, leaving


def test_branches_leave_the_training_as_it_was(
    plain: tuple[Trainer, Recorder], branched: tuple[Trainer, Branches]
) -> None:
    trainer, leaving = branched
    assert torch.equal(flat(plain[0].model), flat(trainer.model))
    assert trainer.state.global_step == TOTAL and trainer.args.max_steps == TOTAL
    assert [(b.fork, b.total, b.failure) for b in leaving.results] == [(8, 12, ""), (13, 17, ""), (18, 22, "")]
    record = json.loads((Path(trainer.args.output_dir) / "isoloss-branches.json").read_text())
    assert [row["loss"] for row in record["branches"]] == [b.loss for b in leaving.results]
    evaluated = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    assert {u: loss for u, loss in record["evaluations"]} == evaluated
    # Three branches and six evaluations: what a cooldown from any update would have reached.
    assert leaving.anytime is not None
    assert leaving.anytime.at(13).loss == pytest.approx(leaving.results[1].loss, rel=0.02)


def test_a_branch_is_the_cooldown_in_place(branched: tuple[Trainer, Branches], tmp_path: Path) -> None:
    _, leaving = branched
    for callback, total in ((Cooldown(at=13, **BRANCHES), TOTAL), (Cooldown(**BRANCHES), 17)):
        trainer = make(tmp_path / str(total), [callback], total=total, max_grad_norm=0.0)
        trainer.train()
        assert trainer.state.global_step == 17
        cooled = load_file(Path(leaving.results[1].result or "") / "model.safetensors")
        assert all(torch.equal(value, cooled[name]) for name, value in trainer.model.state_dict().items()
                   if name in cooled)  # fmt: skip
        assert callback.result is not None and callback.result.loss == leaving.results[1].loss
        rates = [row["learning_rate"] for row in trainer.state.log_history if "loss" in row]
        assert rates[-1] == pytest.approx(LR * (1 - math.sqrt(3 / 4)))


def test_a_branch_is_the_cooldown_of_a_hand_written_loop(tmp_path: Path) -> None:
    recorder = Recorder()

    def branch() -> Trainer:
        trainer = make(tmp_path / "x", [recorder], dropout=0.0)
        return trainer

    leaving = Branches([8], branch, length=5, shape="linear", final=0.1)
    trunk = make(tmp_path, [leaving], total=9, dropout=0.0)
    trunk.train()
    model = built(0.0)
    saved = tmp_path / "checkpoint-8"
    model.load_state_dict(load_file(saved / "model.safetensors"), strict=False)
    decays = [p for n, p in model.named_parameters() if n in set(trunk.get_decay_parameter_names(model))]
    others = [p for n, p in model.named_parameters() if n not in set(trunk.get_decay_parameter_names(model))]
    optimizer = torch.optim.AdamW([{"params": decays}, {"params": others}], lr=LR, weight_decay=0.0)
    optimizer.load_state_dict(torch.load(saved / "optimizer.pt", weights_only=True))
    model.train()
    batches = iter(recorder.batches)
    for update in range(5):
        for group in optimizer.param_groups:
            group["lr"] = LR * (0.1 + 0.9 * (1 - update / 5))
        optimizer.zero_grad()
        parts = [next(batches), next(batches)]
        for part in parts:
            scores = model(input_ids=part["input_ids"]).logits[:, :-1]
            targets = part["labels"][:, 1:].reshape(-1)
            loss = torch.nn.functional.cross_entropy(scores.reshape(-1, 16), targets, reduction="sum")
            # The trainer divides by its own count of the labels of all micro-batches.
            (loss / part["num_items_in_batch"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert next(batches, None) is None
    cooled = load_file(Path(leaving.results[0].result or "") / "model.safetensors")
    for name, value in model.state_dict().items():
        if name in cooled:
            assert torch.allclose(value, cooled[name], rtol=0, atol=2e-6), name
    other = make(tmp_path / "y", dropout=0.0)
    other.model.load_state_dict(model.state_dict())
    assert leaving.results[0].loss == pytest.approx(other.evaluate()["eval_loss"], rel=1e-5)


def test_a_cooldown_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", [Cooldown(length=8)], total=16)
    whole.train()

    def part(callback: Cooldown) -> Trainer:
        return make(tmp_path / "part", [callback], total=16, save_strategy="steps", save_steps=11)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 11

    first = part(Cooldown(length=8))
    first.add_callback(Stop())
    first.train()
    again = part(Cooldown(length=8))
    again.train(resume_from_checkpoint=True)
    assert torch.equal(flat(again.model), flat(whole.model))
    late = part(Cooldown(length=8, shape="linear"))
    with pytest.raises(StudyError, match=r"not the .* of the cooldown; allowed: a checkpoint of update 8"):
        late.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-11"))


def test_a_training_that_is_resumed_cools_down_what_it_left_before(tmp_path: Path) -> None:
    first = make(tmp_path, [Branches([4])], total=6, save_strategy="steps", save_steps=6)
    first.train()
    leaving = Branches([4, 7], lambda: make(tmp_path / "x"), length=2)
    again = make(tmp_path, [leaving], total=8)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert [(b.fork, b.failure) for b in leaving.results] == [(4, ""), (7, "")]
    lost = make(tmp_path, [Branches([5])], total=8)
    with pytest.raises(StudyError, match="there is no checkpoint of update 5 to branch from"):
        lost.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))


def test_an_isoloss_schedule_in_the_trainer(tmp_path: Path) -> None:
    # Without a warm-up: that of transformers begins at 0, isoloss's at 1 / W.
    planned = make(tmp_path / "a", total=12, warmup_steps=0)
    scheduler = scheduled(planned, {"cooldown": ("one_minus_sqrt", 4, 0.0)})
    planned.train()
    assert planned.lr_scheduler is scheduler and scheduler.update == 12
    own = make(tmp_path / "b", [Cooldown(length=4)], total=12, warmup_steps=0)
    own.train()
    assert torch.equal(flat(planned.model), flat(own.model))
    # A trunk of isoloss's schedule is cooled down as well, and says so.

    def trunk(folder: Path, callbacks: Sequence[TrainerCallback] = (), total: int = 10) -> Trainer:
        trainer = make(folder, callbacks, total=total)
        scheduled(trainer, {"total": 100})
        return trainer

    leaving = Branches([8], lambda: trunk(tmp_path / "x"), length=4)
    trunk(tmp_path / "c", [leaving]).train()
    cooled = load_file(Path(leaving.results[0].result or "") / "model.safetensors")
    state = planned.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in cooled.items())
    with pytest.raises(StudyError, match="was given a IsolossLR"):
        scheduled(planned, {"total": 3})
    with pytest.raises(StudyError, match="neither total nor max_steps"):
        scheduled(make(tmp_path / "d", max_steps=-1), {"warmup": 2})


def limited(folder: Path) -> Trainer:
    return make(folder, [Branches([4], lambda: make(folder), length=2)], save_total_limit=1)


REFUSED: dict[str, tuple[Callable[[Path], Trainer], str]] = {
    "a scheduler that decays": (
        lambda f: make(f, [Cooldown(length=4)], lr_scheduler_type="linear"),
        "the scheduler of the training decays.*constant_with_warmup",
    ),
    "branches of one": (
        lambda f: make(f, [Branches([8], length=4)], lr_scheduler_type="cosine"),
        "the scheduler of the training decays",
    ),
    "one without a future": (
        lambda f: make(f, [Cooldown(length=4)], lr_scheduler_type="reduce_lr_on_plateau"),
        "set by ReduceLROnPlateau",
    ),
    "a warm-up that is not over": (lambda f: make(f, [Branches([2], length=4)]), r"decays \(or warms up\)"),
    "an update beyond the end": (
        lambda f: make(f, [Branches([30])]),
        "update 30 lies beyond the training's 24 updates",
    ),
    "a cooldown beyond it": (lambda f: make(f, [Cooldown(at=22, length=4)]), "4 updates from update 22 do not fit"),
    "checkpoints that go": (limited, "save_total_limit=1 deletes checkpoints"),
    "checkpoints in part": (lambda f: make(f, [Branches([8])], save_only_model=True), "saves no whole checkpoints"),
    "averages without a trainer": (
        lambda f: make(f, [Observers(averages={"ema": EMA(0.9)})]),
        r"allowed: Observers\(\.\.\.\)\.attach\(trainer\)",
    ),
    "one micro-batch": (
        lambda f: make(f, [Observers(noise_scale=0.9)], gradient_accumulation_steps=1),
        "found 1 micro-batches an update",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_refused_before_training(name: str, tmp_path: Path) -> None:
    build, message = REFUSED[name]
    trainer = build(tmp_path)
    before = flat(trainer.model)
    with pytest.raises(StudyError, match=message):
        trainer.train()
    assert torch.equal(before, flat(trainer.model))


@pytest.mark.parametrize(
    ("at", "options", "message"),
    [([], {}, "at is"), ([0], {}, "from 1"), ([3], {"when": "later"}, "when is 'later'"),
     ([3], {"shape": "linaer"}, "did you mean 'linear'"), ([3], {"length": 2, "fraction": 0.2}, "both")],
)  # fmt: skip
def test_options_are_checked(at: list[int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        Branches(at, **options)


def test_a_branch_that_fails_is_a_record_and_a_warning(plain: tuple[Trainer, Recorder], tmp_path: Path) -> None:
    def broken() -> Trainer:
        raise RuntimeError("no memory")

    leaving = Branches([8], broken, length=4, when="now")
    trainer = make(tmp_path / "a", [leaving], max_grad_norm=0.0)
    with pytest.warns(UserWarning, match="no memory"):
        trainer.train()
    assert torch.equal(flat(plain[0].model), flat(trainer.model))
    assert "failed: RuntimeError: no memory" in leaving.results[0].text() and leaving.anytime is None
    own = Branches([8], lambda: trainer, length=4)
    trainer = make(tmp_path / "b", [own], total=9)
    with warnings.catch_warnings(record=True):
        trainer.train()
    assert "the model that is being trained" in own.results[0].failure
    assert trainer.state.global_step == 9


def test_a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['transformers'] = None\nimport isoloss.bridges.huggingface"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StudyError" in done.stderr and "pip install 'isoloss[huggingface]'" in done.stderr
