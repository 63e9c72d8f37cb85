"""Canonical bytes: one text for equal values, another for different ones, an error where there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.recipe.canonical import digest, encode

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(leaves, lambda v: st.lists(v) | st.dictionaries(st.text(), v), max_leaves=20)


@dataclass(frozen=True)
class Before:
    a: int = 1


@dataclass(frozen=True)
class After:
    a: int = 1
    later: str = field(default="as it was", metadata={"neutral": "as it was"})


def same(a: object, b: object) -> bool:
    """Equality that tells 1 from 1.0 and True, and 0.0 from -0.0."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, float):
        return a.hex() == b.hex()
    return type(a) is type(b) and a == b


@given(values, values)
def test_equal_bytes_exactly_for_equal_values(a: object, b: object) -> None:
    assert (encode(a) == encode(b)) == same(a, b)


@given(st.dictionaries(st.text(), leaves))
def test_order_of_keys_does_not_matter(mapping: dict) -> None:
    assert encode(dict(reversed(mapping.items()))) == encode(mapping)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_without_a_place_raise(value: float) -> None:
    with pytest.raises(ValueError, match="only finite"):
        encode({"x": [value]})


@pytest.mark.parametrize("value", [object(), {1}, b"bytes", 1j, {1: 2}, type, lambda: None])
def test_types_without_a_stable_form_raise(value: object) -> None:
    with pytest.raises(TypeError):
        encode(value)


def test_fields_added_later_are_left_out_at_their_neutral_value() -> None:
    assert encode(After(2)) == encode(Before(2)).replace(b"Before", b"After")
    assert digest(After(2, "changed")) != digest(After(2))


def test_frozen_text() -> None:
    assert encode({"b": [1, 1.0, True, None], "a": "é"}) == b'{"a":"\\u00e9","b":[1,0x1.0000000000000p+0,true,null]}'
