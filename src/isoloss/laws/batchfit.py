"""Many curves at once: one form fitted to separate data sets in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoloss.laws.errors import LawError
from isoloss.laws.fitting import continuation
from isoloss.laws.form import Form
from isoloss.laws.losses import Objective
from isoloss.laws.newton import minimise
from isoloss.laws.points import Points
from isoloss.laws.problem import Problem, make_problem
from isoloss.laws.registry import get_form
from isoloss.laws.starts import make_starts

Array = np.ndarray


def fit_many(
    tables: Sequence[Points],
    law: str | Form,
    *,
    x: str | None = None,
    y: str | None = None,
    loss: str = "huber",
    delta: float = 1e-3,
    starts: int = 3,
) -> list[dict[str, float]]:
    """Parameters of one law on each table, solved together; each result also holds 'objective'.

    Shorter tables are padded with rows of weight zero. Laws in plain units need `fit`. Raises LawError.
    """
    form = get_form(law) if isinstance(law, str) else law
    if form.space == "value":
        raise LawError(f"law {form.name!r} is fitted in plain units, whose scale differs by table: use fit()")
    problems = [make_problem(table, form, x, y) for table in tables]
    if not problems:
        return []
    first = [make_starts(form, p.logs, p.y, p.weight, p.fixed, starts)[:starts] for p in problems]
    owner = np.repeat(np.arange(len(problems)), [len(part) for part in first])
    theta = np.concatenate(first)
    logs = {name: _pad([p.logs[name] for p in problems], 0.0)[owner] for name in form.variables}
    target = _pad([p.y for p in problems], 0.0)[owner]
    weight = _pad([p.weight for p in problems], 0.0)[owner]
    lower = np.min([p.lower for p in problems], axis=0)
    upper = np.max([p.upper for p in problems], axis=0)
    model = form.model(logs)
    values = np.full(len(owner), np.inf)
    for step in continuation(problems[0], Objective(loss, delta)):
        solution = minimise(model, theta, target, weight, step, problems[0].free, lower, upper)
        theta, values = solution.theta, solution.objective
    return [_best(p, theta[owner == i], values[owner == i]) for i, p in enumerate(problems)]


def _pad(rows: list[Array], value: float) -> Array:
    longest = max(len(row) for row in rows)
    return np.stack([np.concatenate([row, np.full(longest - len(row), value)]) for row in rows])


def _best(problem: Problem, theta: Array, values: Array) -> dict[str, float]:
    best = int(np.argmin(np.where(np.isfinite(values), values, np.inf)))
    natural = {name: float(v) for name, v in problem.natural(theta[best]).items()}
    return natural | {"objective": float(values[best])}
