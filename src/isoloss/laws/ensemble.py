"""How much an answer moves with choices nobody can defend alone: form, delta, window, dropped rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoloss.laws.bootstrap import Draws, Interval
from isoloss.laws.errors import LawError
from isoloss.laws.fitting import Fit, fit
from isoloss.laws.form import Form
from isoloss.laws.points import Points
from isoloss.laws.problem import response_column

Answer = Callable[[Fit], float]


@dataclass(frozen=True)
class Ensemble:
    """One answer under many choices, beside the statistical interval of the first choice."""

    answers: dict[str, float]
    failed: dict[str, str]
    statistical: Interval | None

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest answer."""
        values = list(self.answers.values())
        return min(values), max(values)


def ensemble(
    points: Points,
    law: str | Form,
    answer: Answer,
    alternatives: Sequence[str] = (),
    *,
    deltas: Sequence[float] = (1e-2, 1e-3),
    by: str = "C",
    n: int = 500,
    draws: Draws | None = None,
    **options: Any,
) -> Ensemble:
    """The answer of the law as chosen, and of every variation of one choice at a time.

    `draws`: those of the law as chosen, where they are there already; else `n` are made.

    Variations: other forms; delta and the L1 limit; without the smallest fifth of `by`; without the rows of
    largest response (2 %); N without embeddings where the table has vocab and d_model. A variation that cannot be
    fitted is listed with its reason.
    """
    first = fit(points, law, **options)
    variations: dict[str, tuple[Points, str | Form, Mapping[str, Any]]] = {}
    for other in alternatives:
        variations[f"law {other}"] = (points, other, options)
    for delta in deltas:
        variations[f"delta {delta:g}"] = (points, law, {**options, "delta": delta})
    variations["l1"] = (points, law, {**options, "loss": "l1"})
    if by in points:
        edge = float(np.quantile(points.numbers(by), 0.2))
        variations[f"without the smallest fifth of {by}"] = (
            points.where(points.numbers(by) > edge),
            law,
            options,
        )
    count = max(1, round(0.02 * len(points)))
    response = first.response or response_column(first.form, points)
    what = "losses" if response == "loss" else f"values of {response}"
    variations[f"without the {count} largest {what}"] = (points.drop_largest_loss(count, response), law, options)
    answers = {"as chosen": answer(first)}
    failed: dict[str, str] = {}
    if {"vocab", "d_model", "N"} <= set(points.columns):
        try:
            variations["N without embeddings"] = (points.without_embeddings(), law, options)
        except LawError as error:
            failed["N without embeddings"] = str(error)
    for label, (rows, form, chosen) in variations.items():
        try:
            answers[label] = answer(fit(rows, form, **chosen))
        except LawError as error:
            failed[label] = str(error)
    return Ensemble(answers, failed, _statistical(first, answer, n, draws))


def _statistical(first: Fit, answer: Answer, n: int, draws: Draws | None) -> Interval | None:
    """Interval of the answer over bootstrap draws; None with fewer than three clusters."""
    try:
        made = draws or first.bootstrap(n)
    except LawError:
        return None

    def over_draws(values: Mapping[str, Any]) -> Any:
        if np.ndim(next(iter(values.values()))) == 0:
            return answer(first)
        rows = ({name: column[i] for name, column in values.items()} for i in range(len(made)))
        return np.array([answer(first.with_parameters(row)) for row in rows])

    return made.interval(over_draws)
