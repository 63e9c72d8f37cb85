"""The answer of worth.transfer in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Sentences a reader can act on: worth, what is unusual, the laws, sources, compute."""
    said = [_about_source(found, source) for source in found["sources"]]
    said += _about_alarms(found)
    for law in found["laws"]:
        said += _about_law(law, found["unit"])
    said += [s for pair in found["between_sources"] for s in _about_pair(pair)]
    said += _about_compute(found["compute"])
    few = sorted({c["seeds"] for c in found["cells"] if c["seeds"] < 3})
    if few:
        said.append(f"Some cells have {few[0]} seed{'s' if few[0] > 1 else ''}: no interval there; 3 are the fewest.")
    return said


def _about_source(found: Mapping[str, Any], source: str) -> str:
    cells = [c for c in found["cells"] if c["source"] == source and c["D_F"] > 0]
    if not cells:
        return f"{source}: no fine-tuned run, only the pre-trained model itself."
    unit = found["unit"]
    first = min(cells, key=lambda c: (c["D_F"], -c["N"]))
    last = max(cells, key=lambda c: (c["D_F"], c["N"]))
    said = f"{source}: at N = {first['N']:g}, {amount(first['D_F'], unit)} are worth {worth_words(first, unit)}"
    if last is not first:
        said += f"; at N = {last['N']:g}, {amount(last['D_F'], unit)} are worth {worth_words(last, unit)}"
    return said + "."


def worth_words(cell: Mapping[str, Any], unit: str) -> str:
    """One cell's multiplier and D_E in words, with bounds where the curve ends."""
    m, D = cell["multiplier"], cell["D_E"]
    if m["side"]:
        doubt = "" if D["sure"] or cell["seeds"] < 3 else " (not beyond the noise)"
        return f"{m['side']} than {m['bound']:.3g}x ({m['side']} than {amount(D['bound'], unit)}){doubt}"
    return f"{m['value']:.3g}x{_band(m)} ({amount(D['value'], unit)} from scratch)"


def _band(value: Mapping[str, Any]) -> str:
    low, high = value["low"], value["high"]
    if low is None and high is None:
        return " [open at both ends]" if value.get("open") else ""
    ends = ("the curve's start" if low is None else f"{low:.3g}", "beyond the curve" if high is None else f"{high:.3g}")
    return f" [{ends[0]}, {ends[1]}]"


def amount(value: float, unit: str = "") -> str:
    """`1.2M tokens`: three significant digits."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter} {unit}".rstrip()
    return f"{value:.3g} {unit}".rstrip()


def _about_alarms(found: Mapping[str, Any]) -> list[str]:
    said = []
    for flag, words in (
        ("ossified", "Ossification: fine-tuned is worse than from scratch on the same target data"),
        ("hurt", "Fine-tuning hurts: on more target data it ends worse than on less, so try a gentler one"),
    ):
        at = [c for c in found["cells"] if c[flag]]
        if at:
            places = ", ".join(f"{c['source']} N = {c['N']:g} D_F = {c['D_F']:g}" for c in at)
            said.append(f"{words}: {places}.")
    beyond = [c for c in found["cells"] if c["regime"] == "beyond"]
    if beyond:
        said.append(
            f"{len(beyond)} of {len(found['cells'])} cells have more than 10 % of D(N): beyond the low-data regime, "
            "where the law of transfer is not expected to hold."
        )
    return said


def _about_law(law: Mapping[str, Any], unit: str) -> list[str]:
    if law["reason"]:
        said = [f"{law['source']}: no law of transfer: {law['reason']}."]
    else:
        values = ", ".join(f"{name} = {law[name]['estimate']:.3g}{_band(law[name])}" for name in ("k", "alpha", "beta"))
        scatter = f"; cells lie {100 * law['scatter']:.0f} % off it beyond their noise" if law["scatter"] > 0.01 else ""
        said = [f"{law['source']}: D_T = k D_F^alpha N^beta in {unit} with {values} ({law['cells']} cells){scatter}."]
    if law["left_out"]:
        cells = (f"{n} cell{'s' if n != 1 else ''} ({reason})" for reason, n in law["left_out"].items())
        said.append(f"{law['source']}: the law leaves out {', '.join(cells)}.")
    censored = sum(count for reason, count in law["left_out"].items() if reason.startswith("more than"))
    if censored:
        said.append(f"{law['source']}: lengthen the curve from scratch: the cells beyond it belong to the law.")
    return said


def _about_pair(pair: Mapping[str, Any]) -> list[str]:
    names = f"{pair['first']} and {pair['second']}"
    if pair["reason"]:
        return [f"{names} cannot be compared: {pair['reason']}."]
    if pair["beta"]["p"] is None:
        return [f"{names}: fewer than 3 seeds, so their laws are not compared."]
    said = []
    for name, meaning in (("beta", "what size adds"), ("alpha", "distance to the target")):
        value = pair[name]
        verdict = "differ" if value["p"] < 0.05 else "are not told apart"
        said.append(
            f"{name} ({meaning}) {verdict}: difference {value['difference']:.2g}{_band(value)}, p = {value['p']:.2g}"
        )
    return [f"{names}: " + "; ".join(said) + "."]


def _about_compute(view: Sequence[Mapping[str, Any]]) -> list[str]:
    told = [v for v in view if v["equal_loss"] and (v["equal_loss"]["free"] or v["equal_loss"]["charged"])]
    if not told:
        return []
    best = max(told, key=lambda v: _number(v["equal_loss"]["free"]))
    loss = best["equal_loss"]
    at = f"{best['source']}, N = {best['N']:g}, D_F = {best['D_F']:g}"
    said = f"Compute to the same loss, where fine-tuning saves most ({at}): "
    said += f"from scratch costs {_ratio(loss['free'])} the fine-tuning"
    if loss["charged"]:
        said += f", {_ratio(loss['charged'])} with pre-training charged over {best['uses']:g} use"
        said += "s" if best["uses"] != 1 else ""
    if loss["break_even_uses"] is not None and not loss["resolved"]:
        said += "; whether pre-training ever pays is not resolved"
    elif loss["break_even_uses"] is not None:
        said += f"; pre-training pays after {loss['break_even_uses']:.3g} such uses"
    elif loss["break_even_at_most"] is not None:
        said += f"; pre-training pays after at most {loss['break_even_at_most']:.3g} such uses"
    return [said + "."]


def _number(ratio: Mapping[str, Any] | None) -> float:
    if ratio is None:
        return 0.0
    return float(ratio["value"] if ratio["value"] is not None else ratio["bound"])


def _ratio(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "an unknown multiple of"
    if value["side"]:
        return f"{value['side']} than {value['bound']:.3g}x"
    return f"{value['value']:.3g}x{_band(value)}"
