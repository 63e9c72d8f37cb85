"""The update loop against plain PyTorch, closed forms and itself under every way of cutting it."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from isoloss import models
from isoloss.methods import schedules
from isoloss.plan.lower import Lowered, Lowering, open_source
from isoloss.recipe.errors import StudyError
from isoloss.recipe.measure import Measure, Observer
from isoloss.recipe.run import LR
from isoloss.study import from_dict
from isoloss.train.loop import Diverged, Trainer, learning_rate
from isoloss.train.segment import Segment, State, Trained, train


def lowered(study: dict[str, Any], lr: float = 0.01, **training: Any) -> Lowered:
    study = copy.deepcopy(study)
    study["training"].update(training)
    study.pop("grid"), study.pop("arms"), study.pop("baseline")
    study |= {"duration": "40 updates", "schedule": {"shape": "constant"}}
    study["training"]["optimizer"]["lr"] = lr
    (cell,) = from_dict(study).cells
    return Lowering()(cell.config, lr, where="test")


def trainer(made: Lowered, track: int = 0) -> Trainer:
    _, phase, _ = made.run.tracks[track]
    return Trainer(made.run.start, phase, open_source(made.data), made.run.numerics)


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in of.state()[0].items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_updates_equal_plain_pytorch(small: dict[str, Any], optimizer: str) -> None:
    small["training"]["optimizer"] = {"name": optimizer, "lr": 0.01, "weight_decay": 0.1}
    made = lowered(small, warmup="0 updates", clip=0.5)
    ours = trainer(made)
    source = open_source(made.data)
    plain = models.build(made.run.start.model["spec"], vocabulary=source.vocabulary, context=8, seed=0)
    named = list(plain.named_parameters())
    groups = [
        {"params": [p for n, p in named if models.decayed(n, p)], "weight_decay": 0.1},
        {"params": [p for n, p in named if not models.decayed(n, p)], "weight_decay": 0.0},
    ]
    if optimizer == "adamw":
        peer: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    else:
        peer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
    for update in range(10):
        row = ours.step(update)
        batch = torch.from_numpy(source.batch(0, update * 4, 4, 8))
        loss = F.cross_entropy(plain(batch[:, :-1]).reshape(-1, 8), batch[:, 1:].reshape(-1))
        peer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        peer.step()
        assert row.loss == pytest.approx(loss.item(), rel=1e-5)
        assert row.gradient_norm == pytest.approx(norm.item(), rel=1e-4)
    for name, value in plain.named_parameters():
        torch.testing.assert_close(ours.state()[0][f"model/{name}"], value.detach(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16-autocast", "bf16-master"])
def test_resume_is_bit_identical(small: dict[str, Any], precision: str) -> None:
    made = lowered(small, warmup="0 updates", precision=precision)
    whole = trainer(made)
    for update in range(12):
        whole.step(update)
    first = trainer(made)
    for update in range(5):
        first.step(update)
    tensors, meta = first.state()
    kept = {name: value.clone() for name, value in tensors.items()}
    second = trainer(made)
    second.load(kept, meta, entering=False, phase=made.run.tracks[0][1])
    for update in range(5, 12):
        second.step(update)
    assert equal(weights(whole), weights(second))
    assert whole.state()[1] == second.state()[1]


def test_a_reset_of_the_optimizer_forgets_its_state_and_nothing_else(small: dict[str, Any]) -> None:
    from isoloss.recipe.run import Carry, Phase

    made = lowered(small, warmup="0 updates")
    first = trainer(made)
    for update in range(5):
        first.step(update)
    tensors, meta = first.state()
    phase = Phase(made.run.tracks[0][1].rule, 5, Carry(optimizer="reset"))
    other = trainer(made)
    other.load(tensors, meta, entering=True, phase=phase)
    after, facts = other.state()
    assert not [name for name in after if name.startswith("optimizer/")]
    assert all(torch.equal(after[n], tensors[n]) for n in after if n.startswith("model/"))
    assert facts["samples"] == meta["samples"]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_micro_batches_add_up_to_the_batch(small: dict[str, Any], count: int) -> None:
    one, many = (trainer(lowered(small, warmup="0 updates", batch="8 sequences", micro_batches=n)) for n in (1, count))
    for update in range(3):
        a, b = one.step(update), many.step(update)
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)


def test_processes_share_micro_batches_in_the_same_tree() -> None:
    from isoloss.train.parallel.layout import Layout, PairwiseSum

    rng = np.random.default_rng(0)
    parts = [torch.from_numpy(rng.normal(size=50).astype(np.float32)) for _ in range(8)]
    tree = PairwiseSum()
    for part in parts:
        tree.add(part.clone())
    whole = tree.total()
    by_hand = ((parts[0] + parts[1]) + (parts[2] + parts[3])) + ((parts[4] + parts[5]) + (parts[6] + parts[7]))
    assert torch.equal(whole, by_hand)
    for world in (2, 4, 8):
        roots = PairwiseSum()
        for rank in range(world):
            own = PairwiseSum()
            for index in Layout(world, rank).share(8):
                own.add(parts[index].clone())
            roots.add(own.total())
        assert torch.equal(roots.total(), whole)


@pytest.mark.parametrize(("micro", "world"), [(3, 2), (6, 2), (1, 2), (12, 4)])
def test_what_cannot_be_shared_exactly_is_refused(micro: int, world: int) -> None:
    from isoloss.train.parallel.layout import Layout

    with pytest.raises(StudyError, match="power-of-two"):
        Layout(world, 0).share(micro)


@pytest.mark.parametrize(
    ("shape", "value"),
    [("linear", 0.75), ("one_minus_sqrt", 0.5), ("cosine", 0.853553), ("mirror_cosine", 0.646447), ("square", 0.9375)],
)
def test_schedule_check_values(shape: str, value: float) -> None:
    """Haegele et al. 2024, forms at x = 0.25."""
    assert learning_rate(LR(shape, 2.0, 0.0, length=8), 2) == pytest.approx(2.0 * value, abs=1e-5)
    assert learning_rate(LR(shape, 2.0, 0.5, length=8), 0) == 2.0
    assert learning_rate(LR(shape, 2.0, 0.5, length=8), 8) == pytest.approx(0.5)


def test_phases_give_the_multiplier_of_the_whole_run(small: dict[str, Any]) -> None:
    """The phases that a study is lowered to against the one-function schedule that users import."""
    cases = [
        (
            {"shape": "constant", "cooldown": {"shape": "one_minus_sqrt", "fraction": 0.2}},
            "constant",
            ("one_minus_sqrt", 8, 0.0),
        ),
        ({"shape": "cosine", "final": 0.1}, "cosine", None),
        ({"shape": "exponential", "final": 0.05}, "exponential", None),
        ({"shape": "inverse_sqrt"}, "inverse_sqrt", None),
    ]
    for schedule, shape, cooldown in cases:
        study = copy.deepcopy(small)
        study.pop("grid"), study.pop("arms"), study.pop("baseline")
        study |= {"duration": "40 updates", "schedule": schedule}
        made = Lowering()(from_dict(study).cells[0].config, 0.3, where="test")
        final = schedule.get("final", 0.0)
        for update, rule, offset in made.run.updates():
            expected = schedules.lr(update, peak=0.3, total=40, warmup=4, shape=shape, final=final, cooldown=cooldown)
            assert learning_rate(rule.lr, offset) == pytest.approx(expected, rel=1e-12), (schedule, update)


def run_segment(made: Lowered, measures: dict[int, tuple[Measure, ...]], saves: tuple[int, ...]) -> list[Trained]:
    pieces: list[Trained] = []

    def keep(piece: Trained) -> None:
        state = piece.state
        assert state is not None
        copied = State({n: t.clone() for n, t in state.tensors.items()}, dict(state.meta), dict(state.sides))
        pieces.append(Trained(piece.begin, piece.end, copied, piece.curve, piece.values, piece.diverged, piece.seconds))

    segment = Segment(made.run, 0, 0, saves[-1], saves, measures)
    train(segment, open_source(made.data), None, keep)
    return pieces


def test_observers_and_evaluations_change_no_bit(small: dict[str, Any]) -> None:
    made = lowered(small, warmup="0 updates")
    bare = run_segment(made, {}, (20,))[-1]
    kinds = [
        Observer("window", {"length": 10, "every": 1, "block": 10}),
        Observer("ema", {"decay": 0.9, "every": 2}),
        Observer("lawa", {"count": 2, "every": 5}),
    ]
    watched = {at: tuple(Measure("loss", "B", 64, o) for o in [None, *kinds]) for at in (10, 20)}
    seen = run_segment(made, watched, (7, 13, 20))
    assert bare.state and seen[-1].state
    assert equal(dict(bare.state.tensors), dict(seen[-1].state.tensors))
    assert np.array_equal(bare.curve["loss"], np.concatenate([p.curve["loss"] for p in seen]))
    values = {(at, m.name): v for p in seen for at, m, v in p.values}
    assert len(values) == 8
    assert all(math.isfinite(v) for v in values.values())


def test_a_measured_window_is_the_mean_of_the_stored_weights(small: dict[str, Any]) -> None:
    made = lowered(small, warmup="0 updates")
    window = Observer("window", {"length": 5, "every": 1, "block": 5})
    pieces = run_segment(made, {20: (Measure("loss", "B", 64, window),)}, tuple(range(1, 21)))
    states = [p.state for p in pieces[-5:]]
    mean = {
        name: torch.stack([s.tensors[name].double() for s in states if s]).mean(0).float()
        for name in states[0].tensors  # type: ignore[union-attr]
        if name.startswith("model/")
    }
    model = models.build(made.run.start.model["spec"], vocabulary=8, context=8, seed=0)
    model.load_state_dict({name[6:]: value for name, value in mean.items()})
    batch = torch.from_numpy(open_source(made.data).validation("B", 64, 8))
    with torch.no_grad():
        loss = F.cross_entropy(model(batch[:, :-1]).reshape(-1, 8), batch[:, 1:].reshape(-1)).item()
    assert pieces[-1].values[0][2] == pytest.approx(loss, rel=1e-6)


def test_divergence_ends_the_segment_and_names_the_update(small: dict[str, Any]) -> None:
    small["training"]["optimizer"] = {"name": "sgd", "lr": 1.0, "momentum": 0.9}
    made = lowered(small, lr=90.0, warmup="0 updates", clip=None)
    pieces: list[Trained] = []
    train(Segment(made.run, 0, 0, 40, (10, 20, 30, 40), {}), open_source(made.data), None, pieces.append)
    last = pieces[-1]
    assert last.diverged is not None and last.state is None
    assert f"update {last.end - 1 if len(last.curve['loss']) < last.end - last.begin else last.end}" in last.diverged
    assert last.end < 40


def test_the_loss_far_above_its_start_is_divergence(small: dict[str, Any]) -> None:
    made = lowered(small, warmup="0 updates")
    ours = trainer(made)
    ours.step(0)
    assert ours.first_loss is not None
    ours.first_loss /= 10
    with pytest.raises(Diverged, match="far above its start"):
        ours.step(1)


def test_noise_is_a_function_of_update_and_micro_batch(small: dict[str, Any]) -> None:
    """A model with dropout resumes to the bit and leaves no trace in the data order."""
    small["model"] = {"name": "tests.train.train_models:Dropping", "width": 8}
    made = lowered(small, warmup="0 updates", batch="8 sequences", micro_batches=2)
    whole, first, second = trainer(made), trainer(made), trainer(made)
    for update in range(6):
        whole.step(update)
    for update in range(3):
        first.step(update)
    torch.manual_seed(99)
    tensors, meta = first.state()
    second.load({n: t.clone() for n, t in tensors.items()}, meta, entering=False, phase=made.run.tracks[0][1])
    for update in range(3, 6):
        second.step(update)
    assert equal(weights(whole), weights(second))


def test_a_users_optimizer_keeps_its_state(small: dict[str, Any]) -> None:
    small["training"]["optimizer"] = {"name": "torch.optim:Adamax", "lr": 0.01, "weight_decay": 0.1}
    made = lowered(small, warmup="0 updates")
    whole, first, second = trainer(made), trainer(made), trainer(made)
    for update in range(6):
        whole.step(update)
    for update in range(3):
        first.step(update)
    tensors, meta = first.state()
    assert any(name.startswith("optimizer/exp_inf/") for name in tensors)
    second.load({n: t.clone() for n, t in tensors.items()}, meta, entering=False, phase=made.run.tracks[0][1])
    for update in range(3, 6):
        second.step(update)
    assert equal(weights(whole), weights(second))


def test_classification_counts_and_learns() -> None:
    study = {
        "study": "blobs",
        "data": {"source": "blobs", "classes": 3, "samples": 2000, "separation": 5.0},
        "model": {"family": "mlp", "width": 16, "depth": 1},
        "training": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch": "16 samples"},
        "schedule": {"shape": "constant"},
        "duration": "200 updates",
        "evaluation": {"samples": 64},
    }
    made = Lowering()(from_dict(study).cells[0].config, 0.1, where="test")
    pieces: list[Trained] = []
    source = open_source(made.data)
    asked = (Measure("loss", "B", 200), Measure("accuracy", "B", 200))
    train(Segment(made.run, 0, 0, 200, (200,), {200: asked}), source, None, pieces.append)
    loss, accuracy = (value for _, _, value in pieces[-1].values)
    best = 1 - source.describe()["bayes_error"]
    assert loss < 0.2
    assert best - 0.06 < accuracy <= 1.0


def test_out_of_memory_names_the_micro_batch_that_would_fit(small: dict[str, Any]) -> None:
    """A model that finds no memory for more than three sequences at once."""
    from isoloss.recipe.errors import RunFailed

    made = trainer(lowered(small, warmup="0 updates", batch="16 sequences", micro_batches=2))
    whole = made.model.forward

    def narrow(tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return whole(tokens)

    made.model.forward = narrow  # type: ignore[method-assign]
    with pytest.raises(RunFailed, match=r"8 sam.* 2 would fit: training.micro_batches 8, which is another key"):
        made.step(0)


def test_batches_ahead_are_the_batches_asked_for() -> None:
    """With a thread that guesses the next one, in order and out of it; pinning needs a GPU and is left out."""
    from isoloss.train.batches import Batches

    class Unpinned(Batches):
        def _pinned(self, samples: int) -> Any:
            return torch.from_numpy(self._fetch(samples))

    def fetch(samples: int) -> Any:
        return np.arange(samples, samples + 4)

    ahead = Unpinned(fetch, 4, torch.device("meta"))
    ahead._device = torch.device("cpu")
    for samples in (0, 4, 8, 100, 104, 3, 7):
        assert ahead(samples).tolist() == fetch(samples).tolist()
        assert Batches(fetch, 4, torch.device("cpu"))(samples).tolist() == fetch(samples).tolist()
