"""Pre-training with a known worth: SGD for one regression vector under two input covariances.

    y = <w*, x> + noise,   x ~ N(0, G) in the source, x ~ N(0, H) in the target,   risk = 1/2 ||w - w*||_H^2

Online SGD, last iterate; a stage of T points starts at `lr` and halves it every T / log2(T) points. A model of size N
sees the first N coordinates only, so a larger one can reach a lower risk. Both covariances are diagonal and inputs are
Gaussian, so the mean of the squared error of every coordinate obeys a closed recursion: `exact_risk` needs no sampling
and is the truth that `sampled_risk`, and everything measured on its samples, is held against.

Source: Wu, Zou, Braverman, Gu, Kakade 2022 (2208.01857); the recursion is the fourth moment of Gaussian inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray
Domain = Literal["source", "target"]
DOMAINS: tuple[Domain, ...] = ("source", "target")


@dataclass(frozen=True)
class Problem:
    """A regression vector (d,), variances of the inputs in both domains (d,), standard deviation of the noise."""

    source: Array
    target: Array
    truth: Array
    noise: float = 0.5

    @classmethod
    def powers(
        cls, d: int = 200, source: float = 2.0, target: float = 1.5, truth: float = 0.5, noise: float = 0.5
    ) -> Problem:
        """Variances k^-source and k^-target, w*_k = k^-truth, for k = 1 to d."""
        k = np.arange(1, d + 1, dtype=float)
        return cls(k**-source, k**-target, k**-truth, noise)

    def __post_init__(self) -> None:
        shapes = {np.shape(values) for values in (self.source, self.target, self.truth)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(f"simulate: source, target and truth have shapes {shapes}; allowed: one shape (d,)")
        if min(np.min(self.source), np.min(self.target), self.noise) < 0:
            raise ValueError("simulate: a variance or the noise is negative; allowed: 0 and above")

    @property
    def d(self) -> int:
        """Number of coordinates."""
        return len(self.truth)

    def variances(self, domain: Domain) -> Array:
        """Input variances (d,) of a domain."""
        return self.source if domain == "source" else self.target


@dataclass(frozen=True)
class Stage:
    """One pass over `points` fresh points of a domain, from initial step size `lr`.

    `pull` adds 1/2 pull ||w - w_start||^2 to the loss: fine-tuning that is held to the weights it started from.
    """

    points: int
    lr: float
    domain: Domain = "target"
    pull: float = 0.0

    def __post_init__(self) -> None:
        if self.points < 0 or self.lr <= 0 or self.pull < 0 or self.domain not in DOMAINS:
            raise ValueError(f"simulate: {self} cannot run; allowed: points >= 0, lr > 0, pull >= 0, source or target")

    @property
    def rates(self) -> Array:
        """Step size of every point (points,): halved every T / log2(T) points."""
        T = self.points
        if T < 2:
            return np.full(T, self.lr)
        return self.lr * 0.5 ** np.floor(np.arange(T) / (T / math.log2(T)))


def exact_risk(problem: Problem, stages: Sequence[Stage], size: int | None = None) -> float:
    """Mean excess risk in the target after `stages` from w = 0, in closed form (no sampling).

    With e = w - w*, p the error a stage started with, g the variances, s = E e^2, c = E e p, q = E p^2, a = 1 - r b
    (b the pull) and r the step size, each coordinate obeys
    s' = s (a^2 - 2 a r g + 2 r^2 g^2) + r^2 g (<g, s> + noise^2) + r^2 b^2 q + 2 (a r b - r^2 b g) c
    c' = (a - r g) c + r b q. Coordinates beyond the size add their signal to the noise.
    """
    n = _size(problem, size)
    truth, H = problem.truth[:n], problem.target[:n]
    s = truth**2
    for stage in stages:
        every = problem.variances(stage.domain)
        g, b = every[:n], stage.pull
        noise = problem.noise**2 + float(every[n:] @ problem.truth[n:] ** 2)
        q, c = s, s
        for r in stage.rates:
            a = 1.0 - r * b
            new = s * (a * a - 2.0 * a * r * g + 2.0 * r * r * g * g) + r * r * g * (float(g @ s) + noise)
            if b:
                new = new + r * r * b * b * q + 2.0 * r * b * (a - r * g) * c
                c = (a - r * g) * c + r * b * q
            s = new
    return 0.5 * float(H @ s) + unreachable(problem, n)


def unreachable(problem: Problem, size: int) -> float:
    """Risk that no model of this size gets below: the signal in the coordinates it does not see."""
    return 0.5 * float(problem.target[size:] @ problem.truth[size:] ** 2)


def sampled_risk(
    problem: Problem, stages: Sequence[Stage], repeats: int, size: int | None = None, seed: int = 0
) -> Array:
    """Excess risk in the target of `repeats` independent trainings, shape (repeats,).

    One seed gives each domain one stream of points a repeat: runs of another length, size or start see a prefix of the
    same points, so repeat i of all of them is one root (paired, nested data).
    """
    n = _size(problem, size)
    streams = {domain: np.random.default_rng([seed, i]) for i, domain in enumerate(DOMAINS)}
    w = np.zeros((repeats, n))
    for stage in stages:
        deviation = np.sqrt(problem.variances(stage.domain))
        signal = deviation * problem.truth
        start = w.copy()
        for r in stage.rates:
            z = streams[stage.domain].standard_normal((repeats, problem.d + 1))
            x = z[:, :n] * deviation[:n]
            miss = np.einsum("rk,rk->r", x, w) - z[:, :-1] @ signal - problem.noise * z[:, -1]
            if stage.pull:
                w -= r * stage.pull * (w - start) + r * miss[:, None] * x
            else:
                w -= (r * miss)[:, None] * x
    H = problem.target[:n]
    return 0.5 * ((w - problem.truth[:n]) ** 2) @ H + unreachable(problem, n)


def effective_points(problem: Problem, risk: float, lr: float, size: int | None = None, most: int = 1 << 20) -> float:
    """True D_E: target points from which training from scratch has this mean risk (exact recursion, inverted).

    Between two whole numbers of points log risk is taken as linear in log points. Raises ValueError where one point
    already does better, or `most` points do not reach the risk.
    """

    def scratch(points: int) -> float:
        return exact_risk(problem, [Stage(points, lr)], size)

    low, high = 1, 2
    if risk > scratch(low):
        raise ValueError(f"simulate: risk {risk:.6g} is above that of one point, {scratch(low):.6g}; allowed: below")
    while scratch(high) > risk:
        low, high = high, 2 * high
        if high > most:
            raise ValueError(f"simulate: {low} points reach {scratch(low):.6g}; allowed: a risk above that")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if scratch(middle) > risk else (low, middle)
    above, below = math.log(scratch(low)), math.log(scratch(high))
    share = (above - math.log(risk)) / (above - below) if above > below else 1.0
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))


def study(
    problem: Problem,
    *,
    sizes: Sequence[int],
    scratch: Sequence[int],
    finetune: Sequence[int],
    pretrain: int,
    seeds: int,
    lr: float = 0.15,
    pretrain_lr: float = 0.25,
    finetune_lr: float = 0.05,
    pull: float = 0.0,
    seed: int = 0,
    studies: int = 1,
) -> list[list[dict[str, Any]]]:
    """Rows (arm, N, D_F, seed, loss) of `studies` independent transfer studies, as `worth.transfer.answer` reads them.

    Arms are "scratch" and "finetuned" (0 points: the pre-trained model itself). All
    studies are trained side by side; seed i of one study is one root.
    """
    repeats = seeds * studies
    before = Stage(pretrain, pretrain_lr, "source")
    found: list[list[dict[str, Any]]] = [[] for _ in range(studies)]
    for N in sizes:
        plans = [("scratch", D, [Stage(D, lr)]) for D in scratch]
        plans += [("finetuned", D, [before, Stage(D, finetune_lr, pull=pull)]) for D in finetune]
        for arm, D, stages in plans:
            losses = sampled_risk(problem, stages, repeats, N, seed).reshape(studies, seeds)
            for rows, own in zip(found, losses, strict=True):
                rows += [{"arm": arm, "N": N, "D_F": D, "seed": i, "loss": float(loss)} for i, loss in enumerate(own)]
    return found


def _size(problem: Problem, size: int | None) -> int:
    if size is None:
        return problem.d
    if not 1 <= size <= problem.d:
        raise ValueError(f"simulate: size {size} cannot be built; allowed: 1 to {problem.d} coordinates")
    return size
