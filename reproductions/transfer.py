"""Scaling laws for transfer (Hernandez, Kaplan, Henighan and McCandlish 2021, arXiv 2102.01293): text and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from isoloss.report import formats
from isoloss.worth import transfer
from reproductions.headline import Line
from reproductions.kept import Json
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
"""Sizes of target data below which a law's exponents are not judged."""
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
    exponents = {(source, name): _exponent(laws[source], name) for source in (near, far) for name in ("alpha", "beta")}
    for source in (near, far):
        if len(_amounts(laws[source])) < LEAST:
            # So few amounts of data do not tell a power law from anything else.
            exponents |= {(source, name): _open(exponents[source, name]) for name in ("alpha", "beta")}
    between = found["between_sources"][0]
    alpha, beta = (_difference(between, name) for name in ("alpha", "beta"))

    apart = f"{between['second']} minus {between['first']}, on the {between['cells']} cells that both laws have"

    def words(name: str) -> str:
        return "; ".join(
            f"{source} {_said(laws[source], exponents[source, name])} ({_fitted(laws[source])})"
            for source in (near, far)
        )

    return [
        Claim(
            f"{asked}Effective data transferred grows with target data as D_F^alpha, alpha well below 1 (0.18 from "
            "text, 0.096 from text and code; asked here: below 0.5)",
            f"alpha: {words('alpha')}",
            both(*(below(exponents[source, "alpha"], 0.5) for source in (near, far))),
        ),
        Claim(
            f"{asked}It grows with the model as N^beta, beta = 0.38 for either source",
            f"beta: {words('beta')}",
            both(*(contains(exponents[source, "beta"], 0.38, SAME) for source in (near, far))),
        ),
        Claim(
            f"{asked}beta is the same for both sources (0.38, 0.38)",
            f"beta of {apart}: {said(beta, '', 2)}",
            contains(beta, 0.0, SAME),
        ),
        Claim(
            f"{asked}alpha differs between sources (0.18, 0.096)",
            f"alpha of {apart}: {said(alpha, '', 2)}",
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
    rows = [
        transfer.Row(run["arm"].split(" · ")[0], run["N"], _samples(run), run["seed"], by_error(run) / 100)
        for run in answer["runs"]
        if run["status"] == "done"
    ]
    of = {"error": transfer.answer(rows, unit="samples")["cells"], "loss": answer["transfer"]["cells"]}

    def counted(source: str, measure: str) -> tuple[int, int, int]:
        cells = [cell["multiplier"] for cell in of[measure] if cell["source"] == source]
        above_one = sum((_least(cell) or 0) > 1 for cell in cells)
        return above_one, sum((_most(cell) or 2) < 1 for cell in cells), len(cells)

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


def _samples(run: Json) -> float:
    return float(str(run["cell"]["data.size"]).removesuffix(" samples"))


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
    counted = {}
    for name in ("free", "charged"):
        ratios = [r for entry in found["compute"] if entry["equal_loss"] and (r := entry["equal_loss"][name])]
        cheaper = sum((_least(r) or 0) > 1 for r in ratios)
        dearer = sum((_most(r) or 2) < 1 for r in ratios)
        counted[name] = (cheaper, dearer, len(ratios))

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


def _least(ratio: Json) -> float | None:
    """What a ratio surely is above; that of a cell beyond the curve from scratch is its bound."""
    bound = ratio["bound"] if ratio["side"] == "more" else None
    return ratio["low"] if ratio["low"] is not None else bound


def _most(ratio: Json) -> float | None:
    bound = ratio["bound"] if ratio["side"] == "less" else None
    return ratio["high"] if ratio["high"] is not None else bound


def _most_of(cheaper: int, dearer: int, of: int) -> Verdict:
    return HOLDS if cheaper > of / 2 else FAILS if dearer > of / 2 else OPEN


def _amounts(law: Json) -> set[float]:
    return {float(D) for _, D in law["design"]}


def _fitted(law: Json) -> str:
    amounts = sorted(_amounts(law))
    return f"{law['cells']} cells, {len(amounts)} sizes of data: {', '.join(formats.short(D) for D in amounts)}"


def _open(row: Row) -> Row:
    """The value without an interval."""
    return row and {**row, "low": None, "high": None}


def _exponent(law: Json, name: str) -> Row:
    return None if law["reason"] else {**law[name], "value": law[name]["estimate"]}


def _said(law: Json, row: Row) -> str:
    return f"({law['reason']})" if row is None else number(row)


def _difference(between: Json, name: str) -> Row:
    if between["reason"]:
        return None
    return {**between[name], "value": between[name]["difference"]}


def _over(ratio: Json) -> str:
    return f"{ratio['ratio']:.3f} {formats.interval(ratio['low'], ratio['high'])}".strip()


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
        return [
            Line(
                f"{name}, {amount}",
                "scratch",
                f"{where}, N = {formats.short(largest)}",
                study,
                {**known[least][source], "ratio": known[least][source]["value"]},
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
