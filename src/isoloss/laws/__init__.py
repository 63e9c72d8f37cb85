"""Scaling laws: forms, fitting, uncertainty, validation and allocation (NumPy and SciPy only)."""

from __future__ import annotations

from isoloss.laws.allocation import (
    Frontier,
    compute_multiplier,
    data_multiplier,
    envelope,
    iso_loss_compute,
    iso_loss_data,
    isoflop,
    multiplier_interval,
    optimum,
    optimum_intervals,
    surface,
)
from isoloss.laws.audit import Audit, audit
from isoloss.laws.batchfit import fit_many
from isoloss.laws.bootstrap import Draws, Interval
from isoloss.laws.calibrate import Calibration
from isoloss.laws.design import Expected, coverage, expected_intervals
from isoloss.laws.ensemble import Ensemble, ensemble
from isoloss.laws.errors import LawError
from isoloss.laws.extrapolate import Extrapolation, extrapolate
from isoloss.laws.fitting import Fit, evaluate, fit
from isoloss.laws.form import Form, Parameter, SumOfPowers, Term, coefficient, exponent
from isoloss.laws.losses import Objective
from isoloss.laws.outlook import Outlook
from isoloss.laws.points import Points
from isoloss.laws.profile import Profile
from isoloss.laws.published import published_estimate
from isoloss.laws.registry import ALIASES, FORMS, get_form, register
from isoloss.laws.saved import SavedFit, load_fit
from isoloss.laws.validate import Comparison, Holdout, compare, forecast, holdout, rolling_origin

__all__ = [
    "ALIASES",
    "FORMS",
    "Audit",
    "Calibration",
    "Comparison",
    "Draws",
    "Ensemble",
    "Expected",
    "Extrapolation",
    "Fit",
    "Form",
    "Frontier",
    "Holdout",
    "Interval",
    "LawError",
    "Objective",
    "Outlook",
    "Parameter",
    "Points",
    "Profile",
    "SavedFit",
    "SumOfPowers",
    "Term",
    "audit",
    "coefficient",
    "compare",
    "compute_multiplier",
    "coverage",
    "data_multiplier",
    "ensemble",
    "envelope",
    "evaluate",
    "expected_intervals",
    "exponent",
    "extrapolate",
    "fit",
    "fit_many",
    "forecast",
    "get_form",
    "holdout",
    "iso_loss_compute",
    "iso_loss_data",
    "isoflop",
    "load_fit",
    "multiplier_interval",
    "optimum",
    "optimum_intervals",
    "published_estimate",
    "register",
    "rolling_origin",
    "surface",
]
