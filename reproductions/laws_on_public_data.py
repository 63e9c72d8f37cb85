"""What each law says on public tables: refits of published values and forecasts of held-out scales, without training.

python -m reproductions.laws_on_public_data [--data FOLDER]    fit everything anew, then the page (minutes, one core)

The tables are not part of the repository. What was found on them is kept in one file; the page is made from it alone.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars

from isoloss.laws import (
    Draws,
    Holdout,
    LawError,
    Points,
    extrapolate,
    fit,
    get_form,
    holdout,
    published_estimate,
)
from isoloss.laws.validate import calibrate_fit, split
from reproductions.kept import PAGES, ROOT

FOLDER = "laws-on-public-data"
RESULTS = PAGES / FOLDER / "results.parquet"
DATA = ROOT.parent / "shared" / "data" / "laws"
LEVEL = 0.9
DRAWS, BAND_DRAWS = 4000, 500
Array = np.ndarray
Target = str | Callable[[Mapping[str, Any]], Any]

CHINCHILLA = "Chinchilla points"
OLMO = "OLMo ladder"
GADRE = {
    "c4_original": "over-training, C4",
    "rpj": "over-training, RedPajama",
    "rw_original": "over-training, RefinedWeb",
}
REPEATS = {"c4": "repeated data, C4", "oscar": "repeated data, OSCAR"}
CURVES = "92 curves"
FILES = {
    CHINCHILLA: ("epoch-chinchilla/svg_extracted_data.csv",),
    CURVES: tuple(
        f"revisiting-neural-scaling-laws/{name}.csv"
        for name in ("benchmark.vision", "benchmark.lang", "measured_rmse_reference_estimators")
    ),
    OLMO: ("olmo-ladder/ladder_final.csv",),
    "over-training": ("gadre-overtraining/models.csv",),
    "repeated data": ("data-constrained/datablations_losses.csv",),
}
FORMS = ("m1", "m2", "m3", "m4", "bnsl-1")
"""Forms that are fitted to the 92 curves."""
EXPONENTS = ("A", "B", "E", "alpha", "beta", "a_opt", "b_opt")
ALL_ROWS = "all rows"
ENOUGH = "at least 20 tokens a parameter"


@dataclass
class Found:
    """Rows of the results: one number each, with its interval where it has one."""

    table: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def put(
        self,
        part: str,
        quantity: str,
        value: float | None,
        low: float | None = None,
        high: float | None = None,
        /,
        **names: str,
    ) -> None:
        """One number, with law, split, item and note where they apply. What is not finite is kept as absent."""
        row = {"table": self.table, "part": part, "law": "", "split": "", "item": "", "quantity": quantity, "note": ""}
        self.rows.append({**row, **names, "value": _finite(value), "low": _finite(low), "high": _finite(high)})


SCHEMA = {name: polars.String for name in ("table", "part", "law", "split", "item", "quantity")} | {
    "value": polars.Float64, "low": polars.Float64, "high": polars.Float64, "note": polars.String,
}  # fmt: skip


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def measure(data: str | Path = DATA) -> polars.DataFrame:
    """Every fit and forecast on the tables in `data`, one row a number; the same on every call.

    Raises FileNotFoundError with the first table that is absent.
    """
    folder = Path(data)
    for table, files in FILES.items():
        for name in files:
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{table}: no table {name} in {folder}")
    rows: list[dict[str, Any]] = []
    for step in (files_read, chinchilla, curves, olmo, overtraining, repeats):
        rows += step(folder)
    return polars.DataFrame(rows, schema=SCHEMA)


def keep(data: str | Path = DATA, target: Path = RESULTS) -> Path:
    """Measure and write the results file; its path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    measure(data).write_parquet(target, compression="zstd", statistics=False)
    return target


def files_read(folder: Path) -> list[dict[str, Any]]:
    """Which files were read, by the hash of their bytes."""
    rows = []
    for table, names in FILES.items():
        found = Found(table)
        for name in names:
            read = (folder / name).read_bytes()
            found.put("file", "lines", float(read.count(b"\n") - 1), item=name, note=hashlib.sha256(read).hexdigest())
        rows += found.rows
    return rows


def intervals(found: Found, draws: Draws, targets: Mapping[str, Target], split: str) -> None:
    """Parameters and functions of them with percentile intervals."""
    law = draws.fit.form.name
    for name, target in targets.items():
        one = draws.interval(target, LEVEL)
        found.put("fit", name, one.estimate, one.low, one.high, law=law, split=split, note=one.note)
    found.put("fit", "rows", len(draws.fit.points), law=law, split=split)
    found.put("fit", "clusters", draws.clusters, law=law, split=split, note=draws.unit)
    found.put("fit", "rmse", draws.fit.rmse, law=law, split=split)
    found.put("fit", "draws at a bound", draws.at_bound / len(draws), law=law, split=split)


def hold(
    found: Found,
    points: Points,
    law: str,
    name: str,
    by: str,
    *,
    above: float | None = None,
    top: float | None = None,
    unit: str = "N",
    **options: Any,
) -> None:
    """Forecast of the rows beyond a threshold of `by`, row by row, and what it amounts to.

    unit: the column that says which held-out rows are one unit. Without earlier cut-offs there is no band.
    """
    if law == "m2":
        options = {**options, "x": by}
    mask, threshold = split(points, by, top, above)
    outside = points.where(mask)
    held: Holdout | None = None
    note = ""
    try:
        held = holdout(points, law, by=by, above=above, top=top, level=LEVEL, n=BAND_DRAWS, **options)
        fitted = held.fit
    except LawError as why:
        note = f"no band: {why}"
        fitted = fit(points.where(~mask), law, **options)
    predicted = np.atleast_1d(fitted.predict(outside))
    error = np.log(predicted / outside.loss)
    last = _last_value(points.where(~mask), by)
    for i in range(len(outside)):
        low, high = (held.rows[i]["low"], held.rows[i]["high"]) if held else (None, None)
        item = f"{outside.column(unit)[i]}" if unit != "N" else f"{outside.N[i]:.3g}"
        names = {"law": law, "split": name, "item": f"{i}|{item}"}
        found.put("row", "loss", outside.loss[i], **names)
        found.put("row", "predicted", predicted[i], low, high, **names)
        found.put("row", "last value", last, **names)
        if "passes" in outside:
            found.put("row", "passes", outside.passes[i], **names)
    ends = {"law": law, "split": name}
    found.put("holdout", "fitted rows", len(points) - len(outside), note=note, **ends)
    found.put("holdout", "held-out rows", len(outside), **ends)
    found.put("holdout", "threshold", threshold, item=by, **ends)
    found.put("holdout", "rmse", float(np.sqrt(np.mean(error**2))), **ends)
    found.put("holdout", "bias", float(np.mean(error)), **ends)
    found.put("holdout", "coverage", held.coverage if held else None, **ends)
    found.put("holdout", "width", held.width if held else None, **ends)
    found.put("holdout", "rmse of last value", float(np.sqrt(np.mean(np.log(last / outside.loss) ** 2))), **ends)


def _last_value(inside: Points, by: str) -> float:
    """The loss at the largest fitted scale."""
    values = inside.numbers(by)
    return float(np.median(inside.loss[values >= 0.995 * values.max()]))


def chinchilla_points(folder: Path) -> Points:
    """All 245 points of Besiroglu et al. 2024; tokens from C = 6 N D."""
    return Points.read(folder / FILES[CHINCHILLA][0]).with_tokens("6ND")


BEYOND = (3e19, 1e20, 3e20, 1e21)
"""Compute beyond which the Chinchilla points are held out."""


def chinchilla(folder: Path) -> list[dict[str, Any]]:
    """Refit of the law of Hoffmann et al., what moves it, and forecasts of its largest scales."""
    found = Found(CHINCHILLA)
    every = chinchilla_points(folder)
    points = every.drop_largest_loss(5)
    whole = fit(points, "chinchilla")
    same = {name: name for name in EXPONENTS}
    for method, name in (("pairs", "by row"), ("cluster", "by model size")):
        intervals(found, whole.bootstrap(DRAWS, method=method), same, name)
    found.put("fit", "objective", whole.objective, law="chinchilla", split="by row")
    notebook = np.random.RandomState(42)
    # Besiroglu et al. drew their resamples so; the same resamples leave no sampling difference.
    drawn = np.stack([notebook.choice(len(points), len(points)) for _ in range(DRAWS)])
    theirs = whole.bootstrap(indices=drawn)
    again = np.random.default_rng(0).integers(0, len(theirs), size=(500, len(theirs)))
    for name in EXPONENTS[:5]:
        spread = theirs.values(name)[again].std(axis=1)
        low, high = np.quantile(spread, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
        found.put("standard error", name, theirs.standard_error(name), low, high, law="chinchilla", split="by row")
    for label, values in whole.sensitivity().items():
        for name in EXPONENTS:
            found.put("objective", name, values[name], law="chinchilla", split=label)
    _outliers(found, every, points)
    outer = fit(points, "chinchilla-outer").bootstrap(BAND_DRAWS)
    intervals(
        found, outer, {"a_opt": lambda p: p["beta"] / (p["alpha"] + p["beta"]), "gamma": "gamma"}, "by model size"
    )
    laws = ("chinchilla", "chinchilla-tied", "chinchilla-outer", "kaplan")
    for above in BEYOND:
        for law in (*laws, "m2"):
            hold(found, points, law, f"C > {above:.0e}".replace("e+", "e"), "C", above=above)
    for law in laws:
        hold(found, points, law, "top fifth of N", "N", top=0.2)
        hold(found, points, law, "top fifth of D", "D", top=0.2)
    return found.rows


def _outliers(found: Found, every: Points, points: Points) -> None:
    """The law with and without the five rows of largest loss, on the same resamples of model sizes."""
    largest = np.argsort(every.loss, kind="stable")[len(points) :]
    weight = np.ones(len(every))
    weight[largest] = 0.0
    draws = [fit(table, "chinchilla").bootstrap(DRAWS) for table in (every, every.with_columns(weight=weight))]
    intervals(found, draws[0], {name: name for name in EXPONENTS}, "all 245 rows")
    _, first, second = np.intersect1d(draws[0].index, draws[1].index, return_indices=True)
    for name in ("alpha", "beta", "a_opt"):
        moved = draws[0].values(name)[first] - draws[1].values(name)[second]
        estimate = draws[0].interval(name).estimate - draws[1].interval(name).estimate
        low, high = np.quantile(moved, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
        found.put("five largest", name, estimate, low, high, law="chinchilla")


@dataclass(frozen=True)
class Curve:
    """One learning curve: rows to fit, one value a distinct x as in the reference code, and rows to predict."""

    key: tuple[str, str, str]
    x: Array
    loss: Array
    later_x: Array
    later_loss: Array

    @property
    def name(self) -> str:
        """Domain, task and model."""
        return "|".join(self.key)


def read_curves(folder: Path) -> Iterator[Curve]:
    """The curves of Alabdulmohsin et al. 2022 in the order of their files."""
    for file in FILES[CURVES][:2]:
        table = polars.read_csv(folder / file)
        for key, rows in table.group_by("Domain", "Task", "Model", maintain_order=True):
            early = rows.filter(polars.col("Training") == 1).unique("Seen Examples", keep="last").sort("Seen Examples")
            later = rows.filter(polars.col("Training") == 0)
            columns = (part[name].to_numpy() for part in (early, later) for name in ("Seen Examples", "Loss"))
            yield Curve((str(key[0]), str(key[1]), str(key[2])), *columns)


def curves(folder: Path) -> list[dict[str, Any]]:
    """Forecasts of the later part of every learning curve."""
    found = Found(CURVES)
    for curve in read_curves(folder):
        one_curve(found, curve)
    reference = polars.read_csv(folder / FILES[CURVES][2])
    for row in reference.iter_rows(named=True):
        name = "|".join((row["dom"], row["task"], row["model"]))
        found.put("curve", "rmse", row["rmse"], law=f"reference {row['est'].lower()}", item=name)
    return found.rows


def one_curve(found: Found, curve: Curve, forms: Sequence[str] = FORMS) -> None:
    """Error and coverage of the default forecast, of each form and of the published estimators on one curve."""

    def score(law: str, predicted: Array) -> Array:
        error: Array = np.log(predicted / curve.later_loss)
        found.put("curve", "rmse", float(np.sqrt(np.mean(error**2))), law=law, item=curve.name)
        found.put("curve", "bias", float(np.mean(error)), law=law, item=curve.name)
        return error

    forecast = extrapolate(curve.x, curve.loss)
    low, middle, high = forecast.band(curve.later_x, LEVEL)
    score("default", middle)
    inside = (curve.later_loss >= low) & (curve.later_loss <= high)
    found.put("curve", "coverage", float(np.mean(inside)), law="default", item=curve.name)
    score("last value", np.full_like(curve.later_loss, curve.loss[-1]))
    for estimator in ("m1", "m2", "m3"):
        values = published_estimate(curve.x, curve.loss, estimator)
        score(f"published {estimator}", get_form(estimator).predict(values, {"x": curve.later_x}))
    points, distance = Points(D=curve.x, loss=curve.loss), np.log(curve.later_x / curve.x[-1])
    for law in forms:
        try:
            fitted = fit(points, law, x="D")
            calibration = calibrate_fit(points, fitted, "D", {"x": "D"})
        except LawError as why:
            found.put("curve", "rmse", None, law=law, item=curve.name, note=str(why))
            continue
        error = score(law, np.atleast_1d(fitted.predict(D=curve.later_x)))
        covered = np.abs(error) <= calibration.half_width(distance, LEVEL)
        found.put("curve", "coverage", float(np.mean(covered)), law=law, item=curve.name)
        found.put("curve", "rmse of the fit", fitted.rmse, law=law, item=curve.name)
        found.put("curve", "rolling origin", calibration.scale, law=law, item=curve.name)


def olmo(folder: Path) -> list[dict[str, Any]]:
    """The ladder's 16 runs and its two targets: final C4 loss, mean of the last five evaluations; C as counted."""
    found = Found(OLMO)
    runs = Points.read(folder / FILES[OLMO][0], columns={"loss": "c4_mean_last5"})
    runs = runs.with_columns(C=runs.numbers("flops_per_token") * runs.D)
    ladder = runs.where(runs.mode == "train")
    intervals(
        found, fit(ladder, "chinchilla").bootstrap(DRAWS), {name: name for name in EXPONENTS[2:]}, "by model size"
    )
    laws = ("chinchilla", "chinchilla-tied", "chinchilla-outer", "overtraining", "kaplan")
    for law in (*laws, "m2"):
        hold(found, runs, law, "7B and 13B", "C", above=1e22, unit="group")
    for law in laws:
        hold(found, ladder, law, "N > 1B", "N", above=1e9, unit="run")
    return found.rows


def overtraining_points(folder: Path, corpus: str, least: float = 0.0) -> Points:
    """Final C4 loss of the models trained on a corpus with at least that multiple of 20 tokens a parameter."""
    rows = polars.read_csv(folder / FILES["over-training"][0])
    rows = rows.filter((polars.col("dataset") == corpus) & (polars.col("multiplier") >= least))
    columns = {"N": "params", "D": "tokens", "loss": "loss_c4_val", "run": "name"}
    return Points(**{ours: rows[theirs].to_list() for ours, theirs in columns.items()}).with_compute("6ND")


def overtraining(folder: Path) -> list[dict[str, Any]]:
    """The law of Gadre et al. beside others: forecasts of the 1.4B and 6.9B runs from those up to 0.41B."""
    rows: list[dict[str, Any]] = []
    for corpus, name in GADRE.items():
        found = Found(name)
        for label, least in ((ALL_ROWS, 0.0), (ENOUGH, 1.0)):
            points = overtraining_points(folder, corpus, least)
            intervals(found, fit(points, "overtraining").bootstrap(DRAWS), {n: n for n in ("E", "h", "M_opt")}, label)
            tied: dict[str, Target] = {
                "alpha": "alpha",
                "beta": "beta",
                "E": "E",
                "alpha - beta": lambda p: p["alpha"] - p["beta"],
            }
            intervals(found, fit(points, "chinchilla").bootstrap(DRAWS), tied, label)
            for law in ("overtraining", "chinchilla", "chinchilla-outer", "kaplan"):
                hold(found, points, law, label, "N", above=1e9, unit="run")
        rows += found.rows
    return rows


def repeated_points(folder: Path, corpus: str) -> tuple[Points, list[str]]:
    """Final losses of the runs on one corpus, with `passes` over the `unique` tokens, and the runs that are left out.

    Of runs whose curves are one and the same in the table all but one stand under a wrong label: all are left out.
    """
    table = polars.read_csv(folder / FILES["repeated data"][0]).filter(polars.col("data") == corpus)
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[Any, ...], list[str]] = {}
    for key, part in table.sort("token_num").group_by("num_params", "epochs", maintain_order=True):
        size, passes, final = float(str(key[0]).removesuffix("B")) * 1e9, float(str(key[1])), part.row(-1, named=True)
        run = f"{key[0]}, {key[1]} passes"
        seen.setdefault((key[0], *part["loss"].to_list()), []).append(run)
        unique = min(final["tokens_per_epoch"], final["token_num"])
        rise = final["loss"] / float(str(part["loss"].min())) - 1
        rows.append({"N": size, "D": final["token_num"], "loss": final["loss"], "unique": unique, "passes": passes})
        rows[-1] |= {"run": run, "rise": rise}
    twice = {run for runs in seen.values() if len(runs) > 1 for run in runs}
    rows.sort(key=lambda row: (row["N"], row["passes"]))
    return Points.from_rows([row for row in rows if row["run"] not in twice]).with_compute("6ND"), sorted(twice)


REPEATED_LAWS = ("data-constrained-tied", "data-constrained", "chinchilla-tied", "chinchilla", "additive:N,unique")
FEW_PASSES = 7.0


def repeats(folder: Path) -> list[dict[str, Any]]:
    """The law of Muennighoff et al. beside laws in all tokens and in unique tokens."""
    rows: list[dict[str, Any]] = []
    for corpus, name in REPEATS.items():
        found = Found(name)
        points, twice = repeated_points(folder, corpus)
        for run in twice:
            found.put("left out", "run", None, item=run)
        for law in REPEATED_LAWS[:2]:
            draws = fit(points, law, cluster="run").bootstrap(BAND_DRAWS)
            intervals(found, draws, {n: n for n in ("r_D", "r_N", "alpha", "E")}, "by run")
        for law in REPEATED_LAWS:
            hold(found, points, law, "over 7 passes", "passes", above=FEW_PASSES, cluster="run")
            hold(found, points, law, "N > 5B", "N", above=5e9, unit="run", cluster="run")
        few = points.where(points.passes <= FEW_PASSES)
        shown = {law: fit(few, law).predict(points) for law in (REPEATED_LAWS[0], REPEATED_LAWS[2])}
        for i in range(len(points)):
            names = {"item": f"{points.N[i]:.3g}", "split": f"{points.passes[i]:g}"}
            found.put("run", "loss", points.loss[i], **names)
            found.put("run", "rise", points.rise[i], **names)
            for law, predicted in shown.items():
                found.put("run", "predicted", predicted[i], law=law, **names)
        rows += found.rows
    return rows


def write(results: polars.DataFrame | None = None, target: Path | None = None) -> list[Path]:
    """The page and its figures from the results (the kept ones unless given); their paths."""
    from reproductions.laws_page import write as page

    return page(polars.read_parquet(RESULTS) if results is None else results, target or PAGES / FOLDER)


def listed() -> tuple[str, ...]:
    """The row of the list of all reproductions: study, paper, claims, training."""
    from reproductions.laws_claims import Results, claims
    from reproductions.laws_page import TITLE
    from reproductions.page import verdicts

    found = verdicts(claims(Results(polars.read_parquet(RESULTS))))
    return f"[{TITLE}]({FOLDER}/index.md)", "six papers on laws, their public tables", found, "none"


def main() -> None:
    """Fit everything anew, keep it and write the page."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", type=Path, default=DATA, help="folder of the public tables")
    print(keep(asked.parse_args().data))
    print(write()[0])


if __name__ == "__main__":
    main()
