"""What a cooldown is asked to be: its form, how long it is and where it ends; what its records share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from isoloss.plan.phases import falling
from isoloss.recipe import catalogue
from isoloss.recipe.errors import StudyError, nearest
from isoloss.recipe.references import is_reference
from isoloss.recipe.run import LR


@dataclass(frozen=True)
class Cooldown:
    """A cooldown of the learning rate, as a study's ``schedule.cooldown`` has it.

    ``shape``: a decay of ``methods.schedules`` or ``package.module:attribute``. ``length`` in updates, or else
    ``fraction`` of the whole run with its cooldown. ``final``: fraction of where it began (None: 0, or 0.1 for
    exponential); ``exponent``: a of 1 - x^a, for power alone. Raises ``StudyError`` where that does not fit together.
    """

    shape: str = "one_minus_sqrt"
    fraction: float | None = None
    length: int | None = None
    final: float | None = None
    exponent: float | None = None

    def __post_init__(self) -> None:
        names = catalogue.names("schedule", "decay")
        if self.shape not in names and not is_reference(self.shape):
            raise StudyError(
                f"--cooldown: found {self.shape!r}; allowed: {', '.join(names)}, or package.module:attribute"
                f"{nearest(self.shape, names)}"
            )
        if self.fraction is not None and self.length is not None:
            raise StudyError("--length: found both fraction and length; allowed: one of them")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise StudyError(f"--fraction: found {self.fraction:g}; allowed: above 0 and below 1, a part of the run")
        if self.length is not None and self.length < 1:
            raise StudyError(f"--length: found {self.length}; allowed: 1 or more updates")
        low = self.shape == "exponential"
        if self.final is not None and not (0 <= self.final <= 1 and (self.final > 0 or not low)):
            least = "above 0" if low else "0"
            raise StudyError(f"--final: found {self.final:g}; allowed: {least} to 1, a fraction of where it began")
        if self.exponent is not None and self.shape != "power":
            raise StudyError(f"--exponent: found with {self.shape}; allowed: with power alone")
        if self.exponent is not None and not 0 < self.exponent <= 100:
            raise StudyError(f"--exponent: found {self.exponent:g}; allowed: above 0, up to 100")

    @property
    def mapping(self) -> Mapping[str, Any]:
        """As a study's resolved ``schedule.cooldown``."""
        exponential, power = self.shape == "exponential", self.shape == "power"
        final = (0.1 if exponential else 0.0) if self.final is None else float(self.final)
        exponent = {"exponent": 0.5 if self.exponent is None else float(self.exponent)} if power else {}
        return {"shape": self.shape, "final": final, **exponent}

    def updates(self, fork: int) -> int:
        """Length of a cooldown that begins after ``fork`` updates.

        A fraction is of the whole run, rounded as a study rounds it: the shortest run whose cooldown begins there.
        """
        if self.length is not None:
            return self.length
        fraction = 0.2 if self.fraction is None else self.fraction
        total = max(fork, int((fork - 1) / (1 - fraction)) - 1)
        while total - max(1, round(fraction * total)) < fork:
            total += 1
        return total - fork

    def lr(self, level: float, length: int) -> LR:
        """The phase's learning rate, from ``level`` down over ``length`` updates."""
        return falling(self.mapping, level, length)


class Cooled:
    """What records of a trained cooldown share: they are dataclasses with these fields among their own."""

    fork: int
    length: int
    cooldown: dict[str, Any]

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return self.fork + self.length

    @property
    def head(self) -> str:
        """The first line for a person."""
        return f"{self.cooldown['shape']} over {self.length} updates from update {self.fork}: {self.total} in all"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        record: Any = self
        return {**asdict(record), "total": self.total}
