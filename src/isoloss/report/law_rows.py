"""The fitted laws in words and rows: formula, parameters, how well it fits, what was held out, the best split."""

from __future__ import annotations

import math

from isoloss.report import figures, formats
from isoloss.report.palette import Style
from isoloss.report.tidy import Json


def view(result: Json, look: dict[str, Style]) -> list[Json]:
    """One entry a law."""
    several = len({law["law"] for law in result["laws"]}) > 1
    return [_law(index, law, look[law["arm"]], several) for index, law in enumerate(result["laws"])]


def _law(index: int, law: Json, style: Style, several: bool) -> Json:
    holdout = law["holdout"]
    rows = [_held(row) for row in (holdout or {}).get("rows") or []]
    return {
        **law,
        "index": index,
        "label": f"{law['arm']}, {law['law']}" if several else law["arm"],
        "names": figures.law_names(index, law),
        "style": style,
        "drawn": bool(law["curves"]),
        "spread": _spread(law["residuals"]),
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
            "rows": rows,
            "covered": _covered(rows),
        },
        "split": _split(law["surface"]),
    }


def _spread(residuals: list[Json]) -> str:
    """Root mean square of the relative residuals of the fit, in words."""
    errors = [math.log(row["actual"] / row["predicted"]) for row in residuals if _positive(row)]
    if not errors:
        return ""
    return f"{100 * math.sqrt(sum(error**2 for error in errors) / len(errors)):.2g} %"


def _positive(row: Json) -> bool:
    return (row.get("actual") or 0) > 0 and (row.get("predicted") or 0) > 0


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


def _covered(rows: list[Json]) -> str:
    """How many held-out runs lie inside their interval; empty where none has one."""
    judged = [row["inside"] for row in rows if row["inside"] != "no interval"]
    return f"{judged.count('inside')} of {len(judged)} lie inside their interval" if judged else ""


def _split(surface: Json | None) -> str:
    """The best split of the largest compute that was measured, as far as the map has it; empty without a frontier."""
    best = (surface or {}).get("frontier")
    if not surface or not best:
        return ""
    largest = surface["flops_per_nd"] * surface["measured"]["N"][1] * surface["measured"]["D"][1]
    at = min(range(len(best["C"])), key=lambda i: abs(math.log(best["C"][i] / largest)))
    low, high = best["N_low"][at], best["N_high"][at]
    bounds = "" if low is None or high is None else f" [{formats.short(low)}, {formats.short(high)}]"
    rise = math.log(best["N"][-1] / best["N"][0]) / math.log(best["C"][-1] / best["C"][0])
    where = "" if best["measured"][at] else ", outside of what was measured,"
    return (
        f"At {formats.flops(best['C'][at])} FLOPs, the largest run's, the best split{where} is N "
        f"{formats.short(best['N'][at])}{bounds} with D {formats.short(best['D'][at])}; along the frontier N grows as "
        f"C to the power {rise:.2f}."
    )


def alts(law: Json, units: Json) -> Json:
    """One sentence a figure of a law, for readers who do not see it."""
    held = " Open marks were held out of the fit." if law["holdout"] else ""
    return {
        "law": f"Law {law['law']} fitted to {law['arm']}: loss against {units['D']} with its band, one line a size, "
        "and every run. The table of parameters and the table of runs hold the numbers.",
        "residual": f"Measured loss over the law of {law['arm']}, minus one, against {units['D']}.{held}",
        "surface": f"Lines of equal loss of the law of {law['arm']} over {units['D']} and size, with the "
        f"compute-optimal frontier. {_split(law['surface'])}",
    }
