"""Starts by variable projection: a grid over nonlinear parameters, a linear solve for the rest.

At every grid node the coefficients solve a least-squares problem of relative error in closed form; where some
come out negative, the best solve on a subset of the columns is taken. The local minima of the grid are the
starts: no guess of the user's is needed and none is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

import numpy as np

from isoloss.laws.form import Form
from isoloss.laws.kernel import Namespace

Array = np.ndarray
MOST_ROWS = 1000
ABSENT = 1e-3  # share of the smallest prediction given to a coefficient that the linear solve leaves out


def make_starts(
    form: Form, logs: Mapping[str, Array], y: Array, weight: Array, fixed: Mapping[str, float], limit: int
) -> Array:
    """Starts of shape (s, p) in fitted coordinates, best first, for one data set of centred logs."""
    if len(y) > MOST_ROWS:
        # Starts need no more than a sample of a long table.
        rows = np.sort(np.random.default_rng(0).choice(len(y), MOST_ROWS, replace=False))
        logs, y, weight = {name: values[rows] for name, values in logs.items()}, y[rows], weight[rows]
    starts = [grid_starts(form, logs, y, weight, fixed, limit)]
    v = Namespace({}, dict(logs))
    target = form.from_space(y)
    for guess in form.checked_guesses(v, target, fixed):
        starts.append(to_theta(form, guess)[None, :])
    return np.concatenate(starts)


def term_guesses(form: Form, v: Namespace, y: Array, limit: int = 4) -> list[dict[str, float]]:
    """Grid starts of a sum of powers as natural values: seeds for a richer law on the same variables."""
    logs = {name: np.asarray(v[f"log_{name}"]) for name in form.variables}
    theta = grid_starts(form, logs, np.log(y), np.ones(len(y)), {}, limit)
    return [
        {q.name: float(np.exp(t) if q.positive else t) for q, t in zip(form.parameters, row, strict=True)}
        for row in theta
    ]


def line(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope of an ordinary least-squares line."""
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
    return float(y.mean() - slope * x.mean()), slope


def to_theta(form: Form, values: Mapping[str, Any]) -> Array:
    """Fitted coordinates (logarithms where positive) of natural values."""
    return np.array(
        [np.log(max(values[q.name], 1e-300)) if q.positive else float(values[q.name]) for q in form.parameters]
    )


def grid_starts(
    form: Form, logs: Mapping[str, Array], y: Array, weight: Array, fixed: Mapping[str, float], limit: int
) -> Array:
    """Local minima of the variable-projection grid, best first, at most `limit`."""
    if type(form).basis is Form.basis:
        return np.empty((0, len(form.parameters)))
    searched = [q.name for q in form.parameters if q.role != "coefficient"]
    v = Namespace({}, dict(logs))
    axes = [np.array([fixed[name]]) if name in fixed else _axis(form, name, searched, v) for name in searched]
    shape = tuple(len(axis) for axis in axes)
    nodes = np.array(list(product(*axes)), dtype=float).reshape(int(np.prod(shape)), len(searched))
    p = Namespace({name: nodes[:, i : i + 1] for i, name in enumerate(searched)}, {})
    for q in form.parameters:
        if q.name in fixed and q.name not in searched:
            p._values[q.name] = np.full((1, 1), fixed[q.name])
    basis = form.basis(p, v)
    if basis is None:
        return np.empty((0, len(form.parameters)))
    target = (np.exp(y) if form.space == "log" and form.linear_in == "loss" else y) - basis.offset
    # Residuals relative to the observation approximate residuals of its logarithm.
    relative = form.space == "log" and form.linear_in == "loss"
    row_weight = weight / target**2 if relative else np.broadcast_to(weight, np.shape(target))
    coefficients, score = _solve(form, basis.columns, target, row_weight, fixed, len(nodes))
    order = _local_minima(score.reshape(shape or (1,)))[:limit]
    starts = []
    for node in order:
        values = dict(fixed)
        values |= {name: float(nodes[node, i]) for i, name in enumerate(searched)}
        values |= {name: float(column[node]) for name, column in coefficients.items()}
        starts.append(to_theta(form, values))
    return np.array(starts).reshape(-1, len(form.parameters))


def _axis(form: Form, name: str, searched: list[str], v: Namespace) -> Array:
    own = form.grid_of(name, v)
    if own is not None:
        return np.asarray(own, dtype=float)
    count = {1: 40, 2: 24, 3: 11}.get(len(searched), 6)
    return np.geomspace(0.03, 2.5, count)


def _solve(
    form: Form,
    columns: Mapping[str, Any],
    target: Array,
    weight: Array,
    fixed: Mapping[str, float],
    nodes: int,
) -> tuple[dict[str, Array], Array]:
    """Weighted least squares at every node with the signs that the coefficients must have."""
    rows = target.shape[-1]
    names = [name for name in columns if name not in fixed]
    rest = target - sum(fixed[name] * columns[name] for name in columns if name in fixed)
    rest = np.broadcast_to(rest, (nodes, rows))
    weight = np.broadcast_to(weight, (nodes, rows))
    stack = np.stack([np.broadcast_to(columns[name], (nodes, rows)) for name in names], axis=1)
    # A floor is what a log coordinate can hold; it is small beside the smallest prediction.
    logged = form.linear_in == "loss"
    positive = np.array([form.parameter(name).positive and logged for name in names])
    scaled = stack * weight[:, None, :]
    gram = np.matmul(scaled, stack.transpose(0, 2, 1))
    moment = np.matmul(scaled, rest[:, :, None])[:, :, 0]
    total = np.sum(weight * rest * rest, axis=1)
    best = np.full(nodes, np.inf)
    solution = np.zeros((nodes, len(names)))
    subsets = [s for size in range(len(names), 0, -1) for s in combinations(range(len(names)), size)]
    for subset in subsets:
        if any(not positive[i] for i in range(len(names)) if i not in subset):
            continue
        chosen = np.array(subset)
        todo = np.flatnonzero(~np.isfinite(best)) if len(subset) == len(names) else np.arange(nodes)
        part = gram[np.ix_(todo, chosen, chosen)]
        scale = np.sqrt(np.maximum(np.einsum("kii->ki", part), 1e-300))
        part = part / (scale[:, :, None] * scale[:, None, :]) + 1e-13 * np.eye(len(chosen))
        values = np.linalg.solve(part, (moment[np.ix_(todo, chosen)] / scale)[:, :, None])[:, :, 0] / scale
        score = total[todo] - np.sum(values * moment[np.ix_(todo, chosen)], axis=1)
        good = (values[:, positive[chosen]] > 0).all(axis=1) & np.isfinite(score) & (score < best[todo])
        best[todo[good]] = score[good]
        update = np.zeros((int(good.sum()), len(names)))
        update[:, chosen] = values[good]
        solution[todo[good]] = update
        if np.isfinite(best).all() and len(subset) == len(names):
            break
    size = np.median(np.abs(target)) * ABSENT
    found: dict[str, Array] = {}
    for i, name in enumerate(names):
        column = solution[:, i]
        if positive[i]:
            typical = np.median(np.abs(stack[:, i, :]), axis=1)
            column = np.where(column > 0, column, size / np.maximum(typical, 1e-300))
        found[name] = column
    return _as_parameters(form, found), best


def _as_parameters(form: Form, found: dict[str, Array]) -> dict[str, Array]:
    """Coefficients of a log-linear solve are logarithms of positive parameters."""
    if form.linear_in == "loss":
        return found
    return {
        name: np.exp(np.clip(column, -600, 600)) if form.parameter(name).positive else column
        for name, column in found.items()
    }


def _local_minima(score: Array) -> Array:
    """Flat indices of grid nodes not above any neighbour, best first."""
    padded = np.pad(score, 1, constant_values=np.inf)
    lowest = np.ones(score.shape, dtype=bool)
    centre = tuple(slice(1, -1) for _ in score.shape)
    for axis in range(score.ndim):
        for shift in (-1, 1):
            lowest &= score <= np.roll(padded, shift, axis=axis)[centre]
    flat = np.flatnonzero(lowest & np.isfinite(score))
    if not len(flat):
        flat = np.array([int(np.argmin(score))])
    return flat[np.argsort(score.ravel()[flat], kind="stable")]
