"""`isoloss import` as it is typed: what it shows, writes and refuses, and what other commands make of its folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.bridges import old_runs as old
from tests.bridges.old_runs import Old
from tests.bridges.test_import_law import raw_law
from tests.cli.command import isoloss, typed

import isoloss as package
from isoloss.bridges.imported import is_imported, load
from isoloss.recipe.errors import StudyError

SET = ("--set", "arm=optimizer", "--set", "D=steps * batch_size * block_size")


@pytest.fixture
def runs(tmp_path: Path) -> list[Old]:
    found = old.old_runs()
    old.as_csv(found, tmp_path)
    return found


def test_show_lists_what_a_map_can_name_and_writes_nothing(runs: list[Old], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    out = isoloss("import", "runs.csv", "--show", cwd=tmp_path).stdout
    for words in (f"runs.csv: table, {len(runs)} runs", "optimizer", "adam, muon", "val_loss", "by its usual name"):
        assert words in out
    found = json.loads(isoloss("import", "runs.csv", "--show", "--json", *SET, cwd=tmp_path).stdout)
    quantities = {row["name"]: (row["from"], row["how"]) for row in found["quantities"]}
    assert quantities["D"] == ("steps * batch_size * block_size", "map")
    assert quantities["N"] == ("params", "usual name") and quantities["arm"] == ("optimizer", "map")
    assert quantities["C"] == ("6ND", "default") and quantities["train_loss"] == (None, "missing")
    assert {row["name"] for row in found["settings"]} >= {"steps", "batch_size", "block_size", "seed"}
    old.as_tensorboard(runs[:2], tmp_path)
    (train, *_) = [
        row
        for row in json.loads(isoloss("import", "logs", "--show", "--json", cwd=tmp_path).stdout)["series"]
        if row["name"] == "train/loss"
    ]
    assert (train["runs"], train["points"], train["first_step"]) == (2, 16, 125.0)
    assert sorted(path for path in tmp_path.iterdir() if path.name != "logs") == before


def test_from_a_table_to_a_decision_in_two_commands(runs: list[Old], tmp_path: Path) -> None:
    said = isoloss("import", "runs.csv", "--out", "old", *SET, cwd=tmp_path).stdout
    assert f"{len(runs)} runs count" in said and "D over S" in said
    assert "next: isoloss fit old, isoloss report old --baseline ARM" in said
    out = isoloss("report", "old", "--baseline", "adam", cwd=tmp_path).stdout
    (overall,) = load(tmp_path / "old").worth("adam").overall
    ratio = overall.ratios["data"]
    assert f"At equal loss, muon is worth {ratio.ratio:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]" in out
    assert (tmp_path / "old.report" / "index.html").is_file()
    answer = json.loads(isoloss("report", "old", "--baseline", "adam", "--json", cwd=tmp_path).stdout)
    assert answer["worth_overall"][0]["data"]["ratio"] == ratio.ratio
    assert [run["status"] for run in answer["runs"]] == ["done"] * len(runs)


def test_the_law_commands_take_the_folder(runs: list[Old], tmp_path: Path) -> None:
    isoloss("import", "runs.csv", "--out", "old", *SET, cwd=tmp_path)
    found = json.loads(
        isoloss("fit", "old", "--arm", "adam", "--bootstrap", 0, "--save", "fit.json", "--json", cwd=tmp_path).stdout
    )
    theirs = raw_law(runs, "adam").parameters
    assert {name: f"{value:.8g}" for name, value in found["parameters"].items()} == {
        name: f"{value:.8g}" for name, value in theirs.items()
    }
    message = isoloss("fit", "old", cwd=tmp_path, code=2).stderr
    assert "old has the arms adam, muon, and one law over all of them would mix them: say --arm adam" in message
    assert (
        "allowed: adam, muon (did you mean 'muon'?)"
        in isoloss("fit", "old", "--arm", "mun", cwd=tmp_path, code=2).stderr
    )
    at = ("predict", "old", "--arm", "muon", "--at", "N=1e7,D=1e8", "--json")
    assert json.loads(isoloss(*at, cwd=tmp_path).stdout)["predictions"][0]["predicted"] > old.E
    assert "has no column arm" in isoloss("fit", "runs.csv", "--arm", "x", cwd=tmp_path, code=2).stderr


def test_the_page_of_imported_runs_escapes_their_names(runs: list[Old], tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    text = (tmp_path / "runs.csv").read_text().replace("muon", name)
    (tmp_path / "runs.csv").write_text(text)
    isoloss("import", "runs.csv", "--out", "old", *SET, cwd=tmp_path)
    page = package.report(load(tmp_path / "old").answer("adam"), tmp_path / "page", figures=False)
    assert name not in page.read_text() and "&lt;script&gt;" in page.read_text()


def test_bad_requests_are_one_message(runs: list[Old], tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        return isoloss(*arguments, cwd=tmp_path, code=2).stderr

    assert "--out is missing" in refused("import", "runs.csv")
    assert "no such file or folder (did you mean 'runs.csv'?)" in refused("import", "run.csv", "--out", "old")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "holds other files" in refused("import", "runs.csv", "--out", "full", *SET)
    assert "is a file; allowed: a folder" in refused("import", "runs.csv", "--out", "runs.csv", *SET)
    isoloss("import", "runs.csv", "--out", "old", *SET, cwd=tmp_path)
    (tmp_path / "old" / "notes.txt").write_text("kept")
    isoloss("import", "runs.csv", "--out", "old", *SET, "--set", "exclude=muon", cwd=tmp_path)
    assert (tmp_path / "old" / "notes.txt").read_text() == "kept" and load(tmp_path / "old").arms == ["adam"]
    isoloss("import", "runs.csv", "--out", "old", *SET, cwd=tmp_path)
    assert "is an import already" in refused("import", "old", "--out", "other")
    assert "--baseline is missing: which arm are the others compared with? adam, muon" in refused("report", "old")
    assert "no arm 'adm' (did you mean 'adam'?)" in refused("report", "old", "--baseline", "adm")
    assert "--store: found with imported runs" in refused("report", "old", "--baseline", "adam", "--store", "x")
    assert "no such study file or folder" in refused("report", "new", "--baseline", "adam")
    (tmp_path / "study.yaml").write_text("study: x\n")
    assert "--baseline: found with study.yaml" in refused("report", "study.yaml", "--baseline", "adam")
    assert "has no import.json" in refused("report", "full")


def test_a_folder_that_was_changed_or_damaged_says_so(runs: list[Old], tmp_path: Path) -> None:
    isoloss("import", "runs.csv", "--out", "old", *SET, cwd=tmp_path)
    folder = tmp_path / "old"
    points = (folder / "points.csv").read_text()
    (folder / "points.csv").write_text(points + "x")
    with pytest.raises(StudyError, match=r"points.csv is not as it was imported; change the map and import again"):
        load(folder)
    (folder / "points.csv").write_text(points)
    record = json.loads((folder / "import.json").read_text())
    (folder / "import.json").write_text(json.dumps({**record, "schema": 99}))
    with pytest.raises(StudyError, match="imported by another version"):
        load(folder)
    (folder / "import.json").write_text("{")
    with pytest.raises(StudyError, match="the import is damaged"):
        load(folder)
    assert is_imported(folder) and not is_imported(tmp_path)


def test_points_are_a_plain_table_with_labelled_columns(runs: list[Old], tmp_path: Path) -> None:
    isoloss("import", "runs.csv", "--out", "old", *SET, "--set", "keep=[batch_size]", cwd=tmp_path)
    with (tmp_path / "old" / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["run", "arm", "seed", "N", "D", "S", "B", "C", "loss", "batch_size"]
    assert [float(row["loss"]) for row in rows] == [r.loss for r in runs]
    assert rows[0]["D"] == str(runs[0].D) and rows[0]["batch_size"] == "64"


def test_importing_loads_neither_torch_nor_the_loggers(runs: list[Old], tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['isoloss', 'import', 'runs.csv', '--out', 'old', "
        "'--set', 'arm=optimizer', '--set', 'D=steps * batch_size * block_size']\n"
        "from isoloss.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'tensorboard', 'mlflow', 'wandb', 'transformers'} & set(sys.modules)"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert "Make points and curves of runs" in typed("import", "--help", cwd=tmp_path).stdout
    assert typed("import", "nothing", "--out", "x", cwd=tmp_path, code=2).stderr.startswith(
        "isoloss: nothing: there is no"
    )


@pytest.mark.parametrize("missing", ["tensorboard", "wandb"])
def test_a_missing_package_names_its_extra(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    if missing == "tensorboard":
        (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    else:
        (tmp_path / "run-x.wandb").write_bytes(b":W&B\x00\x00\x00")
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    message = isoloss("import", ".", "--out", "old", cwd=tmp_path, code=2).stderr
    assert f"pip install 'isoloss[{missing}]'" in message
