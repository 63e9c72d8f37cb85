"""The transfer question of a whole study: its rows, its answer, and what a careful reader would object.

One row an arm, N, unique target data and seed: of the runs there (durations and other swept settings alike, the same
ones for every arm) the one with the lowest loss on validation part A; its loss is that on part B. Converged means
that this loss did not fall until the end: the best moment lies before the last evaluation of the longest run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from isoloss.data.shared import shared
from isoloss.plan.lower import Lowered, open_source
from isoloss.worth import transfer
from isoloss.worth.advise_transfer import helps_more
from isoloss.worth.transfer_forms import combined, curve_laws
from isoloss.worth.transfer_text import amount, worth_words

if TYPE_CHECKING:
    from isoloss.worth.results import Result, Results

VERDICTS = {
    "data": "10x the data would add more effective data than 10x the parameters",
    "size": "10x the parameters would add more effective data than 10x the data",
    "not resolved": "whether more data or more parameters would help more is not resolved",
}
PARTS = {"train": "training data", "A": "validation part A", "B": "validation part B"}
_SHARED: dict[tuple[str, str, int], dict[str, Any] | None] = {}


@dataclass(frozen=True)
class Rows:
    """The rows with their reference arm, the arms left out, and of the rows those whose loss still fell at the end."""

    rows: tuple[transfer.Row, ...]
    scratch: str
    others: tuple[str, ...]
    still_falling: tuple[transfer.Row, ...]


def rows_of(results: Results) -> Rows | None:
    """The finished runs of a study as rows for `worth.transfer.answer`; None without the transfer question.

    The question is there with an arm that goes on from pre-training or begins with weights of a file, one that does
    neither (the baseline, or else the first), and two sizes of target data from scratch. C is counted up to the moment
    that is judged; what the training of a file has cost is not known.
    """
    done, outside, sources, scratch = _families(results)
    if scratch is None or len({r.unique for r in done if r.arm == scratch}) < 2:
        return None
    places: dict[tuple[str, int, int, str], list[Result]] = {}
    for r in done:
        if r.arm in sources or r.arm == scratch:
            places.setdefault((r.arm, r.N, r.unique, r.seed), []).append(r)
    rows, falling = [], []
    for (arm, N, unique, seed), runs in places.items():
        best = min(runs, key=lambda r: (r.loss_a if r.loss_a is not None else float("inf"), r.name))
        assert best.loss is not None
        spent = best.fixed_flops + (best.C - best.fixed_flops) * best.best / best.S
        before = best.C_pretrain if arm in sources and arm not in outside else None
        rows.append(transfer.Row(arm, N, unique, seed, best.loss, spent, before))
        if best.best == max(r.S for r in runs):
            falling.append(rows[-1])
    others = (arm for arm in dict.fromkeys(r.arm for r in done) if arm not in {*sources, scratch})
    return Rows(tuple(rows), scratch, tuple(others), tuple(falling))


def _families(results: Results) -> tuple[list[Result], set[str], set[str], str | None]:
    """Finished runs; arms that begin with weights of a file, those with any earlier training, and the reference arm."""
    done = [r for r in results.results if r.status == "done" and not r.extra]
    outside = {p.cell.arm for p in results.stage.planned if p.lowered.weights}
    sources = {r.arm for r in done if r.C_pretrain > 0 or r.arm in outside}
    plain = [arm for arm in dict.fromkeys(r.arm for r in done) if arm not in sources]
    if not sources or not plain:
        return done, outside, sources, None
    return done, outside, sources, results.study.baseline if results.study.baseline in plain else plain[0]


def study_transfer(results: Results, unit: str) -> tuple[dict[str, Any] | None, list[str]]:
    """(answer, caveats). The answer is that of `worth.transfer.answer` with `contamination`, `forms` and `advice`.

    None where the study does not ask what pre-training is worth, or where its rows answer nothing: a caveat says why.
    """
    given = rows_of(results)
    if given is None:
        scratch = _families(results)[-1]
        short = (
            f"What pre-training is worth in data is not answered: the curve of {scratch} is too short to invert, it "
            "has one size of target data; allowed: two or more in data.size."
        )
        return None, [short] if scratch else []
    met = contamination(results, given)
    said = [*_objections(results, given), *_repeats(met)]
    try:
        return answered(given.rows, given.scratch, unit) | {"contamination": met}, said
    except ValueError as error:  # a LawError too
        return None, [f"What pre-training is worth has no answer: {error}.", *said]


def answered(rows: Sequence[transfer.Row], scratch: str, unit: str) -> dict[str, Any]:
    """`worth.transfer.answer` with the other laws, `forms`, and a sentence of `advice`. Raises ValueError."""
    found = transfer.answer(rows, scratch=scratch, unit=unit)
    return found | {"forms": _forms(rows, found), "advice": advice(found)}


def contamination(results: Results, given: Rows) -> list[dict[str, Any]]:
    """By source arm and part of the target: windows (samples) in all, and those that its pre-training trained on."""
    found = []
    for arm in dict.fromkeys(row.arm for row in given.rows if row.arm != given.scratch):
        # All sizes are prefixes of the largest one.
        runs = [p.lowered for p in results.stage.planned if p.cell.arm == arm]
        largest = max(runs, key=lambda lowered: lowered.unique)
        overlaps = _overlaps(largest)
        for part in PARTS if overlaps else ():
            assert overlaps is not None
            found.append({"source": arm, "part": part, **overlaps[part]})
        if overlaps is None:
            found.append({"source": arm, "part": None, "windows": 0, "shared": 0})
    return found


def _overlaps(lowered: Lowered) -> dict[str, Any] | None:
    if lowered.before is None or lowered.weights:  # what a file was trained on is not known
        return None
    earlier, own = open_source(lowered.before.data), open_source(lowered.data)
    context = int(lowered.run.start.model["context"])
    key = (earlier.digest, own.digest, context)
    if key not in _SHARED:
        met = shared(earlier, own, context)
        _SHARED[key] = met and {part: {"windows": o.windows, "shared": o.shared} for part, o in met.items()}
    return _SHARED[key]


def _repeats(met: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    for source in dict.fromkeys(one["source"] for one in met):
        mine = [one for one in met if one["source"] == source]
        hit = [f"{100 * one['shared'] / one['windows']:.3g} % of {PARTS[one['part']]}" for one in mine if one["shared"]]
        if hit:
            said.append(f"The pre-training data of {source} holds target data too: {', '.join(hit)}.")
        elif mine[0]["part"] is None:
            said.append(f"Whether the pre-training data of {source} holds target data could not be checked.")
    return said


def _objections(results: Results, given: Rows) -> list[str]:
    said = []
    if given.others:
        said.append(
            f"Transfer is measured against {given.scratch}; {', '.join(given.others)} without pre-training left out."
        )
    if all(p.lowered.select == "end" for p in results.stage.planned):
        said.append("Runs are judged at their end: evaluation.select: best would stop each where part A is lowest.")
    elif given.still_falling:
        places = dict.fromkeys((row.arm, row.D_F) for row in sorted(given.still_falling, key=lambda row: row.D_F))
        arms = (
            f"{arm} on {', '.join(amount(D) for of, D in places if of == arm)}"
            for arm in dict.fromkeys(row.arm for row in given.still_falling)
        )
        said.append(
            f"{len(given.still_falling)} of {len(given.rows)} runs behind the transfer answer were best at their last "
            f"evaluation, so they had not converged ({'; '.join(arms)}): lengthen the duration, or updates are the "
            "limit there and not data."
        )
    return said


def _forms(rows: Sequence[transfer.Row], found: Mapping[str, Any]) -> dict[str, Any]:
    """Other laws of the curves from scratch, and how well the combined form meets the fine-tuned losses."""
    forms: dict[str, Any] = {"curves": curve_laws(rows, found["scratch"]), "combined": [], "note": None}
    try:
        forms["combined"] = combined(rows, found)
    except ValueError as error:  # a LawError too
        forms["note"] = str(error)
    return forms


def advice(found: Mapping[str, Any]) -> str:
    """One sentence: whether to fine-tune, with how much target data, and what would help more."""
    N = max(cell["N"] for cell in found["cells"])
    unit = found["unit"]
    gains: list[tuple[float, str, list[Mapping[str, Any]]]] = []
    for source in found["sources"]:
        cells = [c for c in found["cells"] if c["source"] == source and c["N"] == N and c["over_scratch"]]
        cells.sort(key=lambda cell: float(cell["D_F"]))
        if cells:
            gains.append((min(c["over_scratch"]["ratio"] for c in cells), source, cells))
    if not gains:
        return "No fine-tuned run has as much target data as a run from scratch, so there is nothing to advise yet."
    _, source, cells = min(gains, key=lambda gain: gain[:2])
    # Below three seeds there is no interval, and the ratio itself decides.
    better = [c for c in cells if (c["over_scratch"]["high"] or c["over_scratch"]["ratio"]) < 1]
    unsure = "" if all(c["over_scratch"]["high"] for c in cells) else " (fewer than 3 seeds: not tested)"
    at = f"at N = {N:g}"
    if not better:
        return (
            f"Train from scratch {at}: on {amount(cells[0]['D_F'])} to {amount(cells[-1]['D_F'])} {unit} of target "
            f"data no source of pre-training is shown to give a lower loss{unsure}."
        )
    last = better[-1]
    worth = worth_words(better[0], unit)
    best = f"Fine-tune {source} {at}: {amount(better[0]['D_F'])} {unit} of target data are then worth {worth}"
    if last is cells[-1]:
        best += f", and up to {amount(last['D_F'])} it beats training from scratch"
    else:
        best += (
            f"; from {amount(cells[cells.index(last) + 1]['D_F'])} on, no gain over training from scratch is resolved"
        )
    law = next(law for law in found["laws"] if law["source"] == source)
    helps = "" if law["reason"] else f"; {VERDICTS[helps_more(law, last['D_F'], N)]}"
    return f"{best}{helps}{unsure}."
