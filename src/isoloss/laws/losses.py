"""Objectives: sums (never means) of a loss of the residual r = observed - predicted.

Each objective gives rho(r), its slope psi and its curvature, and a majorising weight w with psi = w r.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoloss.laws.errors import LawError, unknown

Array = np.ndarray
KINDS = ("huber", "l1", "squared", "lower-envelope")
L1_DELTA = 1e-9  # the Huber width, relative to the residual scale, that stands for the L1 limit


@dataclass(frozen=True)
class Objective:
    """What a fit minimises.

    kind: 'huber' (quadratic within delta), 'l1', 'squared' (r squared over two), or 'lower-envelope'
    (a Huber loss that weighs rows below the curve by 1 - tau and rows above it by tau < 1/2, so that the
    curve runs along the lower edge of the points: another target than the mean curve).
    delta: width in units of the residual (log loss).
    """

    kind: str = "huber"
    delta: float = 1e-3
    tau: float = 0.1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("objective", self.kind, KINDS)
        if not (np.isfinite(self.delta) and self.delta > 0):
            raise LawError(f"delta must be positive and finite; found {self.delta}")
        if not 0 < self.tau < 0.5:
            raise LawError(f"tau of a lower envelope must lie between 0 and 0.5; found {self.tau}")

    def rho(self, r: Array) -> Array:
        """Loss of each residual."""
        if self.kind == "squared":
            return 0.5 * r * r
        size = np.abs(r)
        inside = np.minimum(size, self.delta)
        value = inside * (size - 0.5 * inside)
        if self.kind == "l1":
            return size
        if self.kind == "lower-envelope":
            return value * np.where(r > 0, self.tau, 1.0 - self.tau)
        return value

    def slope(self, r: Array) -> tuple[Array, Array]:
        """First derivative and curvature of rho."""
        if self.kind == "squared":
            return r, np.ones_like(r)
        first = np.clip(r, -self.delta, self.delta)
        second = (first == r).astype(r.dtype)
        if self.kind == "lower-envelope":
            side = np.where(r > 0, self.tau, 1.0 - self.tau)
            return first * side, second * side
        return first, second

    @property
    def pieces(self) -> tuple[Array, Array]:
        """Residuals at which the curvature jumps, ascending, and the curvature before, between and after them."""
        if self.kind == "squared":
            return np.empty(0), np.ones(1)
        if self.kind == "lower-envelope":
            return np.array([-self.delta, 0.0, self.delta]), np.array([0.0, 1.0 - self.tau, self.tau, 0.0])
        return np.array([-self.delta, self.delta]), np.array([0.0, 1.0, 0.0])

    def majoriser(self, r: Array) -> Array:
        """Weight w of the quadratic that lies above rho and touches it at r."""
        if self.kind == "squared":
            return np.ones_like(r)
        weight = self.delta / np.maximum(np.abs(r), self.delta)
        if self.kind == "lower-envelope":
            weight = weight * np.where(r > 0, self.tau, 1.0 - self.tau)
        return weight

    def continuation(self) -> list[Objective]:
        """The objectives to solve one after another: wide to narrow delta, ending at this one."""
        if self.kind == "squared":
            return [self]
        last = L1_DELTA if self.kind == "l1" else self.delta
        kind = "huber" if self.kind == "l1" else self.kind
        widths = [width for width in (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8) if width > 1.5 * last]
        return [Objective(kind, width, self.tau) for width in [*widths, last]]
