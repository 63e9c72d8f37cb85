"""Scaling laws: forms, fitting, uncertainty, validation and allocation (NumPy and SciPy only)."""

from __future__ import annotations

from isoloss.laws.bootstrap import Draws, Interval
from isoloss.laws.errors import LawError
from isoloss.laws.fit import Fit, evaluate, fit
from isoloss.laws.form import Form, Parameter, SumOfPowers, Term, coefficient, exponent
from isoloss.laws.losses import Objective
from isoloss.laws.points import Points
from isoloss.laws.registry import FORMS, get_form

__all__ = [
    "FORMS",
    "Draws",
    "Fit",
    "Form",
    "Interval",
    "LawError",
    "Objective",
    "Parameter",
    "Points",
    "SumOfPowers",
    "Term",
    "coefficient",
    "evaluate",
    "exponent",
    "fit",
    "get_form",
]
