"""Advice for a budget in words: what to do, what is not known, and what a careful reader would object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isoloss.laws import Outlook
from isoloss.worth.devices import HERE

BARELY = 1.005
"""Times a measured range that count as inside of it."""
SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def warnings(found: Mapping[str, Any], outlook: Outlook) -> list[str]:
    """What a careful reader would object to this advice."""
    answer, said = found["answer"], []
    away = []
    for name, times in answer["times"].items():
        if times > BARELY and outlook.support is not None:
            low, high = outlook.support[name]
            text = short if name != "C" else "{:.2g}".format
            away.append(
                f"{name} {times:.3g}x {'above' if answer[name] > high else 'below'} {text(low)} to {text(high)}"
            )
    if away:
        said.append(f"extrapolated beyond what was measured, so the interval is wider: {'; '.join(away)}")
    if outlook.draws is None and outlook.calibration is None:
        said.append("no interval: nothing says how far this law may be off")
    elif outlook.draws is None:
        said.append("the interval holds only the errors of earlier forecasts: the fit was not resampled")
    elif outlook.calibration is None:
        said.append("the interval holds only the spread of resampled fits, which is too narrow for a new run")
    lr = found["lr"]
    if lr is not None and lr["edge"]:
        said.append("the tuned learning rates include a winner at an edge of its grid: the rule may be off")
    if found["budget"]["kind"] == "hours" and found["budget"]["device"] != HERE:
        said.append(f"the time rests on MFU {found['budget']['mfu']:g}: replace it by what your code reaches")
    return said + list(outlook.notes)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """The advice in words, the main thing first."""
    answer, level = found["answer"], f"{found['level']:.0%}"
    unit = found["unit"]
    model = f"Train N = {short(answer['N'])} on D = {short(answer['D'])} {unit}"
    time = "" if found["hours"] is None else f", {hours_words(found['hours'])} on {device_words(found['budget'])}"
    said = [f"{model} ({answer['M']:.3g} a parameter): {answer['C']:.3g} FLOPs{time}."]
    loss = f"Expected loss {answer['loss']:.4f}"
    band = "" if answer["low"] is None else f", {level} interval [{answer['low']:.4f}, {answer['high']:.4f}]"
    said.append(f"{loss}{band}.")
    best = answer["best"]
    if found["budget"]["params"] is not None and best is not None:
        said.append(
            f"The best split of these FLOPs is N = {short(best['N'])}, D = {short(best['D'])}: loss {best['loss']:.4f}."
        )
    for other in answer["alternatives"]:
        if other["D"] is None:
            said.append(f"{other['factor']:g}x the size never reaches this loss.")
        else:
            ends = (
                "" if other["low"] is None or other["high"] is None else f" [{other['low']:.2f}, {other['high']:.2f}]"
            )
            said.append(
                f"The same loss with N = {short(other['N'])} ({other['factor']:g}x): D = {short(other['D'])} tokens, "
                f"{other['compute']:.2f}x{ends} the compute."
            )
    said += practice_words(found)
    return said + next_words(answer, level, unit)


def practice_words(found: Mapping[str, Any]) -> list[str]:
    """Batch, learning rate and schedule, or that they are not known."""
    if found["batch"] is None and found["lr"] is None and found["schedule"]["words"] is None:
        return ["Batch, learning rate and schedule: not known from this source; tune them."]
    return [batch_words(found["batch"]), rate_words(found["lr"]), schedule_words(found["schedule"], found["arm"])]


def batch_words(batch: Mapping[str, Any] | None) -> str:
    """What is known about the batch."""
    if batch is None:
        return "Batch: not known from this table."
    unit = batch["unit"]
    used = f"{batch['used']:,} {unit}"
    if batch["value"] is None:
        return f"Batch: {used}, as in the study, which does not measure the critical batch: not informed."
    ends = ""
    if batch["low"] is not None or batch["high"] is not None:
        ends = f" [{_end(batch['low'])}, {_end(batch['high'])}]"
    return (
        f"Batch: about {batch['value']:.3g}{ends} {unit} ({batch['source']}; it needs twice the data of a small "
        f"batch, and grows as the loss falls); the losses here are those of {used}."
    )


def rate_words(lr: Mapping[str, Any] | None) -> str:
    """What is known about the learning rate; lr as `worth.planner.rate_at` gives it."""
    if lr is None:
        return "Learning rate: not known from this table; tune it."
    if lr["value"] is not None:
        at_batch = f"; {lr['at_batch']:.3g} at that batch ({lr['batch']['rule']} rule)" if lr["at_batch"] else ""
        return f"Learning rate: {lr['value']:.3g}{at_batch}, {rule_words(lr)}."
    if lr["rule"] == "one size":
        return f"Learning rate: tuned at one size only ({_sizes(lr)}): tune it, the rule over N is not known."
    return f"Learning rate: not tuned in the study ({_sizes(lr)}): tune it."


def rule_words(lr: Mapping[str, Any]) -> str:
    """How a learning rate follows from the tuned ones."""
    return f"by a power of N (exponent {lr['exponent']:.2f}) through {_sizes(lr)}"


def _sizes(lr: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:.3g} at N = {short(N)}" for N, value in lr["sizes"])


def schedule_words(timing: Mapping[str, Any], arm: str | None) -> str:
    """What is known about the schedule."""
    if timing["words"] is None:
        return "Schedule: not known from this table."
    if not timing["known"]:
        return f"Schedule: {timing['words']}, as in the study, which compares no schedules."
    worth = timing["worth"]
    if worth is None:
        return f"Schedule: {timing['words']}: no other schedule was better beyond its interval."
    other = "" if timing["arm"] == arm else f" (the numbers above are those of arm {arm})"
    return (
        f"Schedule: {timing['words']} (arm {timing['arm']}), worth {worth['ratio']:.2f}x [{worth['low']:.2f}, "
        f"{worth['high']:.2f}] the data of {worth['reference']} at N = {short(worth['N'])}{other}."
    )


def next_words(answer: Mapping[str, Any], level: str, unit: str) -> list[str]:
    """Which run to make before spending the budget."""
    plan = answer["next"]
    if plan is None:
        return []
    if not plan["ranked"]:
        share = f"{plan['cap'] / answer['C']:.0%} of the budget"
        return [f"No single run for {share} would narrow this interval by 5 % or more."]
    run = plan["ranked"][0]
    kind = "another seed of" if run["kind"] == "repeat" else "a run of"
    return [
        f"Most informative first, per FLOP: {kind} N = {short(run['N'])} on D = {short(run['D'])} {unit} "
        f"({share_words(run['C'] / answer['C'])} of the budget): the {level} interval [{answer['low']:.4f}, "
        f"{answer['high']:.4f}] should become [{run['low']:.4f}, {run['high']:.4f}], {run['narrower']:.0%} narrower."
    ]


def compute_words(other: Mapping[str, Any]) -> str:
    """The compute of an equal-loss alternative over that of the plan, with its interval."""
    ends = "" if other["low"] is None or other["high"] is None else f" [{other['low']:.2f}, {other['high']:.2f}]"
    return f"{other['compute']:.2f}x{ends}"


def share_words(share: float) -> str:
    """A share as a percentage of two digits: 10 %, 0.62 %."""
    return f"{100 * share:.2g}%"


def short(value: float | None) -> str:
    """A count in three significant digits: 1.23M."""
    if value is None:
        return "?"
    for limit, suffix in SUFFIXES:
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def _end(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def hours_words(hours: float) -> str:
    """A time in the unit that suits it."""
    if hours < 1 / 60:
        return f"{3600 * hours:.3g} seconds"
    if hours < 1.0:
        return f"{60 * hours:.3g} minutes"
    return f"{hours:.3g} hours" if hours < 72 else f"{short(hours / 24)} days"


def device_words(spend: Mapping[str, Any]) -> str:
    """The devices of a budget."""
    name = spend["label"] or f"{spend['peak']:.3g} FLOP/s"
    count = "" if spend["devices"] == 1 else f"{spend['devices']} x "
    return f"{count}{name}" + ("" if spend["device"] == HERE else f" at MFU {spend['mfu']:g}")
