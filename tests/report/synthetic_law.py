"""A law fitted to the runs of a synthetic study, with its band, its held-out check and its map."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
from scipy import optimize

LAW = {"E": 1.05, "A": 42.0, "alpha": 0.42, "B": 95.0, "beta": 0.41}
Json = dict[str, Any]


def fitted_law(runs: list[Json], arm: str) -> Json | None:
    """Least squares on log loss without the largest size, a bootstrap by root, a held-out check."""
    mine = [run for run in runs if run["arm"] == arm]
    sizes = sorted({run["N"] for run in mine})
    if len(sizes) < 3:
        return None
    fitted = [run for run in mine if run["N"] < sizes[-1]]
    x = np.array([[run["N"], run["D"]] for run in fitted], float).T
    names = list(LAW)

    def model(at: np.ndarray, *p: float) -> np.ndarray:
        e, a, alpha, b, beta = np.exp(np.clip(p, -20, 20))
        return np.log(e + a / at[0] ** np.minimum(alpha, 9) + b / at[1] ** np.minimum(beta, 9))

    losses = np.log([run["loss"] for run in fitted])
    start = np.log(list(LAW.values()))
    found, _ = optimize.curve_fit(model, x, losses, p0=start, maxfev=20_000)
    roots = np.array([run["root"] for run in fitted])
    rng, draws = np.random.default_rng(1), []
    for _ in range(40 if len(set(roots)) > 2 else 0):
        rows = np.concatenate([np.flatnonzero(roots == root) for root in rng.choice(np.unique(roots), len(set(roots)))])
        with contextlib.suppress(RuntimeError):  # a resample on which the fit does not settle is left out
            draws.append(optimize.curve_fit(model, x[:, rows], losses[rows], p0=found, maxfev=4000)[0])

    def band(at: np.ndarray) -> tuple[list[float], list[float], list[float]]:
        middle = np.exp(model(at, *found))
        low, high = np.quantile([np.exp(model(at, *p)) for p in draws or [found]], [0.025, 0.975], axis=0)
        return middle.tolist(), low.tolist(), high.tolist()

    curves = []
    for n in sizes:
        d = np.geomspace(min(r["D"] for r in mine) * 0.8, max(r["D"] for r in mine) * 3, 40)
        loss, low, high = band(np.stack([np.full_like(d, n), d]))
        curves.append({"N": n, "x": list(map(float, d)), "loss": loss, "low": low, "high": high})
    held = [run for run in mine if run["N"] == sizes[-1] and run["seed"] == 0]
    at = np.array([[run["N"], run["D"]] for run in held], float).T
    rows = [
        {"N": run["N"], "D": run["D"], "actual": run["loss"], "predicted": p, "low": low, "high": high}
        for run, p, low, high in zip(held, *band(at), strict=True)
    ]
    errors = [math.log(row["actual"] / row["predicted"]) for row in rows]
    bounds = np.exp(np.quantile(draws, [0.025, 0.975], axis=0)).T if draws else [(None, None)] * len(names)
    return {
        "arm": arm, "law": "chinchilla", "formula": "E + A/N^alpha + B/D^beta",
        "parameters": [
            {"name": name, "value": math.exp(p), "low": low, "high": high}
            for name, p, (low, high) in zip(names, found, bounds, strict=True)
        ],
        "rows": len(fitted),
        "holdout": {"by": "N", "rmse": float(np.sqrt(np.mean(np.square(errors)))), "rows": rows},
        "curves": curves, "warnings": [],
        "residuals": [
            {"run": run["id"], "N": run["N"], "D": run["D"], "actual": run["loss"], "predicted": float(p)}
            for run, p in zip(fitted, np.exp(model(x, *found)), strict=True)
        ],
        "surface": _surface(dict(zip(names, np.exp(found), strict=True)), mine),
    }  # fmt: skip


def _surface(p: dict[str, float], runs: list[Json]) -> Json:
    """Iso-loss lines and the frontier of a law, both in closed form (Hoffmann et al. 2022, equation 4)."""
    seen = {name: [min(run[name] for run in runs), max(run[name] for run in runs)] for name in ("N", "D")}
    extent = {name: [low / 2, high * 10] for name, (low, high) in seen.items()}
    corners = [
        p["E"] + p["A"] / n ** p["alpha"] + p["B"] / d ** p["beta"] for n, d in zip(*extent.values(), strict=True)
    ]
    lines = []
    for loss in np.linspace(min(corners), max(corners), 8)[1:-1]:
        n = np.geomspace(*extent["N"], 200)
        left = loss - p["E"] - p["A"] / n ** p["alpha"]
        d = (p["B"] / np.where(left > 0, left, np.nan)) ** (1 / p["beta"])
        inside = (n >= seen["N"][0]) & (n <= seen["N"][1]) & (d >= seen["D"][0]) & (d <= seen["D"][1])
        shown = (d >= extent["D"][0]) & (d <= extent["D"][1])
        for flag in (True, False):
            rows = np.flatnonzero(shown & (inside == flag))
            for part in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
                if len(part) > 1:
                    lines.append({"loss": float(loss), "measured": flag, "N": n[part].tolist(), "D": d[part].tolist()})
    least, most = (6 * extent["N"][i] * extent["D"][i] for i in (0, 1))
    c = np.geomspace(least, most, 30)
    scale = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    n = scale * (c / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
    d = c / (6 * n)
    kept = (n >= extent["N"][0]) & (n <= extent["N"][1]) & (d >= extent["D"][0]) & (d <= extent["D"][1])
    frontier = {"C": c[kept], "N": n[kept], "D": d[kept], "N_low": 0.7 * n[kept], "N_high": 1.4 * n[kept]}
    frontier["loss"] = p["E"] + p["A"] / frontier["N"] ** p["alpha"] + p["B"] / frontier["D"] ** p["beta"]
    inside = (frontier["N"] <= seen["N"][1]) & (frontier["D"] <= seen["D"][1])
    drawn = {name: values.tolist() for name, values in frontier.items()} | {"measured": inside.tolist()}
    return {"flops_per_nd": 6.0, "measured": seen, "extent": extent, "lines": lines, "frontier": drawn}
