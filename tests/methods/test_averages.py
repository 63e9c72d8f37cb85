"""Averages against closed forms on scripted trajectories, and the ways in which they must not fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoloss.methods.averages import EMA, LAWA, Average, WindowAverage

MAKERS: dict[str, Callable[[], Average]] = {
    "window": lambda: WindowAverage(12, every=2, block=4),
    "whole window": lambda: WindowAverage(8),
    "ema": lambda: EMA(0.9, every=3),
    "plain ema": lambda: EMA(0.99, debias=False),
    "lawa": lambda: LAWA(3, every=4),
}


def trajectory(update: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(update)
    return [torch.randn(3, 2, generator=generator), torch.randn(5, generator=generator)]


def follow(average: Average, first: int, last: int) -> None:
    for update in range(first, last + 1):
        average.observe(trajectory(update), update)


def exact_mean(updates: list[int]) -> list[torch.Tensor]:
    """Mean in rational numbers, rounded once."""
    columns = zip(*(trajectory(u) for u in updates), strict=True)
    means = []
    for column in columns:
        flat = [
            sum(map(Fraction, parts)) / len(updates)
            for parts in zip(*(t.flatten().tolist() for t in column), strict=True)
        ]
        means.append(torch.tensor([float(m) for m in flat]).view(column[0].shape))
    return means


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_window_is_the_exact_mean_and_so_is_every_multiple_of_the_block() -> None:
    window = WindowAverage(40, block=10)
    follow(window, 1, 90)
    for length in (10, 20, 30, 40):
        assert equal(window.average(length), exact_mean(list(range(91 - length, 91))))
    assert equal(window.average(), window.average(40))


def test_window_takes_every_kth_update() -> None:
    window = WindowAverage(12, every=3, block=6)
    follow(window, 1, 24)
    assert equal(window.average(), exact_mean([15, 18, 21, 24]))


@given(length=st.integers(1, 6), block=st.integers(1, 4), every=st.integers(1, 3), blocks=st.integers(1, 9))
def test_window_of_a_straight_line_is_its_middle(length: int, block: int, every: int, blocks: int) -> None:
    size = block * every
    window = WindowAverage(length * size, every=every, block=size)
    for update in range(1, blocks * size + 1):
        window.observe([torch.tensor([float(update)], dtype=torch.float64)], update)
    last, span = blocks * size, min(length * size, blocks * size)
    assert window.average()[0].item() == pytest.approx((last - span + every + last) / 2)


def test_sums_lose_nothing_where_float32_would() -> None:
    """2^24 + 1 is not a float32: a float32 sum of 1s beside a large value would stand still."""
    window = WindowAverage(8)
    for update in range(1, 9):
        window.observe([torch.tensor([2.0**24 if update == 1 else 1.0])], update)
    assert window.average()[0].item() == torch.tensor((2.0**24 + 7) / 8, dtype=torch.float32).item()


def test_ema_closed_form() -> None:
    plain, debiased = EMA(0.75, debias=False), EMA(0.75)
    for update in range(1, 31):
        for ema in (plain, debiased):
            ema.observe([torch.tensor([float(update)], dtype=torch.float64)], update)
    weights = [0.25 * 0.75 ** (30 - u) for u in range(1, 31)]
    expected = math.fsum(w * u for w, u in zip(weights, range(1, 31), strict=True))
    assert debiased.average()[0].item() == pytest.approx(expected / math.fsum(weights), rel=1e-12)
    assert plain.average()[0].item() == pytest.approx(expected + 0.75**30 * 1.0, rel=1e-12)


def test_ema_of_a_constant_is_the_constant_from_the_first_sample() -> None:
    ema = EMA(0.999)
    for update in range(1, 4):
        ema.observe([torch.tensor([0.7])], update)
        assert ema.average()[0].item() == pytest.approx(0.7, rel=1e-6)


def test_slow_ema_still_moves() -> None:
    """In float32 an increment of 1e-5 x 1e-3 beside 1 is lost; the average must reach its closed form."""
    ema = EMA(0.99999, debias=False)
    ema.observe([torch.tensor([1.0])], 1)
    for update in range(2, 1002):
        ema.observe([torch.tensor([1.001])], update)
    moved = ema.average()[0].double().item() - 1.0
    assert moved == pytest.approx(0.001 * (1 - 0.99999**1000), rel=0.02)


def test_lawa_is_the_mean_of_the_last_snapshots() -> None:
    lawa = LAWA(3, every=5)
    follow(lawa, 1, 23)
    assert all(
        torch.allclose(a, b, rtol=1e-6, atol=1e-7)
        for a, b in zip(lawa.average(), exact_mean([10, 15, 20]), strict=True)
    )
    early = LAWA(3, every=5)
    follow(early, 1, 7)
    assert equal(early.average(), trajectory(5))


@pytest.mark.parametrize("name", MAKERS)
def test_inputs_are_not_changed_and_results_are_not_shared(name: str) -> None:
    average = MAKERS[name]()
    for update in range(1, 25):
        tensors = trajectory(update)
        kept = [t.clone() for t in tensors]
        average.observe(tensors, update)
        assert equal(tensors, kept)
        for t in tensors:
            t.fill_(float("nan"))
    once = average.average()
    once[0].fill_(7.0)
    again = average.average()
    assert all(torch.isfinite(t).all() for t in again)
    assert not torch.equal(again[0], once[0])
    assert [t.shape for t in again] == [(3, 2), (5,)]
    assert all(t.dtype == torch.float32 for t in again)


@pytest.mark.parametrize("cut", [1, 3, 7, 11, 13, 23])
@pytest.mark.parametrize("name", MAKERS)
def test_resume_is_exact_to_the_bit(name: str, cut: int) -> None:
    whole, begun, resumed = MAKERS[name](), MAKERS[name](), MAKERS[name]()
    follow(whole, 1, 24)
    follow(begun, 1, cut)
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in begun.state_dict().items()}
    follow(begun, cut + 1, 24)
    resumed.load_state_dict(state)
    follow(resumed, cut + 1, 24)
    assert equal(whole.average(), resumed.average())
    assert equal(whole.average(), begun.average())
    final, other = whole.state_dict(), resumed.state_dict()
    assert final.keys() == other.keys()
    for key, value in final.items():
        same = torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        assert same, key


@pytest.mark.parametrize("name", MAKERS)
def test_state_is_flat_tensors_and_integers(name: str) -> None:
    average = MAKERS[name]()
    follow(average, 1, 24)
    assert all(type(v) is int or isinstance(v, torch.Tensor) for v in average.state_dict().values())
    pointers = [v.data_ptr() for v in average.state_dict().values() if isinstance(v, torch.Tensor) and v.numel()]
    assert len(pointers) == len(set(pointers))


@pytest.mark.parametrize("name", ["window", "whole window", "lawa"])
def test_lookback_is_enough_and_one_sample_less_is_not(name: str) -> None:
    whole, late, too_late = (MAKERS[name]() for _ in range(3))
    follow(whole, 1, 48)
    lookback = whole.lookback
    assert lookback is not None
    follow(late, 48 - lookback + 1, 48)
    assert equal(whole.average(), late.average())
    follow(too_late, 48 - lookback + 1 + whole.every, 48)
    with pytest.raises(ValueError, match="observed from"):
        too_late.average()


def test_lawa_lookback_between_snapshots() -> None:
    whole, late = LAWA(3, every=4), LAWA(3, every=4)
    follow(whole, 1, 47)
    follow(late, 47 - 12 + 1, 47)
    assert equal(whole.average(), late.average())


def test_near_the_start_the_window_is_cut_off() -> None:
    window = WindowAverage(40, block=10)
    follow(window, 1, 20)
    assert equal(window.average(), exact_mean(list(range(1, 21))))


def test_ema_depends_on_all_updates() -> None:
    assert EMA(0.9).lookback is None


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float64])
def test_dtype_of_the_observed_tensors_is_kept_across_a_resume(low: torch.dtype) -> None:
    window, resumed = WindowAverage(2), WindowAverage(2)
    for update in (1, 2):
        window.observe([torch.tensor([float(update)], dtype=low)], update)
    resumed.load_state_dict(window.state_dict())
    assert resumed.average()[0].dtype == low
    assert resumed.average()[0].item() == 1.5


def _observed(average: Average, *updates: int) -> Average:
    for update in updates:
        average.observe([torch.zeros(2)], update)
    return average


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: WindowAverage(0), ["length is 0", "at least 1"]),
        (lambda: WindowAverage(10, block=3), ["length 10", "block 3", "divides"]),
        (lambda: WindowAverage(12, every=4, block=6), ["every 4", "multiple of every"]),
        (lambda: EMA(1.0), ["decay is 1.0", "below 1"]),
        (lambda: EMA(0.5, every=0), ["every is 0", "at least 1"]),
        (lambda: LAWA(2.5, every=1), ["count is 2.5", "integer"]),  # type: ignore[arg-type]
        (lambda: EMA(0.9).average(), ["no sample yet"]),
        (lambda: LAWA(2, 1).average(), ["0 of 2"]),
        (lambda: WindowAverage(4).average(), ["update 0"]),
        (
            lambda: _observed(WindowAverage(4, block=2), 1, 2, 3).average(),
            ["update 3", "multiples of the block of 2"],
        ),
        (
            lambda: _observed(WindowAverage(4, block=2), 1, 2).average(3),
            ["length is 3", "multiples of 2 up to 4"],
        ),  # type: ignore[call-arg]
        (lambda: _observed(EMA(0.9), 5, 5), ["update 5 came after 5"]),
        (lambda: _observed(EMA(0.9), 5, 7), ["update 7 came after 5", "every multiple of 1"]),
        (lambda: _observed(EMA(0.9, every=4), 3, 9), ["leaves out a sample"]),
        (lambda: _observed(EMA(0.9), 1).observe([torch.zeros(3)], 2), ["(3,)", "(2,)"]),
        (
            lambda: WindowAverage(4).load_state_dict(WindowAverage(8).state_dict()),
            ["length = 8", "allowed: 4"],
        ),
        (lambda: EMA(0.9).load_state_dict(EMA(0.8).state_dict()), ["decay 0.8", "0.9"]),
        (lambda: EMA(0.9).load_state_dict({}), ["lacks 'every'"]),
    ],
)
def test_wrong_use_is_one_message(call: Callable[[], object], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
