"""What a study knows about planning: a law of each arm as plain numbers, and its batch, learning rate and schedule.

`export` gives it to the page and to `isoloss advise`; both compute from it alone (`laws.outlook`), so they agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws import LawError, fit, get_form
from isoloss.laws.allocation import allocates
from isoloss.laws.outlook import Outlook
from isoloss.methods.rules import lr_factor
from isoloss.plan.lower import open_source
from isoloss.worth.batch_study import large_batch
from isoloss.worth.compare import LEVEL, Comparison, Rows, Worth, compare
from isoloss.worth.devices import DEVICES, HERE, MFU
from isoloss.worth.results import Results

if TYPE_CHECKING:
    from isoloss.plan.tree import Node

MOST_ENTRIES = 6
"""Laws on a page; each costs it about 20 kB."""
LINEAR = ("sgd",)
"""Optimizers whose rate goes with the batch; of others (Adam) with its root (`methods.rules`)."""


def export(
    results: Rows,
    *,
    laws: Sequence[str] | None = None,
    comparison: Comparison | None = None,
    batches: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Everything that the page's planner computes from; None without a law of size and data that can be fitted.

    laws: their names; those that the study asks for by default. comparison, batches: what `worth.compare` and
    `worth.batch_study.large_batch` found, where that is known already.
    """
    asked = results.study.laws if laws is None and isinstance(results, Results) else laws or ()
    names = [name for name in asked if _plans(name)]
    if not names or not any(r.status == "done" for r in results.results):
        return None
    found = compare(results) if comparison is None else comparison
    entries = []
    for name in names:
        for arm in results.variants():
            try:
                outlook = outlook_of(results, arm, name)
            except LawError:
                continue  # the section on laws says why
            entries.append({"arm": arm, "law": name, "outlook": outlook.export(), **practice(results, arm, batches)})
    if not entries:
        return None
    first = recommended(results, found)
    entries.sort(key=lambda entry: entry["arm"] != first)
    return {
        "level": LEVEL,
        "mfu": MFU,
        "entries": entries[:MOST_ENTRIES],
        "left_out": max(0, len(entries) - MOST_ENTRIES),
        "schedule": schedule(results, found),
        "devices": devices(results),
    }


def outlook_of(results: Rows, arm: str, law: str, *, level: float = LEVEL, **options: Any) -> Outlook:
    """The outlook of a law on the finished runs of one arm. Raises LawError where it cannot be fitted."""
    return Outlook.of(fit(results.points(arm), law, cluster="cluster"), level=level, **options)


def devices(results: Rows) -> list[dict[str, Any]]:
    """The devices a page offers: the machine of the study's own runs where they were timed, then the listed ones."""
    speed = measured_speed(results) if isinstance(results, Results) else None
    own = {"name": HERE, "label": "this study's machine, one worker", "peak": speed, "mfu": 1.0}
    return [*([own] if speed else []), *listed_devices()]


def listed_devices() -> list[dict[str, Any]]:
    """The table of devices by peak FLOP/s; mfu None: to be said."""
    peaks = {name: device.peaks.get("bf16", max(device.peaks.values())) for name, device in DEVICES.items()}
    return [
        {"name": name, "label": DEVICES[name].label, "peak": peaks[name], "mfu": None}
        for name in sorted(peaks, key=lambda name: peaks[name])
    ]


def measured_speed(results: Results) -> float | None:
    """FLOP/s of one worker at the largest size whose updates were timed; None where none was."""
    from isoloss.plan.speed import Speeds

    nodes: list[Node] = [node for root in results.stage.roots for node in root.walk()]
    speeds = Speeds(nodes, results.store, workers=1)
    timed = [(node.facts.N, node, timing) for node in nodes for timing, source in [speeds.timing(node)]
             if source in ("store", "calibration") and timing.update > 0]  # fmt: skip
    if not timed:
        return None
    _, node, timing = max(timed, key=lambda row: row[0])
    return node.flops_per_update / timing.update


def recommended(results: Rows, comparison: Comparison) -> str:
    """The arm worth most at the largest size, with its whole interval above 1; else the baseline."""
    best = _best(comparison.by_size)
    return best.arm if best else results.variants()[0]


def _best(rows: Sequence[Worth]) -> Worth | None:
    known = [w for w in rows if "data" in w.ratios]
    largest = max((w.N for w in known), default=0)
    better = [w for w in known if largest == w.N and w.ratios["data"].resolved and w.ratios["data"].ratio > 1]
    return max(better, key=lambda w: w.ratios["data"].ratio, default=None)


def practice(results: Rows, arm: str, batches: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Batch and learning rate of an arm of a study, each with where it comes from; None for other runs.

    batch: used, in its unit (sequences or samples), and the critical one (value, low, high) at the largest size and
    lowest loss where the study tells it. lr: `coefficient` x N^`exponent` through the rates that were tuned at two
    sizes or more, else None for both with the rates that were used. batches: what `worth.batch_study.large_batch` says.
    """
    if not isinstance(results, Results):
        return {"batch": None, "lr": None}
    mine = [r for r in results.results if r.variant == arm]
    largest = max(mine, key=lambda r: (r.N, r.D))
    unit = "sequences" if open_source(results.stage.runs[0].data).kind == "tokens" else "samples"
    batch = {"used": largest.facts.batch, "unit": unit, "value": None, "low": None, "high": None, "source": None}
    if batches is None:
        batches = large_batch(results, "samples")[0]
    if batches is not None:
        batch |= _critical(batches, largest.arm)
    return {"batch": batch, "lr": _rates(results, arm, batch)}


def _critical(batches: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """The critical batch of an arm (or of what it was compared with) at the largest size; empty where unknown."""
    for size in reversed(batches["sizes"]):
        if size["target"] is None:
            continue
        by_arm = {c["arm"]: c for c in size["critical"]}
        chosen = by_arm.get(arm) or by_arm.get(size["reference"]["arm"])
        if chosen is None:
            continue
        measured, predicted = chosen["B_crit"], chosen.get("predicted") or {}
        where = f"of {chosen['arm']} at N = {size['N']:,}, loss {size['target']:.4g}"
        if measured["ratio"] is not None:
            ends = {"low": measured["low"], "high": measured["high"]}
            return {"value": measured["ratio"], **ends, "source": f"critical batch {where}"}
        if predicted.get("ratio") is not None:
            ends = {"low": predicted.get("low"), "high": predicted.get("high")}
            return {"value": predicted["ratio"], **ends, "source": f"gradient noise scale {where}"}
    return {}


def _rates(results: Results, arm: str, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rate against size, from the runs whose rate was tuned where they stand."""
    mine = [r for r in results.results if r.variant == arm]
    tuned: dict[int, tuple[int, float, bool]] = {}
    for r in mine:
        if r.lr_rule == "tuned" and tuned.get(r.N, (0, 0.0, False))[0] < r.D:
            tuned[r.N] = (r.D, r.lr, r.lr_edge)
    sizes = [[N, lr] for N, (_, lr, _) in sorted(tuned.items())]
    found: dict[str, Any] = {
        "rule": "fitted" if len(sizes) > 1 else "one size" if sizes else "not tuned",
        "sizes": sizes or [list(pair) for pair in sorted({(r.N, r.lr) for r in mine})],
        "edge": any(edge for _, _, edge in tuned.values()),
        "coefficient": None,
        "exponent": None,
        "batch": None,
    }
    if len(sizes) > 1:
        log_n, log_lr = np.log(np.array(sizes, dtype=float)).T
        exponent, constant = np.polyfit(log_n, log_lr, 1)
        found |= {"coefficient": math.exp(float(constant)), "exponent": float(exponent)}
        if batch["value"] is not None and batch["used"]:
            config = next(p.cell.config for p in results.stage.planned if p.cell.arm == mine[0].arm)
            rule = "linear" if str(config["training"]["optimizer"]["name"]) in LINEAR else "sqrt"
            factor = lr_factor(float(batch["value"]) / float(batch["used"]), rule)
            found["batch"] = {"batch": batch["value"], "rule": rule, "factor": factor}
    return found


def rate_at(lr: Mapping[str, Any] | None, N: float) -> dict[str, Any] | None:
    """A learning rate's record with its value at size N, and that at the critical batch; None for what is not known."""
    if lr is None:
        return None
    value = None if lr["coefficient"] is None else lr["coefficient"] * N ** lr["exponent"]
    scaled = None if value is None or lr["batch"] is None else value * lr["batch"]["factor"]
    return {**lr, "value": value, "at_batch": scaled}


def schedule(results: Rows, comparison: Comparison) -> dict[str, Any]:
    """The schedule to use: of the best arm where the study compares schedules, else the study's own, and what is known.

    worth is in data at the largest size, over its reference; None where the baseline is kept or nothing was compared.
    """
    if not isinstance(results, Results):
        return {"arm": None, "words": None, "known": False, "worth": None}
    words = {p.cell.arm: _words(p.cell.config) for p in results.stage.planned}
    arms = {r.variant: r.arm for r in results.results}
    if len(set(words.values())) < 2:
        return {"arm": None, "words": next(iter(words.values()), None), "known": False, "worth": None}
    rows = [w for w in comparison.by_size if words[arms[w.arm]] != words[arms[w.reference]]]
    best = _best(rows)
    if best is None:
        first = results.variants()[0]
        return {"arm": first, "words": words[arms[first]], "known": any(w.ratios for w in rows), "worth": None}
    ratio = best.ratios["data"]
    worth = {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "N": best.N, "reference": best.reference}
    return {"arm": best.arm, "words": words[arms[best.arm]], "known": True, "worth": worth}


def _words(config: Mapping[str, Any]) -> str:
    """A schedule and what averages it, in words."""
    given = config["schedule"]
    text = str(given["shape"]).replace("_", " ")
    cooldown = given.get("cooldown")
    if cooldown:
        length = f"{cooldown['fraction']:.0%} of the run" if cooldown.get("fraction") else str(cooldown.get("length"))
        text += f", then {str(cooldown['shape']).replace('_', ' ')} cooldown over {length}"
    elif given.get("final") is not None and given["shape"] != "constant":
        text += f" to {given['final']:g} of the peak"
    average = config.get("average")
    return text + (f", {average['kind']} average of weights" if average and average.get("kind") else "")


def _plans(name: str) -> bool:
    """Whether a law says how size and data trade, with nothing else to know."""
    try:
        allocates(get_form(name), {})
    except LawError:
        return False
    return True
