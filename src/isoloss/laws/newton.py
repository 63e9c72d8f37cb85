"""Batched exact Newton with bounds: many weighted fits of one model at once.

Minimises F(theta) = sum_i w_i rho(y_i - f_i(theta)) per problem. A problem whose exact Hessian is not
positive definite takes the step of the quadratic that majorises F (iteratively reweighted least squares),
so every step descends. Bounds are met by projection; the stop is scale free (predicted decrease / F).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isoloss.laws.kernel import Model
from isoloss.laws.losses import Objective

Array = np.ndarray
CACHED = 80_000  # numbers in one work array: a batch of them stays in the second-level cache
MOST_TOGETHER = 512
HALVINGS = 5
DAMPINGS = (1e-8, 1e-6, 1e-4, 1e-2, 1.0, 1e2)  # of the majoriser, in units of its largest diagonal entry
ROUNDING = 2e-14
BELIEVED = 4.0  # predicted decrease, in objectives, up to which a Newton step is tried
STAGNANT = 10  # iterations within which a problem must gain something to be continued


@dataclass
class Solution:
    """Parameters (problems, p), objective, iterations and success, per problem."""

    theta: Array
    objective: Array
    iterations: Array
    converged: Array


def minimise(
    model: Model,
    theta: Array,
    y: Array,
    weight: Array,
    objective: Objective,
    free: Array,
    lower: Array,
    upper: Array,
    iterations: int = 200,
    tolerance: float = 1e-13,
) -> Solution:
    """Solve all problems from starts theta of shape (problems, p).

    y and weight have shape (1 or problems, rows); free is a boolean mask of the parameters that may move.
    """
    problems = len(theta)
    parts = []
    together = int(np.clip(CACHED // max(y.shape[-1], 1), 2, MOST_TOGETHER))
    for begin in range(0, problems, together):
        index = np.arange(begin, min(begin + together, problems))
        part = _minimise(
            model.subset(index) if problems > 1 else model,
            np.clip(theta[index], lower, upper),
            y if len(y) == 1 else y[index],
            weight if len(weight) == 1 else weight[index],
            objective,
            free,
            lower,
            upper,
            iterations,
            tolerance,
        )
        parts.append(part)
    fields = ("theta", "objective", "iterations", "converged")
    return Solution(*[np.concatenate([getattr(part, name) for part in parts]) for name in fields])


def _rows(values: Array, index: Array) -> Array:
    return values if len(values) == 1 else values[index]


def _total(objective: Objective, weight: Array, r: Array) -> Array:
    loss = objective.rho(r)
    loss *= weight
    total = loss.sum(axis=1)
    return np.where(np.isfinite(total), total, np.inf)


def _minimise(
    model: Model,
    theta: Array,
    y: Array,
    weight: Array,
    objective: Objective,
    free: Array,
    lower: Array,
    upper: Array,
    iterations: int,
    tolerance: float,
) -> Solution:
    problems = len(theta)
    result = Solution(theta.copy(), np.zeros(problems), np.zeros(problems, int), np.zeros(problems, bool))
    live = np.arange(problems)
    f, state = model.forward(theta)
    r = y - f
    value = _total(objective, weight, r)
    result.objective[:] = value
    # What rounding of the residuals alone makes of the objective: an exact fit stops there.
    rounding = _total(objective, weight, np.full_like(r, ROUNDING) * (1.0 + np.abs(y)))
    work = model
    earlier = value
    for step_number in range(iterations):
        slope, curvature = objective.slope(r)
        a, b = -weight * slope, weight * curvature
        gradient, hessian = work.pull(state, a, b)
        held = _held(theta, gradient, free, lower, upper)
        step, definite = newton_step(gradient, hessian, held)
        decrease = -np.sum(gradient * step, axis=1)
        # A quadratic that falls far below zero, where F cannot go, has rounding noise for its curvature.
        definite &= decrease <= BELIEVED * value
        if not definite.all():
            bad = np.flatnonzero(~definite)
            major = _majoriser(work, state, weight, objective, r, a, bad)
            step[bad] = _damped(gradient[bad], hessian[bad], major, held[bad], value[bad])
            moves, _ = newton_step(gradient[bad], major, held[bad], damping=1e-9)
            decrease[bad] = -np.sum(gradient[bad] * np.stack([step[bad], moves]), axis=2).max(axis=0)
            # A vanished term comes back by a long step of its logarithm: the step of the term itself.
            moves = np.sign(moves) * np.log1p(np.abs(moves))
            part = work.subset(bad)
            tried = [theta[bad] + step[bad], theta[bad] + moves]
            reached = [
                _total(objective, _rows(weight, bad), _rows(y, bad) - part.forward(np.clip(t, lower, upper))[0])
                for t in tried
            ]
            step[bad] = np.where((reached[1] < reached[0])[:, None], moves, step[bad])
        scale = np.maximum(value, 1e-300)
        finished = decrease <= tolerance * scale + rounding
        trial = np.clip(theta + step, lower, upper)
        f_new, state_new = work.forward(trial)
        r_new = y - f_new
        value_new = _total(objective, weight, r_new)
        accepted = value_new <= value - 1e-4 * np.minimum(decrease, value)
        accepted |= finished & (value_new <= value)
        search = _Search(work, y, weight, objective, lower, upper, theta, value, trial, accepted)
        failing = np.flatnonzero(~accepted & ~finished)
        for power in range(1, HALVINGS + 1):
            if len(failing):
                fraction = 0.4**power
                failing = search.attempt(failing, fraction * step[failing], fraction * decrease[failing])
        if len(failing):
            # Where the curvature breaks off near by, the ever more damped majoriser still descends.
            every = failing
            major = _majoriser(work, state, weight, objective, r, a, every)
            moves = newton_step(gradient[failing], major, held[failing], damping=1e-9)[0]
            expected = -np.sum(gradient[failing] * moves, axis=1)
            failing = search.attempt(failing, np.sign(moves) * np.log1p(np.abs(moves)), 1e-4 * expected)
            for damping in DAMPINGS:
                if len(failing):
                    at = np.searchsorted(every, failing)
                    moves = newton_step(gradient[failing], _ridge(major[at], damping), held[failing])[0]
                    expected = -np.sum(gradient[failing] * moves, axis=1)
                    if damping == DAMPINGS[0]:
                        decrease[failing] = expected
                    failing = search.attempt(failing, moves, expected)
        stuck = ~accepted
        trial[stuck] = theta[stuck]
        again = np.concatenate([*search.repeat, np.flatnonzero(stuck)])
        if len(again):
            f_new, state_new = work.refresh(trial, f_new, state_new, again)
            r_new = y - f_new
            value_new = _total(objective, weight, r_new)
        theta, r, state, value = trial, r_new, state_new, value_new
        result.theta[live], result.objective[live] = theta, value
        result.iterations[live] = step_number + 1
        # A step that cannot descend although the model predicts a decrease means rounding is reached.
        ended = finished | (stuck & (decrease <= 1e-9 * scale))
        result.converged[live[ended]] = True
        keep = ~(ended | stuck)
        if step_number % STAGNANT == STAGNANT - 1:
            keep &= value < earlier * (1.0 - 1e-8)
            earlier = value
        if not keep.any():
            break
        if not keep.all():
            index = np.flatnonzero(keep)
            live, theta, r = live[index], theta[index], r[index]
            value, rounding, earlier = value[index], rounding[index], earlier[index]
            state, y, weight = work.select(state, index), _rows(y, index), _rows(weight, index)
            work = work.subset(index)
    return result


@dataclass
class _Search:
    """Other moves for the problems of one iteration whose step did not descend enough (in place)."""

    work: Model
    y: Array
    weight: Array
    objective: Objective
    lower: Array
    upper: Array
    theta: Array
    value: Array
    trial: Array
    accepted: Array
    repeat: list[Array] = field(default_factory=list)

    def attempt(self, failing: Array, moves: Array, expected: Array) -> Array:
        """Put moves that descend enough into the trial; the problems that still fail."""
        moved = np.clip(self.theta[failing] + moves, self.lower, self.upper)
        r = _rows(self.y, failing) - self.work.subset(failing).forward(moved)[0]
        value = _total(self.objective, _rows(self.weight, failing), r)
        good = value <= self.value[failing] - 1e-4 * np.minimum(expected, self.value[failing])
        self.trial[failing[good]] = moved[good]
        self.accepted[failing[good]] = True
        self.repeat.append(failing[good])
        return failing[~good]


def _majoriser(work: Model, state: Any, weight: Array, objective: Objective, r: Array, a: Array, index: Array) -> Array:
    """Hessian of the quadratic that lies above F and touches it (reweighted least squares), of some problems."""
    major = _rows(weight, index) * objective.majoriser(r[index])
    return work.subset(index).pull(work.select(state, index), a[index], major, curved=False)[1]


def _ridge(matrix: Array, damping: float) -> Array:
    """Matrices with a multiple of their largest diagonal entry on the diagonal: flat directions stay put."""
    largest = np.einsum("kii->ki", matrix).max(axis=1, initial=1e-300)
    return matrix + damping * largest[:, None, None] * np.eye(matrix.shape[1])


def _damped(gradient: Array, hessian: Array, major: Array, held: Array, value: Array) -> Array:
    """Newton step damped on the absolute scale of the majoriser, or the majoriser's where that is not definite."""
    largest = np.einsum("kii->ki", major).max(axis=1, initial=1e-300)
    slight = DAMPINGS[0] * largest[:, None, None] * np.eye(major.shape[1])
    step, definite = newton_step(gradient, hessian + slight, held)
    definite &= -np.sum(gradient * step, axis=1) <= BELIEVED * value
    safe, _ = newton_step(gradient, major + slight, held)
    return np.where(definite[:, None], step, safe)


def _held(theta: Array, gradient: Array, free: Array, lower: Array, upper: Array) -> Array:
    """Parameters that stay where they are: fixed ones, and bounds against which the gradient pushes."""
    at_lower = (theta <= lower) & (gradient > 0)
    at_upper = (theta >= upper) & (gradient < 0)
    return at_lower | at_upper | ~free


def newton_step(gradient: Array, hessian: Array, held: Array, damping: float = 0.0) -> tuple[Array, Array]:
    """Newton step -H^-1 g of each problem and whether its Hessian is positive definite.

    The Hessian is scaled by its diagonal; the LDL' elimination runs over all problems at once.
    """
    p = gradient.shape[1]
    g = np.where(held, 0.0, gradient)
    moving = ~held
    h = hessian * (moving[:, :, None] & moving[:, None, :])
    diagonal = np.einsum("kii->ki", h)
    scale = np.sqrt(np.abs(diagonal))
    scale[scale == 0] = 1.0
    h = h / (scale[:, :, None] * scale[:, None, :])
    index = np.arange(p)
    h[:, index, index] = np.where(held, 1.0, h[:, index, index] + damping)
    right = -g / scale
    pivots = np.empty_like(g)
    for i in range(p):
        pivots[:, i] = h[:, i, i]
        safe = np.where(np.abs(pivots[:, i]) < 1e-30, 1.0, pivots[:, i])
        for j in range(i + 1, p):
            factor = h[:, j, i] / safe
            h[:, j, i:] -= factor[:, None] * h[:, i, i:]
            right[:, j] -= factor * right[:, i]
    definite = (pivots > 1e-13).all(axis=1)
    # Problems that are not definite are solved again by the caller: their pivots only must not overflow.
    pivots = np.where(np.abs(pivots) < 1e-30, 1.0, pivots)
    step = np.zeros_like(g)
    for i in range(p - 1, -1, -1):
        known = np.einsum("kj,kj->k", h[:, i, i + 1 :], step[:, i + 1 :]) if i + 1 < p else 0.0
        step[:, i] = (right[:, i] - known) / pivots[:, i]
    step = np.where(held, 0.0, step / scale)
    return step, np.asarray(definite & np.isfinite(step).all(axis=1))
