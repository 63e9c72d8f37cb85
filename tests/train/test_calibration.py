"""Calibration figures against scikit-learn, literal loops and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.train import calibration as c

PAIRS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(0, 1)), min_size=1, max_size=60
)


def tensors(pairs: list[tuple[float, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([p for p, _ in pairs], dtype=torch.float64), torch.tensor([float(y) for _, y in pairs])


def test_a_table_worked_by_hand() -> None:
    p = torch.tensor([0.9, 0.1, 0.6, 0.2, 0.8, 0.3])
    y = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    first, second, third = c.reliability(p, y, bins=3)
    assert (first.count, first.confidence, first.accuracy) == (2, pytest.approx(0.15), 0.5)
    assert (second.count, second.confidence, second.accuracy) == (2, pytest.approx(0.45), 0.0)
    assert (third.count, third.confidence, third.accuracy) == (2, pytest.approx(0.85), 1.0)
    assert c.expected_calibration_error(p, y, bins=3) == pytest.approx((0.35 + 0.45 + 0.15) / 3)
    assert c.rms_calibration_error(p, y, bins=3) == pytest.approx(math.sqrt((0.35**2 + 0.45**2 + 0.15**2) / 3))
    assert c.brier(p, y) == pytest.approx((0.01 + 0.01 + 0.36 + 0.64 + 0.04 + 0.09) / 6)
    assert c.auroc(p, y) == pytest.approx(7 / 9)  # 0.2 (true) loses against 0.3 and 0.6


@settings(max_examples=150, deadline=None)
@given(pairs=PAIRS, bins=st.integers(1, 12), seed=st.integers(0, 99))
def test_order_does_not_matter_and_bins_are_even(pairs: list[tuple[float, int]], bins: int, seed: int) -> None:
    p, y = tensors(pairs)
    table = c.reliability(p, y, bins)
    order = torch.randperm(len(p), generator=torch.Generator().manual_seed(seed))
    assert c.reliability(p[order], y[order], bins) == table
    counts = [row.count for row in table]
    assert sum(counts) == len(pairs)
    assert max(counts) - min(counts) <= 1
    assert [row.confidence for row in table] == sorted(row.confidence for row in table)
    assert sum(row.count * row.accuracy for row in table) == pytest.approx(y.sum().item())
    assert sum(row.count * row.confidence for row in table) == pytest.approx(p.sum().item())
    one, two = c.expected_calibration_error(p, y, bins), c.rms_calibration_error(p, y, bins)
    assert 0 <= one <= two + 1e-12 <= 1 + 1e-9


@settings(max_examples=150, deadline=None)
@given(pairs=PAIRS)
def test_auroc_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[float, int]]) -> None:
    found = c.auroc(*tensors(pairs))
    true, false = [p for p, y in pairs if y], [p for p, y in pairs if not y]
    if not true or not false:
        assert math.isnan(found)
        return
    wins = sum((a > b) + 0.5 * (a == b) for a in true for b in false)
    assert found == pytest.approx(wins / (len(true) * len(false)), abs=1e-12)


def test_peers_agree() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    rng = np.random.default_rng(0)
    p = rng.random(1000)
    y = (rng.random(1000) < p**2).astype(float)
    tp, ty = torch.from_numpy(p), torch.from_numpy(y)
    assert c.auroc(tp, ty) == pytest.approx(metrics.roc_auc_score(y, p), abs=1e-12)
    assert c.brier(tp, ty) == pytest.approx(metrics.brier_score_loss(y, p), abs=1e-12)
    truth, mean = curve(y, p, n_bins=10, strategy="quantile")
    table = c.reliability(tp, ty)
    np.testing.assert_allclose([row.accuracy for row in table], truth, atol=1e-12)
    np.testing.assert_allclose([row.confidence for row in table], mean, atol=1e-12)
    assert c.expected_calibration_error(tp, ty) == pytest.approx(np.abs(truth - mean).mean(), abs=1e-12)


def test_a_calibrated_judge_has_no_error_and_an_overconfident_one_has_it() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(200_000, generator=generator, dtype=torch.float64)
    y = (torch.rand(200_000, generator=generator, dtype=torch.float64) < p).double()
    assert c.expected_calibration_error(p, y) < 0.005
    assert c.brier(p, y) == pytest.approx(1 / 6, abs=0.003)  # the mean of p (1 - p)
    assert c.auroc(p, y) == pytest.approx(5 / 6, abs=0.005)  # for uniform p: 1 - 2 (1/3 - 1/4)
    half = torch.full((1000,), 0.5)
    assert c.brier(half, y[:1000]) == 0.25
    assert c.auroc(half, y[:1000]) == 0.5
    sure = torch.ones(1000)
    assert c.expected_calibration_error(sure, y[:1000]) == pytest.approx(1 - y[:1000].mean().item())


def test_confidence_is_that_of_the_most_likely_class() -> None:
    logits = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 0.0, 5.0]], [[-1.0, 3.0, 0.0], [800.0, 0.0, -800.0]]])
    labels = torch.tensor([[0, 1], [1, 0]])
    p, y = c.top(logits, labels)
    for k, row in enumerate(logits.reshape(4, 3)):
        weights = [math.exp(v - max(row.tolist())) for v in row.tolist()]
        assert p[k].item() == pytest.approx(max(weights) / sum(weights), rel=1e-12)
    assert y.tolist() == [1, 0, 1, 1]
    p, y = c.every(logits, labels)
    assert p.shape == y.shape == (12,)
    assert p.reshape(4, 3).sum(1).tolist() == pytest.approx([1.0] * 4)
    assert y.tolist() == [1, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0]


def test_parts_of_a_validation_set_add_up_through_their_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(300, 5, generator=generator), torch.randint(5, (300,), generator=generator)
    chunks = [c.top(logits[k : k + 64], labels[k : k + 64]) for k in range(0, 300, 64)]
    p, y = (torch.cat([chunk[k] for chunk in chunks]) for k in range(2))
    assert c.summary(p, y) == c.summarise(logits, labels)
    assert tuple(c.summarise(logits, labels)) == c.METRICS


def test_nothing_is_shown_where_everything_is_right() -> None:
    logits = 10 * torch.eye(4)
    found = c.summarise(logits, torch.arange(4))
    assert math.isnan(found["auroc"])
    assert found["ece"] == pytest.approx(1 - math.exp(10) / (math.exp(10) + 3))


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([], [], "n from 1"),
        ([0.5], [1.0, 0.0], "two of"),
        ([1.5], [1.0], "lie in"),
        ([float("nan")], [1.0], "lie in"),
        ([0.5], [0.5], "be 0 or 1"),
    ],
)
def test_wrong_input_is_one_message(p: list[float], y: list[float], message: str) -> None:
    for figure in (c.expected_calibration_error, c.rms_calibration_error, c.brier, c.auroc):
        with pytest.raises(ValueError, match=message):
            figure(torch.tensor(p), torch.tensor(y))


def test_wrong_shapes_and_bins_are_one_message() -> None:
    with pytest.raises(ValueError, match=r"logits \(3, 4\) with labels \(4,\)"):
        c.top(torch.zeros(3, 4), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="bins is 0"):
        c.reliability(torch.tensor([0.5]), torch.tensor([1.0]), bins=0)
