"""Checks of options that the model configs share; each raises ValueError with the allowed values."""

from __future__ import annotations

from isoloss.recipe.errors import nearest


def positive(family: str, config: object, *names: str) -> None:
    """Integers of at least 1."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{family}: {name} is {value!r}; allowed: an integer of at least 1")


def fraction(family: str, config: object, name: str) -> None:
    """A number from 0 and below 1."""
    value = getattr(config, name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{family}: {name} is {value!r}; allowed: a number from 0 and below 1")


def word(family: str, config: object, name: str, allowed: tuple[str, ...]) -> None:
    """One of ``allowed``."""
    value = getattr(config, name)
    if value not in allowed:
        raise ValueError(f"{family}: {name} is {value!r}; allowed: {', '.join(allowed)}{nearest(str(value), allowed)}")


def flag(family: str, config: object, name: str) -> None:
    """True or false."""
    value = getattr(config, name)
    if not isinstance(value, bool):
        raise ValueError(f"{family}: {name} is {value!r}; allowed: true, false")
