"""Global norm and clipping against exact sums."""

from __future__ import annotations

import math

import pytest
import torch

from isoloss.methods.gradient_norm import CHUNK, clip_, global_norm


def test_norm_equals_the_exact_sum_of_squares() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(n, generator=generator) * 10.0**e for n, e in ((3, 2), (CHUNK + 5, -1), (7, -4))]
    exact = math.sqrt(math.fsum(v * v for t in tensors for v in t.double().tolist()))
    assert global_norm(tensors) == pytest.approx(exact, rel=1e-14)


def test_norm_where_float32_overflows_and_stands_still() -> None:
    assert global_norm([torch.tensor([3e30, 4e30])]) == pytest.approx(5e30, rel=1e-7)
    many = torch.full((1 << 20,), 0.1)
    many[0] = 4096.0
    expected = math.sqrt(4096.0**2 + (many.numel() - 1) * many[1].item() ** 2)
    assert global_norm([many]) == pytest.approx(expected, rel=1e-11)


def test_norm_does_not_depend_on_the_cut_into_tensors_beyond_rounding() -> None:
    whole = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    assert global_norm([whole]) == pytest.approx(global_norm(list(whole.split(17))), rel=1e-14)
    assert global_norm([whole.view(20, 50).t()]) == pytest.approx(global_norm([whole]), rel=1e-14)


def test_clip_scales_only_above_and_returns_the_norm_before() -> None:
    gradient = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    assert clip_(gradient, 10.0) == 5.0
    assert gradient[0].item() == 3.0
    assert clip_(gradient, 1.0) == 5.0
    assert [gradient[0].item(), gradient[1].item()] == pytest.approx([0.6, 0.8], rel=1e-7)
    assert clip_(gradient, 1.0) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_gradients_are_reported_and_left(bad: float) -> None:
    gradient = [torch.tensor([1.0, bad])]
    assert not math.isfinite(clip_(gradient, 1.0))
    assert gradient[0][0].item() == 1.0


def test_zero_gradient_stays_zero() -> None:
    gradient = [torch.zeros(3)]
    assert clip_(gradient, 1.0) == 0.0
    assert torch.equal(gradient[0], torch.zeros(3))


def test_wrong_limit() -> None:
    with pytest.raises(ValueError, match="above 0"):
        clip_([torch.ones(1)], 0.0)
