"""Tables of every shape: one row a run, one row a step, exports; and what is no table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from isoloss.bridges.recorded import Recorded
from isoloss.bridges.table import Reading, label, number, read
from isoloss.recipe.errors import StudyError


def table(folder: Path, text: str, name: str = "runs.csv", reading: Reading | None = None) -> list[Recorded]:
    path = folder / name
    path.write_text(text)
    return read(path, reading or Reading())


def test_one_row_a_run_has_settings_only(tmp_path: Path) -> None:
    one, two = table(tmp_path, "run,N,loss,state\na,1e6,2.5,finished\nb,2e6,,crashed\n")
    assert (one.name, one.state, one.settings["N"], one.settings["loss"]) == ("a", "finished", 1e6, 2.5)
    assert (two.name, two.state) == ("b", "crashed") and "loss" not in two.settings
    first, _ = table(tmp_path, "N,loss\n1e6,2.5\n2e6,2.4\n")
    assert first.name == "row 1"


def test_one_row_a_step_has_series_of_what_varies(tmp_path: Path) -> None:
    text = "run,step,lr,N,loss,val_loss\na,1,0.1,5,3,\na,2,0.1,5,2,2.5\nb,1,0.2,7,4,\nb,2,0.1,7,3,nan\n"
    one, two = table(tmp_path, text)
    assert one.settings == {"run": "a", "N": 5.0}
    assert one.series["loss"].values.tolist() == [3, 2] and one.series["lr"].values.tolist() == [0.1, 0.1]
    assert one.series["val_loss"].steps.tolist() == [2]
    assert math.isnan(two.series["val_loss"].values[0])


def test_the_history_of_one_run_is_one_run(tmp_path: Path) -> None:
    (run,) = table(tmp_path, "_step,train/loss,val_loss\n0,3,\n10,2,2.5\n20,1,2\n", "adam-s0.csv")
    assert run.name == "adam-s0" and run.series["val_loss"].values.tolist() == [2.5, 2.0]
    # Sizes that differ are different runs, even if their steps ascend.
    assert len(table(tmp_path, "steps,N,loss\n1,5,3\n2,6,2\n3,7,1\n")) == 3
    assert len(table(tmp_path, "steps,loss\n1,3\n2,2\n3,1\n", reading=Reading(rows="runs"))) == 3


def test_runs_that_repeat_need_steps_or_more_columns(tmp_path: Path) -> None:
    text = "run,seed,N,loss\na,0,5,3\na,1,5,2\n"
    with pytest.raises(
        StudyError, match="run 'a' has 2 rows and there is no column of steps; say step: COLUMN, or run:"
    ):
        table(tmp_path, text)
    one, two = table(tmp_path, text, reading=Reading(run=("run", "seed")))
    assert (one.name, two.name) == ("a 0", "a 1")
    with pytest.raises(StudyError, match=r"no column 'sead' \(for run\) \(did you mean 'seed'\?\); found: run, seed"):
        table(tmp_path, text, reading=Reading(run=("run", "sead")))


def test_steps_that_go_back_are_a_fault_of_the_series(tmp_path: Path) -> None:
    text = "run,step,loss\na,1,3\na,5,2\na,3,2.5\nb,1,3\nb,2,2\n"
    assert table(tmp_path, text)[0].series["loss"].fault == "step 3 comes after step 5"
    assert table(tmp_path, text, reading=Reading(restarts="sort"))[0].series["loss"].steps.tolist() == [1, 3, 5]


def test_a_chart_has_a_column_a_run(tmp_path: Path) -> None:
    text = '"Step","a - b - eval/loss","a - b - eval/loss__MIN","a - b - eval/loss__MAX","c - eval/loss"\n'
    text += '"1","3","2","4","5"\n"2","2.5","2","3",""\n'
    one, two = table(tmp_path, text)
    assert (one.name, two.name) == ("a - b", "c")
    assert one.series["eval/loss"].values.tolist() == [3, 2.5] and two.series["eval/loss"].steps.tolist() == [1]


def test_mappings_in_cells_are_columns(tmp_path: Path) -> None:
    text = "name,summary,config\na,\"{'loss': nan, 'x': inf, 's': 'a nan'}\",\"{'lr': 0.1, 'm': {'w': 3}}\"\n"
    (run,) = table(tmp_path, text)
    assert run.settings["lr"] == 0.1 and run.settings["m.w"] == 3 and run.settings["s"] == "a nan"
    assert math.isnan(number(run.settings["loss"]) or 0.0) and number(run.settings["x"]) == math.inf


@pytest.mark.parametrize(
    "content",
    [
        [{"run": "a", "N": 5, "loss": 2.0}, {"run": "b", "N": 6, "loss": 1.0}],
        {"run": ["a", "b"], "N": [5, 6], "loss": [2.0, 1.0]},
        {"run": {"0": "a", "1": "b"}, "N": {"0": 5, "1": 6}, "loss": {"0": 2.0, "1": 1.0}},
    ],
)
def test_json_as_rows_or_columns(content: object, tmp_path: Path) -> None:
    one, two = table(tmp_path, json.dumps(content), "runs.json")
    assert (one.name, one.settings["N"], two.settings["loss"]) == ("a", 5, 1.0)


def test_values_as_files_write_them() -> None:
    assert [number(text) for text in ("1,000,000", "1e6", " 5 ", "x", True, None)] == [1e6, 1e6, 5.0, None, None, None]
    assert [label(value) for value in (3.0, 0.5, "a", 3)] == ["3", "0.5", "a", "3"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "the file is empty"),
        ("a.csv", "run,loss\n", "no rows"),
        ("a.csv", "run;loss\na;2\n", "parted by semicolons"),
        ("a.csv", "run,run\na,b\n", "more than once"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", "3", "found int; allowed: a list of rows or of runs"),
        ("a.json", '[{"name": "a", "history": [{"loss": 1}]}]', "history of a has no column of steps; found: loss"),
        ("a.parquet", "x", "not a readable Parquet file"),
        ("a.csv", "run,step,loss\na,x,1\na,2,2\n", "step, row 1: found 'x'; allowed: a number"),
    ],
)
def test_what_is_no_table_is_one_message(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=message):
        table(tmp_path, text, name)
