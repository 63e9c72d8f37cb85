"""Extrapolation for large-batch training (Lin, Kong, Stich and Jaggi 2020, arXiv 2006.05720), and its neighbours.

Of the paper's text only what its abstract and independent digests say could be confirmed, and no number of its tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reproductions.headline import Line, lines
from reproductions.kept import Json
from reproductions.page import Claim, Part, Reproduction
from reproductions.verdicts import (
    HOLDS,
    OPEN,
    Row,
    Verdict,
    above,
    agree,
    both,
    lower,
    no_worse,
    overall,
    paired,
    runs,
    said,
    times,
)

IMAGES, TEXT = "extrapolation", "extrapolation-text"
BATCHES = {IMAGES: ("128 samples", "512 samples", "2048 samples"), TEXT: ("32 sequences", "256 sequences")}
TUNED = {IMAGES: "Nesterov SGD", TEXT: "AdamW"}
PLAIN = {IMAGES: "sgd", TEXT: "adamw"}
LOOK_AHEAD = {IMAGES: " (less Nesterov's look-ahead, which ends with it)", TEXT: ""}
STEPS = ("local half as far", "local twice as far")
LOCAL, EARLY = "local extragradient", "local early only"


def claims(found: Mapping[str, Json]) -> Sequence[Claim]:
    """What the paper says, then its neighbours."""
    kept = [(study, where) for study, where in ((IMAGES, "images"), (TEXT, "text")) if study in found]
    then = ("local then post-local", "post-local sgd")
    return [
        *(
            Claim(
                f"Local extragradient improves on tuned {TUNED[study]} at a large batch, at equal samples ({where})",
                _by_batch(found[study], study, LOCAL, PLAIN[study]),
                lower(_at(found[study], LOCAL, PLAIN[study], BATCHES[study][-1])),
            )
            for study, where in kept
        ),
        *(
            Claim(
                f"Asked here: it pays for its second gradient ({where}): worth at equal gradient evaluations",
                "; ".join(
                    f"batch {_short(batch)} {times(_worth(found[study], LOCAL, batch))}" for batch in BATCHES[study]
                ),
                above(_worth(found[study], LOCAL, BATCHES[study][-1])),
            )
            for study, where in kept
        ),
        *(
            Claim(
                f"The main benefit comes in the initial phase ({where})",
                f"early only minus always{LOOK_AHEAD[study]}: "
                + "; ".join(f"batch {_short(b)} {said(_early(found[study], study, b))}" for b in BATCHES[study])
                + f"; early only minus never: {_by_batch(found[study], study, EARLY, PLAIN[study])}",
                both(
                    no_worse(_early(found[study], study, BATCHES[study][-1])),
                    lower(_at(found[study], EARLY, PLAIN[study], BATCHES[study][-1])),
                ),
            )
            for study, where in kept
        ),
        Claim(
            "Extrapolation and post-local SGD complement each other",
            f"both minus post-local SGD alone: {_by_batch(found[IMAGES], IMAGES, *then)}",
            lower(_at(found[IMAGES], *then, BATCHES[IMAGES][-1])),
        ),
        Claim(
            "The framework includes past gradients and noise; asked here: these cheap ones improve on Nesterov SGD",
            "; ".join(f"{arm}: {_by_batch(found[IMAGES], IMAGES, arm, 'sgd')}" for arm in ("past gradient", "noise")),
            agree(lower(_at(found[IMAGES], arm, "sgd", BATCHES[IMAGES][-1])) for arm in ("past gradient", "noise")),
        ),
        Claim(
            "Asked here: how far to extrapolate matters (0.125 and 0.5 against 0.25 of the rate)",
            "; ".join(f"{arm} minus 0.25: {_by_batch(found[IMAGES], IMAGES, arm, LOCAL)}" for arm in STEPS),
            _matters(found[IMAGES]),
        ),
        *(
            Claim(
                f"Asked here: {words} is worth its second gradient against tuned Nesterov SGD",
                "at equal gradient evaluations: "
                + "; ".join(
                    f"batch {_short(batch)} {times(_worth(found[IMAGES], arm, batch))}" for batch in BATCHES[IMAGES]
                ),
                above(_worth(found[IMAGES], arm, BATCHES[IMAGES][-1])),
            )
            for arm, words in (("sam", "SAM"), ("gradient norm penalty", "the gradient-norm penalty"))
        ),
    ]


def _at(answer: Json, arm: str, against: str, batch: str) -> Row:
    """Difference of losses over all durations at one batch."""
    return paired(runs(answer, arm, batch=batch), runs(answer, against, batch=batch))


def _by_batch(answer: Json, study: str, arm: str, against: str) -> str:
    return "; ".join(f"batch {_short(batch)} {said(_at(answer, arm, against, batch))}" for batch in BATCHES[study])


def _worth(answer: Json, arm: str, batch: str) -> Row:
    return overall(answer, f"{arm} · batch {_short(batch)}", "compute")


def _early(answer: Json, study: str, batch: str) -> Row:
    """Early only minus always; on images less what the look-ahead is worth, for it ends with the extrapolation."""
    pair = runs(answer, EARLY, batch=batch), runs(answer, LOCAL, batch=batch)
    off = (runs(answer, "plain momentum", batch=batch), runs(answer, PLAIN[study], batch=batch))
    return paired(*pair, less=off if study == IMAGES else None)


def _worths(answer: Json, study: str, arm: str) -> str:
    return "; ".join(f"batch {_short(batch)} {times(_worth(answer, arm, batch))}" for batch in BATCHES[study])


def _short(batch: str) -> str:
    return batch.split(maxsplit=1)[0]


def _matters(answer: Json) -> Verdict:
    """Whether another step changes the loss at the largest batch, either way."""
    found = [lower(_at(answer, arm, LOCAL, BATCHES[IMAGES][-1])) for arm in STEPS]
    return HOLDS if any(verdict != OPEN for verdict in found) else OPEN


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
    claims=claims,
    figures={
        IMAGES: {"worth": "each arm at each batch against Nesterov SGD at that batch, at equal loss"},
        TEXT: {"worth": "each arm at each batch against AdamW at that batch, at equal loss"},
    },
    headline=_headline,
)
