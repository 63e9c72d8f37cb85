"""What static figures share: inks, plain numbers on logarithmic axes, names that fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis

INK, MUTED, RULE = "#1c2024", "#5d656d", "#d9dcdf"
CROWDED = 7
"""Range of an axis above which only 1, 2 and 5 of each decade are named."""


def log_ticks(axis: Axis, name: Callable[[float], str], subs: tuple[float, ...] = (1, 1.5, 2, 3, 5, 7)) -> None:
    """Ticks of a logarithmic axis that carry plain numbers, evenly spaced within a threefold range."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = axis.get_view_interval()
    if 0 < low < high < 3 * low:
        marks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        axis.set_major_locator(FixedLocator([mark for mark in marks if low <= mark <= high]))
    else:
        wide = low > 0 and high > CROWDED * low
        axis.set_major_locator(LogLocator(subs=tuple(s for s in subs if s in (1, 2, 5)) if wide else subs, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: name(value)))


def short_name(name: str) -> str:
    """A name of at most 28 characters; what is left out is its middle, for names often differ at their ends."""
    return name if len(name) <= 28 else f"{name[:15].rstrip()}…{name[-12:].lstrip()}"
