"""The parts of a study file that need no expansion: names, arms, lists of grid and tune, the baseline."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

from isoloss.recipe.errors import nearest
from isoloss.study.problems import Path, Problems, show
from isoloss.study.resolve import resolve
from isoloss.study.schema import CONFIG, CONFIG_KEYS, TOP_LEVEL, Baseline, Head, Node, Tuning

MOST_ARMS = 2_000
MOST_ROWS = 10_000
ONLY_ARM = "base"
"""Name of the one arm of a study that writes none."""

FOLLOW = "follow"
"""The key of `tune` that says which arms take another's values."""

TOGETHER = "together"
"""The key of a grid whose paths move together."""

UNSAID: Any = object()
"""Stands for a key that was not written, where null means something else."""

_ARM_NAME = re.compile(r"\w[\w .+-]{0,59}")
_EXAMPLE = {
    "grid": "{duration: [200 updates, 400 updates], seed: [0, 1, 2]}",
    "tune": "{training.optimizer.lr: [2e-3, 4e-3], at: {model.width: [32, 96]}}",
}


class Parts:
    """Reads the parts of ``raw``; mistakes go to ``problems``.

    ``arms``: overrides by name. ``swept`` and ``tuned``: lists as written by dotted path; ``together``: which values
    of some swept paths belong to one run, all others are crossed; ``points``: those of ``tune.at``; ``follow``: arms
    that take the tuned values of another, by name. ``extra``: the longer duration of the baseline, None for none,
    UNSAID for the default.
    ``slips``: how many of the mistakes leave the rest readable.
    """

    def __init__(self, raw: dict[str, Any], problems: Problems) -> None:
        self.raw = raw
        self.problems = problems
        for key in raw:
            if key not in TOP_LEVEL:
                known = f"{', '.join(TOP_LEVEL)}{nearest(key, TOP_LEVEL)}"
                problems.add((key,), f"found an unknown key; allowed: {known}")
        head = {key: raw[key] for key in Head.model_fields if key in raw}
        self.head = resolve(Node(Head), head, (), self._tell)
        self.base = {key: raw[key] for key in CONFIG_KEYS if key in raw}
        before = problems.count
        resolve(CONFIG, self.base, (), self._tell_written)
        self.slips = problems.count - before
        self.arms = self._arms()
        self.swept = self._lists("grid", (TOGETHER,))
        self.together = self._together()
        self.tuned = self._lists("tune", ("at", FOLLOW, *Tuning.model_fields))
        self.tuning: dict[str, Any] = {}
        self.points = self._tuning_points()
        self.follow = self._followers()
        self.extra: Any = UNSAID
        self.baseline = self._baseline()
        self._overlaps()

    @property
    def linked(self) -> tuple[str, ...]:
        """The paths that move together."""
        return tuple(self.together[0]) if self.together else ()

    def place(self, arm: str, path: Path) -> Path:
        """Where in the file the value at ``path`` of an arm's config was written."""
        dots = ".".join(map(str, path))
        for section, lists in (("grid", self.swept), ("tune", self.tuned)):
            if dots in lists:
                return (section, dots)
        depth = reach(self.arms.get(arm, {}), path)
        return ("arms", arm, *path) if depth and depth >= reach(self.base, path) else path

    def _tell(self, _kind: str, path: Path, message: str) -> None:
        self.problems.add(path, message)

    def _tell_written(self, kind: str, path: Path, message: str) -> None:
        """Of the base alone only what is there can be wrong: an arm, the grid or tune may give the rest."""
        if kind != "missing":
            self.problems.add(path, message)

    def _arms(self) -> dict[str, dict[str, Any]]:
        given = self.raw.get("arms", {ONLY_ARM: {}})
        if not isinstance(given, dict) or not given:
            message = f"found {show(given)}, a study of zero runs; allowed: names with overrides, as {{a: {{...}}}}"
            self.problems.add(("arms",), message)
            return {}
        if len(given) > MOST_ARMS:
            self.problems.add(("arms",), f"found {len(given)} arms; allowed: at most {MOST_ARMS}")
            return {}
        arms = {name: {} if override is None else override for name, override in given.items()}
        for name, override in arms.items():
            if not _ARM_NAME.fullmatch(name):
                message = f"found the name {show(name)}; allowed: letters, digits, _ . + - and spaces, up to 60"
                self.problems.add(("arms", name), message)
            if not isinstance(override, dict):
                message = f"found {show(override)}; allowed: a mapping that overrides the rest"
                self.problems.add(("arms", name), message)
                continue
            for key in override:
                if key not in CONFIG_KEYS:
                    why = "belongs to the whole study" if key in TOP_LEVEL else "does not exist"
                    known = f"{', '.join(CONFIG_KEYS)}{nearest(key, CONFIG_KEYS)}"
                    message = f"found a key that {why}; allowed in an arm: {known}"
                    self.problems.add(("arms", name, key), message)
        return {name: override for name, override in arms.items() if isinstance(override, dict)}

    def _lists(self, section: str, others: tuple[str, ...]) -> dict[str, list[Any]]:
        """A mapping of dotted paths to lists of values."""
        given = self.raw.get(section)
        if section not in self.raw or (section == "tune" and given is None):
            return {}
        if not isinstance(given, dict) or not given:
            message = f"found {show(given)}; allowed: dotted paths with lists, as {_EXAMPLE[section]}"
            self.problems.add((section,), message)
            return {}
        lists: dict[str, list[Any]] = {}
        for path, values in given.items():
            if path in others:
                continue
            place = (section, path)
            if not isinstance(values, list):
                inner = next(iter(values)) if isinstance(values, dict) and values else None
                hint = f" (did you mean '{path}.{inner}'?)" if inner else ""
                self.problems.add(place, f"found {show(values)}; allowed: a list of values{hint}")
            elif not values:
                self.problems.add(place, "found an empty list, a study of zero runs; allowed: values")
            else:
                lists[path] = values
        return lists

    def _together(self) -> list[dict[str, Any]]:
        """The rows of `grid.together`, lists in a row multiplied out; their values join ``swept``."""
        grid = self.raw.get("grid")
        if not isinstance(grid, dict) or TOGETHER not in grid:
            return []
        given, place = grid[TOGETHER], ("grid", TOGETHER)
        allowed = "a list of mappings with the same dotted paths, as [{model.width: 32, model.depth: 2}]"
        if not (isinstance(given, list) and given and all(isinstance(row, dict) and row for row in given)):
            self.problems.add(place, f"found {show(given)}; allowed: {allowed}")
            return []
        rows: list[dict[str, Any]] = []
        for index, row in enumerate(given):
            if row.keys() != given[0].keys():
                self.problems.add((*place, index), f"found {show(list(row))}; allowed: {allowed}")
                continue
            listed = [value if isinstance(value, list) else [value] for value in row.values()]
            rows += [dict(zip(row, values, strict=True)) for values in product(*listed)]
        if len(rows) > MOST_ROWS or not rows:
            self.problems.add(place, f"found {len(rows)} runs; allowed: 1 to {MOST_ROWS}")
            return []
        for path in rows[0]:
            if path in self.swept:
                self.problems.add((*place, 0, path), "found a value that grid sweeps too; allowed: one of them")
            values: list[Any] = []
            for row in rows:
                if row[path] not in values:
                    values.append(row[path])
            self.swept[path] = values
        return rows

    def _tuning_points(self) -> dict[str, list[Any]]:
        given = self.raw.get("tune")
        if not isinstance(given, dict):
            return {}
        own = {key: given[key] for key in Tuning.model_fields if key in given}
        self.tuning = resolve(Node(Tuning), own, ("tune",), self._tell)
        if not any(path not in ("at", FOLLOW, *Tuning.model_fields) for path in given):
            message = f"found no path to tune; allowed: dotted paths with lists, as {_EXAMPLE['tune']}"
            self.problems.add(("tune",), message)
        at = given.get("at", {})
        if not isinstance(at, dict):
            message = f"found {show(at)}; allowed: dotted paths with a value or a list of values"
            self.problems.add(("tune", "at"), message)
            return {}
        for path, values in at.items():
            if values == []:
                message = "found an empty list; allowed: a value or a list of values"
                self.problems.add(("tune", "at", path), message)
        return {path: values if isinstance(values, list) else [values] for path, values in at.items()}

    def _followers(self) -> dict[str, str]:
        tune = self.raw.get("tune")
        given = tune.get(FOLLOW, {}) if isinstance(tune, dict) else {}
        place: Path = ("tune", FOLLOW)
        if not isinstance(given, dict):
            self.problems.add(place, f"found {show(given)}; allowed: arms with the arm they follow, as {{a: b}}")
            return {}
        found: dict[str, str] = {}
        for arm, leader in given.items():
            for name in (arm, leader):
                if not isinstance(name, str) or name not in self.arms:
                    known = f"{', '.join(self.arms)}{nearest(name, self.arms) if isinstance(name, str) else ''}"
                    self.problems.add((*place, arm), f"found {show(name)}; allowed: {known}")
                    break
            else:
                if leader in given:
                    self.problems.add(
                        (*place, arm), f"found {show(leader)}, which follows another; allowed: one that is tuned"
                    )
                found[arm] = leader
        return found

    def _baseline(self) -> str:
        given = self.raw.get("baseline", UNSAID)
        place: Path = ("baseline",)
        if isinstance(given, dict):
            before = self.problems.count
            checked = resolve(Node(Baseline), given, place, self._tell)
            if self.problems.count > before:
                return ""
            if "extra" in given:
                self.extra = None if checked["extra"] == "none" else checked["extra"]
            given, place = checked["arm"], ("baseline", "arm")
        if given is UNSAID and len(self.arms) == 1:
            return next(iter(self.arms))
        if isinstance(given, str) and given in self.arms:
            return given
        if self.arms:
            found = "missing" if given is UNSAID else f"found {show(given)}"
            hint = nearest(given, self.arms) if isinstance(given, str) else ""
            self.problems.add(place, f"{found}; allowed: {', '.join(self.arms)}{hint}")
        return ""

    def _overlaps(self) -> None:
        """A value that is swept or tuned is given by nothing else but the base."""
        for arm, override in self.arms.items():
            if reach(override, ("training", "parallel")) == 2:
                message = "found a value that decides no result; allowed: it at the top, the same for all arms"
                self.problems.add(("arms", arm, "training", "parallel"), message)
        swept = [("grid", path) for path in self.swept] + [("tune", path) for path in self.tuned]
        for index, (section, path) in enumerate(swept):
            if path.partition(".")[0] == "checkpoint" or path.startswith("training.parallel"):
                self.problems.add((section, path), "found a value that decides no result; allowed: other paths")
            for later, (other, longer) in enumerate(swept):
                if longer.startswith(path + ".") or (longer == path and later > index):
                    message = f"found a value that {section}.{path} sets too; allowed: one of them"
                    self.problems.add((other, longer), message)
            parts = tuple(path.split("."))
            for arm, override in self.arms.items():
                if reach(override, parts) == len(parts):
                    verb = "sweeps" if section == "grid" else "tunes"
                    message = f"found a value that {section} {verb}; allowed: one of them"
                    self.problems.add(("arms", arm, *parts), message)


def reach(tree: Any, path: Path) -> int:
    """How many parts of ``path`` there are in ``tree``."""
    for depth, part in enumerate(path):
        inside = tree if isinstance(tree, dict) else dict(enumerate(tree)) if isinstance(tree, list) else {}
        if part not in inside:
            return depth
        tree = inside[part]
    return len(path)
