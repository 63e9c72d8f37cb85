"""Predicted and actual time of the last run that trained something, on the page and kept beside it."""

from __future__ import annotations

import json
from pathlib import Path

from isoloss.report import formats
from isoloss.report.tidy import Json

_SOURCES = {
    "store": "the speed of pieces that were stored before",
    "calibration": "a calibration on the machine",
    "interpolation": "speeds between those that were calibrated on the machine",
    "rough": "a rough speed: the study was too short to be worth a calibration",
}


def carried(result: Json, folder: Path) -> Json:
    """``result`` with the estimates that lie in ``folder`` where it has none of its own: a run that trained nothing,
    or a report of what is stored.
    """
    if result.get("estimates"):
        return result
    try:
        before = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        known = before["estimates"] if before["study"] == result.get("study") else None
    except (OSError, ValueError, KeyError, TypeError):
        known = None
    return {**result, "estimates": known} if known else result


def view(result: Json) -> Json | None:
    """Sentences and rows of strings; None where nothing was predicted."""
    found = result["estimates"]
    if not found:
        return None
    training, worst = found["training"], found["worst"]
    sentences = []
    if found["complete"]:
        sentences.append(
            f"The run was predicted to take {duration(found['predicted'])} on "
            f"{formats.plural(found['workers'], 'worker')} and took {duration(found['actual'])}, "
            f"{formats.ratio(found['ratio'])} as long."
        )
    sentences.append(
        f"Its updates and evaluations alone: {duration(training['predicted'])} of one worker predicted, "
        f"{duration(training['actual'])} taken, {formats.ratio(training['ratio'])}."
    )
    if len(found["sizes"]) > 1:
        sentences.append(
            f"Farthest off: N {formats.short(worst['N'])} at batch {worst['batch']}, {formats.ratio(worst['ratio'])}."
        )
    calibration = found["calibration_seconds"]
    taken = f", which took {duration(calibration)}" if calibration else ""
    sentences.append(f"The prediction was made when the run began, from {_SOURCES[found['source']]}{taken}.")
    return {
        "sentences": sentences,
        "rows": [
            {
                "size": formats.short(row["N"]),
                "updates": formats.count(row["updates"]),
                "predicted": duration(row["predicted"]),
                "actual": duration(row["actual"]),
                "value": row["ratio"],
                "ratio": formats.ratio(row["ratio"]),
            }
            for row in found["sizes"]
        ],
    }


def duration(seconds: float) -> str:
    """``3.2 s``, ``4.1 min`` or ``2.3 h``."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"
