"""The plan as a tree: what was trained once for several runs, and where runs part.

Trees of one shape (the same stretches, arms and kinds) are drawn once, with the cells they stand for. A trunk
keeps its lane; whatever leaves it later lies nearer to it, so that no two lines cross.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from isoloss.report import formats
from isoloss.report.palette import Style
from isoloss.report.tidy import Json

WIDTH, LEFT, RIGHT = 960, 12, 210
LANE, HEAD, GAP, AXIS = 24, 34, 16, 34
MOST_SHAPES = 16
_SVG = Markup(
    '<svg class="tree" viewBox="0 0 {width} {height:.0f}" role="img" aria-labelledby="tree-title">'
    '<title id="tree-title">{title}</title>{parts}'
    '<text class="tick" x="{end}" y="{foot:.0f}">updates</text></svg>'
)
_TICK = Markup(
    '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/><text class="tick" x="{0:.1f}" y="{2}">{3}</text>'
)
_LEAF = Markup(
    '<circle class="leaf" cx="{:.1f}" cy="{:.1f}" r="3.5"/><text class="leaf-name" x="{:.1f}" y="{:.1f}">{}</text>'
)
_RANK = {"trunk": 0, "warmup": 1}


@dataclass
class Stretch:
    """One stretch of the drawn tree: the edges of all trees of this shape at this place, and its lane."""

    edges: list[Json]
    children: list[Stretch] = field(default_factory=list)
    lane: int = 0

    @property
    def edge(self) -> Json:
        return self.edges[0]

    def walk(self) -> Iterator[Stretch]:
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Shape:
    """Trees of one shape: the root stretch, how many, their cells, lanes used, updates in one."""

    root: Stretch
    members: int
    cells: str
    lanes: int
    updates: int


def shapes(edges: list[Json]) -> list[Shape]:
    """The distinct shapes of a plan, the costliest first. Edges whose parent is absent are roots."""
    known = {edge["id"] for edge in edges}
    children: dict[Any, list[Json]] = defaultdict(list)
    for edge in edges:
        parent = edge["parent"] if edge["parent"] in known and edge["parent"] != edge["id"] else None
        children[parent].append(edge)

    signatures: dict[Any, tuple[Any, ...]] = {}
    roots = children[None]
    for edge in _bottom_up(roots, children):
        below = sorted(signatures[child["id"]] for child in children[edge["id"]])
        signatures[edge["id"]] = (
            -edge["end"],
            edge["start"],
            edge["kind"],
            bool(edge["reused"]),
            bool(edge["tuning"]),
            tuple(sorted(edge["arms"])),
            edge["cells"],
            tuple(below),
        )

    groups: dict[tuple[Any, ...], list[Json]] = defaultdict(list)
    for edge in roots:
        groups[signatures[edge["id"]]].append(edge)

    def merged(same: list[Json]) -> Stretch:
        families = [
            sorted(children[edge["id"]], key=lambda child: (signatures[child["id"]], str(child["id"]))) for edge in same
        ]
        return Stretch(same, [merged(list(siblings)) for siblings in zip(*families, strict=True)])

    found = []
    for same in groups.values():
        root = merged(same)
        lanes = _place(root, 0)
        updates = sum(item.edge["end"] - item.edge["start"] for item in root.walk())
        found.append(Shape(root, len(same), _cells(same), lanes, updates))
    return sorted(
        found,
        key=lambda shape: (-shape.updates * shape.members, shape.cells, signatures[shape.root.edge["id"]]),
    )


def _bottom_up(roots: list[Json], children: Mapping[Any, list[Json]]) -> list[Json]:
    order, waiting = [], list(roots)
    while waiting:
        edge = waiting.pop()
        order.append(edge)
        waiting.extend(children[edge["id"]])
    return order[::-1]


def _place(stretch: Stretch, lane: int) -> int:
    """Give lanes to a stretch and all below it from `lane` on; the first lane left free."""
    stretch.lane = lane
    ordered = sorted(
        stretch.children,
        key=lambda child: (_RANK.get(child.edge["kind"], 2), -_deepest(child), sorted(child.edge["arms"])),
    )
    stretch.children = ordered
    free = lane + 1
    for position, child in enumerate(ordered):
        # Only the first child may go straight on; it takes its later forks into the lanes below.
        free = max(free, _place(child, lane)) if position == 0 else _place(child, free)
    return free


def _deepest(stretch: Stretch) -> int:
    return max(item.edge["end"] for item in stretch.walk())


def _cells(same: list[Json]) -> str:
    """`model.width 32, 48 · seed 0, 1`: what the trees of one shape are for."""
    values: dict[str, list[Any]] = defaultdict(list)
    rates: list[str] = []
    for edge in same:
        for path, value in edge["cell"].items():
            if value not in values[path]:
                values[path].append(value)
        if edge["lr"] is not None and "lr" not in edge["cell"]:
            rates.append(formats.number(edge["lr"]))
    parts = [f"{path} {', '.join(_sorted(found))}" for path, found in values.items()]
    if parts and len(same) != math.prod(len(found) for found in values.values()) * len(set(rates) or {1}):
        parts.append(f"{len(same)} of these")
    return " · ".join(parts + [f"peak LR {', '.join(_sorted(list(dict.fromkeys(rates))))}"] * bool(rates))


def _sorted(values: list[Any]) -> list[str]:
    try:
        return [str(value) for value in sorted(values, key=float)]
    except (TypeError, ValueError):
        return [str(value) for value in values]


def arms_of(edge: Json, styles: Mapping[str, Style]) -> list[str]:
    """The arms of an edge in the order of the study, however they were listed."""
    order = list(styles)
    return sorted(edge["arms"], key=lambda arm: (order.index(arm) if arm in styles else len(order), arm))


def leaf_label(edge: Json, styles: Mapping[str, Style]) -> str:
    """What a line ends in: its arms and the update where it stops."""
    names = ", ".join(arms_of(edge, styles)) or edge["label"] or edge["kind"]
    return f"{names if len(names) <= 24 else names[:23] + '…'} · {formats.count(edge['end'])}"


def describe(stretch: Stretch, members: int, styles: Mapping[str, Style]) -> str:
    """One stretch in words, for tool tips."""
    edge = stretch.edge
    parts = [
        edge["label"] or edge["kind"],
        f"updates {formats.count(edge['start'])} to {formats.count(edge['end'])}",
        f"arms: {', '.join(arms_of(edge, styles)) or formats.ABSENT}",
        f"serves {formats.plural(edge['cells'], 'run')} of each tree",
    ]
    if members > 1:
        parts.append(f"trained in {members} trees of this shape")
    if edge["reused"]:
        parts.append("trained once for all of them")
    if edge["tuning"]:
        parts.append(f"trained to choose {', '.join(edge.get('chosen') or ['a learning rate'])}")
    return "; ".join(parts)


def ticks(longest: float) -> list[float]:
    """At most seven round positions from 0 to `longest`."""
    if longest <= 0:
        return [0.0]
    power = 10.0 ** math.floor(math.log10(longest / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if longest / (power * factor) <= 6)
    return [step * index for index in range(int(longest / step) + 1)]


def stripe(edge: Json) -> float:
    """Thickness of one arm's stripe in pixels: more runs, a thicker line."""
    return max(2.2, min(7.0, 2.5 + 1.1 * edge["cells"]) / max(1, len(edge["arms"])))


def draw(edges: list[Json], styles: Mapping[str, Style]) -> Markup:
    """The plan as an inline SVG (text in the page's own ink); an empty string for an empty plan."""
    found = shapes(edges)[:MOST_SHAPES]
    if not found:
        return Markup("")
    longest = max(_deepest(shape.root) for shape in found) or 1
    span = WIDTH - LEFT - RIGHT

    def across(update: float) -> float:
        return LEFT + span * update / longest

    parts: list[Markup] = []
    top = 0.0
    height = sum(HEAD + shape.lanes * LANE + GAP for shape in found) + AXIS
    for tick in ticks(longest):
        parts.append(_TICK.format(across(tick), height - AXIS + 4, height - AXIS + 20, formats.count(tick)))
    for shape in found:
        many = f"{shape.members} × " if shape.members > 1 else ""
        title = f"{many}{formats.count(shape.updates)} updates"
        parts.append(
            Markup('<text class="shape" x="{}" y="{:.1f}">{}<tspan class="cells" dx="10">{}</tspan></text>').format(
                LEFT, top + 20, title, shape.cells
            )
        )
        parts.extend(_drawn(shape, top + HEAD, across, styles))
        top += HEAD + shape.lanes * LANE + GAP
    return _SVG.format(
        width=WIDTH, height=height, title=alt(edges), parts=Markup("").join(parts),
        end=WIDTH - RIGHT + 60, foot=height - AXIS + 20,
    )  # fmt: skip


def _drawn(shape: Shape, top: float, across: Any, styles: Mapping[str, Style]) -> Iterator[Markup]:
    ends: dict[int, float] = {}
    for stretch in shape.root.walk():
        edge, y = stretch.edge, top + (stretch.lane + 0.5) * LANE
        begin, end = across(edge["start"]), across(edge["end"])
        above = ends.get(id(stretch), y)
        arms = arms_of(edge, styles) or [""]
        each = stripe(edge)
        lines = []
        for index, arm in enumerate(arms):
            shift = (index - (len(arms) - 1) / 2) * each
            path = f"M{begin:.1f} {above:.1f}"
            if above != y:
                bend = max(0.0, min(10.0, end - begin))
                path += f"V{y - bend + shift:.1f}q0 {bend:.1f} {bend:.1f} {bend:.1f}"
            else:
                path = f"M{begin:.1f} {y + shift:.1f}"
            path += f"H{max(end, begin + 0.5):.1f}"
            color = styles[arm].color if arm in styles else "currentColor"
            lines.append(Markup('<path d="{}" stroke="{}" stroke-width="{:.1f}"/>').format(path, color, each))
        if edge["reused"]:
            wide = Markup('<path class="halo" d="M{:.1f} {:.1f}H{:.1f}" stroke-width="{:.1f}"/>')
            lines.insert(0, wide.format(begin, y, max(end, begin + 0.5), each * len(arms) + 9))
        classes = "stretch tuning" if edge["tuning"] else "stretch"
        yield Markup('<g class="{} {}"><title>{}</title>{}</g>').format(
            classes,
            edge["kind"] if edge["kind"] in ("trunk", "branch", "warmup") else "trunk",
            describe(stretch, shape.members, styles),
            Markup("").join(lines),
        )
        if not stretch.children:
            yield _LEAF.format(end, y, end + 9, y + 4, leaf_label(edge, styles))
        for child in stretch.children:
            ends[id(child)] = y


def alt(edges: list[Json]) -> str:
    """The tree in one sentence."""
    found = shapes(edges)
    if not found:
        return "An empty plan."
    branches = sum(1 for edge in edges if edge["kind"] == "branch")
    trained = sum(edge["end"] - edge["start"] for edge in edges)
    shared = sum(edge["end"] - edge["start"] for edge in edges if edge["reused"])
    text = (
        f"The plan as {formats.plural(sum(shape.members for shape in found), 'tree')} of "
        f"{formats.plural(len(found), 'shape')}, with {branches} branches; "
        f"{formats.count(trained)} updates trained"
    )
    return text + (f", {formats.count(shared)} of them for several runs." if shared else ".")
