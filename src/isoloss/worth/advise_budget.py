"""Advice for a budget: what to train, what loss to expect, what equals it, and which run would tell more first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from isoloss.laws import Fit, LawError, Outlook, Points, SavedFit, fit
from isoloss.plan.lower import open_source
from isoloss.recipe.errors import StudyError, nearest
from isoloss.worth.advise_text import sentences, short, warnings
from isoloss.worth.batch_study import large_batch
from isoloss.worth.compare import LEVEL, compare
from isoloss.worth.devices import HERE, Budget, budget
from isoloss.worth.planner import measured_speed, outlook_of, practice, rate_at, recommended, schedule
from isoloss.worth.results import Results

LAW = "chinchilla"
Source = Results | Points | Fit | SavedFit | Outlook
NOTHING: Mapping[str, Any] = {"batch": None, "lr": None}
UNKNOWN: Mapping[str, Any] = {"arm": None, "words": None, "known": False, "worth": None}


def advise(
    source: Source,
    *,
    flops: float | None = None,
    hours: float | None = None,
    tokens: float | None = None,
    params: float | None = None,
    device: str | None = None,
    peak: float | None = None,
    mfu: float | None = None,
    devices: int = 1,
    precision: str = "bf16",
    law: str | None = None,
    arm: str | None = None,
    level: float = LEVEL,
    reach: float | None = None,
    others: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Advice for training FLOPs, hours on a device, or tokens, as JSON types.

    source: results of a study, points, a fit or a saved fit. params: a size that is wanted instead of the best one.
    arm: of a study (default: the arm worth most at its largest size). reach: factor beyond the measured ranges up to
    which there is an answer (100). others: values of the law's further variables. The other options are those of
    `worth.devices.budget`. Keys of the result: arm, law, formula, parameters, flops_per_nd, level, reach, unit, budget,
    answer (`Outlook.answer`), hours, batch, lr, schedule, warnings, text. Raises StudyError for what cannot be
    answered, with the reason.
    """
    if not 0 < level < 1:
        raise StudyError(f"--level: found {level:g}; allowed: a number between 0 and 1, for instance 0.9")
    if reach is not None and not reach >= 1:
        raise StudyError(f"--reach: found {reach:g}; allowed: 1 or more, times the measured ranges")
    if params is not None and not (math.isfinite(params) and params > 0):
        raise StudyError(f"--params: found {params:g}; allowed: a number of parameters above 0")
    here = measured_speed(source) if device == HERE and isinstance(source, Results) else None
    spend = budget(
        flops=flops, hours=hours, tokens=tokens, device=device, peak=peak, mfu=mfu, devices=devices,
        precision=precision, here=here,
    )  # fmt: skip
    unit = "tokens"
    known: dict[str, Any] = {**NOTHING}
    timing: Mapping[str, Any] = UNKNOWN
    if isinstance(source, Results):
        outlook, arm, known, timing = _of_study(source, law, arm, level)
        unit = "tokens" if open_source(source.stage.runs[0].data).kind == "tokens" else "samples"
    elif arm is not None:
        raise StudyError(f"--arm: found {arm!r}; allowed: with a study, or a table of several arms")
    else:
        outlook = _outlook(source, law)
    outlook = _with_others(outlook, others or {})
    return _advice(outlook.at_level(level, reach), spend, params, arm, unit, known, timing)


def _outlook(source: Points | Fit | SavedFit | Outlook, law: str | None) -> Outlook:
    if isinstance(source, Outlook):
        return source
    if isinstance(source, SavedFit):
        if law not in (None, source.form.name):
            raise StudyError(f"--law: found {law!r}; the saved fit is of law {source.form.name!r}")
        return source.outlook()
    return Outlook.of(fit(source, law or LAW) if isinstance(source, Points) else source)


def _with_others(outlook: Outlook, others: Mapping[str, float]) -> Outlook:
    unknown = [name for name in others if name not in outlook.others]
    if unknown:
        allowed = ", ".join(outlook.others) or f"none, law {outlook.law!r} has no further variable"
        raise StudyError(
            f"--given: found {', '.join(unknown)}; allowed: {allowed}{nearest(unknown[0], outlook.others)}"
        )
    return replace(outlook, others={**outlook.others, **others})


def _of_study(
    results: Results, law: str | None, arm: str | None, level: float
) -> tuple[Outlook, str, dict[str, Any], Mapping[str, Any]]:
    """The outlook of an arm with what else the study knows. Raises StudyError."""
    done = {r.variant for r in results.results if r.status == "done"}
    if not done:
        raise StudyError(f"{results.study.name}: no run is finished, so there is nothing to advise from; run it first")
    if arm is not None and arm not in done:
        raise StudyError(f"--arm: found {arm!r}; allowed: {', '.join(sorted(done))}{nearest(arm, done)}")
    comparison = compare(results)
    chosen = arm or recommended(results, comparison)
    named = [law] if law else [name for name in results.study.laws if name] or [LAW]
    reasons = []
    for name in named:
        try:
            outlook = outlook_of(results, chosen, name, level=level)
        except LawError as error:
            reasons.append(str(error))
            continue
        batches = large_batch(results, "samples")[0]
        return outlook, chosen, practice(results, chosen, batches), schedule(results, comparison)
    raise StudyError(f"{results.study.name}: no law of size and data for arm {chosen!r}: {'; '.join(reasons)}")


def _advice(
    outlook: Outlook,
    spend: Budget,
    params: float | None,
    arm: str | None,
    unit: str,
    known: Mapping[str, Any],
    timing: Mapping[str, Any],
) -> dict[str, Any]:
    C = spend.C
    if spend.tokens is not None:
        C = outlook.compute_for(spend.tokens) if params is None else outlook.k * params * spend.tokens
    if C is None or not math.isfinite(C):
        raise StudyError(f"advise: law {outlook.law!r} has no size for which {short(spend.tokens)} tokens are best")
    answer = outlook.answer(C, params)
    if answer["refused"]:
        raise StudyError(f"advise: {answer['refused']}")
    found: dict[str, Any] = {
        "arm": arm,
        "law": outlook.law,
        "formula": outlook.formula,
        "parameters": dict(outlook.parameters),
        "flops_per_nd": outlook.k,
        "level": outlook.level,
        "reach": outlook.reach,
        "unit": unit,
        "budget": spend.to_dict() | {"params": params},
        "answer": answer,
        "hours": None if spend.speed is None else C / spend.speed / 3600.0,
        "batch": known["batch"],
        "lr": rate_at(known["lr"], answer["N"]),
        "schedule": dict(timing),
    }
    found["warnings"] = warnings(found, outlook)
    return found | {"text": sentences(found)}
