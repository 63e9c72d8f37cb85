"""Optimizers against the batch: LAMB and LARS (You et al. 2020), their counter-evidence, and the noise scale.

LAMB: arXiv 1904.00962. Well-tuned baselines: Nado et al. 2021, arXiv 2102.06356. Noise scale: McCandlish et al. 2018,
arXiv 1812.06162. Muon at large batches: arXiv 2505.02222.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from isoloss.worth.compare import interval
from reproductions.headline import Line, lines
from reproductions.kept import Json
from reproductions.page import Claim, Part, Reproduction
from reproductions.verdicts import FAILS, HOLDS, OPEN, Row, Verdict, above, both, higher, times

TEXT, IMAGES = "optimizers-at-scale", "optimizers-images"
FACTOR = 3.0
"""A critical batch is predicted where it is met within this factor; the paper's own figure was not confirmed."""
MATCH = 1.1
"""At most so many times the updates of the other: a match."""
WHERE = ((TEXT, "text"), (IMAGES, "images"))


def claims(found: Mapping[str, Json]) -> Sequence[Claim]:
    """What the papers say of each, on text and on images."""
    return [
        claim
        for study, where in WHERE
        if study in found
        for claim in _of(found[study]["large_batch"]["sizes"][-1], where)
    ]


def _of(size: Json, where: str) -> list[Claim]:
    critical = {entry["arm"]: entry for entry in size["critical"]}
    to = f"to loss {size['target']:.4g}" if size["target"] is not None else "no common target"
    return [
        *(
            Claim(
                f"Well tuned, {words} at large batches ({where}, within a factor of {MATCH:g}; Nado et al. 2021)",
                f"updates of {plain} over those of {layerwise}, {to}: {_by_batch(size, plain, layerwise)}",
                _matches(size, plain, layerwise),
            )
            for plain, layerwise, words in (
                ("adamw", "lamb", "Adam matches LAMB"),
                ("sgd", "lars", "Nesterov momentum matches LARS"),
            )
        ),
        Claim(
            f"LAMB scales to batches where AdamW has stopped to ({where}; LAMB: AdamW stops at 16K on BERT)",
            f"critical batch of LAMB {_critical(critical.get('lamb'))}, of AdamW {_critical(critical.get('adamw'))}",
            _larger(critical.get("lamb"), critical.get("adamw")),
        ),
        Claim(
            f"Muon is especially strong at large batches ({where}, asked here: more so than at the smallest; arXiv "
            "2505.02222)",
            f"updates of AdamW over those of Muon, {to}: {_by_batch(size, 'adamw', 'muon')}",
            _strong(size),
        ),
        *(
            Claim(
                f"The gradient noise scale predicts the critical batch of {arm}, asked here within a factor of "
                f"{FACTOR:g} ({where}; McCandlish et al. 2018)",
                f"fitted from runs {_critical(critical.get(arm))}, "
                f"predicted {_number((critical.get(arm) or {}).get('predicted'))}",
                _predicts(critical.get(arm)),
            )
            for arm in ("sgd", "adamw")
        ),
    ]


def _cells(size: Json, arm: str) -> dict[float, Json]:
    return {cell["batch"]: cell for cell in size["cells"] if cell["arm"] == arm}


def _at(size: Json, first: str, second: str, batch: float) -> Row:
    """Updates of the first over those of the second, seeds paired."""
    values = list(_logs(size, first, second, batch).values())
    if not values:
        return None
    ratio, low, high = (None if end is None else math.exp(end) for end in interval(values))
    return {"ratio": ratio, "low": low, "high": high}


def _logs(size: Json, first: str, second: str, batch: float) -> dict[str, float]:
    """Logarithm of that ratio by seed."""
    a, b = (_cells(size, arm)[batch]["by_seed"] for arm in (first, second))
    return {seed: math.log(a[seed] / b[seed]) for seed in sorted(a.keys() & b.keys())}


def _batches(size: Json, *arms: str) -> list[float]:
    """Those at which any of the arms reaches the target."""
    return sorted(set().union(*(_cells(size, arm) for arm in arms)))


def _by_batch(size: Json, first: str, second: str) -> str:
    def words(batch: float) -> str:
        without = [arm for arm in (first, second) if batch not in _cells(size, arm)]
        if not without:
            return times(_at(size, first, second, batch))
        how = "does not reach it" if _never(size, without[0], batch) else "is below it before its first measurement"
        return f"{without[0]} {how}"

    return "; ".join(f"batch {b:g} {words(b)}" for b in _batches(size, first, second)) or "neither reaches it"


def _never(size: Json, arm: str, batch: float) -> bool:
    """Whether an arm stays above the target."""
    return any((m["arm"], m["batch"]) == (arm, batch) and m["best"] > size["target"] for m in size["missed"])


def _matches(size: Json, plain: str, layerwise: str) -> Verdict:
    """At the largest batch at which either reaches the target; one that never does is worse there."""
    batches = _batches(size, plain, layerwise)
    if not batches:
        return OPEN
    for arm, verdict in ((layerwise, HOLDS), (plain, FAILS)):
        if batches[-1] not in _cells(size, arm):
            return verdict if _never(size, arm, batches[-1]) else OPEN
    row = _at(size, plain, layerwise, batches[-1])
    if row is None or row["low"] is None:
        return OPEN
    return HOLDS if row["high"] < MATCH else FAILS if row["low"] > 1 else OPEN


def _strong(size: Json) -> Verdict:
    """AdamW needs more updates at the largest common batch, and by a larger factor than at the smallest."""
    batches = [b for b in _batches(size, "adamw") if b in _cells(size, "muon")]
    if len(batches) < 2:
        return OPEN
    last, first = (_logs(size, "adamw", "muon", batch) for batch in (batches[-1], batches[0]))
    _, low, high = interval([last[seed] - first[seed] for seed in sorted(last.keys() & first.keys())])
    return both(above(_at(size, "adamw", "muon", batches[-1])), higher({"low": low, "high": high, "value": 0.0}))


def _critical(entry: Row) -> str:
    return "not fitted" if entry is None else _number(entry["B_crit"])


def _number(value: Row) -> str:
    if value is None or (value["ratio"] is None and value["low"] is None and value["high"] is None):
        return "not bounded"
    ends = ("?" if end is None else f"{end:.3g}" for end in (value["low"], value["high"]))
    middle = "" if value["ratio"] is None else f"{value['ratio']:.3g} "
    return f"{middle}[{', '.join(ends)}]"


def _ends(value: Row) -> tuple[float, float] | None:
    """Interval of a critical batch; a side that the runs do not bound is open."""
    if value is None or (value["low"] is None and value["high"] is None):
        return None
    return value["low"] or 0.0, math.inf if value["high"] is None else value["high"]


def _larger(first: Row, second: Row) -> Verdict:
    a, b = (_ends(entry and entry["B_crit"]) for entry in (first, second))
    if a is None or b is None:
        return OPEN
    return HOLDS if a[0] > b[1] else FAILS if a[1] < b[0] else OPEN


def _predicts(entry: Row) -> Verdict:
    """The ratio of both lies, with either's interval, within the factor; or wholly outside of it."""
    fitted, predicted = (_ends(entry and entry.get(name)) for name in ("B_crit", "predicted"))
    if fitted is None or predicted is None or predicted[0] <= 0:
        return OPEN
    low, high = fitted[0] / predicted[1], fitted[1] / predicted[0]
    if low > FACTOR or high < 1 / FACTOR:
        return FAILS
    return HOLDS if low > 1 / FACTOR and high < FACTOR else OPEN


def _headline(found: Mapping[str, Json]) -> list[Line]:
    sizes = {TEXT: 512, IMAGES: 1024}
    return [
        line
        for study, where in WHERE
        if study in found
        for line in lines(
            "optimizers-at-scale",
            found[study],
            f"{where}, one size",
            {
                f"{arm} · batch {sizes[study]}": (f"{name}, batch {sizes[study]}", "AdamW")
                for arm, name in (("lamb", "LAMB"), ("muon", "Muon"))
            },
        )
    ]


REPRODUCTION = Reproduction(
    folder="optimizers-at-scale",
    title="Optimizers at scale",
    paper=(
        "You et al. 2020, arXiv 1904.00962; Nado et al. 2021, arXiv 2102.06356; McCandlish et al. 2018, "
        "arXiv 1812.06162"
    ),
    question=(
        "Which optimizer needs the fewest updates as the batch grows, where does each leave perfect scaling, and does "
        "the gradient noise scale say where? All are tuned equally, at each batch."
    ),
    parts=(
        Part(TEXT, "a small GPT on Python code, five batches", columns=("micro_squared", "gradient_norm")),
        Part(
            IMAGES,
            "a small convolutional net on a tenth of Fashion-MNIST, five batches",
            columns=("micro_squared", "gradient_norm"),
        ),
    ),
    claims=claims,
    figures={
        TEXT: {"large-batch": "updates to one loss against the batch; grey: perfect scaling"},
        IMAGES: {"large-batch": "updates to one loss against the batch; grey: perfect scaling"},
    },
    headline=_headline,
)
