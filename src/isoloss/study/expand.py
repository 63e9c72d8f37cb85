"""Arms times grid: from a study as written to its cells, with every mistake on the way.

Every arm is checked once (once for each combination of swept names, as ``training.optimizer.name``); the
cells are copies of that one checked config with canonical values put in, and only what must agree between
values is looked at again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from isoloss.recipe.errors import nearest
from isoloss.recipe.units import Quantity
from isoloss.study.checks import LR, NUMERICS, TUNED, UNTUNED, disagreements, replaced
from isoloss.study.parts import UNSAID, Parts, reach
from isoloss.study.problems import Path, Problems, show
from isoloss.study.resolve import Leaf, complete, locate, merge, nested, resolve
from isoloss.study.schema import CONFIG, TOP_LEVEL, TUNABLE

MOST_CELLS = 50_000
MOST_VARIANTS = 2_000


@dataclass
class Variant:
    """One arm under one combination of the swept names: a checked config, and where its leaves are."""

    config: dict[str, Any]
    chosen: dict[str, Any]
    leaves: dict[str, Leaf]

    def at(self, values: dict[str, Any]) -> dict[str, Any]:
        """A fresh config with canonical ``values`` at dotted paths."""
        made = copied(self.config)
        for path, value in values.items():
            _set(made, path, copied(value))
        return dict(made)


def copied(value: Any) -> Any:
    """A copy that shares no mapping or list."""
    if isinstance(value, dict):
        return {key: copied(item) if isinstance(item, (dict, list)) else item for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def configure(raw: dict[str, Any], problems: Problems, arm: str, values: dict[str, Any]) -> dict[str, Any]:
    """The resolved config of one arm with ``values`` at dotted paths; tuned paths left out stay "tuned"."""
    expansion = Expansion(raw, problems)
    problems.raise_if_any()
    if arm not in expansion.arms:
        known = expansion.arms
        problems.add((), f"found the arm {show(arm)}; allowed: {', '.join(known)}{nearest(arm, known)}")
        problems.raise_if_any()
    first = {path: listed[0] for path, listed in (expansion.swept | expansion.tuned).items()}
    config = expansion.resolved(arm, expansion.merged(arm), first | values)
    expansion.tell_missing()
    problems.raise_if_any()
    untuned = {path: value for path, value in (first | values).items() if path not in expansion.tuned}
    expansion.keep_untuned(_overridden(expansion.merged(arm), untuned), config)
    problems.raise_if_any()
    for path in expansion.tuned:
        if path not in values:
            _set(config, path, TUNED)
    for path, message in disagreements(config):
        problems.add(expansion.place(arm, _parts(path)), message)
    problems.raise_if_any()
    return config


class Expansion(Parts):
    """A study file and what it comes to; ``build`` fills the fields.

    ``grid`` and ``tune``: canonical values by dotted path; ``rows``: those that belong to one run, where paths move
    together; ``at``: complete coordinates of the tuning points.
    ``cells``: (arm, coordinates, config, whether it is the baseline's extra duration).
    """

    def __init__(self, raw: Any, problems: Problems) -> None:
        if not isinstance(raw, dict) or not raw:
            found = show(raw) if raw else "nothing in it"
            problems.add((), f"found {found}; allowed: a mapping with {', '.join(TOP_LEVEL)}")
            problems.raise_if_any()
        super().__init__(raw, problems)
        self.grid: dict[str, tuple[Any, ...]] = {}
        self.tune: dict[str, tuple[Any, ...]] = {}
        self.at: tuple[dict[str, Any], ...] = ()
        self.rule = "nearest"
        self.bounds: dict[str, tuple[Any, ...]] = {}
        self.rows: list[dict[str, Any]] = []
        self.cells: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = []
        self._missing: dict[Path, dict[str, str]] = {}
        self._nowhere: dict[str, bool] = {}
        self._told: set[tuple[str, str]] = set()
        self._disagreed: dict[tuple[Path, str], dict[str, None]] = {}

    def build(self) -> Expansion:
        """Check and expand everything; any mistake ends in a StudyError with all that were found."""
        count = len(self.arms) * self._combinations(self.swept)
        if count > MOST_CELLS:
            message = f"found {count} runs ({len(self.arms)} arms times the grid); allowed: at most {MOST_CELLS}"
            self.problems.add(("grid",), message)
        if self.problems.count > self.slips:
            self.problems.raise_if_any()
        variants = {arm: list(self._variants(arm)) for arm in self.arms}
        self.tell_missing()
        self.problems.raise_if_any()
        first = next(iter(variants.values()))[0]
        self.grid = {path: tuple(map(first.leaves[path].check, values)) for path, values in self.swept.items()}
        self.tune = {path: tuple(map(first.leaves[path].check, values)) for path, values in self.tuned.items()}
        self.rows = [{path: first.leaves[path].check(value) for path, value in row.items()} for row in self.together]
        self._longer_baseline()
        self._tuning(first)
        self.problems.raise_if_any()
        self._check_tuning(variants)
        self._same_arms(variants)
        self._make_cells(variants)
        self._tell_disagreements()
        self.problems.raise_if_any()
        return self

    # one arm

    def merged(self, arm: str) -> dict[str, Any]:
        """The base with an arm's override, as written."""
        written: dict[str, Any] = copied(merge(CONFIG, self.base, self.arms[arm]))
        if any(path.startswith("seed.") for path in (*self.swept, *self.points)):
            seed = written.get("seed", 0)
            if isinstance(seed, int) and not isinstance(seed, bool):
                written["seed"] = {"init": seed, "data": seed, "noise": seed}
        return written

    def resolved(self, arm: str, written: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        """``written`` with ``values`` at dotted paths and all defaults; empty if anything is wrong."""
        written = _overridden(written, values)
        mistakes = 0

        def tell(kind: str, path: Path, message: str) -> None:
            nonlocal mistakes
            mistakes += 1
            if kind == "missing":
                self._missing.setdefault(path, {})[arm] = message
            else:
                self.problems.add(self.place(arm, path), message)

        config = resolve(CONFIG, copied(written), (), tell)
        if mistakes:
            return {}
        complete(config)
        return config

    def tell_missing(self) -> None:
        """What no arm has is missing in the base, the rest in the arms."""
        for path, arms in self._missing.items():
            everywhere = len(arms) == len(self.arms)
            why = " (that of the base belongs to another name)" if reach(self.base, path) == len(path) else ""
            for arm, message in arms.items():
                self.problems.add(path if everywhere else ("arms", arm, *path), message + why)

    def _variants(self, arm: str) -> Iterator[Variant]:
        written = self.merged(arm)
        names: dict[str, list[Any]] = {}
        for path, values in self.swept.items():
            leaf = self._leaf(arm, path, written, None)
            if leaf is not None and leaf.decides:
                names[path] = self._checked(leaf, ("grid", path), values)
        if math.prod(map(len, names.values())) * len(self.arms) > MOST_VARIANTS:
            message = f"found too many combinations of names; allowed: at most {MOST_VARIANTS}, arms included"
            self.problems.add(("grid",), message)
            return
        for combination in product(*names.values()):
            chosen = dict(zip(names, combination, strict=True))
            if not any(all(chosen.get(p, v) == v for p, v in row.items()) for row in self.together or [{}]):
                continue
            variant = written
            for path, value in chosen.items():
                variant = merge(CONFIG, variant, nested(path, value))
            if found := self._variant(arm, variant, chosen):
                yield found

    def _variant(self, arm: str, written: dict[str, Any], chosen: dict[str, Any]) -> Variant | None:
        before = self.problems.count
        leaves: dict[str, Leaf] = {}
        values: dict[str, Any] = {}
        for section, lists in (("grid", self.swept), ("tune", self.tuned)):
            for path, listed in lists.items():
                leaf = self._leaf(arm, path, written, (section, path))
                if leaf is None:
                    continue
                leaves[path] = leaf
                checked = self._checked(leaf, (section, path), listed)
                if section == "tune" and (leaf.decides or not any(f"{path}.".startswith(f"{p}.") for p in TUNABLE)):
                    message = f"found {show(path)}; allowed: a value, not a name, in {', '.join(TUNABLE)}"
                    self.problems.add((section, path), message)
                if path not in chosen and checked:
                    values[path] = checked[0]
        if len(leaves) < len(self.swept) + len(self.tuned):
            return None  # what a mistyped path was to give would be told as missing
        config = self.resolved(arm, written, values)
        if not config or self.problems.count > before:
            return None
        self.keep_untuned(written, config)
        for path in self.tuned:
            _set(config, path, TUNED)
        return None if self.problems.count > before else Variant(config, chosen, leaves)

    def keep_untuned(self, written: dict[str, Any], config: dict[str, Any]) -> None:
        """Note in ``config`` what an earlier training has where the run itself is tuned: the study's own value.

        So candidates share one earlier training. ``written``: the arm without the candidates.
        """
        if not config["pretrain"]:
            return
        kept: dict[str, Any] = {}
        for path in self.tuned:
            if not path.startswith("training.") or replaced(path, config["pretrain"]):
                continue
            leaf, parts = locate(path, written), _parts(path)
            if path in NUMERICS:
                message = f"found {show(path)}, which holds for pre-training too; allowed with pretrain: other paths"
                self.problems.add(("tune", path), message)
            elif reach(written, parts) == len(parts):
                kept[path] = leaf.check(_get(written, path))
            elif leaf.model is not None and not leaf.model.model_fields[leaf.field].is_required():
                kept[path] = copied(leaf.model.model_fields[leaf.field].default)
            else:
                message = f"found candidates, which pre-training does not take; needed too: its own value, at {path}"
                self.problems.add(("tune", path), message)
        if kept:
            config["pretrain"][UNTUNED] = kept

    def _leaf(self, arm: str, path: str, written: dict[str, Any], place: Path | None) -> Leaf | None:
        """The leaf at ``path``; where there is none, that is told at ``place``."""
        try:
            return locate(path, written)
        except ValueError as problem:
            if place is not None:
                if path not in self._nowhere:
                    self._nowhere[path] = not any(_has(self.merged(other), path) for other in self.arms)
                where = "" if self._nowhere[path] else f" (in arm {arm!r}; every arm must have it)"
                self.problems.add(place, f"{problem}{where}")
            return None

    def _checked(self, leaf: Leaf, place: Path, values: Iterable[Any]) -> list[Any]:
        """Canonical values; those that are not allowed are told and left out."""
        good: list[Any] = []
        for index, value in enumerate(values):
            try:
                checked = leaf.check(value)
            except ValueError as problem:
                self.problems.add((*place, index), str(problem))
                continue
            if checked in good:
                self.problems.add((*place, index), f"found {show(value)} again; allowed: every value once")
            good.append(checked)
        if leaf.path == "duration" and len({Quantity.parse(value).unit for value in good}) > 1:
            self.problems.add(place, f"found several units in {show(good)}; allowed: one unit for the axis")
        return good

    # all arms

    def _combinations(self, lists: Mapping[str, Sequence[Any]]) -> int:
        """How many runs ``lists`` of values by path are, at most."""
        free = math.prod(len(values) for path, values in lists.items() if path not in self.linked)
        return free * max(1, len(self.together))

    def _places(self, lists: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
        """Coordinates: values of ``lists`` crossed, but of paths that move together only what belongs together."""
        free = {path: values for path, values in lists.items() if path not in self.linked}
        rows = [row for row in self.rows if all(value in lists[path] for path, value in row.items())]
        for row in rows if self.rows else [{}]:
            for values in product(*free.values()):
                place = row | dict(zip(free, values, strict=True))
                yield {path: place[path] for path in lists}

    def _longer_baseline(self) -> None:
        """Make ``extra`` the canonical text of a duration, or None."""
        given, axis = self.extra, self.grid.get("duration")
        if "duration" in self.linked:
            if given is not None and given is not UNSAID:
                message = f"found {given}, but grid.together sweeps duration; allowed: none"
                self.problems.add(("baseline", "extra"), message)
            self.extra = None
            return
        if given is None or (given is UNSAID and axis is None):
            self.extra = None
            return
        if axis is None:
            message = f"found {given}, but grid does not sweep duration; allowed: none, or a swept duration"
            self.problems.add(("baseline", "extra"), message)
            return
        durations = sorted((Quantity.parse(text) for text in axis), key=lambda quantity: quantity.value)
        longest = durations[-1]
        if given is UNSAID:
            factor = longest.value / durations[-2].value if len(durations) > 1 else 2.0
            self.extra = str(longest.scaled(factor))
            return
        extra = Quantity.parse(given)
        if extra.unit != longest.unit or extra.value <= longest.value:
            self.problems.add(("baseline", "extra"), f"found {given}; allowed: none, or more than {longest}")

    def _tuning(self, first: Variant) -> None:
        """Complete the tuning points and the rule between them."""
        if not self.tune:
            return
        axes = {
            path: values if path in self.linked else _where_unnamed(path, values) for path, values in self.grid.items()
        }
        for path, listed in self.points.items():
            place: Path = ("tune", "at", path)
            if path not in self.grid:
                paths = f"{', '.join(self.grid) or 'none'}{nearest(path, self.grid)}"
                self.problems.add(place, f"found {show(path)}; allowed: paths of grid: {paths}")
                continue
            values = self._checked(first.leaves[path], place, listed)
            if any(value not in self.grid[path] for value in values):
                known = ", ".join(map(show, self.grid[path]))
                self.problems.add(place, f"found {show(values)}; allowed: values of grid.{path}: {known}")
            axes[path] = tuple(values)
        count = self._combinations(axes) * math.prod(map(len, self.tune.values())) * len(self.arms)
        if count > MOST_CELLS:
            self.problems.add(("tune",), f"found {count} runs to tune with; allowed: at most {MOST_CELLS}")
            return
        self.at = tuple(self._places(axes))
        self.bounds = {path: _bounds(first.leaves[path], values) for path, values in self.tune.items()}
        rates = self.tune.get(LR, ())
        numeric = bool(rates) and all(_number(value) and value > 0 for value in rates)
        between = self.tuning.get("between")
        usual = {"between": "nearest", "optimum": "candidate", "extend": 0}
        for name, plain in usual.items():
            if not numeric and (given := self.tuning.get(name)) not in (None, plain):
                values = [value for listed in self.tune.values() for value in listed]
                what = f"paths other than {LR}" if all(map(_number, values)) else "values that are not positive numbers"
                self.problems.add(("tune", name), f"found {show(given)} for {what}; allowed: {plain}")
        if self.tuning.get("extend") and len(set(rates)) < 2:
            self.problems.add(("tune", "extend"), "found one learning rate to go on from; allowed: two or more")
        self.rule = between or ("loglinear" if numeric else "nearest")

    def _check_tuning(self, variants: dict[str, list[Variant]]) -> None:
        """Whatever wins at the tuning points must fit in every run."""
        candidates = [dict(zip(self.tune, values, strict=True)) for values in product(*self.tune.values())]
        others = [path for path in self.tune if path != LR]
        different = list({repr([one[path] for path in others]): one for one in candidates}.values()) if others else []
        seen: dict[str, Any] = {repr({k: v for k, v in p.items() if not _seed(k)}): p for p in self._places(self.grid)}
        for arm, found in variants.items():
            for places, tried in ((self.at, candidates), (tuple(seen.values()), different)):
                for point, candidate in product(places, tried):
                    variant = next(one for one in found if one.chosen.items() <= point.items())
                    self._check(arm, variant.at(point | candidate), point)

    def _same_arms(self, variants: dict[str, list[Variant]]) -> None:
        seen: dict[str, str] = {}
        for arm, found in variants.items():
            text = json.dumps([variant.config | {"checkpoint": None} for variant in found], sort_keys=True)
            if text in seen:
                message = f"found the same runs as in arm {seen[text]!r}; allowed: arms that differ"
                self.problems.add(("arms", arm), message)
            seen.setdefault(text, arm)

    def _make_cells(self, variants: dict[str, list[Variant]]) -> None:
        for arm, found in variants.items():
            grids = [(self.swept, False)]
            if arm == self.baseline and self.extra:
                grids.append((self.swept | {"duration": [self.extra]}, True))
            for (wanted, extra), variant in product(grids, found):
                # a swept name is one value here; the variants together have them all
                lists = {
                    path: [variant.chosen[path]]
                    if path in variant.chosen
                    else [variant.leaves[path].check(value) for value in values]
                    for path, values in wanted.items()
                }
                for coordinates in self._places(lists):
                    config = variant.at(coordinates)
                    self._check(arm, config, coordinates)
                    self.cells.append((arm, coordinates, config, extra))

    def _check(self, arm: str, config: dict[str, Any], coordinates: dict[str, Any]) -> None:
        """Note what does not fit together in one run; of an arm each path once, of several arms together."""
        for path, message in disagreements(config):
            if (arm, path) in self._told:
                continue
            self._told.add((arm, path))
            place = self.place(arm, _parts(path))
            if place == ("grid", path) and coordinates[path] in self.grid[path]:
                place = (*place, self.grid[path].index(coordinates[path]))
            self._disagreed.setdefault((place, message), {})[arm] = None

    def _tell_disagreements(self) -> None:
        for (place, message), arms in self._disagreed.items():
            some = place[:1] != ("arms",) and len(arms) < len(self.arms)
            where = f" (arm {', '.join(map(repr, arms))})" if some else ""
            self.problems.add(place, message + where)


def _parts(path: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


def _has(written: dict[str, Any], path: str) -> bool:
    try:
        locate(path, written)
    except ValueError:
        return False
    return True


def _overridden(written: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``written`` with ``values`` at dotted paths: names first, because a new name drops the options of the old one."""
    for path in sorted(values, key=lambda path: not _decides(written, path)):
        written = merge(CONFIG, written, nested(path, values[path]))
    return written


def _decides(written: dict[str, Any], path: str) -> bool:
    return _has(written, path) and locate(path, written).decides


def _where_unnamed(path: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where to tune on an axis that `at` leaves out: smallest seed, shortest run, all values of any other."""
    if _seed(path):
        return (min(values),)
    if path == "duration":
        return (min(values, key=lambda text: Quantity.parse(text).value),)
    return values


def _seed(path: str) -> bool:
    return path == "seed" or path.startswith("seed.")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _bounds(leaf: Leaf, values: Sequence[Any]) -> tuple[Any, ...]:
    """Those of ``values`` next to which, on one side, nothing is allowed: a weight decay of 0, a fraction of 1."""

    def fits(value: Any) -> bool:
        try:
            leaf.check(value)
        except ValueError:
            return False
        return True

    found = []
    for value in values:
        if isinstance(value, str):
            at_bound = value.startswith("0 ")
        elif not _number(value):
            continue
        elif isinstance(value, int):
            at_bound = not (fits(value - 1) and fits(value + 1))
        else:
            at_bound = not (fits(math.nextafter(value, -math.inf)) and fits(math.nextafter(value, math.inf)))
        if at_bound or value == 0:  # options of one's own code have no bounds to ask for
            found.append(value)
    return tuple(found)


def _get(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = config[part]
    return config


def _set(config: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split(".")
    for part in above:
        config = config[part]
    config[last] = value
