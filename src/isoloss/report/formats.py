"""Numbers as a reader wants them: few digits, a unit that fits, and words where there is no number."""

from __future__ import annotations

import math
from collections.abc import Iterable

ABSENT = "–"
_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def ratio(value: float | None) -> str:
    """A worth, as in `1.21×`: two decimals near one, three significant digits elsewhere."""
    return ABSENT if value is None else f"{_plain(value)}×"


def interval(low: float | None, high: float | None) -> str:
    """`[1.15, 1.28]`, or nothing where there is no interval; a third decimal where two would hide a bound."""
    if low is None or high is None:
        return ""
    texts = [_plain(low), _plain(high)]
    if texts[0] == texts[1] or "1.00" in texts:
        texts = [f"{bound:.3f}" if 0.1 <= abs(bound) < 10 else _plain(bound) for bound in (low, high)]
    return f"[{texts[0]}, {texts[1]}]"


def signed(value: float | None) -> str:
    """A slope to two decimals with a true minus, never a negative zero."""
    return ABSENT if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")


def _plain(value: float) -> str:
    if 0.1 <= abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:.1f}" if 10 <= abs(value) < 100 else f"{value:.3g}"


def count(value: float | None) -> str:
    """A count with separators: `12,800`."""
    return ABSENT if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """A count of parameters or tokens in three significant digits: `1.23M`."""
    if value is None:
        return ABSENT
    for limit, suffix in _SUFFIXES:
        if abs(value) >= limit * 0.9995:
            return f"{_significant(value / limit)}{suffix}"
    return _significant(value)


def _significant(value: float) -> str:
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e" in text else text


def flops(value: float | None) -> str:
    """FLOPs as `6.38×10¹⁹`."""
    if value is None:
        return ABSENT
    if value <= 0:
        return "0"
    exponent = math.floor(math.log10(value))
    mantissa = f"{value / 10**exponent:.2f}"
    if mantissa == "10.00":
        mantissa, exponent = "1.00", exponent + 1
    return f"{mantissa}×10{str(exponent).translate(_SUPERSCRIPT)}"


def loss(value: float | None) -> str:
    """A loss to four decimals."""
    return ABSENT if value is None else f"{value:.4f}"


def measured(mean: float | None, sd: float | None) -> str:
    """A metric with its standard deviation over seeds: `0.9312 ± 0.0041`."""
    if mean is None:
        return ABSENT

    def text(value: float) -> str:
        return f"{value:.4f}" if abs(mean) < 10 else f"{value:.4g}"

    return text(mean) if sd is None else f"{text(mean)}\u00a0±\u00a0{text(sd)}"


def number(value: float | None) -> str:
    """A parameter of a law or a learning rate: four significant digits."""
    return ABSENT if value is None else f"{value:.4g}"


def plural(number_of: float, word: str) -> str:
    """`1 run`, `12 runs`."""
    return f"{number_of:,.0f} {word}" if number_of == 1 else f"{number_of:,.0f} {word}s"


def listing(words: Iterable[object], last: str = "and") -> str:
    """`a, b and c`."""
    items = [str(word) for word in words]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}" if items else ""
