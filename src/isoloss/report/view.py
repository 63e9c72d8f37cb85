"""From a tidy result to what the template prints: sentences and rows of strings."""

from __future__ import annotations

import re
from collections import Counter

from markupsafe import Markup, escape

from isoloss.report import (
    answers,
    anytime,
    estimates,
    fixed_durations,
    formats,
    large_batch,
    law_rows,
    planner,
    plotted,
    tables,
    transfer,
)
from isoloss.report import tree as trees
from isoloss.report.palette import styles
from isoloss.report.tidy import Json, baseline_of, curve_part, done, seed_means, sizes

_FIGURE = re.compile(r"\d[\d.,]*[x×](?: \[[^\]]{1,40}\])?")


def view(result: Json) -> Json:
    """Everything the page says about a tidy result, as strings and rows."""
    baseline = baseline_of(result)
    look = styles([arm["name"] for arm in result["arms"]], baseline)
    finished = done(result)
    summary = [str(sentence) for sentence in result["summary"]]
    scale = plotted.scale(result)
    runs = [tables.run_row(run, look) for run in result["runs"]]
    apart = trees.shapes(result["tree"])[trees.MOST_SHAPES :]
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
                "index": index,
                "style": look[arm["name"]],
                "finished": sum(run["arm"] == arm["name"] for run in finished),
            }
            for index, arm in enumerate(result["arms"])
        ],
        "facts": _facts(result),
        "worth": answers.table(result, look),
        "scale": scale if scale["measured"] and scale["measured"][0] < scale["measured"][1] else None,
        "transfer": transfer.view(result),
        "large_batch": large_batch.view(result, look),
        "anytime": anytime.view(result),
        "fixed_durations": fixed_durations.view(result),
        "planner": planner.view(result),
        "metrics": tables.metrics(result, look),
        "laws": [law | {"alts": law_rows.alts(law, result["units"])} for law in law_rows.view(result, look)],
        "tree": trees.draw(result["tree"], look),
        "tree_alt": trees.alt(result["tree"]),
        "tree_left_out": len(apart),
        "tree_left_share": f"{100 * sum(s.cost for s in apart) / (sum(map(trees.cost, result['tree'])) or 1):.0f} %",
        "any_reused": any(edge["reused"] for edge in result["tree"]),
        "any_tuning": any(edge["tuning"] for edge in result["tree"]),
        "costs": trees.costs(result["tree"]),
        "sharing": sharing(result),
        "imported": result["imported"],
        "estimates": estimates.view(result),
        "tuning": [tables.tuned(arm, look[arm["name"]]) for arm in result["arms"] if arm["lr"] or arm["tuning"]],
        "tuned_paths": list(
            dict.fromkeys(path for arm in result["arms"] for row in arm["lr"] for path in row.get("tuned") or {})
        ),
        "troubles": [row for row in runs if row["status"] != "done"],
        "runs": runs,
        "caveats": [str(caveat) for caveat in result["caveats"]],
        "provenance": tables.provenance(result),
        "alts": _alts(result, scale),
        "finished": len(finished),
        "sizes": [{"value": size, "text": formats.short(size)} for size in sizes(result)],
        "part": curve_part(result),
        "has_training": any(run["train"]["update"] for run in finished),
        "has_validation": any(len(run["curve"]["update"]) > 1 for run in finished),
        "has_curves": any(run[curve_part(result)]["update"] for run in finished),
        "has_final": bool(seed_means(finished)),
    }


def told(sentence: str) -> Markup:
    """A sentence with its ratios and intervals set apart, so that they are found at a glance."""
    parts, at = [], 0
    for found in _FIGURE.finditer(sentence):
        parts += [escape(sentence[at : found.start()]), Markup("<b>{}</b>").format(found.group())]
        at = found.end()
    return Markup("").join([*parts, escape(sentence[at:])])


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
            (formats.short(low) if low == high else f"{formats.short(low)} – {formats.short(high)}", "parameters N")
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
    rows = [("Updates", formats.count(shared), formats.count(unshared), share)]
    if compute.get("shared") is not None and compute.get("unshared"):
        together, apart = compute["shared"], compute["unshared"]
        rows.append(("FLOPs", formats.flops(together), formats.flops(apart), together / apart))
    extra = []
    if facts.get("replayed"):
        extra.append(f"{formats.count(facts['replayed'])} updates were replayed to give observers their look-back.")
    if facts.get("evaluation_flops"):
        extra.append(f"Evaluation took {formats.flops(facts['evaluation_flops'])} FLOPs on top.")
    tuning = facts.get("tuning") or {}
    if tuning.get("updates"):
        cost = f" ({formats.flops(tuning['flops'])} FLOPs)" if tuning.get("flops") else ""
        budgets = {(arm["tuning"] or {}).get("updates") for arm in result["arms"]}
        alike = ", the same budget for every arm" if len(budgets) == 1 else ""
        extra.append(f"Tuning took {formats.count(tuning['updates'])} updates{cost}{alike}.")
    return {
        "shared": shared, "unshared": unshared, "share": share, "sentence": sentence, "closed": closed_text,
        "rows": rows, "extra": extra,
    }  # fmt: skip


def _alts(result: Json, scale: Json) -> dict[str, str]:
    """One sentence a figure for readers who do not see it."""
    finished = [run for run in done(result) if run["N"] is not None]
    if not finished:
        return {"curves": "", "final": "", "scale": ""}
    lowest = min(finished, key=lambda run: run["loss"])
    best = (
        f"lowest {formats.loss(lowest['loss'])} {result['units']['loss']}, by {lowest['arm']} "
        f"at N {formats.short(lowest['N'])}, D {formats.short(lowest['D'])}"
    )
    arms = formats.listing(arm["name"] for arm in result["arms"])
    over = f"for {arms} at {formats.plural(len(sizes(result)), 'size')}"
    trends = [
        f"{entry['arm']} {said['words']}"
        for entry in result["worth_overall"]
        if (said := answers.trend(entry["trend"]))
    ]
    return {
        "curves": f"Loss during training {over}; {best}. The table of runs holds the final values.",
        "final": f"Final validation loss against training length {over}; {best}. The table of runs holds every value.",
        "scale": f"Worth at equal loss against size N, with the trend and its band; {formats.listing(trends)}. "
        "The table above holds every value.",
    }
