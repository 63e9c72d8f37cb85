"""Other forms of transfer against planted curves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transfer_data import LAW, planted, transferred

from isoloss.laws.forms.transfer import loss_after_transfer
from isoloss.worth.transfer import answer
from isoloss.worth.transfer_forms import combined, curve_laws

KAPLAN = {"N_c": 1e8, "alpha_N": 0.1, "D_c": 1e9, "alpha_D": 0.2}


def nmt(D: float, N: float) -> float:
    return float(30.0 * (1.0 / D + 1e-6) ** 0.28)


def kaplan(D: float, N: float) -> float:
    ratio = KAPLAN["alpha_N"] / KAPLAN["alpha_D"]
    return float(((KAPLAN["N_c"] / N) ** ratio + KAPLAN["D_c"] / D) ** KAPLAN["alpha_D"])


def test_the_law_that_made_a_curve_describes_it_best() -> None:
    found = curve_laws(planted(curve=nmt, seeds=1))
    json.dumps(found, allow_nan=False)
    for size in found:
        best = size["laws"][0]
        assert best["law"] == "nmt" and best["rmse"] < 1e-6
        assert best["parameters"]["p"] == pytest.approx(0.28, rel=1e-3)
        assert best["parameters"]["C"] == pytest.approx(1e-6, rel=1e-2)
    for size in curve_laws(planted(seeds=1)):
        assert size["laws"][0]["law"] == "m2"


def test_a_short_curve_leaves_out_laws_with_as_many_parameters() -> None:
    (size, *_) = curve_laws(planted(seeds=1, data=[1e4, 1e5, 1e6, 1e7]))
    assert {law["law"] for law in size["laws"]} == {"m2", "nmt"}


def test_the_combined_form() -> None:
    """Where D_F is small beside D_T, losses planted by equation 6.1 are met; the error is what D_F adds."""
    rows = planted(curve=kaplan, seeds=3, laws={"text": LAW | {"k": 40_000.0}}, data=[1e4 * 4.0**i for i in range(10)])
    found = answer(rows)
    (record,) = combined(rows, found)
    assert record["tentative"] and record["rmse_scratch"] < 1e-6
    N, D = np.array([(c["N"], c["D_F"]) for c in found["cells"]]).T
    D_T = transferred(LAW | {"k": 40_000.0}, 1.0, 1.0) * D**0.18 * N**0.4
    planted_losses = np.array([kaplan(d, n) for d, n in zip(D + D_T, N, strict=True)])
    predicted = loss_after_transfer(LAW | {"k": 40_000.0}, KAPLAN, D, N)
    assert record["bias"] == pytest.approx(float(np.mean(np.log(planted_losses / predicted))), abs=1e-3)


def test_one_size_has_no_combined_form() -> None:
    rows = planted(sizes=[1e5], seeds=1)
    with pytest.raises(ValueError, match="two sizes or more; found one"):
        combined(rows, answer(rows))
