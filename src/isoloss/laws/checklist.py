"""The pitfalls checklist of scaling-law fits, filled in from the data and the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoloss.laws.bootstrap import FEW_CLUSTERS, Draws
from isoloss.laws.diagnose import identified
from isoloss.laws.errors import LawError
from isoloss.laws.fitting import Fit
from isoloss.laws.validate import Holdout

OUTLIER = 5.0  # robust standard deviations


@dataclass(frozen=True)
class Item:
    """One question of the checklist: 'fine', 'look' (something was seen) or 'unknown' (not in the table)."""

    question: str
    state: str
    answer: str


def checklist(fit: Fit, holdout: Holdout | None = None, draws: Draws | None = None, level: float = 0.9) -> list[Item]:
    """Every pitfall with what these rows, this fit and its draws say about it.

    Questions: Besiroglu et al. 2024 (2404.10102); the survey (Mis)Fitting (2502.18969), its checklist.
    """
    points, d = fit.points, fit.diagnosis
    warnings = points.check()
    return [
        _units(fit, warnings),
        _embeddings(fit, warnings),
        _tokens(fit),
        _compute(fit),
        _checkpoints(fit),
        _said(
            "Is the range wide enough?",
            [w for w in warnings if "decades" in w or ("only" in w and "values" in w)],
            ", ".join(f"{name} {span:.2f} decades" for name, span in d.decades.items()),
        ),
        _apart(fit, warnings),
        _said("Are there copied rows?", [w for w in warnings if "more than" in w], "none seen"),
        _outliers(fit),
        Item(
            "Sum or mean, delta, weights?",
            "look" if "weight" in points and any("inverted" in w for w in warnings) else "fine",
            f"sum of {fit.loss.kind}, delta {fit.loss.delta:g}, {d.inside:.0%} of rows inside delta, "
            + ("weights from the table" if "weight" in points and fit.weighted else "equal weights"),
        ),
        Item(
            "Did the solver converge, and to one minimum?",
            "fine" if fit.converged and len(fit.minima) == 1 else "look",
            f"{'converged' if fit.converged else 'not converged'}, {len(fit.minima)} distinct minima, "
            f"relative gradient {fit.gradient:.1e}",
        ),
        _identified(fit, draws, level),
        _delta(fit),
        _clusters(fit),
        _held_out(holdout),
        Item(
            "Learning rate tuned per size, schedule matched to duration?",
            "unknown",
            "not in the table: state it",
        ),
    ]


def _said(question: str, seen: list[str], fine: str) -> Item:
    return Item(question, "look" if seen else "fine", "; ".join(seen) or fine)


def _units(fit: Fit, warnings: list[str]) -> Item:
    question = "Is N, D, C in the right units?"
    seen = [w for w in warnings if "median of" in w]
    present = [name for name in ("N", "D", "C") if name in fit.points]
    # A magnitude betrays its unit only for N, or for two of the three together.
    if seen or "N" in present or len(present) > 1:
        return _said(question, seen, f"{', '.join(present)} have typical magnitudes")
    what = f"{present[0]} alone does not show it" if present else "the table has none of them"
    return Item(question, "unknown", f"{what}: state the units")


def _apart(fit: Fit, warnings: list[str]) -> Item:
    question = "Do N and D vary apart?"
    seen = [w for w in warnings if "move together" in w]
    if {"N", "D"} <= set(fit.points.columns):
        return _said(question, seen, "yes: their logs are not collinear")
    missing = " and ".join(name for name in ("N", "D") if name not in fit.points)
    return Item(question, "unknown", f"the table has no {missing}: state how they went together")


def _identified(fit: Fit, draws: Draws | None, level: float) -> Item:
    question = "Is every parameter identified?"
    loose = fit.diagnosis.not_identified
    if draws is None:
        state = "look" if loose else "unknown"
        return Item(question, state, loose or identified(fit, None))
    try:
        wide = bool(draws.open_parameters(level)) or draws.clusters < FEW_CLUSTERS
    except LawError:
        wide = True
    said = "; ".join(filter(None, (loose, identified(fit, draws, level), *draws.notes)))
    return Item(question, "look" if loose or wide else "fine", said)


def _embeddings(fit: Fit, warnings: list[str]) -> Item:
    question = "Does N count the embeddings?"
    if "N" not in fit.points:
        return Item(question, "fine", "the table has no N")
    seen = [w for w in warnings if "embeddings" in w]
    if seen:
        return Item(question, "look", seen[0])
    if {"vocab", "d_model", "n_layer"} <= set(fit.points.columns):
        return Item(question, "fine", "N agrees with non-embedding parameters")
    return Item(question, "unknown", "not visible without columns vocab, d_model, n_layer: state it")


def _tokens(fit: Fit) -> Item:
    question = "Is data repeated?"
    if "unique" in fit.points and "D" in fit.points:
        most = float(np.max(fit.points.D / fit.points.unique))
        repeated = most > 1.01 and "unique" not in fit.form.variables
        return Item(question, "look" if repeated else "fine", f"up to {most:.3g} passes over the unique tokens")
    return Item(question, "unknown", "no column of unique tokens: state it")


def _compute(fit: Fit) -> Item:
    question = "How was compute counted?"
    if {"N", "D", "C"} <= set(fit.points.columns):
        ratio = fit.points.C / (fit.points.N * fit.points.D)
        if float(np.ptp(ratio)) <= 1e-9 * float(np.max(ratio)):
            return Item(
                question,
                "unknown",
                f"C is {ratio[0]:.4g} N D in every row: one of the three was worked out from the others, so the "
                "table cannot say how compute was counted: state it",
            )
        return Item(question, "fine", f"C / (N D) runs from {ratio.min():.4g} to {ratio.max():.4g} (6ND gives 6)")
    return Item(question, "unknown", "no column C: allocation uses a named convention")


def _checkpoints(fit: Fit) -> Item:
    question = "Final losses, or checkpoints of one run?"
    if "run" not in fit.points:
        return Item(question, "unknown", "no column run: rows are taken as one run each")
    _, counts = np.unique(fit.points.run.astype(str), return_counts=True)
    many = float(np.median(counts)) > 1
    text = f"{len(counts)} runs, {np.median(counts):.0f} rows each"
    return Item(question, "look" if many else "fine", text + ("; resample runs, not rows" if many else ""))


def _outliers(fit: Fit) -> Item:
    spread = 1.4826 * float(np.median(np.abs(fit.residuals - np.median(fit.residuals)))) + 1e-15
    far = np.flatnonzero(np.abs(fit.residuals) > OUTLIER * spread)
    listed = ", ".join(str(i) for i in far[:8])
    return Item(
        "Do a few rows decide?",
        "look" if len(far) else "fine",
        f"{len(far)} rows lie beyond {OUTLIER:g} robust standard deviations (rows {listed})"
        if len(far)
        else "no row stands out",
    )


def _delta(fit: Fit) -> Item:
    question = "Does delta matter?"
    if fit.loss.kind == "squared":
        return Item(question, "fine", "squared loss has no delta")
    table = fit.sensitivity()
    names = [*fit.form.names, *fit.form.derived()]
    moved = {}
    for name in names:
        values = np.array([row[name] for row in table.values()])
        moved[name] = float(np.ptp(values) / max(abs(float(np.median(values))), 1e-300))
    worst = max(moved, key=lambda name: moved[name])
    text = f"from delta 1e-2 to the L1 limit {worst} moves most, by {moved[worst]:.1%}"
    return Item(question, "look" if moved[worst] > 0.1 else "fine", text)


def _clusters(fit: Fit) -> Item:
    index, unit = fit.points.clusters(fit.cluster)
    count = int(index.max()) + 1
    return Item(
        "What is resampled as one unit?",
        "look" if count < 10 else "fine",
        f"{count} clusters by {unit}" + (": too few for intervals" if count < 3 else ""),
    )


def _held_out(holdout: Holdout | None) -> Item:
    question = "Was the largest scale predicted before it was seen?"
    if holdout is None:
        return Item(question, "look", "no hold-out: add --holdout C (or N, D)")
    text = (
        f"{len(holdout.rows)} rows with {holdout.by} above {holdout.threshold:.3g}: rmse {holdout.rmse:.4f}, "
        f"{holdout.coverage:.0%} inside the {holdout.level:.0%} band"
    )
    beaten = min(holdout.baselines.values(), default=np.inf) <= holdout.rmse
    return Item(question, "look" if beaten else "fine", text + ("; a baseline does as well" if beaten else ""))
