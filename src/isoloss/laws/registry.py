"""Forms by name, with aliases, and forms that take arguments in their name."""

from __future__ import annotations

from isoloss.laws.errors import LawError, unknown
from isoloss.laws.form import Form
from isoloss.laws.forms import accuracy, additive, batch, growth, kaplan, one_variable, repeats, transfer

FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        one_variable.M1(),
        one_variable.M2(),
        one_variable.M3(),
        one_variable.M4(),
        one_variable.ShiftedPower(),
        one_variable.LogLinear(),
        one_variable.Envelope(),
        one_variable.PiecewisePower(),
        one_variable.BrokenPower(1),
        one_variable.BrokenPower(2),
        one_variable.DataNmt(),
        additive.Chinchilla(),
        additive.ChinchillaTied(),
        additive.ChinchillaOuter(),
        additive.OverTraining(),
        kaplan.Kaplan(),
        kaplan.KaplanSteps(),
        kaplan.KaplanN(),
        kaplan.KaplanD(),
        kaplan.KaplanC(),
        repeats.DataConstrained(),
        repeats.DataConstrainedTied(),
        transfer.Transfer(),
        transfer.TransferFraction(),
        batch.CriticalBatch(),
        batch.StepsExamples(),
        accuracy.Sigmoid(),
        accuracy.LogSigmoid(),
        accuracy.ExponentialError(),
        growth.LogGrowth(),
        growth.PowerGrowth(),
    )
}
"""Registered forms by name."""
ALIASES = {"power": "m2", "hoffmann": "chinchilla"}
"""Other names of registered forms."""
PATTERNS = ("bnsl-BREAKS", "additive:COLUMN,COLUMN,...")


def get_form(name: str) -> Form:
    """A form by registered name, alias or pattern ('bnsl-3', 'additive:width,depth,D'). Raises LawError."""
    name = ALIASES.get(name, name)
    if name in FORMS:
        return FORMS[name]
    if name.startswith("additive:"):
        return additive.Additive(*[part.strip() for part in name.removeprefix("additive:").split(",") if part.strip()])
    if name.startswith("bnsl-"):
        count = name.removeprefix("bnsl-")
        if not count.isdigit() or not 1 <= int(count) <= 5:
            raise LawError(f"law {name!r}: the number of breaks must be 1 to 5")
        return one_variable.BrokenPower(int(count))
    raise unknown("law", name, [*FORMS, *ALIASES, *PATTERNS])


def register(form: Form) -> None:
    """Add a user's form under its name. Raises LawError where the name is taken."""
    if form.name in FORMS or form.name in ALIASES:
        raise LawError(f"law {form.name!r} exists already")
    FORMS[form.name] = form
