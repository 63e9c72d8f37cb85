"""Whether a model knows what it knows: calibration of its confidence, and how well it tells right from wrong.

All figures judge pairs (p, y): a probability and whether what it was given to is true. By default p is the probability
of the most likely class and y whether that is the right one. With 10 bins of equally many pairs, sorted by p,

    ECE = mean over bins |mean p - mean y|,     RMS = sqrt(mean over bins (mean p - mean y)^2)
    Brier = mean (p - y)^2,                     AUROC = P(p of a right one > p of a wrong one), ties half

Source: Kadavath et al. 2022, section 2 and glossary. ECE and RMS see calibration alone, AUROC discrimination alone,
Brier both. Everything is computed in float64 and does, beyond rounding, not depend on the order of the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 10


@dataclass(frozen=True)
class Bin:
    """One row of a reliability table: pairs in it, their mean probability, the share that is true."""

    count: int
    confidence: float
    accuracy: float


def top(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(p, y) of the most likely class of each sample: logits (..., classes), labels (...); float64 (n,) both."""
    scores, targets = _flat(logits, labels)
    highest, chosen = scores.max(-1)
    return (highest - scores.logsumexp(-1)).exp().clamp(max=1.0), (chosen == targets).double()


def every(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(p, y) of all classes of each sample, for reliability tables over all options; float64 (n classes,) both."""
    scores, targets = _flat(logits, labels)
    truth = torch.nn.functional.one_hot(targets, scores.shape[-1]).double()
    return scores.softmax(-1).reshape(-1).clamp(max=1.0), truth.reshape(-1)


def reliability(p: Tensor, y: Tensor, bins: int = BINS) -> list[Bin]:
    """The reliability table: bins of equally many pairs (to within one) in ascending order of ``p``.

    Pairs of equal ``p`` count with their mean ``y``, so that no bin depends on how ties are ordered. With fewer pairs
    than bins, every pair is a bin. Raises ValueError for no pairs, unequal shapes, or what is no probability.
    """
    p, y = _pairs(p, y)
    if bins < 1:
        raise ValueError(f"reliability: bins is {bins}; allowed: at least 1")
    values, inverse, counts = p.unique(return_inverse=True, return_counts=True)
    shares = torch.zeros_like(values).index_add_(0, inverse, y) / counts
    columns = (column.repeat_interleave(counts).tensor_split(min(bins, len(p))) for column in (values, shares))
    return [Bin(len(q), q.mean().item(), z.mean().item()) for q, z in zip(*columns, strict=True)]


def expected_calibration_error(p: Tensor, y: Tensor, bins: int = BINS) -> float:
    """ECE, in [0, 1]; errors as `reliability`."""
    table = reliability(p, y, bins)
    return math.fsum(abs(row.confidence - row.accuracy) for row in table) / len(table)


def rms_calibration_error(p: Tensor, y: Tensor, bins: int = BINS) -> float:
    """RMS calibration error, in [0, 1] and never below the ECE; errors as `reliability`."""
    table = reliability(p, y, bins)
    return math.sqrt(math.fsum((row.confidence - row.accuracy) ** 2 for row in table) / len(table))


def brier(p: Tensor, y: Tensor) -> float:
    """Brier score, in [0, 1]; 0.25 for p = 1/2 throughout. Errors as `reliability`."""
    p, y = _pairs(p, y)
    return (p - y).square().mean().item()


def auroc(p: Tensor, y: Tensor) -> float:
    """Area under the ROC curve; 0.5 is chance, NaN where all pairs are true or all false. Errors as `reliability`.

    The Mann-Whitney statistic: mid-ranks R of the n1 true among n pairs, (sum R - n1 (n1 + 1) / 2) / (n1 (n - n1)).
    """
    p, y = _pairs(p, y)
    positive = y.sum().item()
    negative = len(y) - positive
    if not positive or not negative:
        return math.nan
    _, inverse, counts = p.unique(return_inverse=True, return_counts=True)
    middle = counts.cumsum(0) - (counts - 1) / 2
    return ((middle.double()[inverse] * y).sum().item() - positive * (positive + 1) / 2) / (positive * negative)


def summary(p: Tensor, y: Tensor) -> dict[str, float]:
    """The four figures by the names that a study measures them under."""
    return {
        "ece": expected_calibration_error(p, y),
        "rms_calibration_error": rms_calibration_error(p, y),
        "brier": brier(p, y),
        "auroc": auroc(p, y),
    }


METRICS = ("ece", "rms_calibration_error", "brier", "auroc")
"""Keys of `summary`."""


def judged(p: Tensor, y: Tensor) -> dict[str, float]:
    """`summary` and the accuracy; NaN throughout where a probability is not finite, as behind a divergence."""
    if not bool(p.isfinite().all()):
        return dict.fromkeys(("accuracy", *METRICS), math.nan)
    return {"accuracy": y.double().mean().item(), **summary(p, y)}


def summarise(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """`summary` of the most likely classes: logits (..., classes), labels (...)."""
    return summary(*top(logits, labels))


def _flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"calibration: logits {tuple(logits.shape)} with labels {tuple(labels.shape)}; "
            "allowed: (..., classes) with (...)"
        )
    return logits.detach().reshape(-1, logits.shape[-1]).double(), labels.detach().reshape(-1)


def _pairs(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if p.ndim != 1 or p.shape != y.shape or not len(p):
        raise ValueError(f"calibration: found {tuple(p.shape)} and {tuple(y.shape)}; allowed: two of (n,), n from 1")
    p, y = p.double(), y.double()
    if not bool(((p >= 0) & (p <= 1)).all()) or not bool(((y == 0) | (y == 1)).all()):
        raise ValueError("calibration: probabilities must lie in [0, 1] and outcomes be 0 or 1")
    return p, y
