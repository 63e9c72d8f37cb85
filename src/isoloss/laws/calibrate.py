"""Forecast bands calibrated by rolling origin: how wrong were earlier forecasts at this distance?

Earlier cut-offs are refitted and scored on the rows beyond them. The error of a forecast at log distance d is
taken as Student-t with scale s (d + OFFSET), so the band grows with extrapolation distance; the noise of one
row, which does not shrink near the data, is added in quadrature. The degrees of freedom are the number of
doublings of scale that the cut-offs cover, because overlapping forecasts of one curve are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from isoloss.laws.errors import LawError

Array = np.ndarray
OFFSET = 0.1  # log distance that stands for the noise of a forecast right beyond the data


@dataclass(frozen=True)
class Calibration:
    """Scale of forecast errors per unit of log distance, how many independent errors it rests on, row noise."""

    scale: float
    freedom: int
    origins: int
    noise: float = 0.0

    def half_width(self, distance: Array, level: float = 0.9) -> Array:
        """Half-width of the band, in log response, at a log distance beyond the last fitted scale."""
        growth, row = self.factors(level)
        return np.hypot(growth * (np.maximum(distance, 0.0) + OFFSET), row)

    def factors(self, level: float = 0.9) -> tuple[float, float]:
        """What a unit of log distance (plus OFFSET) adds to the half-width, and the noise of one row in it."""
        if not 0 < level < 1:
            raise LawError(f"level must lie between 0 and 1; found {level}")
        upper = 0.5 * (1.0 + level)
        return float(stdtrit(self.freedom, upper)) * self.scale, float(ndtri(upper)) * self.noise


def calibrate(distances: Sequence[Array], errors: Sequence[Array], reach: float, noise: float = 0.0) -> Calibration:
    """Calibration from the forecasts of several origins.

    distances, errors: per origin, log distances beyond it and log errors there. reach: log distance from the
    earliest origin to the end of the rows. noise: standard deviation of one row about the curve. Raises
    LawError without any forecast.
    """
    squares = [
        float(np.mean((e / (np.maximum(d, 0.0) + OFFSET)) ** 2))
        for d, e in zip(distances, errors, strict=True)
        if len(e)
    ]
    if not squares:
        raise LawError("no band: the rows allow no earlier cut-off with rows beyond it")
    freedom = max(1, round(reach / np.log(2.0)))
    scale = float(np.sqrt(np.mean(squares)))
    return Calibration(scale, min(freedom, max(len(squares), 1)), len(squares), noise)
