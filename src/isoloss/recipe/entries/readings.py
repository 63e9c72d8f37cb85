"""What is read off a run, and what is fitted to it: averages, tasks, metrics, laws."""

from __future__ import annotations

from isoloss.recipe.entry import REQUIRED, Entry, Option

_EVERY = Option("every", "duration", "1 update", summary="distance between samples")


ENTRIES = (
    Entry(
        "window",
        "average",
        "mean of the last updates (Izmailov et al. 2018)",
        "isoloss.methods.averages:WindowAverage",
        1,
        (Option("length", "duration", REQUIRED, summary="how much of the run's end is averaged"), _EVERY),
    ),
    Entry(
        "ema",
        "average",
        "exponential moving average (Polyak and Juditsky 1992)",
        "isoloss.methods.averages:EMA",
        1,
        (
            Option("decay", "number", REQUIRED, 0, 1, open_low=True, open_high=True, summary="weight of the past"),
            _EVERY,
        ),
    ),
    Entry(
        "lawa",
        "average",
        "mean of the latest snapshots (Kaddour 2022)",
        "isoloss.methods.averages:LAWA",
        1,
        (
            Option("count", "integer", REQUIRED, 1, 10_000, summary="number of snapshots"),
            Option("every", "duration", REQUIRED, summary="distance between snapshots"),
        ),
    ),
    Entry(
        "language-modelling",
        "task",
        "next-token prediction, nats per token",
        "isoloss.train.tasks:LanguageModelling",
        1,
        tags=("tokens",),
    ),
    Entry(
        "classification",
        "task",
        "class prediction, nats per sample, accuracy",
        "isoloss.train.tasks:Classification",
        1,
        tags=("vectors",),
    ),
    Entry("accuracy", "metric", "share of right answers", "isoloss.train.calibration:judged", 1),
    Entry(
        "ece",
        "metric",
        "expected calibration error: 10 bins of equal count",
        "isoloss.train.calibration:expected_calibration_error",
        1,
    ),
    Entry(
        "rms_calibration_error",
        "metric",
        "root mean square calibration error, same bins",
        "isoloss.train.calibration:rms_calibration_error",
        1,
    ),
    Entry(
        "brier",
        "metric",
        "mean square of confidence minus correctness",
        "isoloss.train.calibration:brier",
        1,
    ),
    Entry(
        "auroc",
        "metric",
        "probability that a right answer is held with more confidence than a wrong one (Kadavath et al. 2022)",
        "isoloss.train.calibration:auroc",
        1,
    ),
    Entry(
        "chinchilla",
        "law",
        "E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 10)",
        "isoloss.laws.forms.additive:Chinchilla",
        1,
    ),
    Entry("power", "law", "E + A / x^alpha in one variable", "isoloss.laws.forms.one_variable:M2", 1),
)
