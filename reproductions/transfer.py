"""Scaling laws for transfer (Hernandez, Kaplan, Henighan and McCandlish 2021, arXiv 2102.01293): text and images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from isoloss.report import formats
from isoloss.worth import transfer
from isoloss.worth.compare import FEWEST_SEEDS, student
from isoloss.worth.power import MOST_SEEDS, PILOT
from reproductions.headline import Line, fewest
from reproductions.kept import Json
from reproductions.markdown import table
from reproductions.page import Claim, Part, Reproduction
from reproductions.verdicts import (
    FAILS,
    HOLDS,
    OPEN,
    Row,
    Verdict,
    above,
    agree,
    below,
    both,
    by_error,
    by_loss,
    contains,
    lower,
    number,
    paired,
    runs,
    said,
)

TEXT, IMAGES = "transfer-text", "transfer-images"
NEAR = {TEXT: "docs", IMAGES: "half"}
FAR = {TEXT: "books", IMAGES: "digits"}
SAME = 0.2
"""Exponents that differ by less, with the whole interval, agree."""
APART = 0.05
"""Values of alpha that differ by less, with the whole interval, do not differ; the paper's do by 0.08."""
LEAST = 3
"""Sizes of target data below which a law's exponents, and their differences, are not judged."""
WANTED = 1.1
"""Multiplier of the target data that the power check asks seeds for."""
PAPER = "Hernandez et al. 2021, arXiv 2102.01293"


def claims(study: str) -> Callable[[Mapping[str, Json]], Sequence[Claim]]:
    """Those of one study; the paper's figures are of text and Python."""

    def of(found: Mapping[str, Json]) -> Sequence[Claim]:
        answer = found[study]
        asked = "" if study == TEXT else "Asked here, of images: "
        near, far = NEAR[study], FAR[study]
        closer = paired(runs(answer, near), runs(answer, far))
        return [
            *_laws(answer["transfer"], asked, near, far),
            Claim(
                f"{asked}The closer source leaves a lower loss (text and code: ten times the zero-shot transfer)",
                f"{near} minus {far}, all sizes and data: {said(closer)}",
                lower(closer),
            ),
            *([*_accuracy(answer), *_effective_by_error(answer)] if study == IMAGES else []),
            *_cells(answer["transfer"], asked),
            *_compute(answer["transfer"], asked),
        ]

    return of


def _laws(found: Json, asked: str, near: str, far: str) -> list[Claim]:
    laws = {law["source"]: law for law in found["laws"]}
    between = found["between_sources"][0]
    shared = _design(laws[between["first"]]) & _design(laws[between["second"]])

    def exponents(name: str) -> list[Row]:
        return [_judged(_exponent(laws[source], name), _design(laws[source])) for source in (near, far)]

    def words(name: str, values: Sequence[Row]) -> str:
        return f"{name}: " + "; ".join(
            f"{source} {_said(laws[source], row)}" for source, row in zip((near, far), values, strict=True)
        )

    def apart(name: str, row: Row) -> str:
        names = f"{name} of {between['second']} minus {between['first']}"
        if row is None:
            return f"{names}: ({between['reason']})"
        on = f"on the {between['cells']} cells that both laws have ({_sizes(shared)})"
        return f"{names}, {on}: {said(row, '', 2)}"

    alphas, betas = exponents("alpha"), exponents("beta")
    alpha, beta = (_judged(_difference(between, name), shared) for name in ("alpha", "beta"))
    return [
        Claim(
            f"{asked}Effective data transferred grows with target data as D_F^alpha, alpha well below 1 (0.18 from "
            "text, 0.096 from text and code; asked here: below 0.5)",
            words("alpha", alphas),
            both(*(below(row, 0.5) for row in alphas)),
        ),
        Claim(
            f"{asked}It grows with the model as N^beta, beta = 0.38 for either source (asked here: within {SAME})",
            words("beta", betas),
            both(*(contains(row, 0.38, SAME) for row in betas)),
        ),
        Claim(
            f"{asked}beta is the same for both sources (0.38, 0.38; asked here: within {SAME})",
            apart("beta", beta),
            contains(beta, 0.0, SAME),
        ),
        Claim(
            f"{asked}alpha differs between sources (0.18, 0.096; asked here: by more than {APART})",
            apart("alpha", alpha),
            {HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}[contains(alpha, 0.0, APART)],
        ),
    ]


def _accuracy(answer: Json) -> list[Claim]:
    sizes = list(dict.fromkeys(str(run["cell"]["data.size"]) for run in answer["runs"]))

    def row(source: str, size: str) -> Row:
        return paired(runs(answer, source, size=size), runs(answer, "scratch", size=size), by_error)

    return [
        Claim(
            f"Asked here: pre-training on {words} lowers the error too, at each size of data",
            "fine-tuned minus scratch, all models, points of error: "
            + "; ".join(f"{size} {said(row(source, size), '', 2)}" for size in sizes),
            both(*(lower(row(source, size)) for size in sizes)),
        )
        for source, words in ((NEAR[IMAGES], "the other classes"), (FAR[IMAGES], "digits"))
    ]


def _effective_by_error(answer: Json) -> list[Claim]:
    """The answer to the transfer question with the error in the place of the loss."""
    of = {"error": _multipliers(answer, value=by_error), "loss": answer["transfer"]["cells"]}

    def counted(source: str, measure: str) -> tuple[int, int, int]:
        return _counted(cell["multiplier"] for cell in of[measure] if cell["source"] == source)

    def words(source: str, measure: str) -> str:
        more, less, _ = counted(source, measure)
        return f"at equal {measure} {more} more, {less} less"

    return [
        Claim(
            f"Asked here: at equal error, too, the target data is worth more after pre-training on {name} (in most "
            "cells)",
            f"of {counted(source, 'error')[-1]} cells, by their whole interval, {words(source, 'error')}; "
            f"{words(source, 'loss')}",
            _most_of(*counted(source, "error")),
        )
        for source, name in ((NEAR[IMAGES], "the other classes"), (FAR[IMAGES], "digits"))
    ]


def _multipliers(
    answer: Json, seeds: Sequence[str] | None = None, value: Callable[[Json], float] = by_loss
) -> list[Json]:
    """Cells of the answer to the transfer question from the runs of some seeds, with another measure than the loss."""
    found = answer["transfer"]
    # A study file's bytes are counted as whole windows of tokens: sizes of data are matched by their order.
    sizes = sorted({str(run["cell"]["data.size"]) for run in answer["runs"]}, key=lambda size: float(size.split()[0]))
    amounts = dict(zip(sizes, sorted({float(cell["D_F"]) for cell in found["cells"]}), strict=True))
    rows = [
        transfer.Row(
            run["arm"].split(" · ")[0], run["N"], amounts[str(run["cell"]["data.size"])], run["seed"], value(run)
        )
        for run in answer["runs"]
        if run["status"] == "done" and not run["extra"] and (seeds is None or run["seed"] in seeds)
    ]
    cells: list[Json] = transfer.answer(rows, scratch=found["scratch"], unit=found["unit"])["cells"]
    return cells


def _counted(ratios: Iterable[Json | None]) -> tuple[int, int, int]:
    """How many ratios are above 1 by their whole interval, how many below, and of how many."""
    known = [ratio for ratio in ratios if ratio]
    over = sum(ratio["low"] is not None and ratio["low"] > 1 for ratio in known)
    return over, sum(ratio["high"] is not None and ratio["high"] < 1 for ratio in known), len(known)


def _cells(found: Json, asked: str) -> list[Claim]:
    cells = [cell for cell in found["cells"] if cell["over_scratch"]]
    ossified = [cell for cell in cells if cell["ossified"]]
    small = min(cell["N"] for cell in cells)
    largest = max(cell["D_F"] for cell in cells)
    corner = [cell for cell in cells if (cell["N"], cell["D_F"]) == (small, largest)]
    return [
        Claim(
            f"{asked}Small pre-trained models with much target data end worse than from scratch (ossification; 1M "
            "parameters above 1e8 characters)",
            f"{len(ossified)} of {len(cells)} cells are worse than from scratch (5 % over all cells); the smallest "
            "model with the most data, fine-tuned loss over loss from scratch: "
            + "; ".join(f"{cell['source']} {_over(cell['over_scratch'])}" for cell in corner),
            agree(above(cell["over_scratch"]) for cell in corner),
        ),
    ]


def _compute(found: Json, asked: str) -> list[Claim]:
    counted = {
        name: _counted(entry["equal_loss"][name] for entry in found["compute"] if entry["equal_loss"])
        for name in ("free", "charged")
    }

    def words(name: str) -> str:
        cheaper, dearer, of = counted[name]
        return (
            f"of {of} cells, {cheaper} are cheaper than scratch to the same loss by their whole interval, {dearer} are "
            "dearer"
        )

    return [
        Claim(
            f"{asked}Without its pre-training, fine-tuning takes less compute to the same loss, most of the time "
            "(here: in most cells)",
            words("free"),
            _most_of(*counted["free"]),
        ),
        Claim(
            "Asked here: it still does when the pre-training is charged to a single use",
            words("charged"),
            _most_of(*counted["charged"]),
        ),
    ]


def _most_of(cheaper: int, dearer: int, of: int) -> Verdict:
    return HOLDS if cheaper > of / 2 else FAILS if dearer > of / 2 else OPEN


def _design(law: Json) -> set[tuple[float, float]]:
    """(N, D_F) of the cells of a law; none where there is no law."""
    return {(float(N), float(D)) for N, D in law.get("design", ())}


def _amounts(design: Iterable[tuple[float, float]]) -> list[float]:
    return sorted({D for _, D in design})


def _sizes(design: Iterable[tuple[float, float]]) -> str:
    amounts = _amounts(design)
    few = ", too few to judge" if len(amounts) < LEAST else ""
    return f"{len(amounts)} sizes of data{few}: {', '.join(formats.short(D) for D in amounts)}"


def _judged(row: Row, design: Iterable[tuple[float, float]]) -> Row:
    """Without its interval where so few amounts of data do not tell a power law from anything else."""
    return {**row, "low": None, "high": None} if row and len(_amounts(design)) < LEAST else row


def _exponent(law: Json, name: str) -> Row:
    return None if law["reason"] else {**law[name], "value": law[name]["estimate"]}


def _said(law: Json, row: Row) -> str:
    if row is None:
        return f"({law['reason']})"
    return f"{number(row)} ({law['cells']} cells, {_sizes(_design(law))})"


def _difference(between: Json, name: str) -> Row:
    if between["reason"]:
        return None
    return {**between[name], "value": between[name]["difference"]}


def _over(ratio: Json) -> str:
    return f"{ratio['ratio']:.3f} {formats.interval(ratio['low'], ratio['high'])}".strip()


def details(answer: Json) -> list[str]:
    """Further paragraphs of a study's section: where its cells lie, and what its seeds resolve."""
    return [low_data(answer), power(answer)]


def low_data(answer: Json) -> str:
    """How many cells of each source are in the low-data regime, which the law is meant for."""
    found = answer["transfer"]

    def words(source: str) -> str:
        cells = [cell for cell in found["cells"] if cell["source"] == source]
        counts = {name: sum(cell["regime"] == name for cell in cells) for name in ("low data", "beyond")}
        doubtful = {(cell["N"], cell["D_F"]) for cell in cells if cell["regime"] == "not resolved"}
        law = next(law for law in found["laws"] if law["source"] == source)
        return (
            f"{source} has {counts['low data']} of {len(cells)} cells there, {counts['beyond']} beyond, and of "
            f"{len(doubtful)} it is not resolved ({len(doubtful & _design(law))} of these are in its law)"
        )

    return (
        f"The law of transfer is meant for low data, D_F of at most {transfer.LOW_DATA:.0%} of D(N) by its whole "
        f"interval, where D(N) is the data with which training from scratch comes to {transfer.PERFORMANCE:.0%} of "
        f"what infinite data would give: {'; '.join(words(source) for source in found['sources'])}."
    )


def power(answer: Json) -> str:
    """What the design resolves in the multiplier of the target data, judged by its first seeds, beside what came."""
    found = answer["transfer"]
    seeds = list(dict.fromkeys(run["seed"] for run in answer["runs"]))
    pilot = seeds[:PILOT]
    alone = [_values(_multipliers(answer, [seed])) for seed in pilot]
    places = dict.fromkeys((cell["source"], cell["D_F"]) for cell in found["cells"] if cell["multiplier"])
    rows, ends = [], []
    for source, D in places:
        cells = [cell for cell in found["cells"] if (cell["source"], cell["D_F"]) == (source, D)]
        logs = [[math.log(values.get((source, cell["N"], D), math.nan)) for values in alone] for cell in cells]
        known = [values for values in logs if len(values) == PILOT and np.isfinite(values).all()]
        spread = math.sqrt(np.mean(np.var(known, axis=1, ddof=1))) if known else None
        widths = [
            math.log(worth["high"] / worth["low"]) / 2
            for cell in cells
            if None not in ((worth := cell["multiplier"])["low"], worth["high"])
        ]
        ends.append(math.exp(np.mean(widths)) if widths else None)
        rows.append(
            (
                source,
                formats.short(D),
                f"{len(known)} of {len(cells)}",
                *_resolved(spread, len(seeds)),
                formats.ABSENT if ends[-1] is None else f"{ends[-1]:.2f}× ({len(widths)} of {len(cells)})",
            )
        )
    enough = sum(end is not None and end <= WANTED for end in ends)
    return (
        f"What the design resolves, judged by seeds {', '.join(pilot)} alone: the smallest multiplier of the target "
        f"data at one size N that {len(seeds)} seeds tell from 1×. The spread is that of the log multiplier between "
        "these seeds, each with its own curve from scratch, pooled over the sizes where all of them are inside of "
        "their curves (sizes known). Two seeds say little of noise; the last column is half the interval that came of "
        "all seeds, as a factor: the geometric mean over the sizes where the curve bounds both ends (how many: in "
        "brackets). It also holds the error of interpolation. It is at most "
        f"{WANTED:g}× in {enough} of {len(rows)} rows.\n\n"
        + table(
            (
                "source",
                f"target data, {found['unit']}",
                "sizes known",
                "spread of log multiplier",
                "resolves",
                f"seeds for {WANTED:g}×",
                "came to",
            ),
            rows,
        )
    )


def _values(cells: Iterable[Json]) -> dict[tuple[str, float, float], float]:
    """Multipliers by source, N and D_F; NaN outside of the curve from scratch."""
    return {
        (cell["source"], cell["N"], cell["D_F"]): math.nan if worth["value"] is None else worth["value"]
        for cell in cells
        if (worth := cell["multiplier"])
    }


def _resolved(spread: float | None, seeds: int) -> tuple[str, str, str]:
    """The spread, the smallest multiplier that so many seeds tell from 1, and the seeds for ``WANTED``."""
    if spread is None:
        return (formats.ABSENT,) * 3

    def reach(number_of: int) -> float:
        # The interval of one cell has the degrees of freedom of its own seeds: sizes are not pooled.
        return student(number_of - 1) * spread / math.sqrt(number_of)

    needed = next((n for n in range(FEWEST_SEEDS, MOST_SEEDS + 1) if reach(n) <= math.log(WANTED)), None)
    return (
        f"{spread:.4f}",
        f"{math.exp(reach(seeds)):.3f}×" if seeds >= FEWEST_SEEDS else formats.ABSENT,
        f"over {MOST_SEEDS}" if needed is None else str(needed),
    )


def headline(study: str, where: str, names: Mapping[str, str]) -> Callable[[Mapping[str, Json]], list[Line]]:
    """The multipliers at the largest size with tuned rates, on the least target data where all have an interval."""

    def of(found: Mapping[str, Json]) -> list[Line]:
        answer = found[study]["transfer"]
        tuned = [{row["N"] for row in arm["lr"] if row["rule"] == "tuned"} for arm in found[study]["arms"]]
        largest = max(set.intersection(*tuned))
        known: dict[float, dict[str, Json]] = {}
        for cell in answer["cells"]:
            worth = cell["multiplier"]
            if cell["N"] == largest and worth and None not in (worth["value"], worth["low"], worth["high"]):
                known.setdefault(cell["D_F"], {})[cell["source"]] = worth
        least = min((D for D, of in known.items() if names.keys() <= of.keys()), default=None)
        if least is None:
            return []
        amount = f"{formats.short(least)} {answer['unit']}"

        def compute(source: str) -> Json:
            entry = next(e for e in answer["compute"] if (e["source"], e["N"], e["D_F"]) == (source, largest, least))
            charged = (entry["equal_loss"] or {}).get("charged") or dict.fromkeys(("value", "low", "high"))
            return {**charged, "ratio": charged["value"]}

        def updates(source: str) -> int:
            all_runs = found[study]["runs"]
            return fewest(r for r in all_runs if (r["arm"].split(" · ")[0], r["N"]) == (source, largest))

        return [
            Line(
                f"{name}, {amount}",
                "scratch",
                f"{where}, N = {formats.short(largest)}",
                study,
                {**known[least][source], "ratio": known[least][source]["value"]},
                compute(source),
                updates(source),
            )
            for source, name in names.items()
        ]

    return of


def _reproduction(
    study: str, title: str, question: str, about: str, where: str, names: Mapping[str, str]
) -> Reproduction:
    return Reproduction(
        folder=study,
        title=title,
        paper=PAPER,
        question=question,
        parts=(Part(study, about),),
        claims=claims(study),
        figures={
            study: {
                "transfer": "loss against target data, by size and source. An arrow ends at the data that "
                "training from scratch needs for the same loss; dashed: more than all there is"
            }
        },
        headline=headline(study, where, names),
        details={study: details},
    )


REPRODUCTIONS = (
    _reproduction(
        TEXT,
        "Transfer, text",
        "What is English worth for Python code, in bytes of code? Two sources: the standard library's documentation, "
        "and books.",
        "pre-training on documentation and on books, then code",
        "text",
        {"docs": "pre-training on documentation", "books": "pre-training on books"},
    ),
    _reproduction(
        IMAGES,
        "Transfer, images",
        "What are half the classes of Fashion-MNIST worth for the other half, in images? And digits, a farther source?",
        "pre-training on half the classes and on digits, then the other half",
        "images",
        {"half": "pre-training on the other classes", "digits": "pre-training on digits"},
    ),
)
