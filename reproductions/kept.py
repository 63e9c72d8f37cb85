"""What is kept of a study: all measurements in one file, and what isoloss concludes from them.

``results-<study>.parquet`` is a store in one file (`isoloss run STUDY --under` it trains only what it lacks).
``answer-<study>.json`` is the result of that study as the page of `isoloss report` has it, without curves and the
tree of the plan, with the power of the design and the seconds of all training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars

import isoloss
from isoloss.plan.lower import Lowered
from isoloss.store import Store
from isoloss.worth.power import power

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reproductions"
STUDIES = ROOT / "studies"
Json = dict[str, Any]

_RUN = (
    "arm", "cell", "seed", "root", "N", "N_total", "D", "S", "C", "lr", "loss", "loss_a", "metrics", "status",
    "message", "extra",
)  # fmt: skip
_LEFT_OUT = ("tree", "planner", "estimates", "created", "seconds", "command")


class NotMeasured(ValueError):
    """The kept measurements have other addresses than this machine gives them."""


def parquet(folder: str, study: str) -> Path:
    """Where the measurements of a study lie."""
    return PAGES / folder / f"results-{study}.parquet"


def answer_file(folder: str, study: str) -> Path:
    """Where its conclusions lie."""
    return PAGES / folder / f"answer-{study}.json"


def keep(folder: str, study: str, store: str | Path, columns: tuple[str, ...] = ()) -> None:
    """Write both files of a study from a store that has its measurements; nothing else of the store is kept.

    ``columns``: what is kept of training curves, of tuning none. Raises ValueError where runs are not finished.
    """
    path = STUDIES / f"{study}.yaml"
    results = isoloss.results(path, store)
    absent = [r.name for r in results.results if r.status in ("missing", "failed")]
    if absent or not results.stage.complete:
        raise ValueError(f"{study}: {len(absent)} runs are not finished, the first is {absent[:1]}")
    keys = {lowered.run.key(at) for lowered in results.stage.runs for at in lowered.points}
    PAGES.joinpath(folder).mkdir(parents=True, exist_ok=True)
    cells = _tracks(planned.lowered for planned in results.stage.planned)
    Store(store, create=False).export(parquet(folder, study), keys | _ends(results), columns=columns, tracks=cells)
    write_answer(folder, study)


def _tracks(runs: Iterable[Lowered]) -> set[str]:
    return {track.id for lowered in runs for track, _, _ in lowered.run.tracks}


def _ends(results: isoloss.Results) -> set[str]:
    """Keys at the ends of the pieces that the study's runs are made of."""
    found = results.store.on_tracks(_tracks(results.stage.runs))
    return {row.end_key for rows in found.values() for row in rows}


def write_answer(folder: str, study: str) -> None:
    """Conclusions from the kept measurements."""
    text = json.dumps(concluded(folder, study), indent=1, sort_keys=True) + "\n"
    answer_file(folder, study).write_text(text, encoding="utf-8")


def concluded(folder: str, study: str) -> Json:
    """What isoloss concludes from the kept measurements, as JSON types.

    Raises NotMeasured where this machine computes with other bits than the one that measured, or has other data: then
    the measurements have other addresses.
    """
    file = parquet(folder, study)
    results = isoloss.results(STUDIES / f"{study}.yaml", file)
    if not results.stage.complete or any(r.status in ("missing", "failed") for r in results.results):
        raise NotMeasured(f"{study}: {file.name} was measured with other numerics or other data than are here")
    found = results.answer()
    for name in _LEFT_OUT:
        found.pop(name)
    found["runs"] = [
        {name: run[name] for name in _RUN} | {"key": r.key}
        for run, r in zip(found["runs"], results.results, strict=True)
    ]
    found["provenance"].pop("store")
    for predicted in found["anytime"]:
        predicted.pop("curves")
    found["power"] = [row.to_dict() for row in power(results)]
    pieces = polars.read_parquet(file, columns=["seconds"])
    found["training_seconds"] = float(pieces["seconds"].sum())
    kept: Json = json.loads(json.dumps(found))
    return {name: value if name == "runs" else _rounded(value) for name, value in kept.items()}


def _rounded(value: Any) -> Any:
    """To nine significant digits: the last ones of a sum depend on where its numbers lie in memory."""
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def answers(folder: str, studies: tuple[str, ...]) -> dict[str, Json]:
    """Kept conclusions by study, of those that were run."""
    there = [study for study in studies if answer_file(folder, study).exists()]
    return {study: json.loads(answer_file(folder, study).read_text(encoding="utf-8")) for study in there}


def whole(answer: Mapping[str, Any]) -> Json:
    """An answer with what was left out of it absent, as figures and tables of a report take it."""
    from isoloss.report.tidy import tidy

    return tidy({**answer, "tree": [], "planner": None})
