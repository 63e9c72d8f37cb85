"""Extrapolation for large-batch training (Lin, Kong, Stich and Jaggi 2020, arXiv 2006.05720), and its neighbours.

Of the paper's text only what its abstract and independent digests say could be confirmed, and no number of its tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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
    both,
    contains,
    either,
    lower,
    no_worse,
    overall,
    paired,
    runs,
    said,
    times,
)

IMAGES, TEXT = "extrapolation", "extrapolation-text"
BATCHES = {
    IMAGES: ("128 samples", "512 samples", "2048 samples"),
    TEXT: ("8 sequences", "32 sequences", "256 sequences"),
}
WHERE = {IMAGES: "images", TEXT: "text"}
TUNED = {IMAGES: "Nesterov SGD", TEXT: "AdamW"}
PLAIN = {IMAGES: "sgd", TEXT: "adamw"}
LESS = "corrected: less what Nesterov's look-ahead is worth, which ends with the extrapolation; both must agree"
STEPS = ("local half as far", "local twice as far")
LOCAL, EARLY, BOTH, POST = "local extragradient", "local early only", "local then post-local", "post-local sgd"
NOISE = {"noise": "0.01", "noise x10": "0.1"}
SHARPNESS = {
    "SAM with rho": {"sam": "0.05", "sam x4": "0.2"},
    "the gradient-norm penalty with a 0.8 and r": {
        "norm penalty": "0.05",
        "norm penalty x4": "0.2",
    },
}
"""By arm, the values of a method's own number."""


def claims(found: Mapping[str, Json]) -> Sequence[Claim]:
    """What the paper says, then its neighbours; each of the images and of the text."""
    kept = [study for study in (IMAGES, TEXT) if study in found]
    makers = (_improves, _pays, _initial_phase, _complement, _past, _noise, _how_far)
    return [
        *(make(found[study], study) for make in makers for study in kept),
        *(_sharpness(found[study], study, words) for words in SHARPNESS for study in kept),
    ]


def _improves(answer: Json, study: str) -> Claim:
    return Claim(
        _asked(study, f"local extragradient improves on tuned {TUNED[study]} at a large batch, at equal samples"),
        _by_batch(answer, study, LOCAL, PLAIN[study]),
        lower(_at(answer, LOCAL, PLAIN[study], BATCHES[study][-1])),
    )


def _pays(answer: Json, study: str) -> Claim:
    return Claim(
        f"Asked here: it pays for its second gradient ({WHERE[study]}): worth at equal gradient evaluations",
        _worths(answer, study, LOCAL),
        above(_worth(answer, LOCAL, BATCHES[study][-1])),
    )


def _initial_phase(answer: Json, study: str) -> Claim:
    return Claim(
        _asked(
            study,
            "the main benefit comes in the initial phase (asked: early only ends lower than never, and at most "
            f"{CLOSE:g} nats above always)",
        ),
        f"early only minus always: {_by_batch(answer, study, EARLY, LOCAL)}; early only minus never: "
        f"{_by_batch(answer, study, EARLY, PLAIN[study])}",
        both(
            _judged(answer, study, EARLY, LOCAL, no_worse),
            _judged(answer, study, EARLY, PLAIN[study], lower),
        ),
    )


def _complement(answer: Json, study: str) -> Claim:
    return Claim(
        _asked(study, "extrapolation and post-local SGD complement each other"),
        f"both minus post-local SGD alone: {_by_batch(answer, study, BOTH, POST)}",
        _judged(answer, study, BOTH, POST, lower),
    )


def _past(answer: Json, study: str) -> Claim:
    return Claim(
        f"The framework includes past gradients; asked here: they improve on {TUNED[study]} ({WHERE[study]})",
        _by_batch(answer, study, "past gradient", PLAIN[study]),
        lower(_at(answer, "past gradient", PLAIN[study], BATCHES[study][-1])),
    )


def _noise(answer: Json, study: str) -> Claim:
    return Claim(
        f"The framework includes noise; asked here: of one of two sizes, it improves on {TUNED[study]} "
        f"({WHERE[study]})",
        "; ".join(f"size {size}: {_by_batch(answer, study, arm, PLAIN[study])}" for arm, size in NOISE.items()),
        either(*(lower(_at(answer, arm, PLAIN[study], BATCHES[study][-1])) for arm in NOISE)),
    )


def _how_far(answer: Json, study: str) -> Claim:
    """Whether another step changes the loss at the largest batch, either way."""
    same = [contains(_at(answer, arm, LOCAL, BATCHES[study][-1]), 0.0, CLOSE) for arm in STEPS]
    return Claim(
        f"Asked here: how far to extrapolate matters, by more than {CLOSE:g} nats (0.125 and 0.5 against 0.25 of the "
        f"rate; {WHERE[study]})",
        "; ".join(f"{arm} minus 0.25: {_by_batch(answer, study, arm, LOCAL)}" for arm in STEPS),
        HOLDS if FAILS in same else FAILS if set(same) == {HOLDS} else OPEN,
    )


def _sharpness(answer: Json, study: str, words: str) -> Claim:
    values = SHARPNESS[words]
    return Claim(
        f"Asked here: {words} {' or '.join(values.values())}, the rate tuned for either, is worth its second gradient "
        f"against tuned {TUNED[study]} ({WHERE[study]})",
        "at equal gradient evaluations: "
        + "; ".join(f"{value}: {_worths(answer, study, arm)}" for arm, value in values.items()),
        either(*(above(_worth(answer, arm, BATCHES[study][-1])) for arm in values)),
    )


def _asked(study: str, words: str) -> str:
    """The paper's claim of the images; of the text, where AdamW is the baseline, it is asked here."""
    said_here = f"Asked here: {words}" if study == TEXT else words[0].upper() + words[1:]
    return f"{said_here} ({WHERE[study]})"


def _at(answer: Json, arm: str, against: str, batch: str) -> Row:
    """Difference of losses over all durations at one batch."""
    return paired(runs(answer, arm, batch=batch), runs(answer, against, batch=batch))


def _by_batch(answer: Json, study: str, arm: str, against: str) -> str:
    """Differences by batch; where the look-ahead ends with the extrapolation, also less what it is worth."""

    def words(batch: str) -> str:
        plain = said(_at(answer, arm, against, batch))
        if not _loses_look_ahead(study, arm):
            return plain
        return f"{plain}, corrected {said(_without_look_ahead(answer, study, arm, against, batch))}"

    listed = "; ".join(f"batch {_short(batch)} {words(batch)}" for batch in BATCHES[study])
    return f"{listed} ({LESS})" if _loses_look_ahead(study, arm) else listed


def _loses_look_ahead(study: str, arm: str) -> bool:
    return study == IMAGES and arm in (EARLY, BOTH)


def _without_look_ahead(answer: Json, study: str, arm: str, against: str, batch: str) -> Row:
    """The difference less that of SGD without and with the look-ahead: too much, by the first epoch that has it."""
    off = runs(answer, "plain momentum", batch=batch), runs(answer, PLAIN[study], batch=batch)
    return paired(runs(answer, arm, batch=batch), runs(answer, against, batch=batch), less=off)


def _judged(answer: Json, study: str, arm: str, against: str, rule: Callable[[Row], Verdict]) -> Verdict:
    """At the largest batch; where the look-ahead ends early, only what holds with and without its correction."""
    batch = BATCHES[study][-1]
    found = [_at(answer, arm, against, batch)]
    if _loses_look_ahead(study, arm):
        found.append(_without_look_ahead(answer, study, arm, against, batch))
    return agree(map(rule, found))


def _worth(answer: Json, arm: str, batch: str) -> Row:
    return overall(answer, f"{arm} · batch {_short(batch)}", "compute")


def _worths(answer: Json, study: str, arm: str) -> str:
    return "; ".join(f"batch {_short(batch)} {times(_worth(answer, arm, batch))}" for batch in BATCHES[study])


def _short(batch: str) -> str:
    return batch.split(maxsplit=1)[0]


def _headline(found: Mapping[str, Json]) -> list[Line]:
    images = {
        f"{arm} · batch 2048": (f"{words}, batch 2048", "Nesterov SGD")
        for arm, words in ((LOCAL, "local extragradient"), ("past gradient", "past gradient"), ("sam", "SAM"))
    }
    text = {f"{LOCAL} · batch 256": ("local extragradient, batch 256", "AdamW")}
    return [
        *lines("extrapolation", found[IMAGES], "images, one size", images),
        *(lines("extrapolation", found[TEXT], "text, one size", text) if TEXT in found else []),
    ]


REPRODUCTION = Reproduction(
    folder="extrapolation",
    title="Extrapolation for large-batch training",
    paper="Lin, Kong, Stich and Jaggi 2020, arXiv 2006.05720",
    question=("Does a gradient taken a step ahead make large batches train better, and does it pay for itself?"),
    parts=(
        Part(IMAGES, "a small convolutional net on a tenth of Fashion-MNIST, each arm tuned at each batch"),
        Part(TEXT, "a small GPT with AdamW on Python code, each arm tuned at each batch"),
    ),
    left_out="other values of the methods' own numbers than those named",
    claims=claims,
    figures={
        IMAGES: {"worth": "each arm at each batch against Nesterov SGD at that batch, at equal loss"},
        TEXT: {"worth": "each arm at each batch against AdamW at that batch, at equal loss"},
    },
    headline=_headline,
)
