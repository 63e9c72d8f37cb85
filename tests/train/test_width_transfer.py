"""Width transfer in the update loop: initial values and learning rates against closed forms and plain torch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from isoloss import models
from isoloss.methods.muon import MuonAdamW, muon_groups
from isoloss.plan.demands import stage
from isoloss.plan.lower import Lowered, Lowering, open_source
from isoloss.plan.needs import Nothing
from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict
from isoloss.train.loop import Trainer

BASE, LR = 8, 0.01
GPT: dict[str, Any] = {"family": "gpt", "depth": 1, "head_size": 4, "mlp_ratio": 2}
TOKENS: dict[str, Any] = {
    "study": "tokens",
    "data": {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000, "context": 8},
    "duration": "6 updates",
    "training": {"batch": "4 sequences"},
    "evaluation": {"tokens": 256},
}
VECTORS: dict[str, Any] = {
    "study": "vectors",
    "data": {"source": "blobs", "classes": 4, "samples": 640},
    "duration": "6 updates",
    "training": {"batch": "16 samples"},
    "evaluation": {"samples": 64},
}


def lowered(study: dict[str, Any], model: dict[str, Any], optimizer: str = "adamw", **options: Any) -> Lowered:
    study = copy.deepcopy(study) | {"model": model}
    study["training"] |= {"optimizer": {"name": optimizer, "lr": LR, **options}, "clip": None}
    (cell,) = from_dict(study).cells
    return Lowering()(cell.config, LR, where="test")


def trainer(made: Lowered) -> Trainer:
    _, phase, _ = made.run.tracks[0]
    return Trainer(made.run.start, phase, open_source(made.data), made.run.numerics)


def mup(width: int, **model: Any) -> dict[str, Any]:
    return {**model, "width": width, "parametrisation": "mup", "base_width": BASE}


def rates(made: Lowered) -> dict[str, tuple[float, float]]:
    """(learning rate over LR, weight decay) by parameter, as the optimizer has them after an update."""
    ours = trainer(made)
    ours.step(0)
    found: dict[str, tuple[float, float]] = {}
    place = 0
    for group in ours.optimizer.param_groups:
        for member in group["params"]:
            filled = 0
            while filled < member.numel():
                found[ours.parameters.names[place]] = (group["lr"] / LR, group["weight_decay"])
                filled += ours.parameters.sizes[place]
                place += 1
    return found


def test_learning_rates_of_the_decoder_are_the_closed_forms() -> None:
    found = rates(lowered(TOKENS, mup(32, **GPT), weight_decay=0.1))
    for name, (rate, decay) in found.items():
        hidden = name.startswith("blocks") and "norm" not in name
        matrix = hidden or name == "head.weight"
        assert rate == (0.25 if matrix else 1.0), name
        assert decay == pytest.approx(0.4 if matrix else 0.0), name
    assert len(found) == 9
    tied = rates(lowered(TOKENS, mup(32, **GPT, tied=True)))
    assert tied["embedding.weight"][0] == 0.5


@pytest.mark.parametrize(("optimizer", "column"), [("schedule_free_adamw", "adam"), ("sgd", "sgd")])
def test_learning_rates_of_the_perceptron_are_the_closed_forms(optimizer: str, column: str) -> None:
    found = rates(lowered(VECTORS, mup(32, family="mlp", depth=2), optimizer, weight_decay=0.1))
    expected = {
        "hidden.0.weight": (1.0, 4.0), "hidden.0.bias": (1.0, 4.0), "hidden.1.weight": (0.25, 1.0),
        "hidden.1.bias": (1.0, 4.0), "head.weight": (0.25, 0.25), "head.bias": (1.0, 1.0),
    }  # fmt: skip
    for name, (adam, sgd) in expected.items():
        rate, decay = found[name]
        assert rate == {"adam": adam, "sgd": sgd}[column], name
        assert rate * decay == pytest.approx(0.1 if name.endswith("weight") else 0.0)


def test_initial_values_have_the_spread_of_the_closed_forms() -> None:
    """Hidden 1 / sqrt(m), readout 1 / m, inputs 1 of the base's spread; residual networks alike."""
    known: dict[str, Any] = {"vocabulary": 10, "context": 24, "seed": 3}

    def spreads(width: int, base: int | None = None, **spec: Any) -> dict[str, float]:
        moved = {} if base is None else {"parametrisation": "mup", "base_width": base}
        made = models.build({**spec, "width": width, **moved}, **known, shape=spec.get("shape"))
        return {name: p.square().mean().sqrt().item() for name, p in made.named_parameters() if p.ndim >= 2}

    base, wide = (spreads(width, 32, family="mlp", depth=2) for width in (32, 512))
    assert base == spreads(32, family="mlp", depth=2)
    for name, factor in (("hidden.0.weight", 1.0), ("hidden.1.weight", 1 / 4), ("head.weight", 1 / 16)):
        assert wide[name] / base[name] == pytest.approx(factor, rel=1e-5)
    known |= {"context": 3 * 8 * 8, "shape": (3, 8, 8)}
    spec = {"family": "resnet", "depth": 8}
    base, wide = ({n: p.square().mean().sqrt().item() for n, p in models.build(
        {**spec, "width": width, "parametrisation": "mup", "base_width": 4}, **known).named_parameters() if p.ndim >= 2}
        for width in (4, 16))  # fmt: skip
    for name, factor in (("conv.weight", 1.0), ("blocks.1.conv1.weight", 1 / 2), ("head.weight", 1 / 4)):
        assert wide[name] / base[name] == pytest.approx(factor, rel=1e-5)


@pytest.mark.parametrize(
    ("study", "model", "optimizer"),
    [(TOKENS, GPT, "adamw"), (VECTORS, {"family": "mlp", "depth": 1}, "schedule_free_sgd")],
)
def test_at_the_base_nothing_changes_to_the_bit(study: dict[str, Any], model: dict[str, Any], optimizer: str) -> None:
    plain, moved = (trainer(lowered(study, m, optimizer)) for m in ({**model, "width": BASE}, mup(BASE, **model)))
    for update in range(6):
        plain.step(update)
        moved.step(update)
    assert torch.equal(plain.weights, moved.weights)


def step_together(
    ours: Trainer, made: Lowered, plain: torch.nn.Module, peer: torch.optim.Optimizer, *, rtol: float, atol: float
) -> None:
    """Six updates of the loop and of plain torch on the same batches end at the same weights."""
    source = open_source(made.data)
    for update in range(6):
        ours.step(update)
        batch = torch.from_numpy(source.batch(0, update * 4, 4, 8))
        peer.zero_grad()
        F.cross_entropy(plain(batch[:, :-1]).reshape(-1, 8), batch[:, 1:].reshape(-1)).backward()
        peer.step()
    for name, value in plain.named_parameters():
        torch.testing.assert_close(ours.state()[0][f"model/{name}"], value.detach(), rtol=rtol, atol=atol)


def test_updates_equal_plain_torch_with_a_group_a_tensor() -> None:
    made = lowered(TOKENS, mup(24, **GPT), weight_decay=0.1)
    ours = trainer(made)
    plain = models.build(made.run.start.model["spec"], vocabulary=8, context=8, seed=0)
    groups = []
    for name, p in plain.named_parameters():
        factor = 1 / 3 if name == "head.weight" or (name.startswith("blocks") and "norm" not in name) else 1.0
        decay = 0.1 / factor if models.decayed(name, p) else 0.0
        groups.append({"params": [p], "lr": LR * factor, "weight_decay": decay})
    peer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    step_together(ours, made, plain, peer, rtol=2e-4, atol=2e-6)


def test_muon_in_the_loop_is_muon_with_groups_by_name() -> None:
    made = lowered(TOKENS, {**GPT, "width": 16}, "muon", weight_decay=0.05)
    ours = trainer(made)
    plain = models.build(made.run.start.model["spec"], vocabulary=8, context=8, seed=0)
    hidden, others, vectors = muon_groups(plain, weight_decay=0.05)
    table = plain.embedding.weight  # a study gives no decay to embeddings
    others["params"] = [p for p in others["params"] if p is not table]
    groups = [hidden, others, vectors, {"params": [table], "weight_decay": 0.0, "muon": False}]
    peer = MuonAdamW(groups, lr=LR)
    found = [p.numel() for group in ours.optimizer.param_groups if group["muon"] for p in group["params"]]
    assert sum(found) == made.facts.N - 3 * 16  # all but three gains
    step_together(ours, made, plain, peer, rtol=2e-2, atol=1e-4)


def test_standard_parametrisation_leaves_every_key_alone() -> None:
    """Names of the parametrisation enter an address only where they decide bits."""
    plain = lowered(TOKENS, {**GPT, "width": 16})
    said = lowered(TOKENS, {**GPT, "width": 16, "parametrisation": "standard", "base_width": 8})
    assert plain.run.key(6) == said.run.key(6)
    assert set(plain.run.start.model["spec"]) == {
        "family", "width", "depth", "head_size", "mlp", "mlp_ratio", "tied",
    }  # fmt: skip
    keys = {lowered(TOKENS, mup(16, **GPT)).run.key(6), plain.run.key(6)}
    other = lowered(TOKENS, mup(16, **GPT) | {"base_width": 4})
    assert len({*keys, other.run.key(6)}) == 3


def test_what_does_not_go_together() -> None:
    with pytest.raises(StudyError, match=r"model\.base_width: missing; allowed: the width"):
        lowered(TOKENS, {**GPT, "width": 16, "parametrisation": "mup"})
    with pytest.raises(StudyError, match=r"model\.base_width: found 6; allowed: a multiple of head_size 4"):
        lowered(TOKENS, mup(16, **GPT) | {"base_width": 6})
    with pytest.raises(StudyError, match="found 'mup' with lamb; allowed with mup: adamw, schedule_free_adamw, sgd"):
        lowered(TOKENS, mup(16, **GPT), "lamb")
    with pytest.raises(StudyError, match="unknown key 'parametrisation' of f1"):
        lowered(VECTORS, mup(16, family="f1"))


def test_a_rate_tuned_at_one_width_serves_all() -> None:
    study = copy.deepcopy(TOKENS) | {
        "model": mup(BASE, **GPT),
        "grid": {"model.width": [8, 16, 32]},
        "tune": {"training.optimizer.lr": [0.01, 0.02, 0.04], "at": {"model.width": 16}},
    }
    del study["model"]["width"]

    class Measured(Nothing):
        def measured(self, keys: Any) -> dict[str, dict[str, float]]:
            losses = iter((3.0, 1.0, 2.0))
            return {key: dict.fromkeys(("loss@A:256", "loss@B:256"), next(losses)) for key in keys[:3]}

    def rules(made: dict[str, Any]) -> list[tuple[float, str]]:
        planned = stage(from_dict(made), Measured(), Lowering()).planned
        return [(each.lr, each.rule) for each in planned]

    assert rules(study) == [(0.02, "transferred"), (0.02, "tuned"), (0.02, "transferred")]
    standard = copy.deepcopy(study)
    standard["model"]["parametrisation"] = "standard"
    assert [rule for _, rule in rules(standard)] == ["nearest", "tuned", "nearest"]


def test_a_grid_may_hold_both_parametrisations() -> None:
    study = copy.deepcopy(TOKENS) | {"model": mup(BASE, **GPT), "grid": {"model.parametrisation": ["standard", "mup"]}}
    study["model"] |= {"width": 16}
    del study["model"]["parametrisation"]
    study["training"]["optimizer"] = {"lr": LR}
    made = [Lowering()(cell.config, LR, where="x") for cell in from_dict(study).cells]
    assert [models.transfers(each.run.start.model["spec"]) for each in made] == [False, True]
    assert len({each.run.root_key for each in made}) == 2
    assert np.isfinite([trainer(each).step(0).loss for each in made]).all()
