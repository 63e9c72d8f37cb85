"""A study as the other rooms see it: names, arms, and cells with fully resolved configs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from isoloss.recipe.errors import StudyError, nearest
from isoloss.study.expand import Expansion, configure, copied
from isoloss.study.problems import Problems
from isoloss.study.reader import decode, plain, read


@dataclass(frozen=True)
class Arm:
    """One named treatment: a partial override of the study, as written."""

    name: str
    overrides: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of the study.

    ``coordinates``: the swept values by dotted path. ``config``: nested plain dict of JSON types with every
    default in it, and the word "tuned" where tuning will choose. Quantities are canonical text in both.
    ``extra``: the longer duration that only the baseline gets.
    """

    arm: str
    coordinates: dict[str, Any]
    config: dict[str, Any]
    extra: bool


@dataclass(frozen=True)
class Tune:
    """What is tuned, for every arm alike: candidates by dotted path, the points where, and the rule between.

    Every combination of the candidates of several paths is tried. ``at``: full coordinates of each tuning point.
    ``between``: "nearest", or "loglinear" (in N) for the learning rate; other paths take the nearest tuned size's.
    """

    values: dict[str, tuple[Any, ...]]
    at: tuple[dict[str, Any], ...]
    between: str
    follow: Mapping[str, str] = field(default_factory=dict)
    """Arms that are not tuned and take the values of another, by name."""
    bounds: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Candidates by path beyond which nothing is allowed: they are no edge that could be moved."""
    optimum: str = "candidate"
    """What learning rate is used: the best "candidate", or the vertex of a "parabola" around it."""
    extend: int = 0
    """How many learning rates may be added beyond the ends, where the best one lies there."""

    def candidates(self) -> tuple[dict[str, Any], ...]:
        """Every combination of one candidate a path, in the order of the file."""
        return tuple(dict(zip(self.values, row, strict=True)) for row in product(*self.values.values()))


@dataclass(frozen=True)
class Study:
    """A checked study file. ``raw`` is the plain dict as written; ``text`` reads back as the same study."""

    name: str
    path: Path | None
    text: str
    baseline: str
    arms: tuple[Arm, ...]
    cells: tuple[Cell, ...]
    tune: Tune | None
    grid: dict[str, tuple[Any, ...]]
    laws: tuple[str, ...]
    holdout: str | None
    raw: dict[str, Any]
    linked: tuple[str, ...] = ()
    """Paths of the grid that move together; the others are crossed."""

    def arm(self, name: str) -> Arm:
        """The arm of that name; StudyError with the allowed names."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        names = [arm.name for arm in self.arms]
        raise StudyError(f"arm: found {name!r}; allowed: {', '.join(names)}{nearest(name, names)}")

    def config(self, arm: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """The resolved config of an arm at any values by dotted path, as tuning needs it.

        A tuned path that ``values`` leave out stays the word "tuned"; a swept one takes its first value.
        Raises StudyError as loading does.
        """
        return configure(self.raw, Problems(self._place, {}), arm, dict(values))

    def with_grid(self, path: str, values: Sequence[Any]) -> Study:
        """The same study with other values on one axis of the grid. Raises StudyError as loading does."""
        raw = copied(self.raw)
        raw["grid"] = {**raw.get("grid", {}), path: list(values)}
        return self.replaced(raw)

    def with_arm(self, name: str, overrides: Mapping[str, Any]) -> Study:
        """The same study with one more arm, or another of that name. Raises StudyError as loading does."""
        raw = copied(self.raw)
        raw["arms"] = {**raw.get("arms", {}), name: dict(overrides)}
        return self.replaced(raw)

    def with_value(self, path: str, value: Any) -> Study:
        """The same study with one value replaced; ``path`` is dotted, from the top of the file."""
        raw = copied(self.raw)
        mapping = raw
        *above, last = path.split(".")
        for part in above:
            mapping = mapping.setdefault(part, {})
        mapping[last] = value
        return self.replaced(raw)

    def replaced(self, raw: Mapping[str, Any]) -> Study:
        """A study of other content in the place of this one."""
        return _made(plain(raw, self._place), self._place, self.path, None, {})

    @property
    def _place(self) -> str:
        return str(self.path) if self.path else self.name


def load(path: str | Path) -> Study:
    """Read and check a study file. Raises StudyError naming file, line and path of all that is wrong."""
    place = Path(path)
    try:
        data = place.read_bytes()
    except FileNotFoundError:
        beside = sorted(entry.name for entry in place.parent.glob("*.y*ml")) if place.parent.is_dir() else []
        listed = f"; in {place.parent}: {', '.join(beside[:10])}" if beside else ""
        raise StudyError(
            f"{place}: found no such file; allowed: a study file{listed}{nearest(place.name, beside)}"
        ) from None
    except IsADirectoryError:
        raise StudyError(f"{place}: found a folder; allowed: a study file") from None
    except (OSError, ValueError) as error:
        raise StudyError(f"{place}: found a file that cannot be read ({error}); allowed: a study file") from None
    return _read(decode(data, str(place)), str(place), place)


def loads(text: str, name: str = "<string>") -> Study:
    """Check the text of a study; ``name`` stands for the file in messages. Raises StudyError."""
    return _read(text, name, None)


def from_dict(mapping: Mapping[str, Any]) -> Study:
    """Check a study given as a mapping, with the same keys as the file. Raises StudyError."""
    return _made(plain(mapping, "study"), "study", None, None, {})


def _read(text: str, name: str, path: Path | None) -> Study:
    raw, lines = read(text, name)
    return _made(raw, name, path, text, lines)


def _made(raw: Any, name: str, path: Path | None, text: str | None, lines: dict[tuple[str | int, ...], int]) -> Study:
    done = Expansion(raw, Problems(name, lines)).build()
    return Study(
        name=done.head["study"],
        path=path,
        # DEL is the one character that JSON leaves bare and YAML does not
        text=text if text is not None else json.dumps(raw, indent=2).replace("\x7f", "\\u007f"),
        baseline=done.baseline,
        arms=tuple(Arm(arm, override) for arm, override in done.arms.items()),
        cells=tuple(Cell(*cell) for cell in done.cells),
        tune=Tune(
            done.tune, done.at, done.rule, done.follow, done.bounds, done.tuning["optimum"], done.tuning["extend"]
        )
        if done.tune
        else None,
        grid=done.grid,
        laws=tuple(dict.fromkeys(done.head["laws"])),
        holdout=done.head["holdout"],
        raw=raw,
        linked=done.linked,
    )
