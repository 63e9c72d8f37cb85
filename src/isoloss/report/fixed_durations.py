"""Questions about training without a fixed duration, with their answers, on the page."""

from __future__ import annotations

from isoloss.report import formats
from isoloss.report.tidy import Json


def view(result: Json) -> list[Json]:
    """Questions with sentences and rows of strings; empty where the study asks none."""
    return [
        {
            "id": entry["id"],
            "question": entry["question"],
            "sentences": [sentence.rstrip(".") + "." for sentence in entry["answer"].split(". ")],
            "rows": [_row(row) for row in entry["rows"]],
        }
        for entry in result["fixed_durations"]
    ]


def _row(row: Json) -> Json:
    ratio = row["what"] == "ratio"
    value, low, high = row["value"], row["low"], row["high"]
    bounds = ""
    if low is not None and high is not None:
        bounds = f"[{low:.2f}, {high:.2f}]" if ratio else f"[{low:+.4f}, {high:+.4f}]"
    verdict = "not resolved"
    if row["resolved"]:
        verdict = "lower" if value < (1 if ratio else 0) else "higher"
    return {
        **row,
        "text": formats.ABSENT if value is None else f"{value:.2f}×" if ratio else f"{value:+.4f}",
        "interval": bounds,
        "verdict": verdict,
    }
