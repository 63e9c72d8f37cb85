"""One colour and one marker an arm, the same in every figure, table and tree.

Colours: Okabe and Ito, "Color Universal Design" (2008), in the order that keeps contrast on white and on
near-black, without the yellow, which has none on white; the baseline is a grey that reads on both. The marker
repeats what the colour says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BASELINE = "#7f7f7f"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = (  # plotly, matplotlib, text
    ("circle", "o", "●"),
    ("square", "s", "■"),
    ("diamond", "D", "◆"),
    ("triangle-up", "^", "▲"),
    ("star", "*", "★"),
    ("triangle-down", "v", "▼"),
    ("hexagon", "h", "⬢"),
    ("triangle-left", "<", "◀"),
)


@dataclass(frozen=True)
class Style:
    """How an arm looks: colour, and its marker's name in plotly, in matplotlib and as a character."""

    color: str
    symbol: str
    marker: str
    glyph: str


def styles(arms: Iterable[str], baseline: str | None) -> dict[str, Style]:
    """The style of each arm, in the order of the study; colours repeat after six arms, pairs after 24."""
    chosen: dict[str, Style] = {}
    others = 0
    for name in arms:
        if name == baseline:
            color, marker = BASELINE, _MARKERS[0]
        else:
            color = OKABE_ITO[others % len(OKABE_ITO)]
            marker = _MARKERS[(others + 1) % len(_MARKERS)]
            others += 1
        chosen[name] = Style(color, *marker)
    return chosen
