"""What the interactive charts need of a tidy result, and nothing else."""

from __future__ import annotations

from typing import Any

from isoloss.report import answers, formats
from isoloss.report.palette import styles
from isoloss.report.tidy import Json, baseline_of, binned, done, sizes

_RUN = ("N", "D", "S", "C", "loss", "extra")


def plot_data(result: Json) -> Json:
    """Arms by their number, runs with their curves (six significant digits), worth against size, laws."""
    names = [arm["name"] for arm in result["arms"]]
    look = styles(names, baseline_of(result))
    return {
        "units": result["units"],
        "sizes": sizes(result),
        "arms": [
            {"name": name, "css": look[name].css, "symbol": look[name].symbol, "glyph": look[name].glyph}
            for name in names
        ],
        "runs": [
            {
                "arm": names.index(run["arm"]),
                **{name: run[name] for name in _RUN},
                "seed": run["root"] if run["seed"] is None else run["seed"],
                "curve": _curve(run["curve"]),
                "train": _curve(binned(run["train"])),
            }
            for run in done(result)
        ],
        "scale": scale(result),
        "laws": [
            {
                "arm": names.index(law["arm"]),
                "curves": [
                    {"N": curve.get("N"), **{key: _short(curve.get(key)) for key in ("x", "loss", "low", "high")}}
                    for curve in law["curves"]
                ],
                "residuals": [
                    {key: row.get(key) for key in ("N", "D", "actual", "predicted")} for row in law["residuals"]
                ],
                "held": (law["holdout"] or {}).get("rows") or [],
                "surface": _surface(law["surface"]),
            }
            for law in result["laws"]
        ],
    }


def scale(result: Json) -> Json:
    """Worth against size: points with intervals and the trend's band by arm, in each column of the table."""
    names = [arm["name"] for arm in result["arms"]]
    merged = answers.columns(result)
    overall = {entry["arm"]: entry for entry in result["worth_overall"]}
    found: list[Json] = []
    for index, name in enumerate(names):
        points: list[Json] = [
            {
                "N": entry["N"],
                "worth": [
                    None if entry[first]["ratio"] is None else [entry[first][key] for key in ("ratio", "low", "high")]
                    for first, *_ in merged
                ],
            }
            for entry in sorted((e for e in result["worth"] if e["arm"] == name), key=lambda e: e["N"] or 0)
            if entry["N"] and entry["data"]["ratio"] is not None
        ]
        trends = overall.get(name, {}).get("trends", {})
        bands = [_band((trends.get(first) or {}).get("band")) for first, *_ in merged]
        if points:
            found.append({"arm": index, "points": points, "bands": bands})
    measured = [point["N"] for entry in found for point in entry["points"]]
    return {
        "measures": [formats.listing(group) for group in merged],
        "reference": answers.reference(result) or "the reference",
        "arms": found,
        "measured": [min(measured), max(measured)] if measured else None,
    }


def _band(band: Json | None) -> Json | None:
    return None if not band else {key: _short(band[key]) for key in ("N", "ratio", "low", "high")}


def _surface(surface: Json | None) -> Json | None:
    if not surface:
        return None
    best = surface["frontier"]
    return {
        **surface,
        "lines": [{**line, "N": _short(line["N"]), "D": _short(line["D"])} for line in surface["lines"]],
        "frontier": best and {**best, **{key: _short(best[key]) for key in ("C", "N", "D", "loss", "N_low", "N_high")}},
    }


def _curve(curve: Json) -> Json:
    return {"update": [round(update, 2) for update in curve["update"]], "loss": _short(curve["loss"])}


def _short(values: list[Any] | None) -> list[float | None] | None:
    """To six significant digits: what is drawn, not what is claimed."""
    return None if values is None else [None if value is None else float(f"{value:.6g}") for value in values]
