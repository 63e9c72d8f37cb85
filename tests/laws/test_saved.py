"""A fit written to a file and read back, for every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_forms import PLANTED, design, fit_planted

from isoloss.laws import LawError, Points, fit, get_form, load_fit, optimum


def refuse(text: str) -> Any:
    raise AssertionError(f"{text} is not JSON")


@pytest.mark.parametrize("name", PLANTED)
def test_every_form_survives_a_file(name: str, tmp_path: Path) -> None:
    found = fit_planted(name, noise=0.002)
    path = tmp_path / "deep" / "fit.json"
    found.save(path)
    json.loads(path.read_text(), parse_constant=refuse)
    saved = load_fit(path)
    assert saved.parameters == found.parameters and saved.form.name == name
    assert saved.free_parameters == len(found.form.parameters) - len(found.problem.fixed)
    columns = design(found.form)
    np.testing.assert_array_equal(saved.predict(**columns), found.predict(**columns))
    assert saved.record["objective"] == found.objective


def test_saved_fit_allocates_like_the_fit(tmp_path: Path) -> None:
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    loss = get_form("chinchilla").predict(PLANTED["chinchilla"], {"N": N, "D": D})
    found = fit(Points(N=N, D=D, C=8 * N * D, loss=loss), "chinchilla")
    found.save(tmp_path / "fit.json")
    saved = load_fit(tmp_path / "fit.json")
    assert saved.flops_per_nd == pytest.approx(8.0)
    best, direct = saved.optimum(1e22), optimum(found.form, found.parameters, 1e22, 8.0)
    assert {name: float(v) for name, v in best.items()} == {name: float(v) for name, v in direct.items()}
    assert saved.predict(N=1e9, D=1e10) == found.predict(N=1e9, D=1e10)
    with pytest.raises(LawError, match="predicts from N, D; given: N"):
        saved.predict(N=1e9)


def test_a_degenerate_fit_is_still_json(tmp_path: Path) -> None:
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    flat = fit(Points(N=N, D=D, loss=np.full(25, 3.0)), "chinchilla")
    flat.save(tmp_path / "fit.json")
    record = json.loads((tmp_path / "fit.json").read_text(), parse_constant=refuse)
    assert record["derived"]["G"] is None
    assert load_fit(tmp_path / "fit.json").predict(N=1e9, D=1e10) == pytest.approx(3.0, rel=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a fit saved"),
        ("[]", "not a fit saved .*no law"),
        ('{"law": "m2", "parameters": {}}', "no columns, flops_per_nd, free_parameters"),
        (
            '{"law": "m2", "parameters": {"E": 1}, "columns": {"x": "D"}, "flops_per_nd": 6, "free_parameters": 3}',
            "holds law 'm2' with E",
        ),
        (
            '{"law": "m22", "parameters": {}, "columns": {}, "flops_per_nd": 6, "free_parameters": 3}',
            "did you mean 'm2'",
        ),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "fit.json").write_text(content)
    with pytest.raises(LawError, match=message):
        load_fit(tmp_path / "fit.json")
    with pytest.raises(LawError, match="cannot be read"):
        load_fit(tmp_path / "absent.json")
