"""The large-batch question of a whole study: its rows, its noise scale, its answer in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from isoloss.worth.batch import FAMILY, answer, rows_of, text
from isoloss.worth.batch_noise import noise_of

if TYPE_CHECKING:
    from isoloss.worth.compare import Rows


def large_batch(results: Rows, unit: str) -> tuple[dict[str, Any] | None, list[str]]:
    """(answer, caveats). The answer is that of `worth.batch.answer` with `summary`, its two or three main sentences.

    None where no size has finished runs of several batches, or where their rows answer nothing: a caveat says why.
    """
    rows = rows_of(results)
    study: Any = results
    # Runs that were trained elsewhere wrote no norms of gradients down.
    noise = (lambda N: noise_of(study, N)) if hasattr(results, "stage") else None
    batches: dict[int, set[float]] = {}
    for row in rows:
        batches.setdefault(row.N, set()).add(row.batch)
    if not any(len(several) > 1 for several in batches.values()):
        return None, []
    try:
        found = answer(rows, baseline=rows[0].arm, noise=noise, unit=unit)
    except ValueError as error:
        return None, [f"The large-batch question has no answer: {error}."]
    arms = {row.arm for row in rows}
    found["text"] = [finished(sentence, arms) for sentence in found["text"]]
    return found | {"summary": [finished(sentence, arms) for sentence in main_sentences(found)]}, []


def main_sentences(found: Mapping[str, Any]) -> list[str]:
    """Of the largest size with a target: the reference arm's speed-up and critical batch, and the best closed gap."""
    size = next((s for s in reversed(found["sizes"]) if s["target"] is not None), None)
    if size is None:
        return []
    head = size["reference"]["arm"]

    nothing: dict[str, Any] = {"leaves": [], "critical": [], "missed": [], "gap": None, "notes": []}

    def said(**part: Any) -> list[str]:
        sizes = [{**s, **nothing, **(part if s is size else {"target": None})} for s in found["sizes"]]
        return text({**found, "sizes": sizes})

    main = said(leaves=[leave for leave in size["leaves"] if leave["arm"] == head])[:1]
    main += said(critical=[c for c in size["critical"] if c["arm"] == head])[:1]
    closers = [m for m in (size["gap"] or {"methods": []})["methods"] if m.get("share") is not None]
    if closers:
        best = max(closers, key=lambda m: m["share"])
        main += said(gap={**size["gap"], "methods": [best]})[:1]
    return main


def finished(sentence: str, arms: set[str]) -> str:
    """A sentence with a capital and a full stop; one that begins with an arm's name keeps it as it is."""
    if any(sentence.startswith((f"{arm}:", f"{arm} closes")) for arm in arms | {FAMILY}):
        return f"{sentence}."
    return f"{sentence[:1].upper()}{sentence[1:]}."
