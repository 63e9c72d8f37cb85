"""Puts the counts of the last long form into docs/reliability.md: ``python -m tests.chaos.table``."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.chaos.kinds import KINDS

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- counts: made by `python -m tests.chaos.table` -->\n", "<!-- end of counts -->\n"


def table() -> str:
    """The counts as Markdown."""
    found = json.loads((DOCS / "reliability-counts.json").read_text())
    rows = found["counts"]
    names = list(rows["all"])
    lines = [f"| fault | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for kind, row in rows.items():
        what = f"{kind}: {KINDS[kind].says}" if kind in KINDS else kind
        lines.append(f"| {what} | {' | '.join(str(row[name]) for name in names)} |")
    where = f"Seed {found['seed']}, {found['minutes']} minutes on {found['cores']} shared CPU cores"
    return "\n".join([*lines, "", f"{where}, Python {found['python']}, torch {found['torch']}.", ""])


def renewed(page: str) -> str:
    """The page with the counts of now."""
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return between.sub(lambda _: f"{BEGIN}\n{table()}\n{END}", page)


if __name__ == "__main__":
    path = DOCS / "reliability.md"
    path.write_text(renewed(path.read_text()))
