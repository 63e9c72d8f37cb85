"""The answer to the large-batch question in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isoloss.worth.batch_fits import NOTHING


def text(found: Mapping[str, Any]) -> list[str]:
    """Sentences of an answer of `worth.batch.answer`, without capitals and full stops."""
    said = []
    for size in found["sizes"]:
        where = f"N = {size['N']:,}: " if len(found["sizes"]) > 1 else ""
        if size["target"] is not None:
            said += [where + sentence for sentence in _about_scaling(size, found["excess"])]
        said += [where + sentence for sentence in _about_gap(size["gap"])]
        said += [where + note for note in size["notes"]]
    return said


def _about_scaling(size: Mapping[str, Any], excess: float) -> list[str]:
    said = []
    reference, over = size["reference"], f"{100 * (excess - 1):.0f} %"
    several = len({c["arm"] for c in size["cells"]}) > 1
    for leave in size["leaves"]:
        arm = f"{leave['arm']}: " if several else ""
        # Every arm is compared with the smallest batch of one of them, which need not be its own.
        of = "" if leave["arm"] == reference["arm"] else f" of {reference['arm']}"
        top = next(c for c in size["cells"] if (c["arm"], c["batch"]) == (leave["arm"], leave["largest"]))
        said.append(
            f"{arm}to loss {size['target']:.4g}, batch {top['batch']:g} needs {_ratio(top['speedup'])} fewer updates "
            f"than batch {reference['batch']:g}{of} ({top['perfect']:.3g}x would be perfect)"
        )
        if leave["left"] is not None:
            kept = f"holds to batch {leave['kept']:g} and " if leave["kept"] is not None else ""
            said.append(f"{arm}perfect scaling{of} {kept}has ended at batch {leave['left']:g} (more than {over} over)")
        elif leave["first"] is not None:
            said.append(f"{arm}perfect scaling{of} seems to end at batch {leave['first']:g}; not resolved")
        else:
            said.append(f"{arm}no batch up to {leave['largest']:g} was found more than {over} over perfect scaling{of}")
    for c in size["critical"]:
        arm = f"{c['arm']}: " if several else ""
        fitted = "not fitted" if c["B_crit"] == NOTHING else f"fitted from runs {_number(c['B_crit'])}"
        told = f"{arm}critical batch {fitted}"
        if c.get("predicted"):
            value = c["predicted"]
            told += ", the noise scale predicts " + ("nothing" if value["ratio"] is None else _number(value))
        said.append(told + (f" ({c['note']})" if c["note"] else ""))
    for m in size["missed"]:
        arm = f"{m['arm']}: " if several else ""
        said.append(
            f"{arm}batch {m['batch']:g} does not share the target: {m['updates']:g} updates end at {m['best']:.4g}"
        )
    return said


def _about_gap(found: Mapping[str, Any] | None) -> list[str]:
    said = []
    for m in found["methods"] if found else ():
        assert found is not None
        small, large = found["small"]["batch"], found["large"]["batch"]
        at = f"of the gap of {found['gap']:.3g} between batch {small:g} and {large:g}"
        if m.get("share") is not None:
            band = "" if m["low"] is None else f" [{round(100 * m['low'])}, {round(100 * m['high'])}]"
            note = f" ({m['note']})" if m.get("note") else ""
            said.append(f"{m['arm']} closes {round(100 * m['share'])} %{band} {at}{note}")
        elif m.get("note"):
            said.append(f"{m['arm']}: {m['note']}")
    return said


def _ratio(value: Mapping[str, float | None]) -> str:
    band = "" if value["low"] is None else f" [{value['low']:.3g}, {value['high']:.3g}]"
    return f"{value['ratio']:.3g}x{band}"


def _number(value: Mapping[str, float | None]) -> str:
    low, high = value["low"], value["high"]
    if value["ratio"] is None:
        return f"below {high:.3g}" if low is None else f"above {low:.3g}"
    if low is None and high is None:
        return f"{value['ratio']:.3g}"
    ends = ("?" if low is None else f"{low:.3g}", "?" if high is None else f"{high:.3g}")
    return f"{value['ratio']:.3g} [{ends[0]}, {ends[1]}]"
