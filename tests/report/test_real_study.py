"""The page of a study that was really trained, opened in a browser: what it shows is what was measured."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from chromium import Browser
from tests.conftest import SMALL

import isoloss


@pytest.mark.slow
@pytest.mark.chromium
@pytest.mark.multiprocess
def test_a_trained_study_is_drawn_and_its_figures_are_in_the_page(browser: Browser, tmp_path: Path) -> None:
    study = copy.deepcopy(SMALL)
    study["grid"] = {
        "model.width": [8, 16],
        "duration": ["20 updates", "40 updates", "80 updates"],
        "seed": [0, 1, 2],
    }
    study["baseline"] = {"arm": "cosine", "extra": "160 updates"}
    study["laws"] = ["chinchilla"]
    results = isoloss.run(study, tmp_path / "store", quiet=True)
    answer = results.answer()
    assert {run["status"] for run in answer["runs"]} == {"done"}
    page = browser.open(isoloss.report(answer, tmp_path / "page"))
    page.wait_drawn()
    assert page.complaints() == []
    text = page.evaluate("document.body.innerText")
    assert answer["summary"][0].split(",")[0] in text
    for overall in answer["worth_overall"]:
        assert f"{overall['data']['ratio']:.2f}" in text
    shared = answer["sharing"]["updates"]
    assert f"{shared['shared']:,}" in text and f"{shared['unshared']:,}" in text
    shown = page.evaluate(
        "[...document.querySelectorAll('.live')].filter(e => e.querySelector('.layer')).map(e => e.id)"
    )
    assert {"curves", "final", "law-0"} <= set(shown)
    page.close()
