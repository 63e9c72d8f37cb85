"""Scaling laws and compute-optimal training beyond fixed training durations (Hägele et al. 2024, arXiv 2405.18392)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isoloss.worth.compare import interval
from reproductions.headline import Line, lines
from reproductions.kept import Json
from reproductions.page import Claim, Part, Reproduction
from reproductions.verdicts import (
    CLOSE,
    FAILS,
    HOLDS,
    OPEN,
    Row,
    Verdict,
    above,
    agree,
    below,
    both,
    contains,
    durations,
    higher,
    lower,
    no_worse,
    paired,
    runs,
    said,
    times,
    turned,
)

MAIN, FORMS = "fixed-durations", "fixed-durations-forms"
COVERAGE, SLACK = 0.9, 0.1
"""What a 90 % band should hold, and how much less is called as good."""
SAME = 0.1
"""Exponents that differ by less, with the whole interval, are the same."""


def claims(found: Mapping[str, Json]) -> Sequence[Claim]:
    """One a finding of the paper."""
    main, forms = found[MAIN], found[FORMS]
    lengths = durations(runs(main, "cosine"))
    matched = {arm: {at: _apart(main, arm, "cosine", at) for at in lengths} for arm in ("linear", "cooldown")}
    linear = _row(main, "forms", "linear", "cooldown")
    rates = _row(main, "rates", "cooldown", "cosine")
    stopped = _row(main, "stopped", "stopped early", "cosine")
    added = _row(main, "both", "averaged cooldown", "cooldown")
    averaged = {against: _row(main, "average", "averaged", against) for against in ("constant", "cooldown")}
    free = {betas: _row(main, "free", f"schedule-free {betas}", "cooldown") for betas in BETAS}
    law = _rows(main, "law", "cooldown", "cosine")
    return [
        Claim(
            "A cooldown (linear, 20 %, to zero) matches the best cosine (to 10 % of its peak) at every duration (210M "
            f"model; asked here: it ends at most {CLOSE:g} nats higher)",
            "; ".join(
                f"{words} minus cosine: " + "; ".join(f"{at} {said(row)}" for at, row in matched[arm].items())
                for arm, words in (("linear", "linear"), ("cooldown", "1-sqrt"))
            )
            + f"; either rate was tuned at {lengths[0]}",
            both(*(no_worse(row) for row in matched["linear"].values())),
        ),
        Claim(
            "1-sqrt beats a linear cooldown (at lengths of 10 % and 20 %; here at 20 %)",
            f"linear minus 1-sqrt at 20 %: {said(linear)} over five sizes, "
            f"{said(_row(forms, 'forms', 'linear', TRUNK))} at one size with five seeds",
            both(higher(linear), higher(_row(forms, "forms", "linear", TRUNK))),
        ),
        Claim(
            f"Of 1-x^a, a = 0.5 is best and 0.3 nearly equal (here against 0.3 and 0.7; equal within {CLOSE:g} nats)",
            "; ".join(
                f"{arm} minus 0.5: {said(_row(forms, 'forms', arm, TRUNK))}" for arm in ("power 0.3", "power 0.7")
            ),
            _best(forms),
        ),
        Claim(
            "The gain of a longer cooldown flattens at about 20 % (asked here: from 20 to 30 % it is less than a "
            "quarter of what it is from 5 to 20 %)",
            "; ".join(
                f"{arm} minus 20 percent: "
                + ", ".join(f"{at} {said(_apart(forms, arm, TRUNK, at), '')}" for at in durations(runs(forms, TRUNK)))
                for arm in ("5 percent", "10 percent", "30 percent", "50 percent")
            )
            + " nats",
            agree(_flattens(forms, at) for at in durations(runs(forms, TRUNK))),
        ),
        Claim(
            "Asked here: the trunk wants a lower learning rate than the cosine (the paper takes half of its peak)",
            "best learning rate of the trunk over the cosine's: "
            + times(rates and {**rates, "ratio": rates["value"]})
            + f", tuned at {lengths[0]} at two sizes",
            below(rates, 1.0),
        ),
        Claim(
            "An average of the trunk gains much over the raw trunk and does not reach the cooldown",
            f"averaged minus constant: {said(averaged['constant'])}; averaged minus cooldown: "
            f"{said(averaged['cooldown'])}",
            both(lower(averaged["constant"]), higher(averaged["cooldown"])),
        ),
        Claim("Asked here: an average adds to the cooldown", f"with minus without: {said(added)}", lower(added)),
        Claim(
            "Schedule-Free AdamW is bad with betas (0.9, 0.95), strong with (0.95, 0.99); a cooldown is "
            f"equal (within {CLOSE:g} nats) or better",
            "; ".join(
                f"betas {betas} minus cooldown: {said(row)}, by duration "
                + ", ".join(said(_apart(main, f"schedule-free {betas}", "cooldown", at), "") for at in lengths)
                for betas, row in free.items()
            ),
            both(*(no_worse(turned(row)) for row in free.values()), higher(free["0.9 0.95"])),
        ),
        Claim(
            "Asked here: a cosine that was planned longer and is stopped early is worse than one of that length",
            f"stopped minus planned: {said(stopped)}",
            higher(stopped),
        ),
        Claim(
            "Runs that share trunks give the law of separate runs (at half the time and FLOPs; asked here: exponents "
            f"that differ by at most {SAME:g})",
            "exponents from cooldowns minus from cosines: "
            + "; ".join(f"{row['place']} {said(row, '', 3)}" for row in law if row["what"] == "exponent")
            + "; predicted losses: "
            + "; ".join(f"{said(row)} at {row['place']}" for row in law if row["what"] == "difference")
            + f"; of these lengths {_share(main)}",
            both(*(contains(row, 0.0, SAME) for row in law if row["what"] == "exponent")) if law else OPEN,
        ),
        Claim(
            "Asked here: a few real cooldowns predict what one begun anywhere on the trunk would reach (bands of "
            f"{COVERAGE:.0%} that hold at least {COVERAGE - SLACK:.0%})",
            *_anytime(found),
        ),
    ]


TRUNK = "one minus sqrt"
BETAS = ("0.9 0.95", "0.95 0.99")


def _rows(answer: Json, asked: str, arm: str, against: str) -> list[Json]:
    """The rows of a question about two arms."""
    return [
        dict(row)
        for question in answer["fixed_durations"]
        for row in question["rows"]
        if (question["id"], row["arm"], row["against"]) == (asked, arm, against)
    ]


def _row(answer: Json, asked: str, arm: str, against: str) -> Row:
    """Over all durations."""
    whole = ("all durations", "best learning rate")
    return next((row for row in _rows(answer, asked, arm, against) if row["place"] in whole), None)


def _share(answer: Json) -> str:
    """What the reused runs took."""
    said_so = next(asked["answer"] for asked in answer["fixed_durations"] if asked["id"] == "law")
    return str(said_so.rpartition("; ")[2].rstrip("."))


def _anytime(found: Mapping[str, Json]) -> tuple[str, Verdict]:
    """Shares of real branches in their 90 % bands: of each trunk, then of each seed, then over seeds."""
    words, verdicts = [], []
    for where, extrapolated in (("between others", False), ("beyond them", True)):
        by_seed: dict[str, dict[tuple[str, int], list[bool]]] = {}
        for study, answer in found.items():
            for made in answer["anytime"]:
                for one in made["held_out"]:
                    if one["extrapolated"] == extrapolated and one["inside"] is not None:
                        trunks = by_seed.setdefault(one["seed"], {})
                        trunks.setdefault((study, made["N"]), []).append(one["inside"])
        # A seed with fewer trunks would count as much as the others.
        most = max(map(len, by_seed.values()))
        units = [list(trunks.values()) for trunks in by_seed.values() if len(trunks) == most]
        value, low, high = interval([sum(sum(held) / len(held) for held in trunks) / most for trunks in units])
        branches = sum(len(held) for trunks in units for held in trunks)
        band = "" if low is None or high is None else f" [{low:.0%}, {min(high, 1.0):.0%}]"
        words.append(
            f"of {branches} real branches of {most * len(units)} trunks {where}, left out of the fit, "
            f"{value:.0%}{band} lie in their band"
        )
        short = {"low": low, "high": high}
        verdicts.append(FAILS if below(short, COVERAGE) == HOLDS else above(short, COVERAGE - SLACK))
    return "; ".join(words), both(*verdicts)


def _best(forms: Json) -> Verdict:
    """0.7 is worse than 0.5, and 0.3 is not better and nearly equal, by whole intervals."""
    nearly, worse = (_row(forms, "forms", arm, TRUNK) for arm in ("power 0.3", "power 0.7"))
    if lower(nearly) == HOLDS:
        return FAILS
    return both(no_worse(nearly), higher(worse))


def _apart(answer: Json, arm: str, against: str, duration: str) -> Row:
    """Difference of losses at one duration, over all sizes."""
    return paired(runs(answer, arm, duration=duration), runs(answer, against, duration=duration))


def _flattens(forms: Json, duration: str) -> Verdict:
    """At one duration, 20 % is better than 5 %, and 30 % gains less than a quarter of that on 20 %."""
    short, trunk, long = (runs(forms, arm, duration=duration) for arm in ("5 percent", TRUNK, "30 percent"))
    return both(higher(paired(short, trunk)), higher(paired(long, trunk, less=(trunk, short), share=0.25)))


def _headline(found: Mapping[str, Json]) -> list[Line]:
    five = {
        "cooldown": ("constant rate, 1-sqrt cooldown", "cosine"),
        "averaged": ("constant rate, average of weights", "cosine"),
        "stopped early": ("cosine stopped early", "cosine"),
        "schedule-free 0.9 0.95": ("Schedule-Free AdamW, betas 0.9, 0.95", "cosine"),
        "schedule-free 0.95 0.99": ("Schedule-Free AdamW, betas 0.95, 0.99", "cosine"),
    }
    one = {"linear": ("linear cooldown", "1-sqrt cooldown"), "5 percent": ("cooldown of 5 %", "cooldown of 20 %")}
    return [
        *lines("fixed-durations", found[MAIN], "text, five sizes", five),
        *lines("fixed-durations", found[FORMS], "text, one size", one),
    ]


REPRODUCTION = Reproduction(
    folder="fixed-durations",
    title="Beyond fixed training durations",
    paper="Hägele et al. 2024, arXiv 2405.18392",
    question=(
        "Must the length of a training be known before it begins? A cosine needs it; a constant learning rate that is "
        "cooled down at the end does not, and its trunk serves every duration. Is anything lost?"
    ),
    parts=(
        Part(MAIN, "cooldown, cosine, averages, Schedule-Free, over five sizes"),
        Part(FORMS, "forms and lengths of the cooldown, one size, five seeds"),
    ),
    left_out="cooldowns of 10 % in other forms than 1-sqrt; exponents of 1-x^a below 0.3",
    claims=claims,
    figures={
        MAIN: {
            "scale": "worth against the model's size: what a cosine needs, over what the arm used, at equal loss",
            "law-3-chinchilla-cooldown": "the law of runs that share trunks; dashed: beyond the data",
        },
        FORMS: {"worth": "forms and lengths of the cooldown against 1-sqrt over 20 %, at equal loss"},
    },
    headline=_headline,
)
