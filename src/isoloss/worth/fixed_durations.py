"""What one asks of training without a fixed duration, answered from the arms that a study has.

Arms are known by what they do, not by their names: cosines (of their own length, or longer and stopped early),
constant trunks with cooldowns, averages of a constant trunk, Schedule-Free optimizers. Questions whose arms are absent
are not asked; every other one gets an answer with intervals, or "not resolved" and why. After Haegele et al. 2024
(arXiv 2405.18392).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws import LawError, fit, get_form
from isoloss.plan.optimum import bottom
from isoloss.plan.savings import ENDS, MATRICES, savings
from isoloss.recipe import catalogue
from isoloss.worth.compare import LEVEL, interval
from isoloss.worth.differences import Difference, differences
from isoloss.worth.results import axes_of, variant_of

if TYPE_CHECKING:
    from isoloss.laws import Draws, Points
    from isoloss.worth.results import Results

DRAWS = 400
REACH = 2
"""Candidates on either side of the winner that a parabola is fitted to."""
EXPONENTS = ("alpha", "beta", "c")
"""Parameters of laws that are compared by themselves."""
NOT_RESOLVED = "not resolved"


@dataclass
class Arms:
    """Variants of a study by what they do, in the study's order."""

    cosine: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    cooldown: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    averaged: list[str] = field(default_factory=list)
    both: list[str] = field(default_factory=list)
    free: list[str] = field(default_factory=list)
    configs: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def beside(self, main: str) -> Arms:
        """The arms that differ from ``main`` in nothing but schedule, average and learning rate.

        Optimizers that average differ in all of the optimizer and in the warm-up too.
        """

        def like(names: Sequence[str], *more: str) -> list[str]:
            return [n for n in names if _rest(self.configs[n], *more) == _rest(self.configs[main], *more)]

        return Arms(
            cosine=like(self.cosine),
            stopped=like(self.stopped),
            cooldown=like(self.cooldown),
            constant=like(self.constant),
            averaged=like(self.averaged),
            both=like(self.both),
            free=like(self.free, "optimizer", "warmup"),
            configs=self.configs,
        )


def _rest(config: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """What of a cell's configuration the questions are not about; without ``more`` of its training too."""
    training = {name: value for name, value in config["training"].items() if name not in more}
    if "optimizer" in training:
        training["optimizer"] = {name: value for name, value in training["optimizer"].items() if name != "lr"}
    return {**config, "training": training, "schedule": None, "average": None}


def arms_of(results: Results) -> Arms:
    """The arms of a study that these questions are about; the baseline first among its kind."""
    found, axes = Arms(), axes_of(results.study)
    for name in results.variants():
        config = next(p.cell.config for p in results.stage.planned if variant_of(p.cell, axes) == name)
        found.configs[name] = config
        schedule, averaged = config["schedule"], config["average"]
        if config["training"]["optimizer"]["name"] in catalogue.names("optimizer", "averaging"):
            found.free.append(name)
        elif schedule["shape"] == "cosine" and not averaged:
            (found.stopped if schedule["horizon"] else found.cosine).append(name)
        elif schedule["shape"] == "constant" and schedule["cooldown"] and not averaged:
            found.cooldown.append(name)
        elif schedule["shape"] == "constant" and schedule["cooldown"]:
            found.both.append(name)
        elif schedule["shape"] == "constant" and not schedule["cooldown"]:
            (found.averaged if averaged else found.constant).append(name)
    return found


def fixed_durations(results: Results) -> list[dict[str, Any]]:
    """Questions with their answers as JSON types; none for a study without a cooldown beside other arms.

    Each has ``id``, ``question``, ``answer`` (a sentence), ``resolved`` (whether any of its intervals excludes no
    difference) and ``rows``: ``arm``, ``against``, ``what`` (``difference``: nats; ``ratio``; ``exponent``: difference
    of exponents), ``place``, ``value``, ``low``, ``high``, ``resolved``, ``seeds``.
    """
    arms = arms_of(results)
    if not arms.cooldown or len(arms.configs) < 2:
        return []
    main = arms.cooldown[0]
    arms = arms.beside(main)
    found = []
    if arms.cosine:
        cosine = arms.cosine[0]
        found.append(
            _compared(results, "cosine", "Does a cooldown match a cosine of the same duration?", [(main, cosine)], True)
        )
        found.append(_rates(results, main, cosine))
    others = [name for name in arms.cooldown[1:] if arms.configs[name]["schedule"] != arms.configs[main]["schedule"]]
    shape = [name for name in others if _length(arms, name) == _length(arms, main)]
    if shape:
        found.append(
            _compared(results, "forms", "Which form of cooldown is best?", [(name, main) for name in shape], False)
        )
    length = [name for name in others if _form(arms, name) == _form(arms, main)]
    if length:
        found.append(
            _compared(results, "lengths", "How long must a cooldown be?", [(name, main) for name in length], False)
        )
    if arms.averaged:
        pairs = [(name, main) for name in arms.averaged]
        pairs += [(name, raw) for name in arms.averaged for raw in arms.constant[:1]]
        found.append(_compared(results, "average", "Does an average replace the cooldown?", pairs, False))
    if arms.both:
        pairs = [(name, main) for name in arms.both]
        found.append(_compared(results, "both", "Does an average add to the cooldown?", pairs, False))
    if arms.free:
        pairs = [(name, main) for name in arms.free]
        found.append(_compared(results, "free", "Does a Schedule-Free optimizer replace the cooldown?", pairs, True))
    if arms.stopped and arms.cosine:
        pairs = [(name, arms.cosine[0]) for name in arms.stopped]
        question = "What does a cosine lose that was planned longer and is stopped early?"
        found.append(_compared(results, "stopped", question, pairs, True))
    if arms.cosine and results.study.laws:
        found.append(_law(results, main, arms.cosine[0], results.study.laws[0]))
    return found


def _length(arms: Arms, name: str) -> tuple[Any, Any]:
    cooldown = arms.configs[name]["schedule"]["cooldown"]
    return cooldown["fraction"], cooldown["length"]


def _form(arms: Arms, name: str) -> dict[str, Any]:
    cooldown = arms.configs[name]["schedule"]["cooldown"]
    return {key: value for key, value in cooldown.items() if key not in ("fraction", "length")}


def _question(key: str, question: str, answer: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    resolved = any(row["resolved"] for row in rows)
    return {"id": key, "question": question, "answer": answer, "resolved": resolved, "rows": list(rows)}


def _compared(
    results: Results, key: str, question: str, pairs: Sequence[tuple[str, str]], by_duration: bool
) -> dict[str, Any]:
    """Differences of final loss; sentences by duration too where asked for."""
    sentences, rows = [], []
    for arm, against in pairs:
        found = differences(results, arm, against)
        if not found:
            sentences.append(f"{arm} against {against}: {NOT_RESOLVED}, they have no finished runs in common")
            continue
        whole, *each = found
        words = f"{arm} against {against}: {whole.words}{_too_few(whole)}"
        if by_duration and len(each) > 1:
            words += f" ({'; '.join(f'at {one.duration} {one.words}' for one in each)})"
        sentences.append(words)
        rows += [_row(one) for one in found]
    return _question(key, question, ". ".join(sentences) + ".", rows)


def _row(one: Difference) -> dict[str, Any]:
    place = "all durations" if one.duration is None else one.duration
    return _entry(one.arm, one.against, "difference", place, one.difference, one.low, one.high, one.resolved, one.seeds)


def _entry(
    arm: str, against: str, what: str, place: str, value: float, low: float | None, high: float | None,
    resolved: bool, seeds: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "arm": arm, "against": against, "what": what, "place": place, "value": value, "low": low, "high": high,
        "resolved": resolved, "seeds": seeds,
    }  # fmt: skip


def _too_few(one: Difference) -> str:
    return f" ({one.seeds} seed{'s' if one.seeds > 1 else ''}: no interval)" if one.low is None else ""


# -- learning rates ------------------------------------------------------------------------------------------


def _rates(results: Results, trunk: str, cosine: str) -> dict[str, Any]:
    """Ratio of the best learning rates, from parabolas in log learning rate, seed by seed."""
    question = "Which peak learning rate does a trunk want, over the cosine's best?"
    mine, theirs = optima(results, trunk), optima(results, cosine)
    by_seed: dict[str, list[float]] = {}
    for place in mine.keys() & theirs.keys():
        ratio = mine[place] - theirs[place]
        if math.isfinite(ratio):
            by_seed.setdefault(place[1], []).append(ratio)
    lost = sum(not math.isfinite(v) for found in (mine, theirs) for v in found.values())
    edges = f"; {lost} of {len(mine) + len(theirs)} optima lie at an edge of the candidates and are left out"
    note = edges if lost else ""
    if not by_seed:
        why = "their learning rates are not tuned" if not mine or not theirs else "no seed has both optima" + note
        return _question("rates", question, f"{trunk} over {cosine}: {NOT_RESOLVED}, {why}.", [])
    logs = [float(np.mean(values)) for values in by_seed.values()]
    mean, low, high = (None if value is None else math.exp(value) for value in interval(logs))
    assert mean is not None
    resolved = low is not None and high is not None and not low <= 1 <= high
    bounds = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    verdict = ("lower" if mean < 1 else "higher") if resolved else NOT_RESOLVED
    short = f" ({len(logs)} seeds: no interval)" if low is None else ""
    row = _entry(trunk, cosine, "ratio", "best learning rate", mean, low, high, resolved, len(logs))
    return _question("rates", question, f"{trunk} over {cosine}: {mean:.2f}x{bounds}, {verdict}{short}{note}.", [row])


def optima(results: Results, variant: str) -> dict[tuple[int, str, str], float]:
    """Log of the best learning rate of a variant's tuning by (N, seed, duration); NaN where it lies at an edge.

    What else is tuned is at its best for each learning rate.

    The vertex of a seed's parabola in log learning rate (part A), fitted to the winner over all seeds and up to two
    candidates on either side of it.
    """
    losses: dict[tuple[int, str], dict[str, dict[float, float]]] = {}
    for trial in results.trials(variant):
        if trial.loss is not None:
            seed, duration = (str(trial.cell.coordinates.get(name)) for name in ("seed", "duration"))
            by_seed = losses.setdefault((trial.lowered.facts.N, duration), {})
            one = by_seed.setdefault(seed, {})
            one[trial.lr] = min(trial.loss, one.get(trial.lr, math.inf))
    found = {}
    for (N, duration), by_seed in losses.items():
        rates = sorted(set.intersection(*(set(one) for one in by_seed.values())))
        mean = [float(np.mean([one[rate] for one in by_seed.values()])) for rate in rates]
        best = int(np.argmin(mean))
        near = rates[max(0, best - REACH) : best + REACH + 1]
        for seed, one in by_seed.items():
            found[N, seed, duration] = _vertex({rate: one[rate] for rate in near})
    return found


def _vertex(losses: Mapping[float, float]) -> float:
    """The lowest point of a parabola, where there is one between the learning rates; those that diverged are left."""
    known = {math.log(rate): loss for rate, loss in losses.items() if math.isfinite(loss)}
    if len(known) < 3:
        return math.nan
    vertex = bottom(list(known), list(known.values()))
    return vertex if min(known) < vertex < max(known) else math.nan


# -- the law -------------------------------------------------------------------------------------------------


def _law(results: Results, trunk: str, cosine: str, name: str) -> dict[str, Any]:
    """Predictions of a law fitted to runs that share trunks, minus those of one fitted to separate runs."""
    question = "Does the law from reused runs agree with the law from separate runs?"
    head = f"{name} from {trunk} minus from {cosine}"
    try:
        mine, theirs = (_draws(_shared(results, arm, (trunk, cosine), name), name) for arm in (trunk, cosine))
        rows = [_predicted(mine, theirs, trunk, cosine, factor) for factor in (1.0, 2.0)]
        exponents = [_exponent(mine, theirs, trunk, cosine, name) for name in EXPONENTS if name in mine.parameters]
    except LawError as error:
        return _question("law", question, f"{head}: {NOT_RESOLVED}, {str(error).rstrip('.')}.", [])
    said = "; ".join(
        Difference(trunk, cosine, None, row["value"], row["low"], row["high"], row["seeds"]).words
        + f" at {row['place']}"
        for row in rows
    )
    for row in exponents:
        resolved = f"{'lower' if row['value'] < 0 else 'higher'}" if row["resolved"] else NOT_RESOLVED
        said += f"; {row['place']} {row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}], {resolved}"
    made = [p for p in results.stage.planned if not p.cell.extra and p.cell.arm in _base(results, (trunk, cosine))]
    saved = [
        s
        for s in savings([p.cell for p in made], [p.lowered for p in made], _base(results, (cosine,))[0])
        if (s.arm, s.count) == (_base(results, (trunk,))[0], MATRICES) and s.against != s.arm
    ]
    cost = f"; the reused runs took {saved[0].ratios[ENDS]:.3f} of the separate ones' training FLOPs" if saved else ""
    return _question("law", question, f"{head}: {said}{cost}.", [*rows, *exponents])


def _base(results: Results, variants: Sequence[str]) -> list[str]:
    arms = {r.variant: r.arm for r in results.results}
    return [arms[variant] for variant in variants]


def _shared(results: Results, arm: str, both: Sequence[str], name: str) -> Points:
    """An arm's points at the sizes, durations and seeds that both have; of the largest size for a law of D alone."""
    done = [r for r in results.results if r.status == "done" and r.variant in both]
    places = set.intersection(*({(r.N, r.D, r.seed) for r in done if r.variant == one} for one in both))
    if not places:
        raise LawError("they have no finished runs in common")
    if len(get_form(name).variables) < 2:
        largest = max(N for N, _, _ in places)
        places = {place for place in places if place[0] == largest}
    table = results.points(arm)
    kept = [place in places for place in zip(table.N.tolist(), table.D.tolist(), table.seed.tolist(), strict=True)]
    return table.where(np.array(kept, bool))


def _draws(points: Points, name: str) -> Draws:
    x = None if len(get_form(name).variables) > 1 else "D"
    return fit(points, name, x=x, cluster="cluster").bootstrap(DRAWS)


def _predicted(mine: Draws, theirs: Draws, trunk: str, cosine: str, factor: float) -> dict[str, Any]:
    """Difference of predicted loss at the largest size and ``factor`` times the longest duration; draws are matched."""
    table, form = mine.fit.points, mine.fit.form
    N, D = float(np.max(table.N)), factor * float(np.max(table.D))
    columns = {"D": D} if len(form.variables) < 2 else {"N": N, "D": D}
    where = mine.fit.variables({key: np.array([value]) for key, value in columns.items()})

    def loss(values: Mapping[str, Any]) -> Any:
        return np.asarray(form.predict(values, {key: column[0] for key, column in where.items()}), float)

    estimate = float(loss(mine.fit.parameters) - loss(theirs.fit.parameters))
    low, high, clusters = _matched(mine, theirs, estimate, loss)
    place = f"{factor:g}x the longest duration"
    return _entry(trunk, cosine, "difference", place, estimate, low, high, not low <= 0 <= high, clusters)


def _exponent(mine: Draws, theirs: Draws, trunk: str, cosine: str, name: str) -> dict[str, Any]:
    """Difference of an exponent of both laws; draws are matched."""
    estimate = float(mine.fit.parameters[name] - theirs.fit.parameters[name])
    low, high, clusters = _matched(mine, theirs, estimate, lambda values: values[name])
    return _entry(trunk, cosine, "exponent", name, estimate, low, high, not low <= 0 <= high, clusters)


def _matched(
    mine: Draws, theirs: Draws, estimate: float, value: Callable[[Mapping[str, Any]], Any]
) -> tuple[float, float, int]:
    """Interval of a difference of values of both laws, each resample with its own twin, and how many are resampled."""
    _, left, right = np.intersect1d(mine.index, theirs.index, return_indices=True)
    first = value({name: draws[left] for name, draws in mine.parameters.items()})
    second = value({name: draws[right] for name, draws in theirs.parameters.items()})
    mine.refuse_unusable()
    theirs.refuse_unusable()
    narrow = mine if mine.effective <= theirs.effective else theirs
    low, high = (float(end[0]) for end in narrow.ends((first - second)[:, None], np.array([estimate]), LEVEL))
    return low, high, mine.clusters
