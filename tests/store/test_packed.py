"""A store as one Parquet file: the same answers as from the folder, and nothing can be written to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import isoloss
from isoloss.recipe.errors import StoreError
from isoloss.store import Store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A study with curves, a divergence-free tree, and its store."""
    from tests.conftest import SMALL

    folder = tmp_path_factory.mktemp("packed")
    isoloss.run(SMALL, folder / "store", workers=1, quiet=True)
    return SMALL, folder / "store"


def test_results_from_the_file_are_those_of_the_store(trained: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    study, store = trained
    file = tmp_path / "results.parquet"
    count = Store(store).export(file)
    assert count == len(Store(store).pieces()) == len(pl.read_parquet(file))
    whole, packed = isoloss.results(study, store), isoloss.results(study, file)
    for one, other in zip(whole.results, packed.results, strict=True):
        assert (one.loss, one.loss_a, one.curve, one.key, one.metrics) == (
            other.loss,
            other.loss_a,
            other.curve,
            other.key,
            other.metrics,
        )
    assert isoloss.worth(whole) == isoloss.worth(packed)
    keys = [row.end_key for row in Store(store).pieces()]
    assert {key: Store(store).digest(key) for key in keys} == {key: Store(file).digest(key) for key in keys}


def test_columns_of_curves_that_are_asked_for_are_kept_to_the_bit(
    trained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    study, store = trained
    Store(store).export(tmp_path / "rates.parquet", columns=["lr"])
    assert not any(run["train"]["loss"] for run in isoloss.results(study, tmp_path / "rates.parquet").answer()["runs"])
    Store(store).export(tmp_path / "results.parquet", columns=["loss"])
    file = Store(tmp_path / "results.parquet")
    for row in Store(store).pieces():
        before, after = Store(store).curve(row.end_key), file.curve(row.end_key)
        assert set(after) == {"update", "loss"}
        for name, values in after.items():
            assert values.dtype == before[name].dtype
            assert (values == before[name]).all()


def test_curves_are_kept_of_the_tracks_that_are_asked_for(trained: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, store = trained
    rows = Store(store).pieces()
    chosen = {rows[0].track}
    Store(store).export(tmp_path / "some.parquet", columns=["loss"], tracks=chosen)
    file = Store(tmp_path / "some.parquet")
    assert {row.track for row in rows} > chosen
    assert {row.track for row in file.pieces() if row.curve} == chosen
    assert len(file.pieces()) == len(rows)


def test_as_a_layer_it_spares_all_training_and_is_not_written_to(
    trained: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    study, store = trained
    file = tmp_path / "results.parquet"
    Store(store).export(file)
    before = file.read_bytes()
    assert isoloss.run(study, tmp_path / "new", under=[file], workers=1, quiet=True).trained == 0
    more = {**study, "grid": {**study["grid"], "seed": [0, 1, 2]}}
    results = isoloss.run(more, tmp_path / "new", under=[file], workers=1, quiet=True)
    assert 0 < results.trained < isoloss.plan(more).shared.updates
    assert {result.status for result in results.results} == {"done"}
    assert file.read_bytes() == before
    with pytest.raises(StoreError, match="only read"):
        isoloss.run(more, file, workers=1, quiet=True)


def test_the_same_store_gives_the_same_bytes(trained: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, store = trained
    Store(store).export(tmp_path / "a.parquet")
    Store(store).export(tmp_path / "b.parquet")
    Store(tmp_path / "a.parquet").export(tmp_path / "c.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "c.parquet").read_bytes()


def test_what_is_no_such_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no file of measurements at"):
        Store(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("no")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    for name in ("text", "other"):
        with pytest.raises(StoreError, match="no file of measurements as"):
            Store(tmp_path / f"{name}.parquet")
