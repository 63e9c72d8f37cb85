"""The last digits of a fit: a trust region on the exact structure of a Huber fit, and the test of its optimum.

Near an optimum of a narrow loss, rows enter and leave delta with every small step, so that a quadratic model of
F is wrong almost everywhere. The model here keeps the loss and replaces the law alone,
    q(s) = sum_i w_i rho(r_i - J_i s) + s' C s / 2,      C = sum_i (dF/df_i) hess f_i,
and is minimised in a box: the bounds of the parameters and a trust region. A point is an optimum where the
model, which is exact to second order, finds nothing to gain in a box that is not small. Laws with more
parameters than a curve can tell apart have long curved valleys, in which every such step is short: there the
parameter that moves most is taken by the hand, and the others are solved for at each of its values.

Many problems on the same rows (resamples) are solved together; every array has a first axis of problems.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isoloss.laws.kernel import Model
from isoloss.laws.losses import Objective

Array = np.ndarray
GAIN = 1e-10
ROUNDING = 2e-14  # of a residual
FIRST, WIDEST, NARROWEST = 0.3, 3.0, 1e-9  # radius of the box
TRUSTED = 1e-3  # smallest box in which finding nothing to gain counts as an optimum
SOUND = 0.75  # share of the predicted decrease that a good model delivers
INNER = 40
STEPS, HELD_STEPS, ROUNDS, WALK = 20, 12, 8, 24
STRIDE, SHORTEST = 0.25, 0.01


@dataclass(frozen=True)
class Task:
    """Problems of one model: y and weight (1 or problems, rows), free (problems, p), lower and upper (p,).

    gain: predicted decrease, relative to the objective, that ends the search.
    """

    model: Model
    y: Array
    weight: Array
    objective: Objective
    free: Array
    lower: Array
    upper: Array
    gain: float = GAIN

    def of(self, index: Array) -> Task:
        """Some of the problems."""
        y, weight = (v if len(v) == 1 else v[index] for v in (self.y, self.weight))
        return replace(self, model=self.model.subset(index), y=y, weight=weight, free=self.free[index])

    def at(self, theta: Array) -> Point:
        """The points at parameters (problems, p); an objective that is not finite is infinite."""
        theta = np.clip(theta, self.lower, self.upper)
        f, state = self.model.forward(theta)
        r = self.y - f
        value = np.sum(self.weight * self.objective.rho(r), axis=1)
        return Point(theta, r, np.where(np.isfinite(value), value, np.inf), np.zeros(len(theta), bool), state)

    def local(self, point: Point) -> tuple[Array, Array]:
        """J (problems, rows, p) and C (problems, p, p)."""
        a = -self.weight * self.objective.slope(point.r)[0]
        _, curvature = self.model.pull(point.state, a, np.zeros_like(a))
        return np.nan_to_num(self.model.jacobian(point.state)), np.nan_to_num(curvature)


@dataclass
class Point:
    """One parameter vector per problem: residuals, objective, and whether it is an optimum."""

    theta: Array
    r: Array
    value: Array
    converged: Array
    state: Any = None

    def of(self, index: Array) -> Point:
        """Some of the problems, without the model's state."""
        return Point(self.theta[index], self.r[index], self.value[index], self.converged[index])

    def put(self, index: Array, other: Point) -> None:
        """Replace some of the problems (in place); the model's state is no longer theirs."""
        self.theta[index], self.r[index] = other.theta, other.r
        self.value[index], self.converged[index] = other.value, other.converged


def polish(task: Task, theta: Array, rounds: int = ROUNDS) -> Point:
    """The optima next to theta (problems, p), which have `converged` set where they are ones.

    rounds: walks along a valley, of which each is followed by steps in all parameters.
    """
    begun = task.at(theta)
    best = descend(task, begun, STEPS)
    for _ in range(rounds):
        moved = np.abs(best.theta - begun.theta)
        live = np.flatnonzero(~best.converged & np.isfinite(best.value) & (moved.max(axis=1) > 0))
        if not len(live):
            break
        part = task.of(live)
        walked = _walk(part, begun.of(live), best.of(live), np.argmax(moved[live], axis=1))
        begun = best.of(np.arange(len(theta)))
        best.put(live, descend(part, walked, STEPS))
    return best


def descend(task: Task, begun: Point, steps: int) -> Point:
    """Trust-region steps from points until the model finds nothing to gain, or for so many steps."""
    result = begun.of(np.arange(len(begun.theta)))
    live = np.flatnonzero(np.isfinite(begun.value))
    task, point = task.of(live), task.of(live).at(begun.theta[live])
    jacobian, curvature = task.local(point)
    radius, looked = np.full(len(live), FIRST), np.zeros(len(live), bool)
    for _ in range(steps):
        if not len(live):
            break
        floor = np.sum(task.weight * task.objective.rho(ROUNDING * (1.0 + np.abs(task.y))), axis=1)
        low = np.where(task.free, np.maximum(task.lower - point.theta, -radius[:, None]), 0.0)
        high = np.where(task.free, np.minimum(task.upper - point.theta, radius[:, None]), 0.0)
        step, gain = _in_box(task, jacobian, curvature, point.r, low, high)
        flat = gain <= task.gain * point.value + floor
        ended = flat & (looked | (radius >= TRUSTED))
        converged = ended & (radius >= TRUSTED)
        radius, looked = np.where(flat & ~ended, TRUSTED, radius), looked | flat
        trial, size = task.at(point.theta + step), np.abs(step).max(axis=1)
        poor = np.flatnonzero(~flat & (point.value - trial.value < SOUND * gain) & np.isfinite(trial.value))
        if len(poor):
            # Rows at the edge of delta bend away from the linear model: solve again around where they came.
            part = task.of(poor)
            came = trial.r[poor] + np.matmul(jacobian[poor], step[poor][:, :, None])[:, :, 0]
            again, _ = _in_box(part, jacobian[poor], curvature[poor], came, low[poor], high[poor])
            second = part.at(point.theta[poor] + again)
            better = second.value < trial.value[poor]
            trial.put(poor[better], second.of(better))
        ratio = np.where(flat, 0.5, (point.value - trial.value) / np.where(flat, 1.0, gain))
        taken = np.flatnonzero(~flat & (ratio > 1e-4))
        point.put(taken, trial.of(taken))
        point.converged = converged
        if len(taken):
            part = task.of(taken)
            jacobian[taken], curvature[taken] = part.local(part.at(point.theta[taken]))
        wider, narrower = (ratio > SOUND) & (size > 0.9 * radius), ratio < 0.25
        radius = np.where(wider, np.minimum(2.5 * radius, WIDEST), radius)
        radius = np.where(narrower, 0.3 * np.minimum(size, radius), radius)
        result.put(live, point)
        keep = np.flatnonzero(~ended & (radius >= NARROWEST))
        if len(keep) < len(live):
            live, task, point = live[keep], task.of(keep), point.of(keep)
            jacobian, curvature, radius, looked = jacobian[keep], curvature[keep], radius[keep], looked[keep]
    return result


def _walk(task: Task, begun: Point, point: Point, index: Array) -> Point:
    """Follow valleys: step one parameter and solve for the others, in strides that grow while they descend."""
    problems = np.arange(len(index))
    free = task.free.copy()
    free[problems, index] = False
    held = replace(task, free=free)
    # The last three points of each problem, the latest first; the third begins as the second.
    passed = np.stack([point.theta, begun.theta, begun.theta], axis=1)
    direction = np.sign(point.theta - begun.theta)[problems, index]
    stride = np.full(len(index), STRIDE)
    live = problems
    for _ in range(WALK):
        x = point.theta[live, index[live]]
        to = np.clip(x + direction[live] * stride[live], task.lower[index[live]], task.upper[index[live]])
        going = (stride[live] >= SHORTEST) & (to != x)
        live, to, x = live[going], to[going], x[going]
        if not len(live):
            break
        part = held.of(live)
        found = descend(part, part.at(_onward(passed[live], index[live], to)), HELD_STEPS)
        descended = found.value < point.value[live] * (1.0 - task.gain)
        good = live[descended]
        point.put(good, found.of(descended))
        passed[good] = np.stack([point.theta[good], passed[good, 0], passed[good, 1]], axis=1)
        # Without descent the others were not found from so far away, or the lowest place was passed.
        stride[live] *= np.where(descended, np.where(found.converged, 2.0, 1.0), 0.3)
    point.converged[:] = False
    return point


def _onward(passed: Array, index: Array, to: Array) -> Array:
    """Parameters where number `index` is `to`, by the polynomial through the last two or three points."""
    problems = np.arange(len(index))
    first, second, third = passed[problems, :, index].T
    t = (to - first) / (second - first)
    # With two points alone the third place is never reached: the quadratic term is left out.
    same = third == second
    u = np.where(same, 1.0, (third - first) / (second - first))
    bend = np.where(same, 0.0, t * (t - 1.0) / np.where(same, 1.0, u * (u - 1.0)))[:, None]
    line = passed[:, 0] + t[:, None] * (passed[:, 1] - passed[:, 0])
    onward = passed[:, 0] + u[:, None] * (passed[:, 1] - passed[:, 0])
    result = line + bend * (passed[:, 2] - onward)
    result[problems, index] = to
    return result


def _in_box(task: Task, jacobian: Array, curved: Array, r: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Steps low <= s <= high that lower q, and by how much."""
    objective, shared = task.objective, np.broadcast_to(task.weight, r.shape)
    begin = np.sum(shared * objective.rho(r), axis=1)
    steps, gains = np.zeros(low.shape), np.zeros(len(r))
    live, weight, step, left, total = np.arange(len(r)), shared, steps.copy(), r, begin
    ridge = 1e-13 * np.einsum("kij,kij,ki->kj", jacobian, jacobian, weight * objective.majoriser(r))
    for _ in range(INNER):
        slope, second = objective.slope(left)
        transposed = jacobian.transpose(0, 2, 1)
        gradient = np.matmul(curved, step[:, :, None])[:, :, 0]
        gradient = gradient - np.matmul(transposed, (weight * slope)[:, :, None])[:, :, 0]
        hessian = np.matmul(transposed * (weight * second)[:, None, :], jacobian) + curved
        moving = ~(((step <= low) & (gradient > 0)) | ((step >= high) & (gradient < 0)) | (high <= low))
        direction = _downhill(hessian, gradient, ridge, moving)
        # A parameter at its end that the others push outwards waits until they have arrived.
        for _ in range(low.shape[1]):
            outward = ((step <= low) & (direction < 0)) | ((step >= high) & (direction > 0))
            again = np.flatnonzero(outward.any(axis=1))
            if not len(again):
                break
            moving &= ~outward
            direction[again] = _downhill(hessian[again], gradient[again], ridge[again], moving[again])
        fall = -np.sum(gradient * direction, axis=1)
        keep = np.flatnonzero(fall > 1e-3 * task.gain * total)
        if len(keep) < len(live):
            live, weight, step, left, total = live[keep], weight[keep], step[keep], left[keep], total[keep]
            jacobian, curved, ridge, low, high = jacobian[keep], curved[keep], ridge[keep], low[keep], high[keep]
            direction, fall, r = direction[keep], fall[keep], r[keep]
            if not len(live):
                break
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = np.where(direction > 0, (high - step) / direction, (low - step) / direction)
        longest = np.min(np.where(direction == 0, np.inf, reach), axis=1)
        change = np.matmul(jacobian, direction[:, :, None])[:, :, 0]
        bend = np.einsum("ki,kij,kj->k", direction, curved, direction)
        length = _along(left, change, weight, objective, -fall, bend, longest)
        step = np.clip(step + length[:, None] * direction, low, high)
        left = r - np.matmul(jacobian, step[:, :, None])[:, :, 0]
        steps[live] = step
        lost = np.sum(weight * objective.rho(left), axis=1) + 0.5 * np.einsum("ki,kij,kj->k", step, curved, step)
        gains[live] = total - lost
    return steps, gains


def _downhill(hessian: Array, gradient: Array, ridge: Array, moving: Array) -> Array:
    """Newton directions with the sizes of the eigenvalues of the scaled Hessian: they always descend."""
    both = moving[:, :, None] & moving[:, None, :]
    diagonal = np.einsum("kii->ki", hessian)
    scale = np.sqrt(np.maximum(np.abs(diagonal), ridge))
    scale = np.where((scale > 0) & moving, scale, 1.0)
    part = np.where(both, hessian / (scale[:, :, None] * scale[:, None, :]), np.eye(hessian.shape[1]))
    values, vectors = np.linalg.eigh(part)
    smallest = np.maximum(np.max(np.where(moving, ridge / scale**2, 0.0), axis=1), 1e-14)
    size = np.maximum(np.abs(values), smallest[:, None])
    right = np.where(moving, gradient / scale, 0.0)
    turned = np.matmul(vectors.transpose(0, 2, 1), right[:, :, None]) / size[:, :, None]
    return np.asarray(np.where(moving, -np.matmul(vectors, turned)[:, :, 0] / scale, 0.0))


def _along(
    left: Array, change: Array, weight: Array, objective: Objective, slope: Array, curve: Array, longest: Array
) -> Array:
    """First minima of q along directions: its derivative is linear between the knots that rows cross."""
    knots, curvature = objective.pieces
    heavy = weight * change * change
    falling = change > 0
    # A row that lies on a knot belongs to the piece it moves into.
    piece = np.zeros(left.shape, dtype=int)
    for knot in knots:
        piece += (left > knot) | (~falling & (left == knot))
    second = curve + np.sum(heavy * curvature[piece], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = (left[:, :, None] - knots) / change[:, :, None]
    jumps = heavy[:, :, None] * np.where(falling[:, :, None], -np.diff(curvature), np.diff(curvature))
    end = longest[:, None]
    times, jumps = times.reshape(len(left), -1), jumps.reshape(len(left), -1)
    ahead = (times > 0) & (times < end) & (jumps != 0)
    times, jumps = np.where(ahead, times, end), np.where(ahead, jumps, 0.0)
    order = np.argsort(times, axis=1)
    zero = np.zeros((len(left), 1))
    times = np.concatenate([zero, np.take_along_axis(times, order, axis=1), end], axis=1)
    seconds = second[:, None] + np.cumsum(np.take_along_axis(jumps, order, axis=1), axis=1)
    seconds = np.concatenate([second[:, None], seconds], axis=1)
    slopes = np.cumsum(np.concatenate([slope[:, None], seconds * np.diff(times, axis=1)], axis=1), axis=1)
    rising = slopes[:, 1:] >= 0
    first = np.argmax(rising, axis=1)
    rows = np.arange(len(left))
    bends = seconds[rows, first]
    inside = times[rows, first] - slopes[rows, first] / np.where(bends > 0, bends, 1.0)
    found = np.where(bends > 0, np.minimum(inside, times[rows, first + 1]), times[rows, first + 1])
    return np.where(rising.any(axis=1), found, longest)
