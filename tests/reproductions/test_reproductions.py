"""What is kept of the papers' studies: pages say what the files say, and cells trained again give the same bits."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from reproductions.kept import PAGES, STUDIES, NotMeasured, answer_file, answers, concluded, parquet
from reproductions.page import Reproduction, listed, write, write_index
from reproductions.studies import ALL
from reproductions.verdicts import OPEN
from ruamel.yaml import YAML

import isoloss
from isoloss.store import Store
from isoloss.study.checks import LR, put
from reproductions import headline, laws_on_public_data

KEPT = [made for made in ALL if answer_file(made.folder, made.studies[0]).exists()]
PARTS = [(made.folder, study) for made in KEPT for study in answers(made.folder, made.studies)]
CELLS = [(*part, False) for part in PARTS] + [(*part, True) for part in PARTS if "transfer" in part[1]]


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the data of studies lies beside the checkout, they find it; tests that lack theirs are skipped."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    if folder.is_dir():
        monkeypatch.setenv("ISOLOSS_DATA", str(folder))


@pytest.mark.parametrize("made", KEPT, ids=lambda made: made.folder)
def test_the_page_is_what_the_files_say(made: Reproduction, tmp_path: Path) -> None:
    committed = answer_file(made.folder, made.studies[0]).parent
    for path in write(made, tmp_path):
        assert path.read_bytes() == (committed / path.name).read_bytes(), path.name


def test_the_list_of_all_is_what_the_files_say(tmp_path: Path) -> None:
    rows = [listed(made, answers(made.folder, made.studies)) for made in KEPT]
    made = write_index([*rows, laws_on_public_data.listed()], tmp_path)
    assert made.read_bytes() == (PAGES / made.name).read_bytes()


def test_the_readme_shows_what_the_files_say(tmp_path: Path) -> None:
    rows = [line for made in KEPT for line in made.headline(answers(made.folder, made.studies))]
    assert rows
    (tmp_path / "README.md").write_text(f"{headline.BEGIN}{headline.END}")
    figure, readme = headline.write(rows, tmp_path / "README.md", tmp_path)
    assert figure.read_bytes() == (PAGES / headline.FIGURE).read_bytes()
    assert readme.read_text() in headline.README.read_text()


@pytest.mark.parametrize(("folder", "study"), PARTS)
def test_the_conclusions_hold_the_losses_of_the_file(folder: str, study: str) -> None:
    """By key, without anything of isoloss that reads stores; and the file is small enough to be kept."""
    assert parquet(folder, study).stat().st_size < 2e6
    rows = pl.read_parquet(parquet(folder, study)).select("measurements").explode("measurements").unnest("measurements")
    measured: dict[str, set[float]] = {}
    for key, value in rows.select("key", "value").iter_rows():
        measured.setdefault(key, set()).add(value)
    answer = json.loads(answer_file(folder, study).read_text())
    done = [run for run in answer["runs"] if run["status"] == "done"]
    assert done
    for run in done:
        assert run["loss"] in measured[run["key"]] and run["loss_a"] in measured[run["key"]]
    for one in answer["worth_overall"]:
        for found in (one["data"], one["compute"]):
            assert found["low"] is None or found["low"] <= found["ratio"] <= found["high"]


@pytest.mark.parametrize(("folder", "study"), PARTS)
def test_the_conclusions_are_those_of_isoloss_today(folder: str, study: str) -> None:
    kept = json.loads(answer_file(folder, study).read_text())
    try:
        found = concluded(folder, study)
    except (NotMeasured, isoloss.recipe.errors.StudyError) as why:
        pytest.skip(str(why))
    _same(found, kept, "")


def _same(found: Any, kept: Any, where: str) -> None:
    """Equal, but for the last digits of fits, which other processors round elsewhere."""
    if isinstance(kept, dict):
        assert found.keys() == kept.keys(), where
        for name in kept:
            if name not in ("versions", "isoloss"):
                _same(found[name], kept[name], f"{where}.{name}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), where
        for index, (a, b) in enumerate(zip(found, kept, strict=True)):
            _same(a, b, f"{where}[{index}]")
    elif isinstance(kept, float) and isinstance(found, float):
        assert math.isclose(found, kept, rel_tol=1e-6, abs_tol=1e-9), where
    else:
        assert found == kept, where


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "study", "pretrained"), CELLS)
def test_a_cell_that_is_trained_again_gives_the_stored_bits(
    folder: str, study: str, pretrained: bool, tmp_path: Path
) -> None:
    """One of the cheap finished runs, alone, into an empty store; with its pre-training, where it has one."""
    raw = YAML(typ="safe").load(STUDIES / f"{study}.yaml")
    try:
        results = isoloss.results(STUDIES / f"{study}.yaml", parquet(folder, study))
    except isoloss.recipe.errors.StudyError as why:
        pytest.skip(str(why))
    done = [
        (r, p)
        for r, p in zip(results.results, results.stage.planned, strict=False)
        if r.status == "done" and not r.extra and bool(p.lowered.before) == pretrained
    ]
    if not results.stage.complete or not done:
        pytest.skip("measured with other numerics or other data than are here")
    cheap = sorted(done, key=lambda pair: pair[0].C)[: max(1, len(done) // 8)]
    result, planned = random.Random(study).choice(cheap)
    alone = copy.deepcopy(raw)
    alone.pop("tune", None)
    alone["grid"] = {path: [result.cell[path]] for path in raw["grid"]}
    alone["arms"] = {result.arm: raw["arms"][result.arm] or {}}
    alone["baseline"] = {"arm": result.arm, "extra": "none"}
    alone["training"] = put(alone["training"], LR.split(".")[1:], planned.lr)
    alone.pop("laws", None)
    path = tmp_path / "study.yaml"
    YAML().dump(alone, path)
    again = isoloss.run(path, tmp_path / "store", workers=1, quiet=True)
    (found,) = again.results
    assert (found.key, found.loss, found.loss_a) == (result.key, result.loss, result.loss_a)
    assert Store(tmp_path / "store").digest(found.key) == Store(parquet(folder, study)).digest(found.key)


@pytest.mark.parametrize("made", KEPT, ids=lambda made: made.folder)
def test_a_verdict_rests_on_an_interval(made: Reproduction) -> None:
    for claim in made.claims(answers(made.folder, made.studies)):
        assert claim.says and claim.found
        if claim.verdict != OPEN:
            assert re.search(r"\[[-+\d]", claim.found) or "whole interval" in claim.found, claim.says
