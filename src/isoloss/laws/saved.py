"""A fit as a JSON file: written by `Fit.save`, read back to predict and to allocate without its table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.laws.allocation import allocates, optimum
from isoloss.laws.errors import LawError
from isoloss.laws.form import Form
from isoloss.laws.outlook import Outlook
from isoloss.laws.problem import given_variables
from isoloss.laws.program import Program
from isoloss.laws.registry import get_form

OLDER = "the fit was saved without draws and measured ranges, so there is no interval and no warning: save it again"
NEEDED = ("law", "parameters", "columns", "flops_per_nd", "free_parameters")


@dataclass(frozen=True)
class SavedFit:
    """What is left of a fit without its rows.

    parameters: natural values. columns: the column that each variable of the law was read from. flops_per_nd:
    k of C = k N D. free_parameters: how many were fitted. record: everything in the file.
    """

    form: Form
    parameters: dict[str, float]
    columns: dict[str, str]
    flops_per_nd: float
    free_parameters: int
    record: dict[str, Any]

    def predict(self, **columns: Any) -> Any:
        """Predicted response at values of the variables (numbers or arrays). Raises LawError."""
        result = self.form.predict(self.parameters, given_variables(self.form, self.columns, columns))
        return float(result) if np.ndim(result) == 0 else np.asarray(result)

    def optimum(self, C: Any, **others: Any) -> dict[str, Any]:
        """N*, D* and loss at compute C (see `isoloss.laws.optimum`)."""
        return optimum(self.form, self.parameters, C, self.flops_per_nd, **others)

    def outlook(self) -> Outlook:
        """What the fit says about budgets; without intervals where an older version saved it. Raises LawError."""
        program = [list(step) for step in Program.of(self.form).steps]
        kept = self.record.get("outlook")
        if kept is not None:
            return Outlook.from_dict({**kept, "program": program, "law": self.form.name, "formula": self.form.formula})
        allocates(self.form, {})
        return Outlook(
            self.form.name, self.form.formula, Program.of(self.form), self.parameters, None, 0, 0.0, self.flops_per_nd,
            True, None, 0.0, None, notes=(OLDER,),
        )  # fmt: skip


def write(record: Mapping[str, Any], path: str | Path) -> None:
    """Write plain numbers as JSON, making the folder; what is not finite becomes null. Raises OSError."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(_finite(record), indent=2) + "\n", encoding="utf-8")


def load_fit(path: str | Path, law: Form | None = None) -> SavedFit:
    """A fit that `Fit.save` or `isoloss fit --save` wrote. law: a form of your own that is not registered.

    Raises LawError where the file is not such a fit or its law is unknown.
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LawError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LawError(f"{path}: not a fit saved by `isoloss fit --save` or Fit.save ({error})") from None
    missing = [name for name in NEEDED if not isinstance(record, dict) or name not in record]
    if missing:
        raise LawError(f"{path}: not a fit saved by `isoloss fit --save` or Fit.save (no {', '.join(missing)})")
    form = law or get_form(record["law"])
    values = record["parameters"]
    wrong = [name for name in form.names if not isinstance(values.get(name), int | float)]
    if wrong or form.name != record["law"]:
        raise LawError(f"{path}: holds law {record['law']!r} with {', '.join(values)}, which is not {form!r}")
    return SavedFit(
        form,
        {name: float(values[name]) for name in form.names},
        dict(record["columns"]),
        float(record["flops_per_nd"]),
        int(record["free_parameters"]),
        record,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
