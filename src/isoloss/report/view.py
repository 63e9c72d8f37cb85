"""From a tidy result to what the template prints: sentences and rows of strings."""

from __future__ import annotations

from collections import Counter
from typing import Any

from isoloss.recipe import catalogue
from isoloss.report import answers, anytime, estimates, figures, fixed_durations, formats, large_batch, transfer
from isoloss.report import tree as trees
from isoloss.report.palette import Style, styles
from isoloss.report.tidy import Json, baseline_of, binned, curve_part, done, seed_means, sizes


def view(result: Json) -> Json:
    """Everything the page says about a tidy result, as strings and rows."""
    baseline = baseline_of(result)
    look = styles([arm["name"] for arm in result["arms"]], baseline)
    finished = done(result)
    summary = [str(sentence) for sentence in result["summary"]]
    return {
        "study": result["study"],
        "question": result.get("question"),
        "headline": summary[0] if summary else _headline(result),
        "sentences": summary[1:],
        "created": str(result.get("created") or ""),
        "version": str(result.get("isoloss") or ""),
        "command": result.get("command"),
        "baseline": baseline,
        "needs": answers.reference(result) or "the other",
        "units": result["units"],
        "level": f"{100 * (result.get('level') or 0.95):.3g} %",
        "arms": [
            {
                **arm,
                "style": look[arm["name"]],
                "finished": sum(run["arm"] == arm["name"] for run in finished),
            }
            for arm in result["arms"]
        ],
        "facts": _facts(result),
        "worth": answers.rows(result, look),
        "scale": answers.axis(answers.domain(result)),
        "transfer": transfer.view(result),
        "large_batch": large_batch.view(result, look),
        "anytime": anytime.view(result),
        "fixed_durations": fixed_durations.view(result),
        "metrics": _metrics(result, look),
        "laws": [_law(index, law, look) for index, law in enumerate(result["laws"])],
        "tree": trees.draw(result["tree"], look),
        "tree_alt": trees.alt(result["tree"]),
        "tree_left_out": max(0, len(trees.shapes(result["tree"])) - trees.MOST_SHAPES),
        "any_reused": any(edge["reused"] for edge in result["tree"]),
        "any_tuning": any(edge["tuning"] for edge in result["tree"]),
        "sharing": sharing(result),
        "estimates": estimates.view(result),
        "tuning": [_tuning(arm, look[arm["name"]]) for arm in result["arms"] if arm["lr"] or arm["tuning"]],
        "tuned_paths": list(
            dict.fromkeys(path for arm in result["arms"] for row in arm["lr"] for path in row.get("tuned") or {})
        ),
        "troubles": [_run(run, look) for run in result["runs"] if run["status"] != "done"],
        "runs": [_run(run, look) for run in result["runs"]],
        "caveats": [str(caveat) for caveat in result["caveats"]],
        "provenance": _provenance(result),
        "alts": _alts(result),
        "finished": len(finished),
        "sizes": [{"value": size, "text": formats.short(size)} for size in sizes(result)],
        "part": curve_part(result),
        "has_training": any(run["train"]["update"] for run in finished),
        "has_validation": any(len(run["curve"]["update"]) > 1 for run in finished),
        "has_curves": any(run[curve_part(result)]["update"] for run in finished),
        "has_final": bool(seed_means(finished)),
    }


def _headline(result: Json) -> str:
    if not done(result):
        return "No run has finished yet, so there is nothing to compare."
    return f"{formats.plural(len(done(result)), 'run')} finished; no arm could be compared with the baseline."


def _facts(result: Json) -> list[tuple[str, str]]:
    """The study in a few figures: (value, what it is)."""
    states = Counter(run["status"] for run in result["runs"])
    total, finished = len(result["runs"]), states["done"]
    facts = [(f"{finished}" if finished == total else f"{finished} of {total}", "runs finished")]
    if len(result["arms"]) > 0:
        facts.append((str(len(result["arms"])), "arm" if len(result["arms"]) == 1 else "arms"))
    seeds = {run["root"] if run["seed"] is None else str(run["seed"]) for run in result["runs"]}
    if sizes(result):
        low, high = sizes(result)[0], sizes(result)[-1]
        facts.append(
            (
                formats.short(low) if low == high else f"{formats.short(low)} – {formats.short(high)}",
                "parameters N",
            )
        )
    lengths = sorted({run["D"] for run in done(result) if run["D"]})
    if lengths:
        text = formats.short(lengths[0])
        if len(lengths) > 1:
            text += f" – {formats.short(lengths[-1])}"
        facts.append((text, f"{result['units']['D']} D"))
    if total:
        facts.append((str(len(seeds)), "seed" if len(seeds) == 1 else "seeds"))
    return facts


def sharing(result: Json) -> Json | None:
    """What training shared prefixes once saved, in sentences and figures; None where nothing is known."""
    facts = result["sharing"]
    updates, compute = facts.get("updates") or {}, facts.get("flops") or {}
    shared, unshared = updates.get("shared"), updates.get("unshared")
    if shared is None or not unshared:
        return None
    share = shared / unshared
    if shared == unshared:
        sentence = f"No two runs of this plan have updates in common: all {formats.count(unshared)} are trained."
    else:
        sentence = (
            f"Runs that agree are trained once: {formats.count(shared)} updates instead of "
            f"{formats.count(unshared)}, {share:.1%} of the work."
        )
    closed = facts.get("closed_form") or {}
    closed_text = ""
    if closed.get("ratio") is not None:
        whose = f" for the runs of {closed['arm']} alone" if closed.get("arm") else ""
        closed_text = f"Closed form{whose}: {closed.get('formula') or ''} = {closed['ratio']:.4f}."
    rows = [("Updates", formats.count(shared), formats.count(unshared), f"{share:.3f}")]
    if compute.get("shared") is not None and compute.get("unshared"):
        rows.append(
            (
                "FLOPs",
                formats.flops(compute["shared"]),
                formats.flops(compute["unshared"]),
                f"{compute['shared'] / compute['unshared']:.3f}",
            )
        )
    extra = []
    if facts.get("replayed"):
        extra.append(f"{formats.count(facts['replayed'])} updates were replayed to give observers their look-back.")
    if facts.get("evaluation_flops"):
        extra.append(f"Evaluation took {formats.flops(facts['evaluation_flops'])} FLOPs on top.")
    tuning = facts.get("tuning") or {}
    if tuning.get("updates"):
        cost = f" ({formats.flops(tuning['flops'])} FLOPs)" if tuning.get("flops") else ""
        extra.append(f"Tuning took {formats.count(tuning['updates'])} updates{cost}, the same budget for every arm.")
    return {
        "shared": shared, "unshared": unshared, "share": share, "sentence": sentence, "closed": closed_text,
        "rows": rows, "extra": extra,
    }  # fmt: skip


def _metrics(result: Json, look: dict[str, Style]) -> Json | None:
    """The table of metrics: columns by name, one row an arm and size; None where nothing was measured."""
    names = list(dict.fromkeys(entry["metric"] for entry in result["metrics"]))
    if not names:
        return None
    groups: dict[str, dict[tuple[float, str], Json]] = {}
    for entry in result["metrics"]:
        rows = groups.setdefault(entry["arm"], {})
        row = rows.setdefault(
            (entry["N"] or 0, str(entry["cell"])),
            {
                "size": formats.short(entry["N"]),
                "N": entry["N"],
                "length": formats.short(entry["D"]),
                "found": {},
            },
        )
        row["found"][entry["metric"]] = entry
    shown = [arm["name"] for arm in result["arms"] if arm["name"] in groups]
    known = catalogue.names("metric")
    return {
        "names": names,
        "groups": [
            {
                "arm": arm,
                "style": look[arm],
                "rows": [_metric_row(row, names) for _, row in sorted(groups[arm].items())],
            }
            for arm in shown
        ],
        "legend": [(name, catalogue.get("metric", name).summary) for name in names if name in known],
    }


def _metric_row(row: Json, names: list[str]) -> Json:
    seeds = max(entry["seeds"] for entry in row["found"].values())
    return {**row, "seeds": seeds, "cells": [_metric(row["found"].get(name), seeds) for name in names]}


def _metric(entry: Json | None, seeds: int) -> Json:
    """One cell; a metric that is not defined for every seed says for how many it is."""
    mean, sd = (entry["mean"], entry["sd"]) if entry else (None, None)
    partly = f" {entry['seeds']} of {seeds} seeds" if entry and 0 < entry["seeds"] < seeds else ""
    return {
        "name": entry["metric"] if entry else "", "value": mean, "text": formats.measured(mean, sd), "partly": partly,
    }  # fmt: skip


def _law(index: int, law: Json, look: dict[str, Style]) -> Json:
    holdout = law["holdout"]
    return {
        **law,
        "index": index,
        "figure": figures.law_name(index, law),
        "style": look[law["arm"]],
        "parameters": [
            {
                "name": p["name"],
                "value": p.get("value"),
                "text": formats.number(p.get("value")),
                "low": formats.number(p.get("low")),
                "high": formats.number(p.get("high")),
                "bounded": p.get("low") is not None and p.get("high") is not None,
            }
            for p in law["parameters"]
        ],
        "holdout": None
        if not holdout
        else {
            "by": holdout.get("by", "N"),
            "rmse": formats.number(holdout.get("rmse")),
            "rows": [_held(row) for row in holdout.get("rows") or []],
        },
    }


def _held(row: Json) -> Json:
    low, high, actual = row.get("low"), row.get("high"), row.get("actual")
    inside = None if low is None or high is None or actual is None else low <= actual <= high
    return {
        "N": formats.short(row.get("N")),
        "D": formats.short(row.get("D")),
        "actual": formats.loss(actual),
        "predicted": formats.loss(row.get("predicted")),
        "interval": "" if low is None or high is None else f"[{low:.4f}, {high:.4f}]",
        "inside": {None: "no interval", True: "inside", False: "outside"}[inside],
    }


_RULES = {
    "tuned": "tuned",
    "between": "between tuned sizes",
    "given": "given",
    "nearest": "nearest",
    "transferred": "width transfer (muP)",
}


def _tuning(arm: Json, style: Style) -> Json:
    tuning = arm["tuning"]
    return {
        "arm": arm["name"],
        "style": style,
        "budget": ""
        if not tuning
        else f"{formats.plural(tuning.get('runs') or 0, 'run')}, "
        f"{formats.count(tuning.get('updates') or 0)} updates, "
        f"{formats.flops(tuning.get('flops'))} FLOPs",
        "candidates": _listed(tuning or {}),
        "rows": [
            {
                "size": formats.short(row.get("N")),
                "width": row.get("width"),
                "lr": formats.number(row.get("lr")),
                "value": row.get("lr"),
                "tuned": row.get("rule") == "tuned",
                "rule": _RULES.get(row.get("rule"), row.get("rule") or ""),
                "edge": bool(row.get("edge")),
                "losses": _candidates(tuning, row.get("N")),
                "others": {
                    path: {
                        "value": _word(found.get("value")),
                        "rule": _RULES.get(found.get("rule"), found.get("rule") or ""),
                        "edge": bool(found.get("edge")),
                    }
                    for path, found in (row.get("tuned") or {}).items()
                },
            }
            for row in arm["lr"]
        ],
    }


def _listed(tuning: Json) -> str:
    """What was tried: of several paths, each with its own list."""
    if tuning.get("paths"):
        return "; ".join(f"{path}: {', '.join(map(_word, values))}" for path, values in tuning["paths"].items())
    return ", ".join(_word(c) for c in tuning.get("candidates") or [])


def _candidates(tuning: Json | None, size: float | None) -> str:
    """The losses that decided a tuned size: `0.002: 1.9312, 0.004: 1.9020`; by name where several are tuned."""
    choices = (tuning or {}).get("choices") or []
    table = next((choice.get("table") or [] for choice in choices if choice.get("N") == size), [])
    if table:
        return ", ".join(f"{_named(candidate)}:\u00a0{formats.loss(loss)}" for candidate, loss in table)
    losses = next((choice.get("losses") or [] for choice in choices if choice.get("N") == size), [])
    return ", ".join(f"{formats.number(lr)}:\u00a0{formats.loss(loss)}" for lr, loss in losses)


def _named(candidate: Json) -> str:
    """`lr 0.002 weight_decay 0.1`."""
    return " ".join(f"{path.rpartition('.')[2]} {_word(value)}" for path, value in candidate.items())


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return formats.number(value) if isinstance(value, float | int) else str(value)


def _run(run: Json, look: dict[str, Style]) -> Json:
    return {
        **run,
        "style": look[run["arm"]],
        "size": formats.short(run["N"]),
        "tokens": formats.short(run["D"]),
        "updates": formats.count(run["S"]),
        "flops": formats.flops(run["C"]),
        "a": formats.loss(run["loss_a"]),
        "b": formats.loss(run["loss"]),
        "seed_text": formats.ABSENT if run["seed"] is None else str(run["seed"]),
        "cell_text": " · ".join(f"{path} {value}" for path, value in run["cell"].items()),
    }


def _provenance(result: Json) -> Json:
    found = result["provenance"]
    return {
        "groups": [
            (title, [(str(key).replace("_", " "), _fact(value)) for key, value in found[name].items()])
            for title, name in (("Data", "data"), ("Numerics", "numerics"), ("Versions", "versions"))
            if found[name]
        ],
        "study_file": found.get("study_file"),
        "store": found.get("store"),
    }


def _fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: formats.ABSENT}[value]
    if isinstance(value, int):
        return formats.count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return formats.number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    return ", ".join(_fact(item) for item in value) if isinstance(value, list) else str(value)


def _alts(result: Json) -> dict[str, str]:
    """One sentence a figure for readers who do not see it."""
    finished = [run for run in done(result) if run["N"] is not None]
    unit = result["units"]["loss"]
    arms = formats.listing(arm["name"] for arm in result["arms"])
    if not finished:
        return {"curves": "", "final": ""}
    lowest = min(finished, key=lambda run: run["loss"])
    best = (
        f"lowest {formats.loss(lowest['loss'])} {unit}, by {lowest['arm']} "
        f"at N {formats.short(lowest['N'])}, D {formats.short(lowest['D'])}"
    )
    over = f"for {arms} at {formats.plural(len(sizes(result)), 'size')}"
    return {
        "curves": f"Loss during training {over}; {best}. The table of runs holds the final values.",
        "final": f"Final validation loss against training length {over}; {best}. The table of runs holds every value.",
    }


def plot_data(result: Json) -> Json:
    """What the interactive plots need and nothing else; curves to six significant digits."""
    look = styles([arm["name"] for arm in result["arms"]], baseline_of(result))
    fields = ("arm", "N", "D", "S", "C", "seed", "loss", "extra")
    return {
        "units": result["units"],
        "sizes": sizes(result),
        "arms": [
            {"name": arm["name"], "color": look[arm["name"]].color, "symbol": look[arm["name"]].symbol}
            for arm in result["arms"]
        ],
        "runs": [
            {
                **{name: run[name] for name in fields},
                "seed": run["root"] if run["seed"] is None else run["seed"],
                "curve": _rounded(run["curve"]),
                "train": _rounded(binned(run["train"])),
            }
            for run in done(result)
        ],
        "laws": [
            {
                "arm": law["arm"],
                "curves": [
                    {key: curve.get(key) for key in ("N", "x", "loss", "low", "high")} for curve in law["curves"]
                ],
                "held": (law["holdout"] or {}).get("rows") or [],
            }
            for law in result["laws"]
        ],
    }


def _rounded(curve: Json) -> Json:
    return {
        "update": [round(update, 2) for update in curve["update"]],
        "loss": [None if loss is None else float(f"{loss:.6g}") for loss in curve["loss"]],
    }
