"""Schedules against the published check values, closed forms and the properties that a schedule must have."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.methods import schedules
from isoloss.methods.schedules import decay, inverse_sqrt, lr, multiplier, steps, warmup

# Haegele et al. 2024, appendix B.1, evaluated by hand at x = 1/4.
AT_A_QUARTER = {
    "linear": 0.75,
    "one_minus_sqrt": 0.5,
    "cosine": (2 + math.sqrt(2)) / 4,
    "mirror_cosine": 1.5 - (2 + math.sqrt(2)) / 4,
    "square": 0.9375,
}


@pytest.mark.parametrize(("shape", "value"), AT_A_QUARTER.items())
def test_check_values(shape: str, value: float) -> None:
    assert decay(25, 100, shape=shape) == pytest.approx(value, abs=1e-12)
    assert decay(25, 100, shape=shape, final=0.1) == pytest.approx(0.1 + 0.9 * value, abs=1e-12)


def test_published_digits() -> None:
    assert round(decay(1, 4, shape="cosine"), 3) == 0.854
    assert round(decay(1, 4, shape="mirror_cosine"), 3) == 0.646


def test_exponential_is_geometric() -> None:
    values = [decay(u, 8, shape="exponential", final=1e-4) for u in range(9)]
    assert values[0] == 1.0
    assert values[8] == pytest.approx(1e-4)
    ratios = [b / a for a, b in pairwise(values)]
    assert ratios == pytest.approx([1e-4 ** (1 / 8)] * 8)


@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.0, 2.0])
def test_power_contains_three_of_the_forms(exponent: float) -> None:
    named = {0.5: "one_minus_sqrt", 1.0: "linear", 2.0: "square"}.get(exponent)
    mine = [decay(u, 7, shape=partial(schedules.power, exponent=exponent)) for u in range(8)]
    assert mine == pytest.approx([1 - (u / 7) ** exponent for u in range(8)])
    assert mine == [decay(u, 7, shape=f"power({exponent})") for u in range(8)]
    if named:
        assert mine == pytest.approx([decay(u, 7, shape=named) for u in range(8)])


@given(
    shape=st.sampled_from(schedules.DECAYS),
    length=st.integers(1, 400),
    final=st.floats(1e-6, 1.0),
)
def test_decay_falls_from_one_to_the_floor_without_a_jump(shape: str, length: int, final: float) -> None:
    values = [decay(u, length, shape=shape, final=final) for u in range(length + 2)]
    assert values[0] == 1.0
    assert values[length] == values[length + 1] == pytest.approx(final, rel=1e-9)
    tiny = 1e-12
    assert all(b <= a + tiny for a, b in pairwise(values))
    assert all(final - tiny <= v <= 1.0 for v in values)
    # No form is steeper over the last of n updates than sqrt at its beginning: a clamp would stand out.
    assert values[length - 1] - values[length] <= max(1 / math.sqrt(length), 1 - final ** (1 / length)) + tiny


def test_floor_is_approached_not_clamped() -> None:
    """A floor of 0.1 must never be undershot and jumped back to (seen in a published package)."""
    values = [decay(u, 1000, shape="one_minus_sqrt", final=0.1) for u in range(1000)]
    assert min(values) > 0.1
    assert values[-1] - 0.1 < 1e-3


def test_a_decay_of_n_updates_uses_u_over_n() -> None:
    assert [decay(u, 4) for u in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_warmup_ends_at_one() -> None:
    assert [warmup(u, 4) for u in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup(0, 0) == 1.0


def test_inverse_sqrt_joins_its_warmup() -> None:
    assert inverse_sqrt(99, 100) == 1.0
    assert inverse_sqrt(399, 100) == pytest.approx(0.5)
    assert inverse_sqrt(3) == pytest.approx(0.5)


def test_steps_multiply() -> None:
    drops = [(20, 0.1), (10, 0.5)]
    assert [steps(u, drops) for u in (9, 10, 19, 20)] == pytest.approx([1.0, 0.5, 0.5, 0.05])


def test_whole_run_with_cooldown_written_out() -> None:
    values = [multiplier(u, total=10, warmup=2, cooldown=("linear", 4, 0.2)) for u in range(10)]
    assert values == pytest.approx([0.5, 1, 1, 1, 1, 1, 1.0, 0.8, 0.6, 0.4])


def test_whole_runs_with_a_power() -> None:
    values = [multiplier(u, total=8, warmup=1, cooldown=("power(3)", 4, 0.0)) for u in range(8)]
    assert values == pytest.approx([1, 1, 1, 1, 1, 1 - 1 / 64, 1 - 1 / 8, 1 - 27 / 64])
    values = [multiplier(u, total=4, shape="power(0.5)", final=0.2) for u in range(4)]
    assert values == [multiplier(u, total=4, shape="one_minus_sqrt", final=0.2) for u in range(4)]


def test_whole_run_cosine_is_the_half_circle_after_warmup() -> None:
    for u in range(20, 420):
        expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (u - 20) / 400))
        assert multiplier(u, total=420, warmup=20, shape="cosine", final=0.1) == pytest.approx(expected)


def test_stopped_early_is_a_prefix_of_the_longer_run() -> None:
    long = [multiplier(u, total=100, warmup=5, shape="cosine") for u in range(60)]
    assert [multiplier(u, total=60, warmup=5, shape="cosine", horizon=100) for u in range(60)] == long


def test_cooldown_starts_from_the_value_of_the_shape() -> None:
    at = inverse_sqrt(80, 10)
    value = multiplier(90, total=100, warmup=10, shape="inverse_sqrt", cooldown=("linear", 20, 0.0))
    assert value == pytest.approx(at * 0.5)
    dropped = multiplier(90, total=100, shape="steps", drops=[(50, 0.1)], cooldown=("linear", 20, 0.5))
    assert dropped == pytest.approx(0.1 * 0.75)


@given(
    total=st.integers(1, 200),
    share=st.floats(0, 0.4),
    shape=st.sampled_from(["constant", "inverse_sqrt"]),
    form=st.sampled_from(schedules.DECAYS),
    final=st.floats(0.01, 1.0),
)
def test_a_run_rises_then_never_rises_again(total: int, share: float, shape: str, form: str, final: float) -> None:
    rise, fall = int(share * total), int(share * total)
    cooldown = (form, fall, final) if fall else None
    values = [multiplier(u, total=total, warmup=rise, shape=shape, cooldown=cooldown) for u in range(total)]
    assert all(0 < v <= 1 for v in values)
    assert values[:rise] == sorted(values[:rise])
    tail = values[max(rise - 1, 0) :]
    assert all(b <= a + 1e-12 for a, b in pairwise(tail))


def test_pure() -> None:
    forwards = [multiplier(u, total=50, shape="cosine", warmup=5) for u in range(50)]
    backwards = [multiplier(u, total=50, shape="cosine", warmup=5) for u in reversed(range(50))]
    assert forwards == backwards[::-1]


def test_lr_is_the_peak_times_the_multiplier() -> None:
    assert lr(3, peak=4e-3, total=10, shape="linear") == 4e-3 * multiplier(3, total=10, shape="linear")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: decay(0, 10, shape="cosin"), ["cosin", "did you mean 'cosine'"]),
        (lambda: decay(0, 10, final=1.5), ["1.5", "0 to 1"]),
        (lambda: decay(0, 10, shape="exponential"), ["0.0", "above 0"]),
        (lambda: decay(-1, 10), ["-1", "at least 0"]),
        (lambda: decay(0, 0), ["0", "at least 1"]),
        (lambda: schedules.power(0.5, 0.0), ["exponent", "above 0"]),
        (lambda: decay(0, 10, shape="power(-1)"), ["power(-1)", "'-1'", "above 0"]),
        (lambda: decay(0, 10, shape="power(a)"), ["'a'", "above 0"]),
        (lambda: decay(0, 10, shape="power"), ["power", "did you mean 'power(a)'"]),
        (lambda: multiplier(0, total=9, shape="power(2)", cooldown=("linear", 5, 0.0)), ["already decays"]),
        (lambda: steps(0, [(3, -1.0)]), ["-1.0", "update 3", "above 0"]),
        (lambda: multiplier(10, total=10), ["10", "0 to 9"]),
        (lambda: multiplier(0, total=10, warmup=6, cooldown=("linear", 5, 0.0)), ["6", "5", "at most 10"]),
        (lambda: multiplier(0, total=10, shape="cosine", cooldown=("linear", 5, 0.0)), ["already decays"]),
        (lambda: multiplier(5, total=10, shape="cosine", horizon=8), ["horizon is 8", "at least the 10"]),
        (lambda: multiplier(5, total=10, shape="step"), ["step", "did you mean 'steps'"]),
        (lambda: multiplier(5, total=10, drops=[(1, 0.1)]), ["drops", "constant"]),
    ],
)
def test_wrong_use_is_one_message_with_the_range(call: object, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        call()  # type: ignore[operator]
    for word in words:
        assert word in str(caught.value)
