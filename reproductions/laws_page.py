"""The page of what each law says on public tables, from the kept results alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars

from isoloss.report import formats
from reproductions import laws_figures
from reproductions.laws_claims import (
    NEAR,
    Results,
    between,
    claims,
    coverage,
    data_set,
    nearer,
    over_units,
    percent,
    plain,
    row_of,
)
from reproductions.laws_on_public_data import (
    ALL_ROWS,
    CHINCHILLA,
    CURVES,
    ENOUGH,
    FEW_PASSES,
    FORMS,
    GADRE,
    OLMO,
    REPEATS,
)
from reproductions.markdown import table
from reproductions.page import claims_table

TITLE = "Laws on public data"
QUESTION = (
    "What do the published laws say on the public tables that they were made for, and beside each other? No training "
    "here: every law is fitted anew with `isoloss.laws`, published values are refitted, and the largest scale of every "
    "table is held out and forecast."
)
SOURCES = {
    CHINCHILLA: "Hoffmann et al. 2022 (2203.15556), read off their figure 4 by Besiroglu et al. 2024 (2404.10102)",
    CURVES: "Alabdulmohsin et al. 2022 (2209.06640); the RMSE of their four estimators as run for isoloss",
    OLMO: "Bhagia et al. 2024 (2412.04403)",
    "over-training": "Gadre et al. 2024 (2403.08540): final C4 loss of models trained on three corpora",
    "repeated data": "Muennighoff et al. 2023 (2305.16264), as collected by Choshen et al. 2024: final losses",
}
SPLITS = (
    (CHINCHILLA, ("C > 3e19", "C > 1e20", "C > 3e20", "C > 1e21", "top fifth of N", "top fifth of D")),
    (OLMO, ("7B and 13B", "N > 1B")),
    *((name, (ALL_ROWS, ENOUGH)) for name in GADRE.values()),
    *((name, ("over 7 passes", "N > 5B")) for name in REPEATS.values()),
)
HELD_OUT = {ALL_ROWS: f"N > 1B, {ALL_ROWS}", ENOUGH: f"N > 1B, {ENOUGH}"}
NOTES = {
    CHINCHILLA: "Held out by compute at four cut-offs, by size and by data. `m2` is a law of compute alone.",
    OLMO: "C4 loss, mean of the last five evaluations; compute as counted by the authors. The 7B target is, by its "
    "name, the run after an annealing.",
    GADRE[
        "c4_original"
    ]: "The 1.4B and 6.9B runs from all smaller ones. Tokens a parameter include embeddings and C = 6 N D, "
    "so that `overtraining` and `chinchilla-tied` are one law.",
    REPEATS[
        "c4"
    ]: "Final losses; all sizes saw about as many tokens a parameter, only the unique ones differ. With two sizes "
    "left, no earlier cut-off of N can be forecast, so the forecasts by size have no band.",
}
ALIKE = 0.02
"""RMSEs that differ by a smaller share are called the same."""
CAPTIONS = {
    "held-out": "Every held-out row once a law, of all corpora; the bar is the mean with its interval over units.",
    "repeats": f"Points: measured. Lines: fitted to the runs left of the dashed line, up to {FEW_PASSES:g} passes.",
}


def write(rows: polars.DataFrame, target: Path) -> list[Path]:
    """Write the page and its figures into `target`; their paths."""
    target.mkdir(parents=True, exist_ok=True)
    results = Results(rows)
    drawn = laws_figures.draw_all(results)
    page = target / "index.md"
    page.write_text(text(results, [(f"{name}.svg", alt) for name, (alt, _) in drawn.items()]), encoding="utf-8")
    written = [page]
    for name, (_, svg) in drawn.items():
        written.append(target / f"{name}.svg")
        written[-1].write_text(svg, encoding="utf-8")
    return written


def text(results: Results, pictures: Sequence[tuple[str, str]]) -> str:
    """The page."""
    shown = {name.removesuffix(".svg"): f"![{alt}]({name})" for name, alt in pictures}
    parts = [
        f"# {TITLE}",
        "<!-- made by `python -m reproductions` from the file beside it -->",
        QUESTION,
        "## What the papers say, and what was found",
        claims_table(claims(results)),
        "Intervals are 90 %. Of parameters: percentiles of resampled fits, by whole model sizes unless rows are named "
        "(below ten sizes half the central 68 % of the draws times the normal quantile), widened for few sizes. Of "
        "errors and coverage: Student's t over independent units, which are data sets on the curves and model sizes or "
        "runs elsewhere; below three units there is none. Errors are those of log loss, predicted over measured, in "
        "percent. A claim without a figure is one whose published figures were not confirmed at the source. A forecast "
        "holds where it is nearer than the last value by its whole interval and every held-out loss lies in its band. "
        f"Two exponents are the same where the whole interval of their difference is less than {NEAR:g}.",
        "## What was fitted",
        table(("table", "source", "file", "rows", "SHA-256 begins"), _files(results)),
        f"## {CHINCHILLA}",
        shown["parameters"],
        table(("resampled or fitted", "rows", *_NAMES), _parameters(results)),
    ]
    for name, splits in SPLITS:
        if name != CHINCHILLA:
            parts.append(f"## {name}")
        if name in NOTES:
            parts.append(NOTES[name])
        if name == REPEATS["c4"]:
            parts += [shown["repeats"], CAPTIONS["repeats"]]
        left_out = results.of(table=name, part="left out")["item"].to_list()
        if left_out:
            parts.append(
                f"Left out: {formats.listing(left_out)}, which hold the same numbers in the table, so that all but one "
                "of them stand under a wrong label."
            )
        fits = [row for row in _fits(results, name) if name != CHINCHILLA]
        if fits:
            parts.append(table(("law", "fitted to", "found"), fits))
        parts.append(_held(results, name, splits))
    parts += [
        "## What each law says of the same held-out rows",
        shown["held-out"],
        CAPTIONS["held-out"],
        f"## {CURVES}",
        shown["curves"],
        _curves(results),
        "## The commands",
        "```text\n"
        "python -m reproductions.laws_on_public_data --data FOLDER  # fits everything anew: minutes on one core\n"
        "make reproductions                                         # this page from what is kept\n"
        "```",
        "FOLDER holds the tables as listed above; none of them is part of this repository. Nothing was trained, so "
        "nothing was shared.",
    ]
    return "\n\n".join(parts) + "\n"


def _files(results: Results) -> list[tuple[str, ...]]:
    return [
        (
            row["table"],
            SOURCES[row["table"]],
            f"`{row['item']}`",
            formats.count(row["value"]),
            f"`{row['note'][:12]}`",
        )
        for row in results.of(part="file").iter_rows(named=True)
    ]


_NAMES = ("A", "B", "E", "alpha", "beta", "a_opt")


def _parameters(results: Results) -> list[tuple[str, ...]]:
    """The law on the Chinchilla points: resampled in two ways, with all rows, and under other objectives."""
    law = {"table": CHINCHILLA, "law": "chinchilla"}
    found = []
    for split in ("by model size", "by row", "all 245 rows"):
        here = {**law, "part": "fit", "split": split}
        cells = (plain(row_of(results.one(**here, quantity=name))) for name in _NAMES)
        found.append((split, formats.count(results.value(**here, quantity="rows")), *cells))
    for (split,) in results.of(**law, part="objective").select("split").unique(maintain_order=True).iter_rows():
        values = (results.value(**law, part="objective", split=split, quantity=name) for name in _NAMES)
        found.append((f"objective {split}", "", *(plain({"value": v, "low": None, "high": None}) for v in values)))
    return found


def _fits(results: Results, name: str) -> list[tuple[str, str, str]]:
    found = []
    kept = results.of(table=name, part="fit")
    for law, split in kept.select("law", "split").unique(maintain_order=True).iter_rows():
        rows = {row["quantity"]: row for row in kept.filter(law=law, split=split).iter_rows(named=True)}
        bound = rows["draws at a bound"]["value"]
        said = ", ".join(
            f"{quantity} {plain(row_of(row))}" for quantity, row in rows.items() if quantity not in _ACCOUNT
        )
        units = f"{rows['rows']['value']:.0f} rows, {rows['clusters']['value']:.0f} units ({rows['clusters']['note']})"
        open_end = (
            f"; {bound:.0%} of the draws end at a bound: these rows do not determine the law" if bound > 0.05 else ""
        )
        found.append((f"`{law}`", f"{split}: {units}" if split in (ALL_ROWS, ENOUGH) else units, said + open_end))
    return found


_ACCOUNT = ("rows", "clusters", "rmse", "draws at a bound", "objective", "b_opt")


def _held(results: Results, name: str, splits: Sequence[str]) -> str:
    """One row a forecast; the first law of the table is the one that others are compared with."""
    rows: list[tuple[str, ...]] = []
    for split in splits:
        kept = results.of(table=name, part="holdout", split=split)
        laws = kept["law"].unique(maintain_order=True).to_list()
        for law in laws:
            values = dict(kept.filter(law=law).select("quantity", "value").iter_rows())
            held = results.held(name, split, law)
            bias = over_units(held["error"], held["unit"])
            first = nearer(results, [(name, split)], law, laws[0]) if law != laws[0] else None
            rows.append(
                (
                    f"{HELD_OUT.get(split, split)}: {values['fitted rows']:.0f} rows forecast "
                    f"{values['held-out rows']:.0f}",
                    f"`{law}`",
                    percent(bias),
                    f"{100 * values['rmse']:.1f} %",
                    f"{100 * values['rmse of last value']:.1f} %",
                    formats.ABSENT if values["coverage"] is None else f"{values['coverage']:.0%}",
                    formats.ABSENT if values["width"] is None else f"± {50 * values['width']:.1f} %",
                    percent(first),
                )
            )
    first = results.of(table=name, part="holdout")["law"][0]
    head = (
        "held out",
        "law",
        "error",
        "RMSE",
        "last value",
        "band covers",
        "band",
        f"|error| minus `{first}`'s",
    )
    return table(head, rows)


def _curves(results: Results) -> str:
    last = results.curves("rmse", "last value")
    default = results.curves("rmse", "default")
    rows = []
    names = {"default": "`extrapolate` (form and window chosen)", "last value": "last value"}
    names |= {law: f"`{law}`" for law in FORMS}
    names |= {f"reference {law}": f"{law.upper()}, reference estimator" for law in FORMS[:4]}
    for law, name in names.items():
        rmse = results.curves("rmse", law)
        covered = coverage(results, law) if results.curves("coverage", law) else None
        domain = [
            float(np.median([value for curve, value in rmse.items() if (curve[:2] == "IC") == vision]))
            for vision in (True, False)
        ]
        rows.append(
            (
                name,
                str(len(rmse)),
                *(f"{100 * value:.1f} %" for value in domain),
                percent(over_units(rmse.values(), map(data_set, rmse)), sign=""),
                formats.ABSENT if law == "default" else percent(between(rmse, default)),
                f"{np.mean([value < last[curve] for curve, value in rmse.items()]):.0%}"
                if law != "last value"
                else "–",
                percent(covered, 0, ""),
            )
        )
    head = (
        "forecast by", "curves", "median RMSE, vision", "language", "mean RMSE", "minus `extrapolate`'s",
        "nearer than the last value", "90 % band covers",
    )  # fmt: skip
    agreeing = {
        law: np.mean([
            abs(value / results.curves("rmse", f"reference {law}")[curve] - 1) < ALIKE
            for curve, value in results.curves("rmse", f"published {law}").items()
        ])
        for law in FORMS[:3]
    }  # fmt: skip
    return (
        table(head, rows)
        + "\n\nEvery curve is fitted on the rows that the benchmark marks for it and scored on the others. Bands of "
        "single forms come from their own earlier forecasts alone. `published_estimate` is this library's copy of the "
        f"authors' estimators: within {100 * ALIKE:.0f} % of the reference's RMSE on "
        + formats.listing(f"{share:.0%} of the curves for {law.upper()}" for law, share in agreeing.items())
        + "."
    )
