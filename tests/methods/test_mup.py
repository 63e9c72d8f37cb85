"""muP: the table, the coordinate check on models of the ladder, equivalences, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from isoloss.methods import mup
from isoloss.methods.mup import Rule, coordinate_check, growth, model_rules, parameter_groups, rules
from isoloss.models import build

WIDTHS = (32, 64, 128, 256)
GPT: dict[str, Any] = {"family": "gpt", "depth": 2, "head_size": 16}


def model_of(family: str, width: int, seed: int = 1, **options: Any) -> nn.Module:
    if family == "mlp":
        return build({"family": "mlp", "width": width, "depth": 2}, vocabulary=10, context=24, seed=seed)
    model: Any = build(GPT | {"width": width} | options, vocabulary=40, context=16, seed=seed)
    model.attention = "sdpa"  # the plain path, whose layers can be watched
    return model


def batch(family: str, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    if family == "mlp":
        return torch.randn(32, 24, generator=generator), torch.randint(10, (32,), generator=generator)
    tokens = torch.randint(40, (4, 17), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def test_the_table() -> None:
    shapes = {
        "embed.weight": (50, 128),
        "up.weight": (256, 128),
        "up.bias": (256,),
        "conv.weight": (128, 64, 3, 3),
        "stem.weight": (128, 3, 7, 7),
        "head.weight": (50, 256),
        "head.bias": (50,),
    }
    base = {
        "embed.weight": (50, 32),
        "up.weight": (32, 32),
        "up.bias": (32,),
        "conv.weight": (32, 32, 3, 3),
        "stem.weight": (32, 3, 7, 7),
        "head.weight": (50, 64),
        "head.bias": (50,),
    }
    assert rules(shapes, base) == {
        "embed.weight": Rule("input", sgd=4.0),
        "up.weight": Rule("hidden", init=0.5, adam=0.25, sgd=2.0),
        "up.bias": Rule("vector", sgd=8.0),
        "conv.weight": Rule("hidden", init=2**-0.5, adam=0.5, sgd=2.0),
        "stem.weight": Rule("input", sgd=4.0),
        "head.weight": Rule("output", init=0.25, adam=0.25, sgd=0.25),
        "head.bias": Rule("fixed"),
    }
    assert rules(shapes, base, readout="multiplier")["head.weight"] == Rule("output", sgd=4.0, multiplier=0.25)
    tied = rules(shapes, base, kinds={"embed": "tied"})["embed.weight"]
    assert tied == Rule("tied", init=0.5, adam=0.5, sgd=1.0)
    assert all((r.init, r.adam, r.sgd, r.multiplier) == (1, 1, 1, 1) for r in rules(base, base).values())


def test_attention_scale_is_the_usual_one_at_the_base() -> None:
    assert mup.attention_scale(16, 16) == 1 / math.sqrt(16)
    assert mup.attention_scale(64, 16) == 0.25 * mup.attention_scale(16, 16)


def test_kinds_of_the_models() -> None:
    kinds = {name: r.kind for name, r in model_rules(model_of("gpt", 64), model_of("gpt", 32)).items()}
    assert kinds["embedding.weight"] == "input"
    assert kinds["blocks.0.qkv.weight"] == kinds["blocks.1.down.weight"] == "hidden"
    assert kinds["norm"] == "vector"
    assert kinds["head.weight"] == "output"
    images = [
        build({"family": "resnet", "width": w, "depth": 8}, vocabulary=10, context=3072, seed=0, shape=(3, 32, 32))
        for w in (8, 4)
    ]
    kinds = {name: r.kind for name, r in model_rules(*images).items()}
    assert kinds["conv.weight"] == "input"
    assert kinds["blocks.2.conv1.weight"] == "hidden"
    assert kinds["head.weight"] == "output"
    assert kinds["head.bias"] == "fixed"


def built(family: str, optimizer: str, transfer: bool, **options: Any) -> Callable[[int], Any]:
    """Models of a width with their optimizer, by muP or as they are."""
    lr = {"adam": 0.01, "sgd": 0.1}[optimizer]
    kinds = {"embedding": "tied"} if options.get("tied") else None

    def make(width: int, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, base = model_of(family, width, seed, **options), model_of(family, WIDTHS[0], seed, **options)
        if family == "mlp":
            # A zero readout removes what an initial one of finite width adds.
            for each in (model, base):
                each.head.weight.data.zero_()  # type: ignore[union-attr]
        groups: Any = model.parameters()
        if transfer:
            mup.initialise_(model, base, model_rules(model, base, kinds=kinds))
            groups = parameter_groups(model, base, lr, optimizer=optimizer, kinds=kinds)
        kind = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        return model, kind(groups, lr=lr)

    return make


@pytest.mark.parametrize(
    ("family", "optimizer", "options"),
    [
        ("mlp", "adam", {}),
        ("mlp", "sgd", {}),
        ("gpt", "adam", {}),
        ("gpt", "adam", {"tied": True}),
    ],
)
def test_coordinates_are_flat_under_mup_and_not_without(family: str, optimizer: str, options: dict[str, Any]) -> None:
    """Tensors of a tied table are left out: its look-up is scaled by sqrt(width) outside the layer."""
    steps, seeds = 4, 3 if family == "mlp" else 1
    left_out = {"embedding"} if options.get("tied") else set()

    def slopes(transfer: bool, of: str) -> dict[str, float]:
        make = built(family, optimizer, transfer, **options)
        table = coordinate_check(make, WIDTHS, steps, lambda step: batch(family, step), seeds=seeds)
        return {name: slope for name, slope in growth(table, steps, of).items() if name not in left_out}

    change, size = slopes(True, "change"), slopes(True, "size")
    assert len(change) >= 4
    assert all(-0.35 < slope < 0.15 for slope in change.values()), change
    assert all(-0.35 < slope < 0.15 for slope in size.values()), size
    without = slopes(False, "change")
    assert max(without.values()) > 0.4, without
    assert max(without.values()) > max(change.values()) + 0.4


def test_folded_and_multiplier_readouts_train_alike() -> None:
    """Tables 3 and 8 are one training: same outputs after several updates."""

    def trained(readout: str, optimizer: str) -> Tensor:
        model, base = model_of("mlp", 128), model_of("mlp", 32)
        found = model_rules(model, base, readout=readout)
        mup.initialise_(model, base, found)
        kind = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        options: dict[str, Any] = {"eps": 1e-30} if optimizer == "adam" else {}
        groups = parameter_groups(model, base, 0.01, optimizer=optimizer, readout=readout)
        torch_optimizer = kind(groups, lr=0.01, **options)
        head: Any = model.head  # type: ignore[union-attr]
        bias, factor = head.bias, found["head.weight"].multiplier
        head.register_forward_hook(lambda module, given, output: (output - bias) * factor + bias)
        for step in range(5):
            inputs, targets = batch("mlp", step)
            torch_optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            torch_optimizer.step()
        return model(batch("mlp", 9)[0]).detach()

    for optimizer in ("adam", "sgd"):
        torch.testing.assert_close(trained("folded", optimizer), trained("multiplier", optimizer), rtol=1e-3, atol=2e-5)


def test_initial_sizes_follow_the_rule() -> None:
    model, base = model_of("mlp", 256), model_of("mlp", 32)
    mup.initialise_(model, base, model_rules(model, base))
    weights, old = dict(model.named_parameters()), dict(base.named_parameters())
    for name, factor in (("head.weight", 1 / 8), ("hidden.1.weight", 8**-0.5), ("hidden.0.weight", 1.0)):
        rms, before = (each[name].square().mean().sqrt() for each in (weights, old))
        assert (rms / before).item() == pytest.approx(factor, rel=1e-5)
    # The decoder's own initialisation is that of muP already, up to the draw.
    gpt, gpt_base = model_of("gpt", 256), model_of("gpt", 32)
    before = {name: p.detach().clone() for name, p in gpt.named_parameters()}
    mup.initialise_(gpt, gpt_base, model_rules(gpt, gpt_base))
    assert all(torch.allclose(p, before[name], rtol=0.1) for name, p in gpt.named_parameters())


def test_groups_hold_every_tensor_once_and_keep_lr_times_decay() -> None:
    model, base = model_of("gpt", 128), model_of("gpt", 32)
    model_norm: Any = model.norm
    model_norm.requires_grad_(False)
    groups = parameter_groups(model, base, 0.02, weight_decay=0.1)
    members = [p for group in groups for p in group["params"]]
    assert {id(p) for p in members} == {id(p) for p in model.parameters() if p.requires_grad}
    assert len(members) == len({id(p) for p in members})
    for group in groups:
        for p in group["params"]:
            assert group["lr"] * group["weight_decay"] == pytest.approx(0.002 if p.ndim >= 2 else 0.0)
    assert sorted({round(group["lr"] / 0.02, 3) for group in groups})[-1] == 1.0
    assert len({group["lr"] for group in groups}) >= 2


def test_the_check_leaves_no_hooks_and_reads_every_layer() -> None:
    model = model_of("mlp", 32)
    table = coordinate_check(
        lambda width, seed: (model, torch.optim.SGD(model.parameters(), lr=0.1)),
        [32],
        2,
        lambda step: batch("mlp", step),
    )
    assert {row.layer for row in table} == {"", "head", "hidden.0", "hidden.1"}
    assert {row.step for row in table} == {0, 1, 2}
    assert all(row.change == 0 for row in table if row.step == 0)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="one width"):
        growth(table, 2)
    with pytest.raises(ValueError, match="step 0"):
        growth(table, 0)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="did you mean 'hidden'"):
        rules({"a": (2, 2)}, {"a": (2, 2)}, kinds={"a": "hiden"})
    with pytest.raises(ValueError, match="did you mean 'folded'"):
        rules({"a": (2, 2)}, {"a": (2, 2)}, readout="fold")
    with pytest.raises(ValueError, match="the first is 'b'"):
        rules({"a": (2, 2), "b": (1,)}, {"a": (2, 2)})
    with pytest.raises(ValueError, match=r"a has shape \(2, 2\) and in the base model \(2,\)"):
        rules({"a": (2, 2)}, {"a": (2,)})
    with pytest.raises(ValueError, match="optimizer 'lion'; allowed: adam, sgd"):
        Rule("fixed").lr("lion")
    tied = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="embedding and head at once"):
        model_rules(tied, tied)
