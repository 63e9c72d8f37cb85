"""Quantities: one canonical text for every spelling, and messages that show the choices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.recipe.units import BATCH, DURATION, SIZE, UNITS, WHOLE, Quantity


@pytest.mark.parametrize(
    ("text", "value", "unit", "canonical"),
    [
        ("200 updates", 200, "updates", "200 updates"),
        ("1 update", 1, "updates", "1 update"),
        ("1 updates", 1, "updates", "1 update"),
        ("1e6 tokens", 1_000_000, "tokens", "1000000 tokens"),
        ("1_000 tokens", 1_000, "tokens", "1000 tokens"),
        ("20 tokens/param", 20, "tokens/param", "20 tokens/param"),
        ("1 token/param", 1, "tokens/param", "1 token/param"),
        ("0.5 epochs", 0.5, "epochs", "0.5 epochs"),
        (".5epochs", 0.5, "epochs", "0.5 epochs"),
        ("16 sequences", 16, "sequences", "16 sequences"),
        ("1 sequence", 1, "sequences", "1 sequence"),
        ("10%", 10, "%", "10 %"),
        ("1 MB", 1_000_000, "bytes", "1000000 bytes"),
        ("1000 KB", 1_000_000, "bytes", "1000000 bytes"),
        ("1.5 KB", 1_500, "bytes", "1500 bytes"),
        ("  7   samples ", 7, "samples", "7 samples"),
        ("0 updates", 0, "updates", "0 updates"),
    ],
)
def test_canonical_text(text: str, value: float, unit: str, canonical: str) -> None:
    quantity = Quantity.parse(text)
    assert (quantity.value, quantity.unit, str(quantity)) == (value, unit, canonical)


def test_equal_amounts_are_equal() -> None:
    assert Quantity(1, "MB") == Quantity(1000, "KB") == Quantity.parse("1e6 bytes")
    assert hash(Quantity(1, "MB")) == hash(Quantity.parse("1e6 bytes"))


@pytest.mark.parametrize(
    ("text", "units", "fragments"),
    [
        (200, DURATION, ["found 200 without a unit", "epochs", "did you mean '200 updates'?"]),
        ("200", DURATION, ["found 200 without a unit", "did you mean '200 updates'?"]),
        (16, BATCH, ["did you mean '16 sequences'?"]),
        ("200 steps", DURATION, ["found unit 'steps'", "tokens/param", "did you mean 'updates'?"]),
        ("200 updats", DURATION, ["'updats'", "did you mean 'updates'?"]),
        ("200 Updates", DURATION, ["did you mean 'updates'?"]),
        ("5 kb", SIZE, ["did you mean 'KB'?"]),
        ("16 updates", BATCH, ["found unit 'updates'", "allowed: sequences, samples, tokens"]),
        ("1.5 updates", DURATION, ["found 1.5 updates", "whole number"]),
        ("-1 updates", DURATION, ["-1", "from 0 to 2**53"]),
        ("1e300 tokens/param", DURATION, ["from 0 to 2**53"]),
        ("1e999 tokens", DURATION, ["inf", "from 0 to 2**53"]),
        ("120 %", SIZE, ["at most 100 %"]),
        ("many updates", DURATION, ["found 'many updates'", "a number and a unit"]),
        ("", DURATION, ["found ''"]),
        (None, DURATION, ["found None", "a number and a unit"]),
        (True, DURATION, ["found True", "a number and a unit"]),
        ([1], DURATION, ["found [1]"]),
    ],
)
def test_messages(text: object, units: tuple[str, ...], fragments: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Quantity.parse(text, units)  # type: ignore[arg-type]
    for fragment in fragments:
        assert fragment in str(caught.value)


@given(st.sampled_from(UNITS), st.integers(0, 2**32), st.integers(0, 999))
def test_text_reads_back(unit: str, whole: int, part: int) -> None:
    value = whole if unit in WHOLE or unit in ("KB", "MB") else whole + part / 1000
    if unit == "%":
        value %= 100
    quantity = Quantity(value, unit)
    assert Quantity.parse(str(quantity)) == quantity
    assert str(Quantity.parse(str(quantity))) == str(quantity)


@given(st.text(max_size=30))
def test_any_text_parses_or_is_a_value_error(text: str) -> None:
    try:
        quantity = Quantity.parse(text)
    except ValueError as error:
        assert "allowed" in str(error)
    else:
        assert Quantity.parse(str(quantity)) == quantity


def test_scaled_rounds_what_only_comes_whole() -> None:
    assert str(Quantity.parse("1000 updates").scaled(10 / 3)) == "3333 updates"
    assert str(Quantity.parse("1 epochs").scaled(0.5)) == "0.5 epochs"


def test_count_refuses_fractions() -> None:
    assert Quantity.parse("7 samples").count == 7
    with pytest.raises(ValueError, match="epochs"):
        _ = Quantity.parse("2 epochs").count
