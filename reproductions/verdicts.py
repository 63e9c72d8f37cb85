"""From intervals to verdicts: one of three, by whole intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from isoloss.worth.compare import interval
from reproductions.kept import Json

Verdict = Literal["holds", "does not hold", "not resolved at this scale"]
HOLDS: Verdict = "holds"
FAILS: Verdict = "does not hold"
OPEN: Verdict = "not resolved at this scale"
CLOSE = 0.01
"""Nats: what is called a match where an interval lies within it."""
Row = Mapping[str, Any] | None
"""A value with its interval, ``low`` and ``high`` (None below three seeds); None where nothing was measured."""


def said(row: Row, unit: str = "nats", digits: int = 4) -> str:
    """A difference with its interval."""
    if row is None:
        return "not measured"
    band = "" if row["low"] is None else f" [{row['low']:+.{digits}f}, {row['high']:+.{digits}f}]"
    return f"{row['value']:+.{digits}f}{band} {unit}".rstrip()


def below(row: Row, limit: float) -> Verdict:
    """Whether the value is below a limit, by its whole interval."""
    if row is None or row["low"] is None or row["low"] <= limit <= row["high"]:
        return OPEN
    return HOLDS if row["high"] < limit else FAILS


def lower(row: Row) -> Verdict:
    """Whether the value is below 0, by its whole interval."""
    return below(row, 0.0)


def higher(row: Row) -> Verdict:
    """Whether the value is above 0, by its whole interval."""
    return lower(turned(row))


def no_worse(row: Row, close: float = CLOSE) -> Verdict:
    """Whether it is lower, or at most ``close`` higher, by the whole interval; refuted where that lies beyond."""
    return below(row, close)


def contains(row: Row, value: float, near: float) -> Verdict:
    """Whether it is the value but for ``near``: the interval lies within that, or (refuted) wholly beyond it."""
    if row is None or row["low"] is None:
        return OPEN
    if row["low"] > value + near or row["high"] < value - near:
        return FAILS
    return HOLDS if value - near <= row["low"] and row["high"] <= value + near else OPEN


def turned(row: Row) -> Row:
    """The same with the other sign."""
    if row is None:
        return None
    low, high = (None, None) if row["low"] is None else (-row["high"], -row["low"])
    return {**row, "value": -row["value"], "low": low, "high": high}


def both(*verdicts: Verdict) -> Verdict:
    """All must hold; one that does not decides."""
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def either(*verdicts: Verdict) -> Verdict:
    """One must hold; all that do not refute it."""
    return HOLDS if HOLDS in verdicts else OPEN if OPEN in verdicts else FAILS


def agree(verdicts: Iterable[Verdict]) -> Verdict:
    """What all say, or that it is not resolved."""
    found = set(verdicts)
    return found.pop() if len(found) == 1 else OPEN


def above(ratio: Row, one: float = 1.0) -> Verdict:
    """Whether a ratio is above one, by its whole interval."""
    return {HOLDS: FAILS, FAILS: HOLDS}.get(below(ratio, one), OPEN)


def times(row: Row) -> str:
    """A ratio with its interval."""
    if row is None or row["ratio"] is None:
        return "not measured"
    return f"{row['ratio']:.2f}×{_band(row)}"


def number(row: Row) -> str:
    """A value with its interval."""
    return "not measured" if row is None or row["value"] is None else f"{row['value']:.2f}{_band(row)}"


def _band(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"


def overall(answer: Json, arm: str, currency: str) -> Row:
    """What a variant is worth over all sizes, in one currency; None where it is not known."""
    found = next((entry for entry in answer["worth_overall"] if entry["arm"] == arm), None)
    ratio = found and found.get(currency)
    return ratio if ratio and ratio["ratio"] is not None else None


def runs(answer: Json, arm: str, **cell: str) -> list[Json]:
    """Finished runs of an arm of the study file, where coordinates are those (``batch`` for ``training.batch``)."""

    def fits(run: Json) -> bool:
        here = {path.rpartition(".")[2]: str(value) for path, value in run["cell"].items()}
        return all(here.get(name) == value for name, value in cell.items())

    return [
        run
        for run in answer["runs"]
        if run["arm"].split(" · ")[0] == arm and run["status"] == "done" and not run["extra"] and fits(run)
    ]


def by_loss(run: Json) -> float:
    """The loss of part B."""
    return float(run["loss"])


def by_error(run: Json) -> float:
    """The share of part B that is classified wrongly, in percent."""
    return 100 * (1 - float(run["metrics"]["accuracy"]))


def paired(
    first: Sequence[Json],
    second: Sequence[Json],
    value: Callable[[Json], float] = by_loss,
    less: tuple[Sequence[Json], Sequence[Json]] | None = None,
    share: float = 1.0,
) -> Row:
    """First minus second, seed by seed; a seed's runs at several places are averaged, over the places of both.

    A place is a cell without its seed, by those coordinates that vary within one of the lists. ``less``: another pair,
    of whose difference ``share`` is taken off at the same places and seeds. Raises ValueError where two runs of a list
    have one place and seed.
    """
    lists = [first, second, *(less or ())]
    names = {name for found in lists for run in found for name in run["cell"]} - {"seed"}
    varying = sorted(
        name for name in names if any(len({str(r["cell"].get(name)) for r in found}) > 1 for found in lists)
    )

    def table(found: Iterable[Json]) -> dict[tuple[tuple[str, ...], str], float]:
        values: dict[tuple[tuple[str, ...], str], float] = {}
        for run in found:
            place = tuple(str(run["cell"].get(name)) for name in varying), str(run["seed"])
            if place in values:
                raise ValueError(f"two runs at {place}")
            values[place] = value(run)
        return values

    def apart(a: Iterable[Json], b: Iterable[Json]) -> dict[tuple[tuple[str, ...], str], float]:
        ours, theirs = table(a), table(b)
        return {place: ours[place] - theirs[place] for place in ours.keys() & theirs.keys()}

    found = apart(first, second)
    if less is not None:
        off = apart(*less)
        found = {place: found[place] - share * off[place] for place in found.keys() & off.keys()}
    places = sorted({place for place, _ in found})
    seeds = [s for s in sorted({seed for _, seed in found}) if all((place, s) in found for place in places)]
    if not seeds:
        return None
    middle, low, high = interval([float(np.mean([found[place, s] for place in places])) for s in seeds])
    return {"value": middle, "low": low, "high": high, "seeds": len(seeds)}


def durations(found: Iterable[Json]) -> list[str]:
    """Those of the runs, shortest first."""
    by_data = {str(run["cell"]["duration"]): run["D"] for run in found}
    return sorted(by_data, key=lambda duration: by_data[duration])
