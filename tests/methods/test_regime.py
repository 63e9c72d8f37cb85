"""Regime adaptation against the paper's example and its two ends: equal epochs and equal updates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.methods.regime import adapt, stretch, stretched
from isoloss.recipe.units import Quantity

amount = Quantity.parse


def test_the_papers_example_and_its_code() -> None:
    """100 epochs at 32 are 3200 at 1024; drops move along (Hoffer et al. 2017; every key times the batch ratio)."""
    base = {"duration": amount("100 epochs"), "first": amount("81 epochs"), "second": amount("122 epochs")}
    new = adapt(base, 1024 / 32, 1.0)
    assert [str(new[name]) for name in base] == ["3200 epochs", "2592 epochs", "3904 epochs"]


@pytest.mark.parametrize("unit", ["epochs", "samples", "tokens", "tokens/param"])
def test_ends_in_units_of_data(unit: str) -> None:
    assert stretched(Quantity(1000, unit), 8, 0.0) == Quantity(1000, unit)
    assert stretched(Quantity(1000, unit), 8, 1.0) == Quantity(8000, unit)


def test_ends_in_updates() -> None:
    assert stretched(amount("1000 updates"), 8, 1.0) == amount("1000 updates")
    assert stretched(amount("1000 updates"), 8, 0.0) == amount("125 updates")
    assert stretched(amount("1000 updates"), 0.25, 0.0) == amount("4000 updates")


@given(st.floats(0.01, 100), st.floats(0, 1), st.integers(1, 10**6), st.integers(1, 512))
def test_updates_and_samples_tell_the_same_story(ratio: float, regime: float, updates: int, base: int) -> None:
    """U updates at the base batch are U x base samples; both units give the same training at the new batch."""
    by_updates = stretched(Quantity(updates, "updates"), ratio, regime).value
    by_samples = stretched(Quantity(updates * base, "samples"), ratio, regime).value
    assert by_updates == pytest.approx(by_samples / (base * ratio), abs=0.5 + 0.5 / (base * ratio) + 1e-6 * updates)


@given(st.floats(0.01, 100), st.floats(0, 1), st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_order_of_drops_is_kept(ratio: float, regime: float, a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert (
        stretched(Quantity(low, "updates"), ratio, regime).value
        <= stretched(Quantity(high, "updates"), ratio, regime).value
    )


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.floats(0, 1))
def test_two_changes_are_one(first: float, second: float, regime: float) -> None:
    assert stretch(first, regime) * stretch(second, regime) == pytest.approx(stretch(first * second, regime))


@pytest.mark.parametrize(("ratio", "regime"), [(0, 1.0), (-1, 1.0), (float("nan"), 1.0), (2, 1.1), (2, -0.1)])
def test_wrong_knobs(ratio: float, regime: float) -> None:
    with pytest.raises(ValueError, match="allowed"):
        stretch(ratio, regime)


def test_a_share_is_no_amount_of_training() -> None:
    with pytest.raises(ValueError, match=r"10 %; allowed: an amount of training"):
        stretched(amount("10 %"), 2, 1.0)
