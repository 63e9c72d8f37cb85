"""Results that pages are tested with, by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import synthetic_study as made

from isoloss.laws import Outlook, Points, fit
from isoloss.report import planner

Json = dict[str, Any]
Pages = Callable[[str], tuple[Json, Path]]


def planned() -> Json:
    """With a planner, from a real fit to the baseline's runs."""
    result = made.study()
    rows = [run for run in result["runs"] if run["arm"] == "cosine"]
    columns = {name: [run[name] for run in rows] for name in ("N", "D", "C", "loss")}
    found = fit(Points(**columns, cluster=[run["root"] for run in rows]), "chinchilla", cluster="cluster")
    return {**result, "planner": planner.of_fit(Outlook.of(found, found.bootstrap(200), resample=False))}


def separate() -> Json:
    """Ratios that differ by currency, and trends of each."""
    result = made.study()
    for entry in result["worth"] + result["worth_overall"]:
        for measure, factor in (("updates", 2.0), ("compute", 0.8)):
            ratio = entry[measure]
            entry[measure] = {key: None if value is None else factor * value for key, value in ratio.items()}
            ends = (("ratio", "ratio"), ("low", "high"), ("high", "low"))
            entry["inverse"][measure] = {key: 1 / entry[measure][other] for key, other in ends}
    return result


CASES: dict[str, Callable[[], Json]] = {
    "quickstart": made.study,
    "planned": planned,
    "separate": separate,
    "empty": made.empty,
    "nothing": made.nothing,
    "hostile": made.hostile,
    "one-seed": lambda: made.study(made.ONE_SEED),
    "one-size": lambda: made.study(made.ONE_SIZE),
    "one-arm": lambda: made.study(made.ONE_ARM),
    "one-variable": made.one_variable,
    "12-arms": lambda: made.study(made.MANY_ARMS),
    "216-runs": lambda: made.study(made.LARGE),
}
