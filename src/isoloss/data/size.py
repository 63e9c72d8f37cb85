"""``size:`` of the data section: how many unique training tokens or samples an arm may see."""

from __future__ import annotations

import math
from typing import Any

from isoloss.recipe.errors import StudyError
from isoloss.recipe.units import SIZE, Quantity


def token_limit(
    size: str | Quantity | None,
    available: int,
    *,
    context: int | None = None,
    bytes_per_token: float = math.nan,
) -> int | None:
    """Unique training tokens that ``size`` allows, or None for all; raises ``StudyError``.

    A size in samples needs the context, one in bytes a known ``bytes_per_token``; KB and MB are powers of
    ten.
    """
    if size is None:
        return None
    amount = _parse(size, SIZE)
    if amount.unit == "samples":
        if context is None:
            raise StudyError(f"data.size: {size} needs data.context: a sample is context tokens long")
        return _whole(amount.value * context, size, available, "tokens")
    if amount.unit == "bytes":
        if math.isnan(bytes_per_token):
            raise StudyError(f"data.size: {size}: this source does not know its bytes; give tokens instead")
        return _whole(amount.value / bytes_per_token, size, available, "tokens")
    return _whole(_tokens_or_share(amount, available), size, available, "tokens")


def sample_limit(size: str | Quantity | None, available: int) -> int | None:
    """Unique training samples that ``size`` allows, or None for all; raises ``StudyError``."""
    if size is None:
        return None
    return _whole(_tokens_or_share(_parse(size, ("samples", "%")), available), size, available, "samples")


def _tokens_or_share(amount: Quantity, available: int) -> float:
    return amount.value / 100 * available if amount.unit == "%" else amount.value


def _whole(limit: float, size: Any, available: int, unit: str) -> int:
    whole = math.floor(limit + 1e-9)
    if not 1 <= whole <= available:
        raise StudyError(f"data.size: {size} is {whole} {unit}; allowed for this source is 1 to {available}")
    return whole


def _parse(size: Any, units: tuple[str, ...]) -> Quantity:
    try:
        amount = Quantity.parse(str(size) if isinstance(size, Quantity) else size, units)
    except ValueError as error:
        raise StudyError(f"data.size: {error}") from error
    return amount
