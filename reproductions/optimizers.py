"""Optimizers against the batch: LAMB and LARS (You et al. 2020), their counter-evidence, and the noise scale.

LAMB: arXiv 1904.00962. Well-tuned baselines: Nado et al. 2021, arXiv 2102.06356. Noise scale: McCandlish et al. 2018,
arXiv 1812.06162. Muon at large batches: arXiv 2505.02222.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ruamel.yaml import YAML

from isoloss.recipe.units import Quantity
from isoloss.worth.batch_fits import MISFIT, additive
from isoloss.worth.compare import interval
from reproductions.headline import Line, lines
from reproductions.kept import Json
from reproductions.markdown import table
from reproductions.page import Claim, Part, Reproduction
from reproductions.verdicts import FAILS, HOLDS, OPEN, Row, Verdict, above, below, both, times

TEXT, IMAGES = "optimizers-at-scale", "optimizers-images"
FACTOR = 3.0
"""A critical batch is predicted where it is met within this factor; the paper's own figure was not confirmed."""
MATCH = 1.1
"""At most so many times the updates of the other: a match."""
COARSE = 3
"""What is met before so many measurements is read off one or two points."""
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
            f"LAMB scales to batches where AdamW has stopped to ({where}, asked here: a larger critical batch, and "
            "more saved by the last step up in batch; LAMB: AdamW stops at 16K on BERT)",
            f"critical batch of LAMB {_critical(critical.get('lamb'))}, of AdamW {_critical(critical.get('adamw'))}; "
            f"{_saved_words(size)}",
            _scales(size),
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
    return _ratio(_logs(size, first, second, batch))


def _logs(size: Json, first: str, second: str, batch: float) -> dict[str, float]:
    """Logarithm of that ratio by seed."""
    return _minus(_log_updates(size, first, batch), _log_updates(size, second, batch))


def _saved(size: Json, arm: str, small: float, large: float) -> dict[str, float]:
    """Logarithm, by seed, of an arm's updates at the small batch over those at the large one."""
    return _minus(_log_updates(size, arm, small), _log_updates(size, arm, large))


def _log_updates(size: Json, arm: str, batch: float) -> dict[str, float]:
    return {seed: math.log(updates) for seed, updates in _cells(size, arm)[batch]["by_seed"].items()}


def _minus(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {seed: a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())}


def _ratio(logs: Mapping[str, float]) -> Row:
    """Geometric mean over seeds with its interval."""
    if not logs:
        return None
    ratio, low, high = (None if end is None else math.exp(end) for end in interval(list(logs.values())))
    return {"ratio": ratio, "low": low, "high": high}


def _batches(size: Json, *arms: str) -> list[float]:
    """Those at which any of the arms reaches the target."""
    return sorted(set().union(*(_cells(size, arm) for arm in arms)))


def _common(size: Json, *arms: str) -> list[float]:
    """Those at which all of the arms reach it."""
    return [batch for batch in _batches(size, *arms) if all(batch in _cells(size, arm) for arm in arms)]


def _by_batch(size: Json, first: str, second: str) -> str:
    def words(batch: float) -> str:
        return _without(size, batch, first, second) or times(_at(size, first, second, batch))

    return "; ".join(f"batch {b:g} {words(b)}" for b in _batches(size, first, second)) or "neither reaches it"


def _without(size: Json, batch: float, *arms: str) -> str:
    """Which arm has no updates to the target at a batch, and why; nothing where all have."""
    for arm in arms:
        if batch not in _cells(size, arm):
            if _missed(size, arm, batch) is None:
                return f"{arm} was not measured"
            how = "does not reach it" if _never(size, arm, batch) else "is below it before its first measurement"
            return f"{arm} {how}"
    return ""


def _missed(size: Json, arm: str, batch: float) -> Json | None:
    return next((entry for entry in size["missed"] if (entry["arm"], entry["batch"]) == (arm, batch)), None)


def _never(size: Json, arm: str, batch: float) -> bool:
    """Whether an arm, one seed at least, stays above the target."""
    entry = _missed(size, arm, batch)
    return entry is not None and bool(entry["best"] > size["target"])


def _outlasts(size: Json, first: str, second: str) -> Verdict | None:
    """Whether the first alone reaches the target at the largest batch at which either does; None where both do.

    Open where no batch reaches it, and where the other is below it before its first measurement.
    """
    batches = _batches(size, first, second)
    if not batches:
        return OPEN
    for arm, verdict in ((second, HOLDS), (first, FAILS)):
        if batches[-1] not in _cells(size, arm):
            return verdict if _never(size, arm, batches[-1]) else OPEN
    return None


def _matches(size: Json, plain: str, layerwise: str) -> Verdict:
    """At the largest batch at which either reaches the target; one that never does is worse there."""
    alone = _outlasts(size, plain, layerwise)
    if alone is not None:
        return alone
    return below(_at(size, plain, layerwise, _batches(size, plain, layerwise)[-1]), MATCH)


def _scales(size: Json) -> Verdict:
    """Whether LAMB scales further than AdamW, by two measures, each by its whole interval.

    The critical batch is of the fitted hyperbola, which is steep where an arm is slow at small batches; what the last
    step up in batch saves is read off the runs. Both must hold. One that is refuted decides, unless the other holds:
    then they contradict each other, neither goes before the other, and it is open.
    """
    critical = {entry["arm"]: entry for entry in size["critical"]}
    verdicts = _larger(critical.get("lamb"), critical.get("adamw")), _saves_more(size)
    return OPEN if {HOLDS, FAILS} <= {*verdicts} else both(*verdicts)


def _saves_more(size: Json) -> Verdict:
    """Whether LAMB's updates fall by a larger factor than AdamW's from the second-largest common batch to the largest.

    At the largest batch at which either reaches the target, one that never does has stopped scaling.
    """
    alone = _outlasts(size, "lamb", "adamw")
    return above(_savings(size)["lamb over adamw"]) if alone is None else alone


def _savings(size: Json) -> dict[str, Row]:
    """What that step saves of updates, of either arm and of one over the other; None below two common batches."""
    common = _common(size, "lamb", "adamw")
    if len(common) < 2:
        return dict.fromkeys(("lamb", "adamw", "lamb over adamw"))
    lamb, adamw = (_saved(size, arm, common[-2], common[-1]) for arm in ("lamb", "adamw"))
    return {"lamb": _ratio(lamb), "adamw": _ratio(adamw), "lamb over adamw": _ratio(_minus(lamb, adamw))}


def _saved_words(size: Json) -> str:
    batches = _batches(size, "lamb", "adamw")
    if not batches:
        return "neither reaches the target"
    without = _without(size, batches[-1], "lamb", "adamw")
    if without:
        return f"the target at batch {batches[-1]:g}: {without}"
    common = _common(size, "lamb", "adamw")
    if len(common) < 2:
        return f"both reach the target at batch {common[-1]:g} only"
    saved = _savings(size)
    return (
        f"updates saved from batch {common[-2]:g} to {common[-1]:g}: LAMB {times(saved['lamb'])}, "
        f"AdamW {times(saved['adamw'])}, one over the other {times(saved['lamb over adamw'])}"
    )


def _strong(size: Json) -> Verdict:
    """AdamW needs more updates than Muon at the largest batch, and by a larger factor than at the smallest common one.

    One that never reaches the target at the largest batch at which the other does is worse there.
    """
    alone, common = _outlasts(size, "muon", "adamw"), _common(size, "muon", "adamw")
    if alone is not None:
        # Without a smaller batch that both reach it at, nothing says that the lead grew.
        return OPEN if alone == HOLDS and not common else alone
    if len(common) < 2:
        return OPEN
    last, first = (_logs(size, "adamw", "muon", batch) for batch in (common[-1], common[0]))
    return both(above(_ratio(last)), above(_ratio(_minus(last, first))))


def _critical(entry: Row) -> str:
    return "not fitted" if entry is None else _number(entry["B_crit"])


def _number(value: Row) -> str:
    if value is None or (value["ratio"] is None and value["low"] is None and value["high"] is None):
        return "not bounded"
    ends = ", ".join("?" if end is None else _three(end) for end in (value["low"], value["high"]))
    middle = "" if value["ratio"] is None else _three(value["ratio"])
    return middle if value["low"] is None and value["high"] is None else f"{middle} [{ends}]".strip()


def _three(value: float) -> str:
    """Three significant digits."""
    return f"{float(f'{value:.3g}'):,g}"


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
    if fitted is None or predicted is None or predicted[1] <= 0:
        return OPEN
    low = fitted[0] / predicted[1]
    high = fitted[1] / predicted[0] if predicted[0] > 0 else math.inf
    if low > FACTOR or high < 1 / FACTOR:
        return FAILS
    return HOLDS if low > 1 / FACTOR and high < FACTOR else OPEN


def details(answer: Json) -> list[str]:
    """Markdown of one study: updates to the target of every arm at every batch, and where each stops scaling.

    Nothing where no loss is reached by two batches.
    """
    size = answer["large_batch"]["sizes"][-1]
    if not size["cells"]:
        return []
    study = YAML(typ="safe").load(answer["provenance"]["study_file"])
    return [*_updates_table(size, study, answer["units"]["D"]), *_scaling_table(size, answer["large_batch"]["excess"])]


def _updates_table(size: Json, study: Json, unit: str) -> list[str]:
    batches = sorted({cell["batch"] for name in ("cells", "missed") for cell in size[name]})
    every = Quantity.parse(study["evaluation"]["every"], (unit,)).value
    warmup = Quantity.parse(study["training"]["warmup"], (unit,)).value
    between = {c["batch"]: max(1, round(every * c["updates"] / c["samples"])) for c in size["cells"]}
    early = [f"{cell['arm']} at batch {cell['batch']:g}" for cell in size["cells"] if cell["samples"] < warmup]

    def number(arm: str, batch: float) -> str:
        cell = _cells(size, arm).get(batch)
        if cell is not None:
            return f"{'~' if coarse(cell) else ''}{cell['updates']:,.0f}"
        return "–" if _missed(size, arm, batch) is None or _never(size, arm, batch) else "at once"

    def coarse(cell: Json) -> bool:
        return bool(cell["updates"] < COARSE * between[cell["batch"]])

    which = "the lowest that every arm reaches at every batch" if not size["missed"] else "the one that most reach"
    small, large = min(between), max(between)
    said = (
        f"Updates to loss {size['target']:.4g}, {which} with every seed (– where it is not reached); geometric means "
        f"over {size['seeds']} seeds. Losses are measured every {between[small]:,} updates at batch {small:g}, every "
        f"{between[large]:,} at batch {large:g}, and interpolated."
    )
    if any(coarse(cell) for cell in size["cells"]):
        said += f" ~ marks what is met within fewer than {COARSE} measurements, so known only roughly."
    if early:
        said += f" Met while the learning rate still rises: {', '.join(early)}."
    return [
        said,
        table(
            ("updates", *(f"batch {batch:g}" for batch in batches)),
            [(arm, *(number(arm, batch) for batch in batches)) for arm in _arms(size)],
        ),
    ]


def _scaling_table(size: Json, excess: float) -> list[str]:
    critical = {entry["arm"]: entry for entry in size["critical"]}
    against = {entry["arm"]: entry for entry in size["leaves"]}
    first = size["reference"]
    missing = [arm for arm, entry in critical.items() if (entry.get("misfit") or 1.0) < MISFIT]
    said = (
        f"Perfect scaling has ended at the first batch that needs more than {excess:g} times the data, by the whole "
        "interval: of the arm's own smallest batch, or of the arm that all are compared with. The critical batch is of "
        "the hyperbola through an arm's updates, the prediction that of the gradient noise scale."
    )
    if missing:
        said += f" The hyperbola misses the runs by more than their noise: {', '.join(missing)} (so wider intervals)."
    return [
        said,
        table(
            (
                "arm",
                "leaves its own perfect scaling at batch",
                f"leaves that of {first['arm']} from batch {first['batch']:g}",
                "critical batch, fitted",
                "noise scale's prediction",
            ),
            [
                (
                    arm,
                    _left(_own(size, arm, excess)),
                    _left(against.get(arm)),
                    _critical(critical.get(arm)),
                    _number((critical.get(arm) or {}).get("predicted")),
                )
                for arm in _arms(size)
            ],
        ),
    ]


def _arms(size: Json) -> list[str]:
    """In the order of the study."""
    return list(
        dict.fromkeys(entry["arm"] for name in ("leaves", "critical", "cells", "missed") for entry in size[name])
    )


def _own(size: Json, arm: str, excess: float) -> Json | None:
    """As an answer's ``leaves``, against the arm's own smallest batch; the noise is that of all arms and seeds."""
    batches = sorted(_cells(size, arm))
    if len(batches) < 2:
        return None
    model = additive({(c["arm"], c["batch"]): _log_updates(size, c["arm"], c["batch"]) for c in size["cells"]})
    data = {b: (model.log_ratio((arm, b), (arm, batches[0])), excess * batches[0] / b) for b in batches[1:]}
    return {
        "first": next((b for b, (ratio, limit) in data.items() if ratio.ratio > limit), None),
        "left": next((b for b, (ratio, limit) in data.items() if ratio.low is not None and ratio.low > limit), None),
        "largest": batches[-1],
    }


def _left(entry: Json | None) -> str:
    if entry is None:
        return "–"
    if entry["left"] is not None:
        return f"{entry['left']:g}"
    return f"not up to {entry['largest']:g}" if entry["first"] is None else f"{entry['first']:g}, not resolved"


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
        "the gradient noise scale say where? At each batch every arm's learning rate is tuned over the same grid with "
        "the same budget a run, and the grid is extended, up to three times, where the best rate lies at its edge. "
        "Rates are tuned for the end of training; the updates count to a loss that almost all runs meet before it."
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
    details={TEXT: details, IMAGES: details},
)
