"""Put what the small studies measured into the methods' cards.

for s in fixed-durations extrapolation optimizers-at-scale train-longer width-transfer transfer-text; do
    isoloss run studies/small/$s.yaml --store FOLDER/$s.store --out FOLDER/$s.report
done
python benchmarks/cards.py FOLDER      keep their numbers and write the cards (training takes about 15 minutes)
python benchmarks/cards.py             write the cards from what is kept
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "docs" / "methods"
KEPT = CARDS / "measured.json"
QUICKSTART = ROOT / "docs" / "quickstart" / "answer.json"
STUDIES = ("fixed-durations", "extrapolation", "optimizers-at-scale", "train-longer", "width-transfer", "transfer-text")
BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- /measured -->)", re.DOTALL)
DECAYS = ("cooldown", "linear", "cooldown by cosine", "mirror cosine", "square", "power 0.3", "constant")
SMALL = "These are toy sizes, made to be run in minutes: do not carry the numbers over.\n"


def keep(folder: Path) -> dict[str, Any]:
    """The numbers of the cards, from the results and stores in ``folder``."""
    return {name: _kept(name, folder) for name in STUDIES}


def _kept(name: str, folder: Path) -> dict[str, Any]:
    whole = json.loads((folder / f"{name}.report" / "result.json").read_text())
    names = ("arm", "reference", "data", "compute", "resolved")
    (batches,) = (whole["large_batch"] or {}).get("sizes", []) or [None]
    return {
        "command": f"isoloss run studies/small/{name}.yaml",
        "isoloss": whole["isoloss"],
        "data": whole["provenance"]["data"]["digest"],
        "numerics": whole["provenance"]["numerics"],
        "sizes": sorted({run["N"] for run in whole["runs"] if run["N"]}),
        "seeds": len({run["seed"] for run in whole["runs"]}),
        "worth": [{key: overall[key] for key in names} for overall in whole["worth_overall"]],
        "gap": batches and batches.get("gap"),
        "critical": batches and batches["critical"],
        "transfer": whole["transfer"]
        and [{key: cell[key] for key in ("source", "N", "D_F", "multiplier")} for cell in whole["transfer"]["cells"]],
        "shift": _shift(name, folder) if name == "width-transfer" else None,
    }


def _shift(name: str, folder: Path) -> Any:
    """How far the best learning rate moves from the smallest width to the largest."""
    import isoloss
    from isoloss.worth.width import width_transfer

    return width_transfer(isoloss.results(ROOT / "studies" / "small" / f"{name}.yaml", folder / f"{name}.store"))


def interval(value: float, low: float | None, high: float | None, form: str = "{:.2f}", unit: str = "x") -> str:
    """A number with its interval, or with none where fewer than three seeds have it."""
    ends = "" if low is None or high is None else f" [{form.format(low)}, {form.format(high)}]"
    return f"{form.format(value)}{unit}{ends}"


def _ratio(ratio: dict[str, Any] | None) -> str:
    return interval(ratio["ratio"], ratio["low"], ratio["high"]) if ratio else "no common loss"


def worth(entries: Iterable[dict[str, Any]], reference: str | None = None) -> list[str]:
    """A table of what arms are worth."""
    lines = ["| arm | against | data | compute | resolved in data |", "| --- | --- | --- | --- | --- |"]
    for entry in entries:
        cells = (
            entry["arm"],
            entry.get("reference") or reference,
            _ratio(entry["data"]),
            _ratio(entry["compute"]),
            "yes" if entry["resolved"] else "no",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def _where(kept: dict[str, Any]) -> str:
    sizes = [f"{N:,.0f}" for N in kept["sizes"]]
    span = sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"`{kept['command']}` (N {span}, {kept['seeds']} seeds, 90 % intervals):\n"


def _of(kept: dict[str, Any], arms: Iterable[str]) -> list[str]:
    wanted = tuple(arms)
    return [_where(kept), *worth(e for e in kept["worth"] if e["arm"].split(" · ")[0] in wanted), SMALL]


def _closed(kept: dict[str, Any], arms: Iterable[str]) -> list[str]:
    gap, wanted = kept["gap"], tuple(arms)
    small, large = gap["small"]["batch"], gap["large"]["batch"]
    lines = [
        _where(kept),
        f"Share of the gap in loss between batch {small} and batch {large} that an arm closes at batch {large}, "
        f"{gap['duration']} at the base batch:\n",
        "| arm | share |",
        "| --- | --- |",
    ]
    lines += [
        f"| {m['arm']} | {interval(100 * m['share'], 100 * m['low'], 100 * m['high'], '{:.0f}', ' %')} |"
        for m in gap["methods"]
        if m["arm"] in wanted
    ]
    return [*lines, "", SMALL]


def _critical(kept: dict[str, Any]) -> list[str]:
    lines = [_where(kept), "| arm | critical batch, fitted | predicted by the noise scale |", "| --- | --- | --- |"]
    for found in kept["critical"]:
        fitted, predicted = (
            interval(found[key]["ratio"], found[key]["low"], found[key]["high"], "{:.0f}", "")
            for key in ("B_crit", "predicted")
        )
        lines.append(f"| {found['arm']} | {fitted} | {predicted} |")
    notes = [f"{found['arm']}: {found['note']}." for found in kept["critical"] if found["note"]]
    return [*lines, "", *(f"{note}\n" for note in notes), SMALL]


def _widths(kept: dict[str, Any]) -> list[str]:
    lines = [
        _where(kept),
        "Shift of the best learning rate from the smallest to the largest width, in natural logarithms (0: none):\n",
        "| parametrisation | shift |",
        "| --- | --- |",
    ]
    for arm in kept["shift"]["arms"]:
        s = arm["shift"]
        lines.append(f"| {arm['arm']} | {interval(s['value'], s['low'], s['high'], unit='')} |")
    return [*lines, "", SMALL]


def _pretrained(kept: dict[str, Any]) -> list[str]:
    lines = [_where(kept), "| source | N | target tokens | worth in data |", "| --- | ---: | ---: | --- |"]
    for cell in kept["transfer"]:
        m = cell["multiplier"]
        value = (
            f"{m['side']} than {m['bound']:.2f}x" if m["value"] is None else interval(m["value"], m["low"], m["high"])
        )
        lines.append(f"| {cell['source']} | {cell['N']:,.0f} | {cell['D_F']:,.0f} | {value} |")
    return [*lines, "", SMALL]


def _quickstart(arm: str) -> list[str]:
    answer = json.loads(QUICKSTART.read_text())
    sizes = sorted({entry["N"] for entry in answer["worth"]})
    seeds = max(entry["roots"] for entry in answer["worth"])
    where = f"`isoloss quickstart` (N {sizes[0]:,} to {sizes[-1]:,}, {seeds} seeds, 90 % intervals):\n"
    return [where, *worth((e for e in answer["worth_overall"] if e["arm"] == arm), "cosine")]


def block(card: str, kept: dict[str, Any]) -> str:
    """The text between the marks of a card. KeyError for a card that has none."""
    durations, batches = kept["fixed-durations"], kept["train-longer"]
    wrapped, optimizers = kept["extrapolation"], kept["optimizers-at-scale"]
    makers = {
        "schedules": lambda: [*_quickstart("cooldown"), *_of(durations, (*DECAYS, "stopped early"))],
        "averages": lambda: [*_quickstart("averaged"), *_of(durations, ("averaged", "constant"))],
        "schedule_free": lambda: _of(durations, ("schedule-free 0.9 0.95", "schedule-free 0.95 0.99", "cooldown")),
        "adamw": lambda: _of(optimizers, ("adamw",)),
        "lamb": lambda: _of(optimizers, ("lamb",)),
        "extrapolation": lambda: _of(
            wrapped, ("local extragradient", "past gradient", "noise", "extrapolation then local")
        ),
        "sharpness": lambda: _of(wrapped, ("sam", "gradient norm penalty")),
        "local_sgd": lambda: _of(wrapped, ("post-local sgd", "extrapolation then local")),
        "ghost_batchnorm": lambda: _closed(batches, ("ghost", "lr + ghost", "lr")),
        "rules": lambda: _closed(batches, ("lr", "regime", "lr + ghost + regime")),
        "noise_scale": lambda: _critical(optimizers),
        "mup": lambda: _widths(kept["width-transfer"]),
        "pretrain": lambda: _pretrained(kept["transfer-text"]),
    }
    return "\n".join(makers[card]())


def written(text: str, kept: dict[str, Any]) -> str:
    """A card with its block filled."""
    return BLOCK.sub(lambda match: f"{match[1]}{block(match[2], kept)}{match[3]}", text)


def main() -> None:
    """Keep results if a folder is named, then write the cards."""
    if len(sys.argv) > 1:
        KEPT.write_text(json.dumps(keep(Path(sys.argv[1])), indent=1) + "\n")
    kept = json.loads(KEPT.read_text())
    for card in sorted(CARDS.glob("*.md")):
        card.write_text(written(card.read_text(), kept))


if __name__ == "__main__":
    main()
