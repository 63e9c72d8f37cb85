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

WIDTH, LEFT, RIGHT = 960, 12, 200
HEAD, GAP, AXIS = 30, 18, 34
THICKEST, THINNEST = 22.0, 1.6
"""Pixels of the stretch with the most compute per update, and the least that is still seen."""
SPACE, LEAST = 13.0, 17.0
"""Pixels between two lanes, and of a lane with its space."""
MOST_SHAPES = 8
_SVG = Markup(
    '<svg class="tree" viewBox="0 0 {width} {height:.0f}" role="img" aria-labelledby="tree-title">'
    '<title id="tree-title">{title}</title>{parts}'
    '<text class="tick" x="{end}" y="{foot:.0f}">updates</text></svg>'
)
_TICK = Markup(
    '<line class="grid" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/><text class="tick" x="{0:.1f}" y="{2}">{3}</text>'
)
_HEAD = Markup('<text class="shape" x="{}" y="{:.1f}">{}<tspan class="cells" dx="10">{}</tspan></text>')
_LEAF = Markup('<text class="leaf-name" x="{:.1f}" y="{:.1f}">{}</text>')
_SERVES = Markup('<text class="serves" x="{:.1f}" y="{:.1f}">×{}</text>')
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

    @property
    def cost(self) -> float:
        """Training FLOPs of all its edges; their updates where FLOPs are not known."""
        return sum(cost(edge) for edge in self.edges)

    @property
    def rate(self) -> float:
        """Cost per update: what makes it thick."""
        return self.cost / max(1, self.edge["end"] - self.edge["start"])

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

    @property
    def cost(self) -> float:
        """Of all its trees."""
        return sum(stretch.cost for stretch in self.root.walk())


def cost(edge: Json) -> float:
    """Training FLOPs of an edge; its updates where they are not known."""
    known = edge.get("flops")
    return float(edge["end"] - edge["start"] if known is None else known)


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
        key=lambda shape: (-shape.cost, shape.cells, signatures[shape.root.edge["id"]]),
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
    if edge.get("flops") is not None:
        parts.append(f"{formats.flops(stretch.cost)} FLOPs")
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


def thickness(shapes: list[Shape], most: float = THICKEST) -> dict[int, float]:
    """Pixels by the identity of a stretch: so that area is compute, on one scale for all shapes."""
    rates = {id(stretch): stretch.rate for shape in shapes for stretch in shape.root.walk()}
    top = max(rates.values(), default=0) or 1
    return {name: max(THINNEST, most * rate / top) for name, rate in rates.items()}


def lanes(shape: Shape, thick: Mapping[int, float]) -> tuple[list[float], float]:
    """Middle of each lane below the shape's heading, and the height of all."""
    widest = [0.0] * shape.lanes
    for stretch in shape.root.walk():
        widest[stretch.lane] = max(widest[stretch.lane], thick[id(stretch)])
    middles, top = [], 0.0
    for width in widest:
        height = max(LEAST, width + SPACE)
        middles.append(top + height - width / 2 - 2)
        top += height
    return middles, top


def costs(edges: list[Json]) -> list[Json]:
    """What the training of the plan was for: rows of strings with their share of the cost; empty for an empty plan."""
    kinds = {
        "several runs at once": [e for e in edges if e["reused"] and not e["tuning"]],
        "one run": [e for e in edges if not e["reused"] and not e["tuning"]],
        "tuning alone": [e for e in edges if e["tuning"]],
    }
    whole = sum(map(cost, edges))
    known = all(edge.get("flops") is not None for edge in edges)
    return [
        {
            "kind": kind,
            "updates": formats.count(sum(edge["end"] - edge["start"] for edge in found)),
            "flops": formats.flops(sum(map(cost, found))) if known else formats.ABSENT,
            "share": sum(map(cost, found)) / whole,
        }
        for kind, found in kinds.items()
        if found and whole
    ]


def heading(shape: Shape, whole: float) -> str:
    """`12 trees · 4,800 updates each · 38 % of the cost`."""
    trees = f"{shape.members} trees · " if shape.members > 1 else ""
    each = " each" if shape.members > 1 else ""
    return f"{trees}{formats.count(shape.updates)} updates{each} · {100 * shape.cost / (whole or 1):.0f} % of the cost"


def draw(edges: list[Json], styles: Mapping[str, Style]) -> Markup:
    """The plan as an inline SVG (text in the page's own ink); an empty string for an empty plan."""
    found = shapes(edges)[:MOST_SHAPES]
    if not found:
        return Markup("")
    longest = max(_deepest(shape.root) for shape in found) or 1
    thick, whole = thickness(found), sum(map(cost, edges))
    span = WIDTH - LEFT - RIGHT

    def across(update: float) -> float:
        return LEFT + span * update / longest

    parts: list[Markup] = []
    top = 0.0
    height = sum(HEAD + lanes(shape, thick)[1] + GAP for shape in found) + AXIS
    for tick in ticks(longest):
        parts.append(_TICK.format(across(tick), height - AXIS + 4, height - AXIS + 20, formats.count(tick)))
    for shape in found:
        middles, tall = lanes(shape, thick)
        parts.append(_HEAD.format(LEFT, top + 16, heading(shape, whole), shape.cells))
        parts.extend(_drawn(shape, [top + HEAD + middle for middle in middles], thick, across, styles))
        top += HEAD + tall + GAP
    return _SVG.format(
        width=WIDTH, height=height, title=alt(edges), parts=Markup("").join(parts),
        end=WIDTH - RIGHT + 60, foot=height - AXIS + 20,
    )  # fmt: skip


def _drawn(
    shape: Shape, middles: list[float], thick: Mapping[int, float], across: Any, styles: Mapping[str, Style]
) -> Iterator[Markup]:
    order = list(styles)
    above: dict[int, float] = {}
    for stretch in shape.root.walk():
        edge, y, tall = stretch.edge, middles[stretch.lane], thick[id(stretch)]
        begin, end = across(edge["start"]), across(edge["end"])
        end = max(end, begin + 0.5)
        arms = arms_of(edge, styles) or [""]
        each = tall / len(arms)
        parts = []
        if above.get(id(stretch), y) != y:
            fork = Markup('<path class="fork {}" d="M{:.1f} {:.1f}V{:.1f}"/>')
            parts.append(fork.format(_class(arms[0], styles), begin, above[id(stretch)], y - tall / 2))
        for index, arm in enumerate(arms):
            line = Markup('<path class="{}" d="M{:.1f} {:.1f}H{:.1f}" stroke-width="{:.1f}"/>')
            parts.append(line.format(_class(arm, styles), begin, y + (index - (len(arms) - 1) / 2) * each, end, each))
        if edge["cells"] > 1 and end - begin > 24:
            parts.append(_SERVES.format(begin + 2, y - tall / 2 - 3, edge["cells"]))
        if not stretch.children:
            parts.append(_LEAF.format(end + 6, y + 4, leaf_label(edge, styles)))
        kind = edge["kind"] if edge["kind"] in ("trunk", "branch", "warmup") else "trunk"
        classes = f"stretch {kind}{' shared' if edge['cells'] > 1 else ''}{' tuning' if edge['tuning'] else ''}"
        known = " ".join(str(order.index(arm)) for arm in arms if arm in order)
        yield Markup('<g class="{}" data-mark data-arms="{}"><title>{}</title>{}</g>').format(
            classes, known, describe(stretch, shape.members, styles), Markup("").join(parts)
        )
        for child in stretch.children:
            above[id(child)] = y


def _class(arm: str, styles: Mapping[str, Style]) -> str:
    return styles[arm].css if arm in styles else ""


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
