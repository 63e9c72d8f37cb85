"""Put the kept quickstart's numbers into README and docs, from the result that `isoloss quickstart` wrote.

python benchmarks/readme.py quickstart/quickstart.report      keep a result and write the table
python benchmarks/readme.py                                   write table and sentences from what is kept
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "quickstart"
PAGES = (ROOT / "docs" / "index.md", ROOT / "docs" / "tutorials" / "quickstart.md")
BEGIN, END = "<!-- quickstart -->", "<!-- /quickstart -->"


def keep(report: Path) -> None:
    """Copy what the README shows: the answer without its curves, and the figure."""
    whole = json.loads((report / "result.json").read_text())
    names = ("study", "command", "isoloss", "level", "summary", "worth", "worth_overall", "sharing", "caveats")
    small = {name: whole[name] for name in names}
    small["worth_overall"] = [{**entry, "trend": _short(entry["trend"])} for entry in small["worth_overall"]]
    for entry in small["worth_overall"]:
        del entry["trends"]
    small["data"] = whole["provenance"]["data"]["digest"]
    small["numerics"] = whole["provenance"]["numerics"]
    KEPT.mkdir(exist_ok=True)
    (KEPT / "answer.json").write_text(json.dumps(small, indent=1) + "\n")
    shutil.copy(report / "figures" / "worth.svg", KEPT / "worth.svg")


def sentences(answer: dict[str, Any]) -> str:
    """The summary in Markdown."""
    return "\n>\n".join(f"> {sentence}" for sentence in answer["summary"])


def _short(trend: dict[str, Any] | None) -> dict[str, Any] | None:
    """A trend without the points of its band."""
    return trend and {name: value for name, value in trend.items() if name != "band"}


def table(answer: dict[str, Any]) -> str:
    """Sentences and the table of worth in Markdown."""
    lines = [*(f"> {sentence}" for sentence in answer["summary"]), ""]
    lines += ["| arm | data | resolved |", "| --- | --- | --- |"]
    for overall in answer["worth_overall"]:
        r = overall["data"]
        interval = "" if r["low"] is None else f" [{r['low']:.2f}, {r['high']:.2f}]"
        resolved = "yes" if overall["resolved"] else "no"
        lines.append(f"| {overall['arm']} | {r['ratio']:.2f}x{interval} | {resolved} |")
    lines += ["", "Caveats that the page finds in the data:", "", *(f"- {caveat}" for caveat in answer["caveats"])]
    return "\n".join(lines)


def main() -> None:
    """Keep a result if one is named, then write the blocks of README and docs."""
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]))
    answer = json.loads((KEPT / "answer.json").read_text())
    put(ROOT / "README.md", table(answer))
    for page in PAGES:
        put(page, sentences(answer))


def put(page: Path, block: str) -> None:
    """Write a page's block, between its marks."""
    text = page.read_text()
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text(f"{head}\n{block}\n{tail}")


if __name__ == "__main__":
    main()
