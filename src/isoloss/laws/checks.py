"""Checks of a table of points in plain words, before anything is fitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isoloss.laws.errors import LawError

if TYPE_CHECKING:
    from isoloss.laws.points import Points

Array = np.ndarray
NARROW = 1.0  # decades


def check_points(points: Points) -> list[str]:
    """Warnings on ranges, rank of the design, duplicates, clusters, units, weights and counted embeddings."""
    if not len(points):
        return ["the table has no rows"]
    found: list[str] = []
    for step in (_values, _ranges, _design, _duplicates, _clusters, _units, _compute, _weights, _embeddings):
        found += step(points)
    return found


def _finite(points: Points, name: str) -> Array | None:
    if name not in points or points.columns[name].dtype == object:
        return None
    values = points.columns[name]
    good = values[np.isfinite(values) & (values > 0)]
    return good if len(good) else None


def _values(points: Points) -> list[str]:
    found = []
    for name in ("N", "D", "C", "S", "loss", "weight", "unique"):
        if name in points and points.columns[name].dtype != object:
            values = points.columns[name]
            bad = ~np.isfinite(values) | ((values <= 0) if name != "weight" else (values < 0))
            if bad.any():
                row = int(np.argmax(bad))
                found.append(
                    f"{name}: {int(bad.sum())} rows are missing or not positive (first: row {row}, {values[row]})"
                )
    return found


def _ranges(points: Points) -> list[str]:
    found = []
    for name in ("N", "D", "C"):
        values = _finite(points, name)
        if values is None:
            continue
        decades = float(np.log10(values.max() / values.min()))
        if decades == 0:
            found.append(f"all rows have {name} = {values[0]:g}: its exponent cannot be fitted")
        elif decades < NARROW:
            found.append(f"{name} spans only {decades:.2f} decades: expect wide intervals on its exponent")
        levels = len(np.unique(np.round(np.log(values), 3)))
        if 1 < levels < 4:
            found.append(f"{name} takes only {levels} values: coefficient, exponent and floor are hard to tell apart")
    return found


def _design(points: Points) -> list[str]:
    """Near-collinearity of log N and log D: a table at one tokens-per-parameter ratio fits only their sum."""
    if not {"N", "D"} <= set(points.columns):
        return []
    both = np.stack([np.log(points.columns[name]) for name in ("N", "D")])
    if not np.isfinite(both).all() or np.any(np.ptp(both, axis=1) == 0):
        return []
    correlation = float(np.corrcoef(both)[0, 1])
    if abs(correlation) > 0.98:
        return [
            f"N and D move together (correlation of logs {correlation:.3f}): the rank of the design is "
            "nearly one, "
            "and their two terms cannot be told apart; vary tokens per parameter"
        ]
    return []


def _duplicates(points: Points) -> list[str]:
    names = [name for name in ("N", "D", "C", "S", "unique") if name in points]
    if not names:
        return []
    rows = np.stack([points.columns[name] for name in names], axis=1)
    _, group, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    repeated = int((counts > 1).sum())
    if not repeated:
        return []
    if "loss" in points:
        loss, group = points.columns["loss"], group.ravel()
        same = sum(len(set(loss[group == g].tolist())) == 1 for g in np.flatnonzero(counts > 1))
        if same:
            return [
                f"{same} design points appear more than once with the same loss: copied rows count as evidence twice"
            ]
    if "seed" in points or "run" in points or "cluster" in points:
        return []
    return [f"{repeated} design points appear more than once: give a seed, run or cluster column if they are repeats"]


def _clusters(points: Points) -> list[str]:
    index, name = points.clusters()
    count = int(index.max()) + 1
    if count < 3:
        return [f"the rows form {count} cluster(s) by {name}: no interval can be given (at least 3 are needed)"]
    if count < 10:
        return [
            f"only {count} clusters by {name}: intervals are widened by Student's t with {count - 1} degrees of freedom"
        ]
    return []


def _units(points: Points) -> list[str]:
    found = []
    n, d, loss = (_finite(points, name) for name in ("N", "D", "loss"))
    if n is not None and d is not None:
        ratio = float(np.median(d) / np.median(n))
        if ratio < 1e-2:
            found.append(f"tokens per parameter have a median of {ratio:.2g}: are D in billions and N in units?")
        if ratio > 1e6:
            found.append(f"tokens per parameter have a median of {ratio:.2g}: are N in millions and D in units?")
    if n is not None and np.median(n) < 1e3:
        found.append(
            f"N has a median of {np.median(n):.3g}: parameters are expected in units, not millions or billions"
        )
    if loss is not None and np.median(loss) > 20:
        found.append(f"loss has a median of {np.median(loss):.3g}: is it a perplexity or a sum over tokens?")
    return found


def _compute(points: Points) -> list[str]:
    if not {"N", "D", "C"} <= set(points.columns):
        return []
    with np.errstate(all="ignore"):
        ratio = points.columns["C"] / (points.columns["N"] * points.columns["D"])
    ratio = ratio[np.isfinite(ratio)]
    if not len(ratio):
        return []
    middle = float(np.median(ratio))
    if not 1.5 < middle < 60:
        return [f"C / (N D) has a median of {middle:.3g}, where counted training FLOPs give about 6: check the units"]
    return []


def _weights(points: Points) -> list[str]:
    """Weights should be large where repeats agree; where they grow with the spread they are inverted."""
    if not {"weight", "loss"} <= set(points.columns):
        return []
    names = [name for name in ("N", "D", "C", "S") if name in points]
    if not names:
        return []
    rows = np.stack([points.columns[name] for name in names], axis=1)
    _, group = np.unique(rows, axis=0, return_inverse=True)
    group = group.ravel()
    counts = np.bincount(group)
    usable = np.flatnonzero(counts >= 2)
    weight, log_loss = points.columns["weight"], np.log(points.columns["loss"])
    if len(usable) < 6 or np.ptp(weight) == 0 or not np.isfinite(log_loss).all() or np.any(weight <= 0):
        return []
    spread = np.array([np.var(log_loss[group == g], ddof=1) for g in usable])
    level = np.array([np.mean(np.log(weight[group == g])) for g in usable])
    usable_spread = spread > 0
    if usable_spread.sum() < 6 or np.ptp(level[usable_spread]) == 0:
        return []
    from scipy.stats import spearmanr

    link = spearmanr(level[usable_spread], spread[usable_spread])
    if link.statistic > 0 and link.pvalue < 0.05:
        return [
            f"weights grow with the spread of repeats (rank correlation {link.statistic:.2f}): they look "
            "inverted; "
            "a weight is 1/variance here, not a standard deviation"
        ]
    return []


def _embeddings(points: Points) -> list[str]:
    """N that equals blocks plus vocabulary x width counts the embeddings."""
    if not {"N", "d_model", "n_layer", "vocab"} <= set(points.columns):
        return []
    times = _times_embedded(points)
    if not times:
        return []
    share = float(np.max(times * points.columns["vocab"] * points.columns["d_model"] / points.columns["N"]))
    how = "the embeddings" if times == 1 else "the embeddings twice, input and output"
    return [
        f"N counts {how} (up to {share:.0%} of it): the size exponent will be biased; use non-embedding parameters, "
        "points.without_embeddings()"
    ]


def _times_embedded(points: Points) -> int:
    """How many vocabulary x width matrices N holds: 0, 1 (tied embeddings) or 2 (untied)."""
    n = points.columns["N"]
    width, layers, vocabulary = (points.columns[name] for name in ("d_model", "n_layer", "vocab"))
    blocks, matrix = 12.0 * layers * width**2, vocabulary * width
    with np.errstate(all="ignore"):
        gap = np.abs(np.log(n / np.stack([blocks, blocks + matrix, blocks + 2.0 * matrix])))
    middle = np.median(gap, axis=1)
    best = int(np.argmin(middle))
    return best if middle[best] < 0.1 and np.mean(gap[best] < gap[0]) > 0.7 else 0


def without_embeddings(points: Points) -> Points:
    """N minus its embeddings, from columns vocab and d_model. Raises LawError.

    One vocabulary x width is taken off, or two where n_layer shows that N counts untied embeddings.
    """
    times = _times_embedded(points) if {"d_model", "n_layer", "vocab"} <= set(points.columns) else 1
    rest = points.column("N") - max(times, 1) * points.column("vocab") * points.column("d_model")
    if np.any(rest <= 0):
        row = int(np.argmax(rest <= 0))
        raise LawError(f"row {row}: N is not larger than vocab x d_model, so it does not count the embeddings")
    return points.with_columns(N=rest)
