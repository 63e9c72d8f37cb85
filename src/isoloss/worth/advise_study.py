"""Advice from the finished runs of a study, its amounts in the units a user writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from isoloss.data import Source
from isoloss.plan.lower import open_source
from isoloss.recipe.errors import StudyError
from isoloss.recipe.units import Quantity
from isoloss.worth.advise_transfer import advise
from isoloss.worth.transfer_study import study_transfer

if TYPE_CHECKING:
    from isoloss.worth.results import Results


def transfer_advice(
    results: Results, *, target_data: str, params: float, source: str | None = None, seeds: int = 3
) -> dict[str, Any]:
    """`worth.advise_transfer.advise` for a study; ``target_data``: unique target data at hand, as ``3 MB``.

    Adds what a careful reader objects to the study (``caveats``). Raises StudyError for amounts out of range, an
    unknown source, and where the study cannot answer: the message says what it lacks.
    """
    origin = open_source(results.stage.runs[0].data)
    amount = target_amount(target_data, origin)
    if not (math.isfinite(params) and params > 0):
        raise StudyError(f"--params: found {params:g}; allowed: a number of parameters above 0")
    found, said = study_transfer(results, "tokens" if origin.kind == "tokens" else "samples")
    if found is None:
        nothing = (
            "advise transfer: no finished runs ask what pre-training is worth; needed: an arm with pretrain or init, "
            "an arm without, and two sizes of data (data.size in the grid)"
        )
        raise StudyError(said[0] if said else nothing)
    try:
        return advise(found, target_data=amount, params=params, source=source, seeds=seeds) | {"caveats": said}
    except ValueError as error:  # a LawError too
        raise StudyError(str(error)) from error


def target_amount(text: str, source: Source) -> float:
    """An amount of target data in the unit of D: tokens, or samples of vectors. Raises StudyError."""
    tokens = source.kind == "tokens"
    try:
        found = Quantity.parse(text, ("tokens", "bytes", "KB", "MB") if tokens else ("samples",))
    except ValueError as error:
        raise StudyError(f"--target-data: {error}") from error
    value = found.value
    if found.unit == "bytes":
        if math.isnan(source.bytes_per_token):
            raise StudyError(f"--target-data: {text}: this data does not know its bytes; allowed: tokens")
        value /= source.bytes_per_token
    if value < 1:
        raise StudyError(f"--target-data: found {text}; allowed: at least 1 {'token' if tokens else 'sample'}")
    return value
