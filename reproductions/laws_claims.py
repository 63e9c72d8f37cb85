"""What papers say about the public tables, and what was found: from the kept results alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars

from isoloss.report import formats
from isoloss.worth.compare import interval
from reproductions.laws_on_public_data import (
    ALL_ROWS,
    CHINCHILLA,
    CURVES,
    DRAWS,
    ENOUGH,
    FEW_PASSES,
    FORMS,
    GADRE,
    LEVEL,
    OLMO,
    REPEATS,
)
from reproductions.page import Claim
from reproductions.verdicts import FAILS, HOLDS, OPEN, Row, Verdict, agree, both, contains, higher, lower

REFIT = {"A": 482.01, "B": 2085.43, "E": 1.8169, "alpha": 0.3478, "beta": 0.3658}
"""Besiroglu et al. 2024 (2404.10102): what their public notebook prints, as the tests of `isoloss.laws` have it."""
ERRORS = {"A": 124.5, "B": 1293.0, "E": 0.0257, "alpha": 0.0154, "beta": 0.0206}
"""Their standard errors: 4,000 resamples of the published notebook."""
EXACT = 1e-3
"""How near a refit of the same points must come to be the same."""
NEAR = 0.1
"""Exponents and shares that differ by less, with the whole interval, are the same."""
FEW_PERCENT = 0.05
"""The same of log losses beyond the rows."""
EQUAL = 0.5
"""Exponent of the best size in compute: Hoffmann et al. 2022 (2203.15556)."""
KAPLAN = 0.73
"""The same: Kaplan et al. 2020 (2001.08361), table 6."""


class Results:
    """Look-ups in the results table."""

    def __init__(self, rows: polars.DataFrame) -> None:
        self.rows = rows

    def of(self, **names: str) -> polars.DataFrame:
        """Rows with these names."""
        return self.rows.filter(*(polars.col(name) == value for name, value in names.items()))

    def one(self, **names: str) -> Mapping[str, Any]:
        """The only row with these names. Raises KeyError where there is none or several."""
        found = self.of(**names)
        if len(found) != 1:
            raise KeyError(f"{len(found)} results for {names}")
        return found.row(0, named=True)

    def value(self, **names: str) -> float:
        """Its value."""
        return float(self.one(**names)["value"])

    def held(self, table: str, split: str, law: str) -> polars.DataFrame:
        """Held-out rows of one forecast: unit, loss, predicted, low, high, last value and error of log loss."""
        found = self.of(table=table, split=split, law=law, part="row")
        wide = found.pivot("quantity", index="item", values="value", aggregate_function="first", maintain_order=True)
        ends = found.filter(polars.col("quantity") == "predicted").select("item", "low", "high")
        return wide.join(ends, on="item", maintain_order="left").with_columns(
            unit=polars.col("item").str.split("|").list.get(1),
            error=(polars.col("predicted") / polars.col("loss")).log(),
            error_of_last=(polars.col("last value") / polars.col("loss")).log(),
        )

    def curves(self, quantity: str, law: str) -> dict[str, float]:
        """A quantity of every learning curve for which it is known, by the curve's name."""
        found = self.of(table=CURVES, part="curve", quantity=quantity, law=law).drop_nulls("value")
        return dict(zip(found["item"], found["value"], strict=True))


def row_of(found: Mapping[str, Any]) -> Row:
    """A row of the results as a value with its interval."""
    return {"value": found["value"], "low": found["low"], "high": found["high"]}


def over_units(values: Iterable[float], units: Iterable[str]) -> Row:
    """Mean of the means of the units, with Student's interval over units (none below three)."""
    gathered: dict[str, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        gathered.setdefault(unit, []).append(value)
    middle, low, high = interval([float(np.mean(group)) for group in gathered.values()])
    return {"value": middle, "low": low, "high": high, "units": len(gathered)}


def data_set(curve: str) -> str:
    """The data set of a learning curve: few-shot tasks that differ in their shots alone are one."""
    domain, task, _ = curve.split("|", 2)
    return f"{domain}|{task.strip('()').split(',')[0].split('_')[0]}"


def between(first: Mapping[str, float], second: Mapping[str, float]) -> Row:
    """First minus second over the curves that both know, by data set."""
    shared = [name for name in first if name in second]
    return over_units([first[name] - second[name] for name in shared], map(data_set, shared))


def percent(row: Row, digits: int = 1, sign: str = "+") -> str:
    """A share or a difference of log losses in percent, with its interval."""
    if row is None or row["value"] is None:
        return formats.ABSENT
    value, low, high = (None if row[end] is None else 100 * row[end] for end in ("value", "low", "high"))
    band = "" if low is None else f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"
    return f"{value:{sign}.{digits}f}{band} %"


def plain(row: Row, digits: int = 4) -> str:
    """A value with its interval, to so many digits."""
    if row is None or row["value"] is None:
        return formats.ABSENT

    def text(value: float) -> str:
        return f"{value:#.{digits}g}".rstrip(".") if abs(value) < 1e4 else f"{value:.{digits}g}"

    band = "" if row["low"] is None else f" [{text(row['low'])}, {text(row['high'])}]"
    return f"{text(row['value'])}{band}"


def difference(row: Row) -> str:
    """A difference of exponents with its interval."""
    if row is None or row["value"] is None:
        return formats.ABSENT
    band = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    return f"{row['value']:+.3f}{band}"


def nearer(results: Results, where: Sequence[tuple[str, str]], law: str, than: str | None = None) -> Row:
    """Mean |error| of a law less that of another law, or of the last value, over held-out units."""
    values: list[float] = []
    units: list[str] = []
    for name, split in where:
        held = results.held(name, split, law)
        other = held["error_of_last"] if than is None else results.held(name, split, than)["error"]
        values += (held["error"].abs() - other.abs()).to_list()
        units += [f"{name}|{unit}" for unit in held["unit"]]
    return over_units(values, units)


def inside(results: Results, where: Sequence[tuple[str, str]], law: str) -> tuple[int, int]:
    """How many held-out losses lie in the 90 % band, and of how many."""
    held = polars.concat([results.held(name, split, law) for name, split in where], how="diagonal")
    covered = held.filter((polars.col("loss") >= polars.col("low")) & (polars.col("loss") <= polars.col("high")))
    return len(covered), len(held)


def claims(results: Results) -> list[Claim]:
    """One a published statement; those that this library makes of itself at the end."""
    return [*_chinchilla(results), *_curves(results), *_ladders(results), *_repeats(results), *_own(results)]


def _chinchilla(results: Results) -> list[Claim]:
    law = {"table": CHINCHILLA, "law": "chinchilla"}

    def fitted(quantity: str, split: str = "by model size", **more: str) -> Row:
        return row_of(results.one(**{**law, "part": "fit", "quantity": quantity, "split": split, **more}))

    def listed(published: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in published.items())

    values = {name: fitted(name) for name in REFIT}
    apart = max(
        abs(results.value(**law, part="objective", split="l1", quantity=name) / published - 1)
        for name, published in REFIT.items()
    )
    spread = {name: row_of(results.one(**law, part="standard error", quantity=name)) for name in ERRORS}
    best = fitted("a_opt")
    outer = fitted("a_opt", law="chinchilla-outer")
    moved = {name: row_of(results.one(**law, part="five largest", quantity=name)) for name in ("beta", "a_opt")}
    exponents = (
        f"a_opt {plain(best)} by model size, {plain(fitted('a_opt', 'by row'))} by row, {plain(outer)} with an outer "
        "exponent"
    )
    return [
        Claim(
            "Besiroglu et al., by their public notebook (not confirmed from the paper): the law of Hoffmann et al., "
            f"refitted to these points, has {listed(REFIT)}",
            ", ".join(f"{name} {plain(row)}" for name, row in values.items())
            + f"; in the L1 limit all five agree within {apart:.2%}",
            HOLDS if apart < EXACT else both(*(contains(values[name], at, 0.1 * at) for name, at in REFIT.items())),
        ),
        Claim(
            "Their standard errors over resamples of rows, by the notebook (not confirmed from the paper): "
            f"{listed(ERRORS)}",
            "with the same resamples "
            + ", ".join(f"{name} {plain(row)}" for name, row in spread.items())
            + f" (Monte Carlo error of {formats.count(DRAWS)} draws)",
            both(*(contains(spread[name], published, 0.1 * published) for name, published in ERRORS.items())),
        ),
        Claim(
            f"Hoffmann et al.: the best size and the best number of tokens grow alike, both as C^{EQUAL:g}",
            exponents,
            agree([contains(best, EQUAL, NEAR), contains(outer, EQUAL, NEAR)]),
        ),
        Claim(
            f"Kaplan et al. (other text, parameters without embeddings): the best size grows as C^{KAPLAN:g}",
            exponents,
            agree([contains(best, KAPLAN, NEAR), contains(outer, KAPLAN, NEAR)]),
        ),
        Claim(
            "Besiroglu et al.: five outliers (those of largest loss) move beta",
            f"with them minus without, same resamples of model sizes: beta {difference(moved['beta'])}, a_opt "
            f"{difference(moved['a_opt'])}",
            OPEN if lower(moved["beta"]) == OPEN else HOLDS,
        ),
    ]


def _curves(results: Results) -> list[Claim]:
    four = FORMS[:4]

    def chosen(by: str) -> dict[str, float]:
        score = {law: results.curves(by, law) for law in four}
        return {name: held[min(four, key=lambda law: score[law][name])][name] for name in score["m1"]}

    held = {law: results.curves("rmse", law) for law in four}
    fit_best, past_best = chosen("rmse of the fit"), chosen("rolling origin")
    same = float(np.mean([fit_best[name] == min(held[law][name] for law in four) for name in fit_best]))
    lost = between(fit_best, past_best)
    reference = {law: results.curves("rmse", f"reference {law}") for law in four}
    theirs = {law: between(reference["m4"], reference[law]) for law in four[:3]}
    fitted = {law: between(held["m4"], held[law]) for law in four[:3]}
    missing = len(reference["m1"]) - len(reference["m4"])
    return [
        Claim(
            "Alabdulmohsin et al.: the parameters that fit best are not those that extrapolate best (no figure)",
            f"of M1 to M4 the one that fits best also forecasts best on {100 * same:.0f} % of the curves; RMSE of its "
            f"forecast minus that of the one with the best earlier forecasts {percent(lost, 2)}",
            higher(lost),
        ),
        Claim(
            "Alabdulmohsin et al.: M4 extrapolates better than M1, M2 and M3 (no figure)",
            "RMSE of M4 minus "
            + ", ".join(f"{law.upper()} {percent(row, 2)}" for law, row in theirs.items())
            + f" with their estimators ({missing} curves on which M4 failed are left out); "
            + ", ".join(f"{law.upper()} {percent(row, 2)}" for law, row in fitted.items())
            + " with the fits of this library",
            both(*(agree([lower(theirs[law]), lower(fitted[law])]) for law in four[:3])),
        ),
    ]


def _forecast(results: Results, where: Sequence[tuple[str, str]], law: str) -> tuple[str, Verdict]:
    """Nearer than the last value by a whole interval, and every target in its band."""
    gain = nearer(results, where, law)
    hit, of = inside(results, where, law)
    errors = polars.concat([results.held(*place, law).select("error") for place in where])["error"]
    found = (
        f"{law}: errors of {', '.join(f'{100 * e:+.1f}' for e in errors)} %; |error| minus that of the last value "
        f"{percent(gain)}; {hit} of {of} in their 90 % bands"
    )
    return found, both(lower(gain), HOLDS if hit == of else FAILS)


def _ladders(results: Results) -> list[Claim]:
    targets, verdict = _forecast(results, [(OLMO, "7B and 13B")], "chinchilla")
    bands = "; ".join(
        f"{row['unit']} {row['predicted']:.3f} [{row['low']:.3f}, {row['high']:.3f}] for {row['loss']:.3f}"
        for row in results.held(OLMO, "7B and 13B", "chinchilla").iter_rows(named=True)
    )
    largest, _ = _forecast(results, [(OLMO, "N > 1B")], "chinchilla")
    where = [(name, ALL_ROWS) for name in GADRE.values()]
    over, over_verdict = _forecast(results, where, "overtraining")
    tied = {
        (name, label): row_of(
            results.one(table=name, law="chinchilla", part="fit", split=label, quantity="alpha - beta")
        )
        for name in GADRE.values()
        for label in (ALL_ROWS, ENOUGH)
    }
    other = nearer(results, where, "overtraining", "chinchilla")
    return [
        Claim(
            "Bhagia et al.: a ladder of small runs forecasts the 7B and the 13B run (no figure)",
            f"{targets}: {bands}. The ladder's own largest size from the rest, {largest}",
            verdict,
        ),
        Claim(
            "Gadre et al.: a law of small runs forecasts the over-trained 1.4B and the 6.9B runs (no figure)",
            over,
            over_verdict,
        ),
        Claim(
            "Gadre et al.: one exponent serves size and data (the form of their law)",
            "alpha minus beta of `chinchilla`: "
            + "; ".join(f"{name.split(', ')[1]}, {label} {difference(row)}" for (name, label), row in tied.items())
            + f"; |error| of their law minus that of `chinchilla` on the held-out runs {percent(other)}",
            both(*(contains(row, 0.0, NEAR) for row in tied.values())),
        ),
    ]


def _repeats(results: Results) -> list[Claim]:
    law = "data-constrained-tied"
    where = [(name, "over 7 passes") for name in REPEATS.values()]
    gains = {other: nearer(results, where, law, other) for other in ("chinchilla-tied", "additive:N,unique")}
    constant = {name: row_of(results.one(table=name, law=law, part="fit", quantity="r_D")) for name in REPEATS.values()}
    few, many = sorted({passes for place in where for passes in results.held(*place, law)["passes"]})
    rises = {passes: _rises(results, passes) for passes in (few, many)}
    errors = {passes: _at_passes(results, where, passes) for passes in (few, many)}
    hit, of = inside(results, where, law)
    return [
        Claim(
            "Muennighoff et al.: repeated tokens are worth ever less (no figure; asked here: their law, with "
            "D' = U (1 + r_D (1 - exp(-R/r_D))), forecasts more passes better than laws without it)",
            f"|error| of their law at {few:g} and {many:g} passes, fitted up to {FEW_PASSES:g}, minus that of "
            + "; ".join(f"`{other}` {percent(row)}" for other, row in gains.items())
            + "; r_D over all runs "
            + ", ".join(f"{name.split(', ')[1]} {plain(row, 2)}" for name, row in constant.items()),
            both(*map(lower, gains.values())),
        ),
        Claim(
            f"Asked here: it also says what {many:g} passes do",
            f"errors at {many:g} passes {percent(errors[many])}, at {few:g} {percent(errors[few])}; {hit} of {of} "
            f"losses in their 90 % bands. Over a run of {many:g} passes the loss ends {100 * rises[many][0]:.0f} to "
            f"{100 * rises[many][1]:.0f} % above its lowest (of {few:g} passes {100 * rises[few][0]:.1f} to "
            f"{100 * rises[few][1]:.1f} %); along a run the law can only fall",
            contains(errors[many], 0.0, FEW_PERCENT),
        ),
    ]


def _rises(results: Results, passes: float) -> tuple[float, float]:
    """How far runs of so many passes end above their lowest loss: the least and the most."""
    found = results.of(part="run", quantity="rise", split=f"{passes:g}")["value"].to_list()
    return min(found), max(found)


def _at_passes(results: Results, where: Sequence[tuple[str, str]], passes: float) -> Row:
    """Signed error of the data-constrained law on runs of so many passes, over corpora and sizes."""
    held = polars.concat(
        results.held(name, split, "data-constrained-tied").with_columns(table=polars.lit(name)) for name, split in where
    ).filter(polars.col("passes") == passes)
    return over_units(held["error"], (f"{a}|{b}" for a, b in zip(held["table"], held["unit"], strict=True)))


OWN_LAW = (
    (CHINCHILLA, "C > 1e20", "chinchilla"),
    (OLMO, "7B and 13B", "chinchilla"),
    *((name, ALL_ROWS, "overtraining") for name in GADRE.values()),
    *((name, "over 7 passes", "data-constrained-tied") for name in REPEATS.values()),
)
"""The law that is published with each table, and one hold-out."""


def coverage(results: Results, law: str) -> Row:
    """Share of a curve's later rows inside the 90 % band, over data sets."""
    found = results.curves("coverage", law)
    return over_units(found.values(), map(data_set, found))


def _own(results: Results) -> list[Claim]:
    default = coverage(results, "default")
    last = between(results.curves("rmse", "default"), results.curves("rmse", "last value"))
    best = {law: between(results.curves("rmse", "default"), results.curves("rmse", law)) for law in FORMS}
    factors = {name: _factor(results, name, split, law) for name, split, law in OWN_LAW}
    middle, low, high = interval([float(np.log(factor)) for factor in factors.values()])
    factor = {"value": np.exp(middle), "low": None if low is None else np.exp(low)}
    factor["high"] = None if high is None else np.exp(high)
    counted = {name: inside(results, [(name, split)], law) for name, split, law in OWN_LAW}
    return [
        Claim(
            f"isoloss: the band of `extrapolate` holds {100 * LEVEL:.0f} % of what comes (its rules were chosen on "
            "these curves)",
            f"{percent(default, 0, '')} of the rows of a curve, over {default['units'] if default else 0} data sets",
            contains(default, LEVEL, NEAR),
        ),
        Claim(
            "isoloss: its default forecast is nearer than the last value and than any form fitted to the whole curve",
            f"RMSE minus that of the last value {percent(last, 2)}; "
            + ", ".join(f"of {law} {percent(row, 2)}" for law, row in best.items()),
            both(lower(last), *map(lower, best.values())),
        ),
        Claim(
            f"isoloss: the band of `holdout` is as wide as it takes to hold {100 * LEVEL:.0f} % of the held-out rows",
            f"it would have to be {plain(factor, 2)} times as wide, over {len(factors)} tables, each with the law that "
            "was published with it: "
            + "; ".join(f"{name} {plain({'value': f, 'low': None}, 2)}" for name, f in factors.items())
            + " (of two or three rows a low estimate). It holds "
            + ", ".join(f"{hit} of {of}" for hit, of in counted.values()),
            contains(factor, 1.0, 0.5),
        ),
    ]


def _factor(results: Results, name: str, split: str, law: str) -> float:
    """By what a band would have to be stretched to hold 90 % of the held-out rows."""
    held = results.held(name, split, law)
    above = held["error"].to_numpy() < 0
    edge = np.where(above, held["high"] / held["predicted"], held["predicted"] / held["low"])
    return float(np.quantile(np.abs(held["error"].to_numpy()) / np.log(edge), LEVEL))
