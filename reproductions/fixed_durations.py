"""Scaling laws and compute-optimal training beyond fixed training durations (Hägele et al. 2024, arXiv 2405.18392)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reproductions.kept import Json
from reproductions.page import FAILS, HOLDS, OPEN, Claim, Part, Reproduction, Verdict

MAIN, FORMS = "fixed-durations", "fixed-durations-forms"
CLOSE = 0.01
"""Nats: what is called a match where an interval lies within it."""


def claims(found: Mapping[str, Json]) -> Sequence[Claim]:
    """One a finding of the paper."""
    main, forms = found[MAIN], found[FORMS]
    cosine = _row(main, "cosine", "cooldown", "cosine")
    linear = _row(main, "forms", "linear", "cooldown")
    rates = _row(main, "rates", "cooldown", "cosine")
    return [
        Claim(
            "A cooldown of 20 % matches the best cosine (to 10 % of its peak) at every duration (210M model)",
            f"1-sqrt cooldown minus cosine: {said(cosine)}; " + _by_duration(main, "cosine", "cooldown", "cosine"),
            no_worse(cosine),
        ),
        Claim(
            "1-sqrt beats a linear cooldown at lengths of 10 % and 20 %",
            f"linear minus 1-sqrt at 20 %: {said(linear)} over five sizes, "
            f"{said(_row(forms, 'forms', 'linear', TRUNK))} at one size with five seeds",
            higher(linear),
        ),
        Claim(
            "Of 1-x^a, a = 0.5 is best and 0.3 nearly equal",
            "; ".join(
                f"{arm} minus 0.5: {said(_row(forms, 'forms', arm, TRUNK))}" for arm in ("power 0.3", "power 0.7")
            ),
            _best([_row(forms, "forms", arm, TRUNK) for arm in ("power 0.3", "power 0.7")]),
        ),
        Claim(
            "The gain of a longer cooldown flattens at about 20 %",
            "; ".join(
                f"{arm} minus 20 percent: {said(_row(forms, 'lengths', arm, TRUNK))}"
                for arm in ("5 percent", "10 percent", "30 percent", "50 percent")
            ),
            _flattens(forms),
        ),
        Claim(
            "The constant learning rate is half of cosine's peak in the scaling experiments",
            f"best learning rate of the trunk over the cosine's: {rates['value']:.2f}× [{rates['low']:.2f}, "
            f"{rates['high']:.2f}]"
            if rates
            else "not measured",
            _contains(rates, 0.5),
        ),
        Claim(
            "An average of the trunk gains much over the raw trunk and does not reach the cooldown",
            f"averaged minus constant: {said(_row(main, 'average', 'averaged', 'constant'))}; averaged minus cooldown: "
            f"{said(_row(main, 'average', 'averaged', 'cooldown'))}",
            _both(
                lower(_row(main, "average", "averaged", "constant")),
                higher(_row(main, "average", "averaged", "cooldown")),
            ),
        ),
        Claim(
            "Schedule-Free AdamW is bad with betas (0.9, 0.95), strong with (0.95, 0.99); a cooldown is "
            "equal or better",
            "; ".join(
                f"{arm} minus cooldown: {said(_row(main, 'free', arm, 'cooldown'))}"
                for arm in ("schedule-free 0.9 0.95", "schedule-free 0.95 0.99")
            ),
            no_worse(_turned(_row(main, "free", "schedule-free 0.95 0.99", "cooldown"))),
        ),
        Claim(
            "Runs that share trunks give the law at about half the FLOPs (from the authors' notebook: 0.554)",
            next((asked["answer"] for asked in main["fixed_durations"] if asked["id"] == "law"), "not asked"),
            _agree(main),
        ),
    ]


TRUNK = "one minus sqrt"


def _row(answer: Json, asked: str, arm: str, against: str, place: str | None = None) -> Mapping[str, Any] | None:
    """The row of a question about two arms; over all durations unless a place is named."""
    for question in answer["fixed_durations"]:
        for row in question["rows"]:
            if (question["id"], row["arm"], row["against"]) == (asked, arm, against) and (
                row["place"] == place if place else row["place"] in ("all durations", "best learning rate")
            ):
                return dict(row)
    return None


def _by_duration(answer: Json, asked: str, arm: str, against: str) -> str:
    rows = [
        row
        for question in answer["fixed_durations"]
        if question["id"] == asked
        for row in question["rows"]
        if (row["arm"], row["against"]) == (arm, against) and row["place"] != "all durations"
    ]
    return "; ".join(f"at {row['place']} {said(row)}" for row in rows)


def said(row: Mapping[str, Any] | None) -> str:
    """A difference with its interval."""
    if row is None:
        return "not measured"
    interval = "" if row["low"] is None else f" [{row['low']:+.4f}, {row['high']:+.4f}]"
    return f"{row['value']:+.4f}{interval} nats"


def lower(row: Mapping[str, Any] | None) -> Verdict:
    """Whether the loss is lower, by its whole interval."""
    if row is None or row["low"] is None or row["low"] <= 0 <= row["high"]:
        return OPEN
    return HOLDS if row["high"] < 0 else FAILS


def higher(row: Mapping[str, Any] | None) -> Verdict:
    """Whether the loss is higher, by its whole interval."""
    return lower(_turned(row))


def no_worse(row: Mapping[str, Any] | None) -> Verdict:
    """Whether the loss is lower, or by its whole interval at most 0.01 nats higher."""
    if row is None or row["low"] is None:
        return OPEN
    if row["high"] < CLOSE:
        return HOLDS
    return FAILS if row["low"] > 0 else OPEN


def _turned(row: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if row is None or row["low"] is None:
        return row
    return {**row, "value": -row["value"], "low": -row["high"], "high": -row["low"]}


def _both(*verdicts: Verdict) -> Verdict:
    return FAILS if FAILS in verdicts else OPEN if OPEN in verdicts else HOLDS


def _best(rows: Sequence[Mapping[str, Any] | None]) -> Verdict:
    """Nothing is better than the one that all are compared with, by whole intervals; something worse is wanted too."""
    found = [higher(row) for row in rows]
    return FAILS if FAILS in found else HOLDS if HOLDS in found else OPEN


def _flattens(forms: Json) -> Verdict:
    """5 % is worse than 20 %, and 30 % within 0.01 nats of it."""
    short, long = (_row(forms, "lengths", arm, TRUNK) for arm in ("5 percent", "30 percent"))
    if short is None or long is None or long["low"] is None:
        return OPEN
    close = HOLDS if long["low"] > -CLOSE and long["high"] < CLOSE else OPEN if long["high"] > -CLOSE else FAILS
    return _both(higher(short), close)


def _contains(row: Mapping[str, Any] | None, value: float) -> Verdict:
    if row is None or row["low"] is None:
        return OPEN
    return HOLDS if row["low"] <= value <= row["high"] else FAILS


def _agree(main: Json) -> Verdict:
    rows = next((asked["rows"] for asked in main["fixed_durations"] if asked["id"] == "law"), [])
    if not rows or any(row["low"] is None for row in rows):
        return OPEN
    return HOLDS if not any(row["resolved"] for row in rows) else FAILS


REPRODUCTION = Reproduction(
    folder="fixed-durations",
    title="Beyond fixed training durations",
    question=(
        "Must the length of a training be known before it begins? A cosine needs it; a constant learning rate that is "
        "cooled down at the end does not, and its trunk serves every duration. "
        "Hägele et al. 2024 (arXiv 2405.18392) say that nothing is lost."
    ),
    parts=(
        Part(MAIN, "cooldown, cosine, averages, Schedule-Free, over five sizes"),
        Part(FORMS, "forms and lengths of the cooldown, one size, five seeds"),
    ),
    claims=claims,
    figures={MAIN: ("worth", "final-loss", "law"), FORMS: ("worth",)},
)
