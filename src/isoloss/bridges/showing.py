"""What a source has, for whoever writes a map: settings, series, and what would be taken for each quantity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from isoloss.bridges.recorded import Recorded
from isoloss.bridges.runmap import QUANTITIES, RunMap, guess
from isoloss.bridges.table import label

EXAMPLES = 3
OPTIONAL = {
    "S": "the step at which the loss was measured, where there are steps",
    "B": "D over S, where S is known",
    "C": "6ND",
    "arm": "one arm for all runs",
    "seed": "0",
    "length": "not checked",
}
"""What stands for a quantity that is found nowhere."""


def inventory(sources: Sequence[Mapping[str, Any]], runs: Sequence[Recorded], chart: RunMap) -> dict[str, Any]:
    """Settings and series by name with examples, and where each quantity would come from, as JSON types."""
    settings: dict[str, list[str]] = {}
    series: dict[str, list[Recorded]] = {}
    for run in runs:
        for name, value in run.settings.items():
            settings.setdefault(name, []).append(label(value))
        for name in run.series:
            series.setdefault(name, []).append(run)
    return {
        "sources": [dict(source) for source in sources],
        "runs": [{"run": run.name, "state": run.state, "last_step": run.last_step} for run in runs],
        "settings": [
            {"name": name, "runs": len(values), "values": len(set(values)), "examples": _first(values)}
            for name, values in settings.items()
        ],
        "series": [_series(name, those) for name, those in series.items()],
        "quantities": [_quantity(name, runs, chart) for name in QUANTITIES],
    }


def _first(values: Iterable[str]) -> list[str]:
    return [text if len(text) <= 40 else text[:37] + "..." for text in list(dict.fromkeys(values))[:EXAMPLES]]


def _series(name: str, runs: Sequence[Recorded]) -> dict[str, Any]:
    found = [run.series[name] for run in runs if len(run.series[name])]
    ends = [float(one.values[-1]) for one in found]
    known = [end for end in ends if np.isfinite(end)]
    return {
        "name": name,
        "runs": len(runs),
        "points": sum(map(len, found)),
        "first_step": min((float(one.steps[0]) for one in found), default=None),
        "last_step": max((float(one.steps[-1]) for one in found), default=None),
        "last_value": [min(known), max(known)] if known else None,
        "not_finite": len(ends) - len(known),
        "fault": next((one.fault for one in found if one.fault), None),
    }


def _quantity(name: str, runs: Sequence[Recorded], chart: RunMap) -> dict[str, Any]:
    if name in chart.values:
        return {"name": name, "from": chart.values[name].words, "how": "map"}
    found = guess(name, runs)
    if found.several:
        return {"name": name, "from": " or ".join(found.several), "how": "unclear"}
    if found.name:
        return {"name": name, "from": found.name, "how": "usual name"}
    return {"name": name, "from": OPTIONAL.get(name), "how": "default" if name in OPTIONAL else "missing"}
