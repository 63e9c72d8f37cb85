"""Other forms beside the law of transfer: laws of the curve from scratch, and the combined L(N, D_F), both tentative.

    m2    L = E + b D^-c                      nmt   L = a (1/D + C)^p
    ppl   quadratic in log-log, then its tangent line
    combined   L(N, D_F) = [(N_c/N)^(alpha_N/alpha_D) + D_c / (k D_F^alpha N^beta)]^alpha_D

Sources: Bansal et al. 2022 (2202.01994), Jain et al. 2023 (2303.01598), Hernandez et al. 2021 (2102.01293), eq. 6.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from isoloss.laws import LawError, Points, fit, get_form
from isoloss.laws.forms.transfer import loss_after_transfer
from isoloss.worth.transfer import Row, read_rows

CURVES = ("m2", "nmt", "ppl")


def curve_laws(rows: Iterable[Row | Mapping[str, Any]], scratch: str = "scratch") -> list[dict[str, Any]]:
    """Laws of each size's curve from scratch, best first: parameters and root mean square error of log loss.

    A law with no more data sizes than parameters is left out. For the NMT law a change of `a` alone is a constant
    factor of data, one of `p` a growing factor. Raises ValueError for rows that cannot be read.
    """
    table = [row for row in read_rows(rows, scratch) if row.arm == scratch]
    found = []
    for N in sorted({row.N for row in table}):
        own = [row for row in table if row.N == N]
        points = Points(D=[row.D_F for row in own], loss=[row.loss for row in own])
        laws: list[dict[str, Any]] = []
        for name in CURVES:
            if len({row.D_F for row in own}) <= len(get_form(name).parameters):
                continue
            try:
                law = fit(points, name, x="D", loss="squared")
            except LawError as error:
                laws.append({"law": name, "rmse": None, "note": str(error)})
                continue
            laws.append({"law": name, "parameters": law.parameters, "rmse": law.rmse, "warnings": law.warnings})
        found.append({"N": N, "laws": sorted(laws, key=lambda one: math.inf if one["rmse"] is None else one["rmse"])})
    return found


def combined(rows: Iterable[Row | Mapping[str, Any]], found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How well equation 6.1 meets the fine-tuned losses: Kaplan's L(N, D) of the runs from scratch at D_T of the law.

    found: the answer of `worth.transfer` on these rows. `rmse_scratch` is the error of Kaplan's form on its own rows;
    `rmse` and `bias` (mean of measured over predicted, in logs) are those on cells inside the law's range. Raises
    ValueError for one size only and LawError where Kaplan's form cannot be fitted.
    """
    table = read_rows(rows, found["scratch"])
    own = [row for row in table if row.arm == found["scratch"]]
    if len({row.N for row in own}) < 2:
        raise ValueError("transfer: the combined form needs curves from scratch at two sizes or more; found one")
    points = Points(N=[row.N for row in own], D=[row.D_F for row in own], loss=[row.loss for row in own])
    kaplan = fit(points, "kaplan", loss="squared")
    told = []
    for law in found["laws"]:
        record: dict[str, Any] = {"source": law["source"], "tentative": True, "rmse_scratch": kaplan.rmse}
        record |= {"kaplan": kaplan.parameters, "rmse": None, "bias": None, "reason": law["reason"]}
        used = {tuple(cell) for cell in law.get("design", ())}
        cells = [c for c in found["cells"] if c["source"] == law["source"] and (c["N"], c["D_F"]) in used]
        if cells:
            N, D_F, loss = (np.array([c[name] for c in cells]) for name in ("N", "D_F", "loss"))
            constants = {name: law[name]["estimate"] for name in ("k", "alpha", "beta")}
            gap = np.log(loss) - np.log(loss_after_transfer(constants, kaplan.parameters, D_F, N))
            record |= {"rmse": float(np.sqrt(np.mean(gap**2))), "bias": float(gap.mean())}
        told.append(record)
    return told
