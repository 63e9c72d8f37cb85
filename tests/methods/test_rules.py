"""Scaling rules: each against the quantity it is there to keep, and the whole recipe in one go."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoloss.methods import rules
from isoloss.methods.rules import Recipe, Rescaling, adapt, batch_ratio, lr_factor, momentum, weight_decay
from isoloss.recipe.units import Quantity

amount = Quantity.parse
ratios = st.floats(1 / 64, 64)


def test_learning_rates() -> None:
    assert [lr_factor(16, rule) for rule in rules.LR_SCALINGS] == [1, 4, 16, 4]
    assert lr_factor(32 / 512, "linear") == 0.0625


def test_sqrt_keeps_the_covariance_of_an_increment() -> None:
    """eta g over batches of B: the covariance of one increment is eta^2 Sigma / B, brute force over draws."""
    generator = torch.Generator().manual_seed(0)
    per_sample = torch.randn(4096, 64, generator=generator, dtype=torch.float64)

    def increment(batch: int, lr: float) -> float:
        return float((lr * per_sample[:, :batch].mean(1)).var())

    assert increment(64, 0.1 * lr_factor(64 / 4, "sqrt")) == pytest.approx(increment(4, 0.1), rel=0.06)
    assert increment(64, 0.1 * lr_factor(64 / 4, "linear")) == pytest.approx(16 * increment(4, 0.1), rel=0.06)


def test_linear_follows_the_small_batch_where_the_gradient_stands_still() -> None:
    """r updates of eta at B and one of r eta at r B move a constant gradient alike (Goyal et al. 2017)."""
    assert pytest.approx(0.1 * lr_factor(8, "linear")) == 8 * 0.1


def test_legw_has_as_many_warm_up_updates_at_every_batch() -> None:
    for unit, expected in (("200 updates", "200 updates"), ("2 epochs", "16 epochs"), ("512 samples", "4096 samples")):
        assert rules.warmup(amount(unit), 8, "legw") == amount(expected)
        assert rules.warmup(amount(unit), 8, "legw", regime=1.0) == amount(expected)
    assert rules.warmup(amount("200 updates"), 8, "sqrt") == amount("25 updates")
    assert rules.warmup(amount("200 updates"), 8, "sqrt", regime=1.0) == amount("200 updates")


@given(ratios, st.floats(0, 0.999), st.sampled_from(rules.LR_SCALINGS))
def test_rule_noise_keeps_the_scale_of_fluctuations(ratio: float, m: float, scaling: str) -> None:
    factor = lr_factor(ratio, scaling)
    before = 0.1 / (32 * (1 - m))
    try:
        new = momentum(m, ratio, "noise", factor)
    except ValueError:
        assert (1 - m) * factor / ratio > 1
        return
    assert 0.1 * factor / (32 * ratio * (1 - new)) == pytest.approx(before)


@given(ratios, st.floats(0.01, 0.9999))
def test_rule_samples_keeps_the_half_life_in_samples(ratio: float, m: float) -> None:
    new = momentum(m, ratio, "samples")
    if new > 0:
        half_life = math.log(0.5) / math.log(m) * 32
        assert math.log(0.5) / math.log(new) * 32 * ratio == pytest.approx(half_life)


def test_rule_sde() -> None:
    """Malladi et al. 2022: kappa = 4 turns betas (0.9, 0.999) into (0.6, 0.996), eps into eps / 2, lr into 2 lr."""
    change = Rescaling(4, "sqrt", momentum_rule="sde", eps_rule="sde")
    assert change.momentum(0.9) == pytest.approx(0.6)
    assert change.momentum(0.999) == pytest.approx(0.996)
    assert change.eps(1e-8) == pytest.approx(5e-9)
    assert change.lr(1e-3) == pytest.approx(2e-3)
    # The first order of the rule that keeps the half-life.
    assert momentum(0.9999, 2, "sde") == pytest.approx(momentum(0.9999, 2, "samples"), abs=2e-8)
    with pytest.raises(ValueError, match=r"turns 0.9 into -0.6 at 16 times the batch"):
        momentum(0.9, 16, "sde")


@given(ratios, st.sampled_from(rules.LR_SCALINGS), st.floats(0, 1))
def test_weight_decay_keeps_what_it_says(ratio: float, scaling: str, regime: float) -> None:
    factor, lr, decay, updates = lr_factor(ratio, scaling), 0.01, 0.1, 1000.0
    new_updates = updates * ratio**regime / ratio
    timescale = weight_decay(decay, ratio, "timescale", factor)
    assert 1 / (lr * factor * timescale) * 32 * ratio == pytest.approx(1 / (lr * decay) * 32)
    normalised = weight_decay(decay, ratio, "normalised", factor, regime)
    assert lr * factor * normalised * math.sqrt(new_updates) == pytest.approx(lr * decay * math.sqrt(updates))
    assert weight_decay(decay, ratio, "keep", factor) == decay


def test_batches_in_any_unit() -> None:
    assert batch_ratio(amount("8192 tokens"), amount("32 sequences"), per_sample=64) == 4
    assert batch_ratio(amount("64 samples"), amount("256 samples")) == 0.25
    with pytest.raises(ValueError, match="a multiple of the context of 64 tokens"):
        batch_ratio(amount("100 tokens"), amount("1 sequence"), per_sample=64)
    with pytest.raises(ValueError, match="10 updates; allowed: a positive amount in sequences, samples, tokens"):
        batch_ratio(amount("10 updates"), amount("1 sequence"))
    with pytest.raises(ValueError, match="positive amount"):
        batch_ratio(amount("0 samples"), amount("1 sample"))


BASE = Recipe(
    amount("32 samples"),
    0.1,
    amount("5 epochs"),
    {"duration": amount("100 epochs"), "drops.0": amount("81 epochs"), "cooldown": amount("400 updates")},
    momentum=0.9,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=1e-4,
)


def test_a_whole_recipe() -> None:
    new = adapt(BASE, amount("512 samples"), lr_scaling="sqrt", regime=1.0)
    assert (new.lr, new.warmup, new.momentum, new.weight_decay) == (0.4, amount("80 epochs"), 0.9, 1e-4)
    assert {k: str(v) for k, v in new.amounts.items()} == {
        "duration": "1600 epochs",
        "drops.0": "1296 epochs",
        "cooldown": "400 updates",
    }
    partial = adapt(BASE, amount("512 samples"), lr_scaling="legw", regime=0.5)
    assert str(partial.amounts["duration"]) == "400 epochs"
    assert str(partial.amounts["cooldown"]) == "100 updates"
    assert str(partial.warmup) == "80 epochs"


@given(
    st.sampled_from(rules.LR_SCALINGS),
    st.floats(0, 1),
    st.sampled_from(rules.MOMENTUM_RULES),
    st.sampled_from(rules.DECAY_RULES),
    st.sampled_from(rules.EPS_RULES),
)
def test_at_the_base_batch_nothing_changes(lr: str, regime: float, m: str, decay: str, eps: str) -> None:
    new = adapt(BASE, BASE.batch, lr_scaling=lr, regime=regime, momentum_rule=m, decay_rule=decay, eps_rule=eps)
    assert new.amounts == BASE.amounts and new.warmup == BASE.warmup
    assert (new.lr, new.weight_decay, new.eps) == (BASE.lr, BASE.weight_decay, BASE.eps)
    assert new.momentum == pytest.approx(BASE.momentum, rel=1e-15) and new.betas == pytest.approx(BASE.betas, rel=1e-15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_scaling": "square"}, r"lr_scaling: found 'square'; allowed: none, sqrt, linear, legw"),
        ({"lr_scaling": "lin"}, r"did you mean 'linear'"),
        ({"regime": 2.0}, r"regime: found 2.0; allowed: 0 \(equal epochs\) to 1 \(equal updates\)"),
        ({"momentum_rule": "drop"}, r"momentum rule: found 'drop'"),
        ({"decay_rule": "normalized"}, r"did you mean 'normalised'"),
        ({"eps_rule": "x"}, r"eps rule: found 'x'"),
    ],
)
def test_wrong_names_are_told_before_anything_is_computed(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapt(BASE, amount("64 samples"), **options)


def test_wrong_numbers() -> None:
    for m in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="below 1"):
            momentum(m, 2)
    with pytest.raises(ValueError, match="0 or more"):
        weight_decay(-1.0, 2)
    with pytest.raises(ValueError, match="above 0"):
        lr_factor(0.0, "sqrt")
