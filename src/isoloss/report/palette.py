"""One colour and one marker an arm, the same in every figure, table and tree.

The hues are those of Okabe and Ito, "Color Universal Design" (2008), with lightness moved so that each has a contrast
of 3 or more with the page (WCAG 2.2, 1.4.11) and stays apart from the others under the three colour-vision
deficiencies: one set for light paper, one for dark. The baseline is ink. The marker repeats what the colour says.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

LIGHT = ("#4a5058", "#1f5fa8", "#c25512", "#178f78", "#cf69a2", "#a98a1a", "#3f97cf")
DARK = ("#d5dae0", "#3a80cc", "#de6210", "#4fb59f", "#bb7391", "#e6a300", "#6cc6fb")
"""The baseline's colour, then those of the other arms."""
BASELINE, COLORS = LIGHT[0], LIGHT[1:]
_MARKERS = (  # page, matplotlib, text
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
    """How an arm looks: colour on paper, its class in the page, and its marker in the page, matplotlib and text."""

    color: str
    css: str
    symbol: str
    marker: str
    glyph: str


def styles(arms: Iterable[str], baseline: str | None) -> dict[str, Style]:
    """The style of each arm, in the order of the study; colours repeat after six arms, pairs after 24."""
    chosen: dict[str, Style] = {}
    others = 0
    for name in arms:
        if name == baseline:
            index, marker = 0, _MARKERS[0]
        else:
            index = 1 + others % len(COLORS)
            marker = _MARKERS[(others + 1) % len(_MARKERS)]
            others += 1
        chosen[name] = Style(LIGHT[index], f"c{index}", *marker)
    return chosen


def css() -> str:
    """The colours as custom properties `--c0` to `--c6`, and classes `c0` to `c6` that set `--arm` to them."""

    def properties(colors: tuple[str, ...]) -> str:
        return "".join(f"--c{index}:{color};" for index, color in enumerate(colors))

    classes = "".join(f".c{index}{{--arm:var(--c{index})}}" for index in range(len(LIGHT)))
    dark = f"@media screen and (prefers-color-scheme: dark){{:root{{{properties(DARK)}}}}}"
    return f":root{{{properties(LIGHT)}}}{dark}{classes}"
