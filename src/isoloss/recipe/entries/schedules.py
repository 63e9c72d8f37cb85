"""Shapes of the learning rate."""

from __future__ import annotations

from isoloss.recipe.entry import REQUIRED, Entry, Option

_FINAL = Option("final", "number", 0.0, 0, 1, summary="fraction of the peak at the end")
_HORIZON = Option(
    "horizon",
    "duration",
    None,
    summary="where the form would end, if later than the run; null: at the run's end",
)
_DECAY = (_FINAL, _HORIZON)


def _decay(name: str, summary: str) -> Entry:
    return Entry(name, "schedule", summary, f"isoloss.methods.schedules:{name}", 1, _DECAY, ("decay",))


ENTRIES = (
    Entry("constant", "schedule", "the peak, held", "isoloss.methods.schedules:multiplier", 1, (), ("trunk",)),
    _decay("linear", "1 - x"),
    _decay("cosine", "(1 + cos(pi x)) / 2"),
    _decay("one_minus_sqrt", "1 - sqrt(x)"),
    _decay("mirror_cosine", "2 (1 - x) - (1 + cos(pi x)) / 2"),
    _decay("square", "1 - x^2"),
    Entry(
        "power",
        "schedule",
        "1 - x^exponent",
        "isoloss.methods.schedules:power",
        1,
        (*_DECAY, Option("exponent", "number", 0.5, 0, 100, open_low=True, summary="a of 1 - x^a; 0.5: 1 - sqrt(x)")),
        ("decay",),
    ),
    Entry(
        "exponential",
        "schedule",
        "final^x",
        "isoloss.methods.schedules:exponential",
        1,
        (
            Option("final", "number", 0.1, 0, 1, open_low=True, summary="fraction of the peak at the end"),
            _HORIZON,
        ),
        ("decay",),
    ),
    Entry(
        "inverse_sqrt",
        "schedule",
        "sqrt(W / u) after a warm-up of W updates",
        "isoloss.methods.schedules:inverse_sqrt",
        1,
    ),
    Entry(
        "steps",
        "schedule",
        "drops by given factors at given moments",
        "isoloss.methods.schedules:steps",
        1,
        (Option("drops", "drops", REQUIRED, summary="list of {at: duration, factor: number in (0, 1]}"),),
        ("trunk",),
    ),
)
