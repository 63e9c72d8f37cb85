"""Train longer, generalize better (Hoffer, Hubara and Soudry 2017, arXiv 1705.08741)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reproductions.headline import Line, lines
from reproductions.kept import Json
from reproductions.page import Claim, Part, Reproduction
from reproductions.verdicts import (
    FAILS,
    HOLDS,
    OPEN,
    Row,
    Verdict,
    agree,
    both,
    by_error,
    contains,
    durations,
    higher,
    lower,
    no_worse,
    number,
    paired,
    runs,
    said,
    times,
)

MAIN, TUNED, WALK = "train-longer", "train-longer-tuned", "train-longer-walk"
RESNET, FULL, START = "train-longer-resnet", "train-longer-full", "train-longer-start"
SMALL, LARGE = 64, 1024
POINTS = "points of error"
CLOSE = 0.5
"""Percentage points of error: a gap is closed where the interval lies below that."""
ALPHA = 0.5
"""How near to its value alpha must be to have it."""
FALLS = 1.1
"""Distances at equal updates that differ by less than this factor fall on one another."""
ALL = "lr + ghost + regime"


def claims(found: Mapping[str, Json]) -> Sequence[Claim]:
    """One a finding of the paper, then what it leaves open."""
    return [
        *_main(found[MAIN]),
        *(_tuned(found[TUNED]) if TUNED in found else []),
        *(claim for study, where in _ELSEWHERE.items() if study in found for claim in _again(found[study], *where)),
        *(_walk(found[WALK]) if WALK in found else []),
        *(_start(found[START]) if START in found else []),
    ]


def _main(main: Json) -> list[Claim]:
    return [
        _differs(
            "A large batch ends with a higher error after the same epochs (C1 on CIFAR-10: 87.80 % to 83.95 %)",
            f"batch {LARGE} minus batch {SMALL}",
            higher,
            (main, "plain", LARGE, "plain", SMALL),
        ),
        *_on_top(main, "", " (86.15 %)", " (86.4 %)"),
        _differs(
            f"As many updates as the small batch closes the gap to {CLOSE:g} {POINTS} (88.20 % against its 87.80 %)",
            f"all three ingredients at batch {LARGE} minus batch {SMALL}",
            _closes,
            (main, ALL, LARGE, "plain", SMALL),
        ),
        *_alone(main, ""),
    ]


def _on_top(answer: Json, where: str, scaled: str, ghosts: str) -> list[Claim]:
    """The scaled rate, and Ghost BatchNorm on top of it; with the accuracies that the paper reaches by them."""
    return [
        _differs(
            f"A learning rate scaled by the root of the batch gives a part of it back{where}{scaled}",
            f"scaled minus unscaled at batch {LARGE}",
            lower,
            (answer, "lr", LARGE, "plain", LARGE),
        ),
        _differs(
            f"Ghost BatchNorm on top of it gives more{where}{ghosts}",
            "with minus without, both with the scaled rate",
            lower,
            (answer, "lr + ghost", LARGE, "lr", LARGE),
        ),
    ]


def _alone(answer: Json, where: str) -> list[Claim]:
    return [
        _differs(
            f"Asked here: {words} alone, with the small batch's learning rate, lowers the error of the large "
            f"batch{where}",
            f"with minus without at batch {LARGE}",
            lower,
            (answer, arm, LARGE, "plain", LARGE),
        )
        for arm, words in (("ghost", "Ghost BatchNorm"), ("regime", "the adapted regime"))
    ]


def _differs(says: str, words: str, rule: Callable[[Row], Verdict], which: tuple[Json, str, int, str, int]) -> Claim:
    """A claim on a difference of errors, as ``_errors`` takes it: judged at the end of the longest training."""
    return Claim(says, f"{words}: {_by_duration(*which)}", rule(_errors(*which)))


def _closes(row: Row) -> Verdict:
    return no_worse(row, CLOSE)


def _tuned(tuned: Json) -> list[Claim]:
    equal = _errors(tuned, "regime", LARGE, "plain", SMALL)
    still = _errors(tuned, "plain", LARGE, "plain", SMALL)
    adds = {a: _errors(tuned, a, LARGE, b, LARGE) for a, b in (("ghost", "plain"), ("ghost + regime", "regime"))}
    return [
        Claim(
            "Asked here: once each batch has a learning rate of its own, equal updates close the gap to "
            f"{CLOSE:g} {POINTS}",
            f"gap at equal epochs {said(still, POINTS, 2)}; at equal updates {said(equal, POINTS, 2)}",
            _closes(equal),
        ),
        Claim(
            "Asked here: Ghost BatchNorm adds something once the learning rate is tuned",
            f"at equal epochs {said(adds['ghost'], POINTS, 2)}; "
            f"at equal updates {said(adds['ghost + regime'], POINTS, 2)}",
            both(*(lower(row) for row in adds.values())),
        ),
    ]


_ELSEWHERE = {
    RESNET: (
        "on a narrow ResNet",
        " (ResNet-44 on CIFAR-10: 92.83 %, 86.10 %, and 93.07 % with all three)",
        " (89.30 %)",
        " (90.50 %)",
    ),
    FULL: ("on the whole training set, one epoch", "", "", ""),
}
"""Where, what the paper publishes of it, and its accuracies with the scaled rate, and with Ghost BatchNorm too."""


def _again(answer: Json, where: str, published: str, scaled: str, ghosts: str) -> list[Claim]:
    return [
        Claim(
            f"The same {where}{published}: the large batch loses, all three ingredients close the gap to "
            f"{CLOSE:g} {POINTS}",
            f"batch {LARGE} minus batch {SMALL}: {_by_duration(answer, 'plain', LARGE, 'plain', SMALL)}; all three "
            f"minus batch {SMALL}: {_by_duration(answer, ALL, LARGE, 'plain', SMALL)}",
            both(
                higher(_errors(answer, "plain", LARGE, "plain", SMALL)),
                _closes(_errors(answer, ALL, LARGE, "plain", SMALL)),
            ),
        ),
        *_on_top(answer, f", {where}", scaled, ghosts),
        *_alone(answer, f", {where}"),
    ]


def _errors(answer: Json, arm: str, batch: int, other: str, its: int, duration: str | None = None) -> Row:
    """Difference of errors in percentage points, at the end of the longest training if not of another."""
    at = duration or durations(answer["runs"])[-1]
    first, second = (
        runs(answer, name, batch=f"{size} samples", duration=at) for name, size in ((arm, batch), (other, its))
    )
    return paired(first, second, by_error)


def _by_duration(answer: Json, arm: str, batch: int, other: str, its: int) -> str:
    """The same at the end of each training; the longest one, by which claims are judged, comes last."""
    found = ((d, _errors(answer, arm, batch, other, its, d)) for d in durations(answer["runs"]))
    return "; ".join(f"{duration} {said(row, '', 2)}" for duration, row in found) + f" {POINTS} (judged by the last)"


def _walk(answer: Json) -> list[Claim]:
    ways = {arm: {r["batch"]: r for r in answer["distances"] if r["arm"] == arm} for arm in ("plain", "lr + ghost")}
    plain = [ways["plain"][batch] for batch in sorted(ways["plain"])]
    first, last = plain[0], plain[-1]
    apart = {arm: _at_equal_updates(by_batch) for arm, by_batch in ways.items()}
    scaled = list(apart["lr + ghost"].items())
    return [
        Claim(
            "The distance from the start grows as the logarithm of the updates, whatever the batch",
            "how far a power law misses the distances, over how far the logarithm does (above 1 speaks for the "
            "logarithm), of a fit to all, and beyond a fit to the first two thirds: "
            + "; ".join(
                f"batch {r['batch']} {times(_evidence(r, 'rmse'))} and {times(_evidence(r, 'ahead'))}" for r in plain
            ),
            _logarithm(plain),
        ),
        Claim(
            "At equal epochs small batches end farther away (ResNet-44, epoch 67: 10.7 at batch 64, 3.1 at 2048)",
            "distance at the end, with the range of the seeds: "
            + "; ".join(
                f"batch {r['batch']} {r['distance'][-1]:.2f} [{r['low'][-1]:.2f}, {r['high'][-1]:.2f}]" for r in plain
            ),
            HOLDS if first["low"][-1] > last["high"][-1] else FAILS if first["high"][-1] < last["low"][-1] else OPEN,
        ),
        Claim(
            "With the scaled rate and Ghost BatchNorm, the distances of all batches are one function of updates (asked "
            f"here: within a factor of {FALLS:g})",
            "largest over smallest distance at equal updates, with the range of the seeds: "
            + "; ".join(
                f"after {update} updates of batches {first['batch']} to {batch} {times(row)}, with one unscaled "
                f"rate {times(apart['plain'][update, batch])}"
                for (update, batch), row in scaled
            ),
            agree(_together(row) for _, row in scaled),
        ),
        _spreads(
            "Asked here of the end of training: the loss spreads around the weights in proportion to the distance "
            "(alpha = 2; at the bottom of a parabola, 4)",
            {f"batch {r['batch']}": r for r in plain},
        ),
    ]


def _start(answer: Json) -> list[Claim]:
    records = {r["arm"]: r for r in answer["distances"]}
    return [
        _spreads(says, {f"{net} net": records[net + distances] for net in ("convolutional", "residual")})
        for says, distances in (
            (
                "The loss spreads around the start in proportion to the distance (ResNet-44, by the authors' slides: "
                "about a straight line to distance 9 and a spread of 0.0075, alpha = 2)",
                "",
            ),
            (
                "Asked here: it does nearer to the start, where these small networks spread about as little (any "
                "smooth loss is straight near enough to a point)",
                " near",
            ),
        )
    ]


def _spreads(says: str, records: Mapping[str, Json]) -> Claim:
    """Alpha is twice the slope of log std of the loss against log distance."""
    alphas = {
        name: {**r["roughness"]["alpha"], "value": r["roughness"]["alpha"]["ratio"]} for name, r in records.items()
    }
    stds = {name: ", ".join(f"{std:.2g}" for std in r["roughness"]["std"]) for name, r in records.items()}
    distances = ", ".join(f"{distance:g}" for distance in next(iter(records.values()))["roughness"]["distance"])
    return Claim(
        says,
        f"alpha ({2 - ALPHA:g} to {2 + ALPHA:g} holds) over distances {distances}: "
        + "; ".join(f"{name} {number(row)} (spread {stds[name]} nats)" for name, row in alphas.items()),
        agree(contains(row, 2.0, ALPHA) for row in alphas.values()),
    )


def _evidence(record: Json, error: str) -> Json:
    return record["growth"]["evidence"][error] if record["growth"] else {"ratio": None, "low": None, "high": None}


def _logarithm(records: Sequence[Json]) -> Verdict:
    """Both errors speak for the logarithm at every batch; at most batches both speak for the power law, to refute."""
    pairs = [[_evidence(r, error) for error in ("rmse", "ahead")] for r in records]
    against = sum(all(e["high"] is not None and e["high"] < 1 for e in pair) for pair in pairs)
    if against > len(pairs) / 2:
        return FAILS
    return HOLDS if all(e["low"] is not None and e["low"] > 1 for pair in pairs for e in pair) else OPEN


def _at_equal_updates(by_batch: Mapping[int, Json]) -> dict[tuple[int, int], Json]:
    """Spread over the smallest batches, by (last update that they all measured, largest of them): all, two less, ..."""
    found = {}
    for count in range(len(by_batch), 2, -2):
        records = [by_batch[batch] for batch in sorted(by_batch)[:count]]
        shared = max(set.intersection(*(set(r["update"]) for r in records)))
        found[shared, records[-1]["batch"]] = _spread([(r, r["update"].index(shared)) for r in records])
    return found


def _spread(places: Sequence[tuple[Json, int]]) -> Json:
    def over(top: str, bottom: str) -> float:
        return max(r[top][at] for r, at in places) / min(r[bottom][at] for r, at in places)

    nearest = max(r["low"][at] for r, at in places) / min(r["high"][at] for r, at in places)
    return {"ratio": over("distance", "distance"), "low": max(1.0, nearest), "high": over("high", "low")}


def _together(row: Json) -> Verdict:
    return HOLDS if row["high"] < FALLS else FAILS if row["low"] > FALLS else OPEN


def _headline(found: Mapping[str, Json]) -> list[Line]:
    named = {
        "plain · batch 1024": ("SGD, batch 1024", "batch 64"),
        "ghost · batch 1024": ("Ghost BatchNorm, batch 1024", "SGD, batch 1024"),
    }
    return lines("train-longer", found[TUNED], "images, one size", named) if TUNED in found else []


REPRODUCTION = Reproduction(
    folder="train-longer",
    title="Train longer, generalize better",
    paper="Hoffer, Hubara and Soudry 2017, arXiv 1705.08741",
    question=(
        "Does a large batch generalise worse, and what gives back what it loses: a scaled learning rate, statistics of "
        "small batches, or simply as many updates?"
    ),
    parts=(
        Part(MAIN, "a small convolutional net on a tenth of Fashion-MNIST; the rate tuned at the small batch"),
        Part(TUNED, "the same, the rate tuned at either batch"),
        Part(WALK, "distance from the start and roughness, six batch sizes, one rate", columns=("lr",)),
        Part(RESNET, "a narrow residual network"),
        Part(FULL, "the whole training set"),
        Part(START, "roughness around the weights that training starts from", columns=("lr",)),
    ),
    claims=claims,
    figures={
        MAIN: {"large-batch": "updates to one loss against the batch; grey: perfect scaling"},
        WALK: {"distances": "distance of the weights from their start against updates, by batch"},
    },
    headline=_headline,
)
