"""The section of questions about fixed durations."""

from __future__ import annotations

from pathlib import Path

import synthetic_study as made

from isoloss import report
from isoloss.report.fixed_durations import view
from isoloss.report.tidy import tidy

ROW = {
    "arm": "linear", "against": "cooldown", "what": "difference", "place": "all durations", "value": 0.0123,
    "low": 0.004, "high": 0.02, "resolved": True, "seeds": 3,
}  # fmt: skip
ASKED = [
    {
        "id": "forms", "question": "Which form?", "answer": "linear: +0.0123. square: +0.1.", "resolved": True,
        "rows": [ROW],
    },
    {
        "id": "rates", "question": "Which rate?", "answer": "not resolved.", "resolved": False,
        "rows": [ROW | {"what": "ratio", "value": 0.5, "low": None, "high": None, "resolved": False}],
    },
]  # fmt: skip


def test_rows_and_sentences() -> None:
    forms, rates = view(tidy(made.study() | {"fixed_durations": ASKED}))
    assert forms["sentences"] == ["linear: +0.0123.", "square: +0.1."]
    assert [forms["rows"][0][key] for key in ("text", "interval", "verdict")] == [
        "+0.0123", "[+0.0040, +0.0200]", "higher",
    ]  # fmt: skip
    assert [rates["rows"][0][key] for key in ("text", "interval", "verdict")] == ["0.50×", "", "not resolved"]


def test_the_page_asks_where_there_are_questions(tmp_path: Path) -> None:
    page = report(made.study(made.ONE_SEED) | {"fixed_durations": ASKED}, tmp_path / "a").read_text()
    assert 'href="#fixed-durations"' in page and "Which form?" in page and "[+0.0040, +0.0200]" in page
    page = report(made.study(made.ONE_SEED), tmp_path / "b").read_text()
    assert 'id="fixed-durations"' not in page
