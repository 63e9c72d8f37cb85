"""The same law and the same worth come out of an import as of the raw numbers, whatever wrote the files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.bridges import old_runs as old
from tests.bridges.old_runs import BATCH, Old
from tests.worth.test_compare import result, study

from isoloss.bridges import importing
from isoloss.bridges.imported import Imported, load
from isoloss.bridges.runmap import check
from isoloss.laws import Points, fit
from isoloss.worth.compare import Comparison, compare

SIZE = {"D": "step * batch_size * block_size", "N": "params"}
MAPS: dict[str, dict[str, Any]] = {
    "csv": {**SIZE, "D": "steps * batch_size * block_size", "arm": "optimizer"},
    "parquet": {**SIZE, "arm": "optimizer"},
    "tensorboard": {**SIZE, "arm": "optimizer"},
    "mlflow": {**SIZE, "arm": "optimizer/name"},
    "wandb": {**SIZE, "arm": "optimizer.name", "loss": "eval.loss", "train_loss": "train.loss"},
    "wandb exports": {**SIZE, "arm": "optimizer.name"},
    "wandb json": {**SIZE, "arm": "optimizer.name"},
    "wandb project": {**SIZE, "D": "_step * batch_size * block_size", "arm": "optimizer.name"},
}


def raw_worth(runs: Sequence[Old]) -> Comparison:
    """What worth says of the numbers themselves."""
    rows = [result(r.arm, r.N, r.D, r.seed, r.loss, batch=BATCH) for r in runs]
    made = study(rows)
    made.study.baseline = "adam"
    return compare(made)


def raw_law(runs: Sequence[Old], arm: str) -> Any:
    mine = [r for r in runs if r.arm == arm]
    return fit(Points(N=[r.N for r in mine], D=[r.D for r in mine], loss=[r.loss for r in mine]), "chinchilla")


def imported(source: Path, folder: Path, raw: Mapping[str, Any]) -> Imported:
    importing.write([source], folder / "imported", check(raw))
    return load(folder / "imported")


def same_answers(runs: Sequence[Old], found: Imported) -> None:
    """Rows, laws and worth are those of the raw numbers."""
    points = found.points
    rows = {str(row["run"]): row for row in points}
    assert set(rows) == {r.run for r in runs}
    for r in runs:
        row = rows[r.run]
        assert (row["N"], row["D"], row["loss"]) == (r.N, r.D, r.loss)
        assert row["S"] == r.steps and row["B"] == BATCH and row["C"] == 6.0 * r.N * r.D
        assert (str(row["arm"]), float(row["seed"])) == (r.arm, r.seed)
    for arm in old.GAIN:
        theirs = raw_law(runs, arm)
        ours = fit(points.where([str(name) == arm for name in points.column("arm")]), "chinchilla")
        printed = [{name: f"{value:.8g}" for name, value in law.parameters.items()} for law in (ours, theirs)]
        assert printed[0] == printed[1]
    expected, worth = raw_worth(runs), found.worth("adam")
    assert [(w.arm, w.N, w.roots, w.note) for w in worth.by_size] == [
        (w.arm, w.N, w.roots, w.note) for w in expected.by_size
    ]
    for ours_, theirs_ in zip([*worth.by_size, *worth.overall], [*expected.by_size, *expected.overall], strict=True):
        assert set(ours_.ratios) == set(theirs_.ratios)
        for currency, ratio in theirs_.ratios.items():
            mine = ours_.ratios[currency]
            assert mine.ratio == pytest.approx(ratio.ratio, rel=1e-12)
            assert (mine.low is None) == (ratio.low is None)
            if ratio.low is not None:
                assert (mine.low, mine.high) == pytest.approx((ratio.low, ratio.high), rel=1e-9)


@dataclass(frozen=True)
class Case:
    form: str
    source: Path
    runs: Sequence[Old]


@pytest.fixture(params=["csv", "parquet", "tensorboard", "wandb exports", "wandb json", "wandb project"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    form = str(request.param)
    runs = old.old_runs()
    write = {
        "csv": old.as_csv,
        "parquet": old.as_parquet,
        "tensorboard": old.as_tensorboard,
        "wandb exports": old.as_wandb_exports,
        "wandb json": old.as_wandb_json,
        "wandb project": old.as_wandb_project,
    }[form]
    return Case(form, write(runs, tmp_path), runs)


def test_the_same_law_and_worth_as_from_the_raw_numbers(written: Case, tmp_path: Path) -> None:
    same_answers(written.runs, imported(written.source, tmp_path, MAPS[written.form]))


@pytest.mark.parametrize("store", ["files", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_mlflow_gives_the_same_law_and_worth(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    if store == "sqlite":
        pytest.importorskip("sqlalchemy")
        pytest.importorskip("alembic")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    source = tmp_path / ("mlruns" if store == "files" else "mlflow.db")
    runs = old.old_runs(seeds=1)
    old.with_mlflow(str(source) if store == "files" else f"sqlite:///{source}", runs, tmp_path / "artifacts")
    before = sorted(path.relative_to(tmp_path) for path in source.parent.rglob("*"))
    found = imported(source, tmp_path / "out", MAPS["mlflow"])
    same_answers(runs, found)
    after = sorted(p.relative_to(tmp_path) for p in source.parent.rglob("*") if "out" not in p.parts)
    assert after == before  # reading writes nothing into a store


def test_wandb_offline_gives_the_same_law_and_worth(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    runs = [r for r in old.old_runs(seeds=1) if r.steps <= old.LENGTHS[-1]]
    same_answers(runs, imported(old.as_wandb(runs, tmp_path), tmp_path, MAPS["wandb"]))


@pytest.mark.slow
def test_the_trainer_gives_the_same_law_and_worth(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    runs = old.old_runs(seeds=1)
    chart = {
        "N": {"name": r"n(\d+)"},
        "arm": {"name": r"^[a-z]+"},
        "seed": {"name": r"s(\d+)$"},
        "S": f"step * {old.TRAINER_STEP}",
        "D": f"step * {old.TRAINER_STEP * BATCH}",
    }
    found = imported(old.with_trainer(runs, tmp_path), tmp_path, chart)
    same_answers(runs, found)
    assert found.record["taken"]["loss"] == "eval_loss (by its usual name)"
    assert found.curves.drop_nulls("train_loss").height == sum(r.steps // old.TRAINER_STEP for r in runs)


def test_curves_are_those_that_were_logged(tmp_path: Path) -> None:
    runs = old.old_runs(seeds=1)
    found = imported(old.as_tensorboard(runs, tmp_path), tmp_path, MAPS["tensorboard"])
    for r in runs:
        mine = found.curves.filter(found.curves["run"] == r.run)
        kept = mine.drop_nulls("loss")
        assert list(zip(kept["S"], kept["loss"], strict=True)) == [tuple(map(float, point)) for point in r.curve]
        assert kept["D"].to_list() == [step * BATCH for step, _ in r.curve]
        assert mine.drop_nulls("train_loss").height == 8
    assert found.answer("adam")["runs"][0]["curve"]["update"] == [step for step, _ in runs[0].curve]


def test_losses_along_runs_count_as_shorter_runs_only_where_the_map_says_so(tmp_path: Path) -> None:
    """One length an arm has no worth by itself; at a constant learning rate its curve gives the planted factor."""
    runs = [r for r in old.old_runs(noise=0.0) if r.steps == old.LENGTHS[-1]]
    source = old.as_parquet(runs, tmp_path)
    off = imported(source, tmp_path / "off", MAPS["parquet"])
    assert not off.worth("adam").overall
    assert all("fewer than two durations" in w.note for w in off.worth("adam").by_size)
    said = off.answer("adam")["summary"][0]
    assert said.startswith("At equal N and D, the loss of muon minus that of adam is -")
    on = imported(source, tmp_path / "on", {**MAPS["parquet"], "steady": True})
    (overall,) = on.worth("adam").overall
    assert overall.ratios["data"].ratio == pytest.approx(1.3, rel=0.02)
    assert any("shorter runs" in caveat for caveat in on.answer("adam")["caveats"])


def test_a_truth_that_needs_no_fit(tmp_path: Path) -> None:
    """Without noise the planted law itself comes out."""
    runs = old.old_runs(seeds=1, noise=0.0)
    found = imported(old.as_csv(runs, tmp_path), tmp_path, MAPS["csv"])
    points = found.points
    law = fit(points.where([str(name) == "adam" for name in points.column("arm")]), "chinchilla")
    expected = {"E": old.E, "A": old.A, "B": old.B, "alpha": old.ALPHA, "beta": old.BETA}
    assert law.parameters == pytest.approx(expected, rel=1e-3)
    (overall,) = found.worth("adam").overall
    assert math.log(overall.ratios["data"].ratio) == pytest.approx(math.log(1.3), rel=0.05)


def test_published_runs_give_the_law_that_their_table_gives(shared_data: Path, tmp_path: Path) -> None:
    """The 245 points of the Chinchilla figure; D is a formula of columns whose names have spaces."""
    table = shared_data / "laws" / "epoch-chinchilla" / "svg_extracted_data.csv"
    raw = Points.read(table).with_tokens("6ND").drop_largest_loss(5)
    found = imported(table, tmp_path, {"D": '"Training FLOP" / (6 * "Model Size")', "duplicates": "seeds"})
    ours, theirs = fit(found.points.drop_largest_loss(5), "chinchilla"), fit(raw, "chinchilla")
    assert len(found.points) == 245 and found.record["taken"]["C"] == "Training FLOP (by its usual name)"
    assert {n: f"{v:.8g}" for n, v in ours.parameters.items()} == {n: f"{v:.8g}" for n, v in theirs.parameters.items()}
    assert ours.parameters["E"] == pytest.approx(1.8172, abs=1e-3)
