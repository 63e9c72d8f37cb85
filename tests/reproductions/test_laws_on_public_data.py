"""Laws on public data: the page says what the file says, and the file what the tables say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from reproductions.kept import PAGES
from reproductions.laws_claims import ERRORS, REFIT, Results, claims, data_set, over_units, percent, plain
from reproductions.verdicts import FAILS, HOLDS, OPEN
from scipy.optimize import minimize
from scipy.stats import t

from isoloss.laws import Points, fit
from reproductions import laws_on_public_data as study


@pytest.fixture(scope="module")
def kept() -> pl.DataFrame:
    """The committed results."""
    return pl.read_parquet(study.RESULTS)


@pytest.fixture(scope="module")
def results(kept: pl.DataFrame) -> Results:
    """The committed results, to be asked."""
    return Results(kept)


def test_the_page_and_its_figures_are_what_the_file_says(kept: pl.DataFrame, tmp_path: Path) -> None:
    written = study.write(kept, tmp_path)
    committed = PAGES / study.FOLDER
    assert {path.name for path in written} == {path.name for path in committed.iterdir() if path != study.RESULTS}
    for path in written:
        assert path.read_bytes() == (committed / path.name).read_bytes(), path.name


def test_the_page_follows_the_file(kept: pl.DataFrame, tmp_path: Path) -> None:
    """Another number in the file is another number, and another verdict, in the page."""
    moved = kept.with_columns(
        pl.when((pl.col("part") == "fit") & (pl.col("quantity") == "a_opt"))
        .then(pl.col(end) + 0.25)
        .otherwise(pl.col(end))
        .alias(end)
        for end in ("value", "low", "high")
    )
    before, after = ({claim.says: claim for claim in claims(Results(rows))} for rows in (kept, moved))
    (hoffmann,) = (says for says in before if says.startswith("Hoffmann"))
    assert (before[hoffmann].verdict, after[hoffmann].verdict) == (HOLDS, FAILS)
    assert "0.7639 [" in after[hoffmann].found
    study.write(moved, tmp_path)
    assert (tmp_path / "index.md").read_text() != (PAGES / study.FOLDER / "index.md").read_text()


def test_the_file_is_small_complete_and_has_no_name_twice(kept: pl.DataFrame, results: Results) -> None:
    assert study.RESULTS.stat().st_size < 2e6
    assert kept.schema == pl.Schema(study.SCHEMA)
    names = kept.select("table", "part", "law", "split", "item", "quantity")
    assert not names.is_duplicated().any()
    for law in (*study.FORMS, "default", "last value", "reference m1"):
        assert len(results.curves("rmse", law)) == 92
    ordered = kept.drop_nulls(["low", "high"])
    assert (ordered["low"] <= ordered["high"]).all()


def test_a_verdict_rests_on_an_interval(results: Results) -> None:
    found = claims(results)
    assert len({claim.says for claim in found}) == len(found)
    for claim in found:
        assert claim.says and claim.found
        assert claim.verdict == OPEN or "[" in claim.found, claim.says
    assert {HOLDS, FAILS, OPEN} == {claim.verdict for claim in found}


def test_what_a_forecast_amounts_to_is_what_its_rows_say(kept: pl.DataFrame, results: Results) -> None:
    """RMSE, mean error and coverage of every hold-out from its rows, and never better without a band than with one."""
    forecasts = kept.filter(pl.col("part") == "holdout").select("table", "split", "law").unique(maintain_order=True)
    assert len(forecasts) > 60
    for table, split, law in forecasts.iter_rows():
        held = results.held(table, split, law)
        said = {
            quantity: value
            for quantity, value in results.of(table=table, part="holdout", split=split, law=law)
            .select("quantity", "value")
            .iter_rows()
        }
        assert len(held) == said["held-out rows"]
        assert math.isclose(float(np.sqrt(np.mean(held["error"].to_numpy() ** 2))), said["rmse"], rel_tol=1e-9)
        assert math.isclose(float(np.mean(held["error"].to_numpy())), said["bias"], rel_tol=1e-9, abs_tol=1e-12)
        if said["coverage"] is not None:
            inside = (held["loss"] >= held["low"]) & (held["loss"] <= held["high"])
            assert math.isclose(float(np.mean(inside.to_numpy())), said["coverage"], rel_tol=1e-12)


def test_intervals_over_units() -> None:
    """Against the textbook formula; rows of one unit are one number, and two units give no interval."""
    row = over_units([1.0, 3.0, 4.0, 9.0], ["a", "a", "b", "c"])
    assert row is not None
    means = np.array([2.0, 4.0, 9.0])
    half = t.ppf(0.95, 2) * means.std(ddof=1) / math.sqrt(3)
    assert row["value"] == pytest.approx(5.0)
    assert (row["low"], row["high"]) == (pytest.approx(5 - half), pytest.approx(5 + half))
    two = over_units([1.0, 2.0], ["a", "b"])
    assert two is not None and two["low"] is None and two["units"] == 2


def test_numbers_as_they_are_read() -> None:
    assert plain({"value": 0.34731, "low": 0.3143293, "high": 0.376}) == "0.3473 [0.3143, 0.3760]"
    assert plain({"value": 2143.4, "low": 1199.3, "high": 57962.9}) == "2143 [1199, 5.796e+04]"
    assert percent({"value": -0.0123, "low": None, "high": None}) == "-1.2 %"
    assert percent({"value": 0.92, "low": 0.8551, "high": 0.98}, 0, "") == "92 [86, 98] %"
    assert data_set("IC|bird_10|ViT/B") == data_set("IC|bird_25|MiX/L") == "IC|bird"
    assert data_set("BB|('date', '1-shot')|262M") == data_set("BB|('date', '2-shot')|262M")


def test_the_file_was_measured_on_these_tables(results: Results, laws_data: Path) -> None:
    """By the hash of every file."""
    read = {(row["item"], row["note"]) for row in study.files_read(laws_data)}
    said = {(row["item"], row["note"]) for row in results.of(part="file").iter_rows(named=True)}
    assert read == said


def test_the_refit_is_what_the_points_say(results: Results, laws_data: Path) -> None:
    """The kept optimum is no higher than what SciPy reaches by another route; the published values lie near it."""
    points = study.chinchilla_points(laws_data).drop_largest_loss(5)
    law = {"table": study.CHINCHILLA, "law": "chinchilla"}
    fitted = fit(points, "chinchilla")
    for name in study.EXPONENTS[:5]:
        value = results.value(**law, part="fit", split="by row", quantity=name)
        assert value == pytest.approx(fitted.parameters[name], rel=1e-6)
        limit = results.value(**law, part="objective", split="l1", quantity=name)
        assert limit == pytest.approx(REFIT[name], rel=1e-3)
        error = results.value(**law, part="standard error", quantity=name)
        assert error == pytest.approx(ERRORS[name], rel=0.03)
    log_n, log_d, log_y = np.log(points.N), np.log(points.D), np.log(points.loss)

    def total(q: np.ndarray) -> float:
        predicted = np.log(np.exp(q[0] - q[3] * log_n) + np.exp(q[1] - q[4] * log_d) + np.exp(q[2]))
        size = np.abs(log_y - predicted)
        inside = np.minimum(size, 1e-3)
        return float(np.sum(inside * (size - 0.5 * inside)))

    start = np.array([*(np.log(REFIT[name]) for name in ("A", "B", "E")), REFIT["alpha"], REFIT["beta"]])
    reached = minimize(total, start, method="Nelder-Mead", options={"maxiter": 20_000, "xatol": 1e-9, "fatol": 1e-14})
    kept = results.value(**law, part="fit", split="by row", quantity="objective")
    assert kept <= reached.fun * (1 + 1e-9)
    assert kept == pytest.approx(reached.fun, rel=1e-4)


def test_a_sample_of_forecasts_is_what_the_tables_say(results: Results, laws_data: Path) -> None:
    """Of each kind of table one hold-out again, with its band."""
    repeated, left_out = study.repeated_points(laws_data, "oscar")
    assert left_out == results.of(table=study.REPEATS["oscar"], part="left out")["item"].to_list()
    assert len(left_out) == 2 and not set(left_out) & set(repeated.run.tolist())
    points = study.chinchilla_points(laws_data).drop_largest_loss(5)
    corpus = study.overtraining_points(laws_data, "rpj")
    samples: tuple[tuple[str, str, str, Points, dict[str, Any]], ...] = (
        (study.CHINCHILLA, "C > 1e21", "chinchilla-tied", points, {"by": "C", "above": 1e21}),
        (study.GADRE["rpj"], study.ALL_ROWS, "overtraining", corpus, {"by": "N", "above": 1e9, "unit": "run"}),
        (
            study.REPEATS["oscar"],
            "over 7 passes",
            "chinchilla-tied",
            repeated,
            {"by": "passes", "above": study.FEW_PASSES, "cluster": "run"},
        ),
    )
    for table, split, law, rows, options in samples:
        found = study.Found(table)
        study.hold(found, rows, law, split, **options)
        again = Results(pl.DataFrame(found.rows, schema=study.SCHEMA)).held(table, split, law)
        kept = results.held(table, split, law)
        for name in ("loss", "predicted", "low", "high"):
            np.testing.assert_allclose(again[name], kept[name], rtol=1e-5, err_msg=f"{table}, {law}, {name}")
        assert again["unit"].to_list() == kept["unit"].to_list()


def test_a_sample_of_curves_is_what_the_tables_say(results: Results, laws_data: Path) -> None:
    """Every ninth curve with the quick forecasts, one of them with all forms."""
    for index, curve in enumerate(study.read_curves(laws_data)):
        if index % 9:
            continue
        found = study.Found(study.CURVES)
        study.one_curve(found, curve, study.FORMS if index == 72 else study.FORMS[:3])
        for row in found.rows:
            kept = results.curves(row["quantity"], row["law"])[curve.name]
            assert row["value"] == pytest.approx(kept, rel=1e-4, abs=1e-9), (curve.name, row["law"], row["quantity"])


def test_absent_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"svg_extracted_data\.csv"):
        study.measure(tmp_path)
