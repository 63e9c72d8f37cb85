"""One card a method, one section a law: nothing is missing, and every number is the kept one."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
from docs_pages import DOCS, ROOT

from isoloss.laws import ALIASES, FORMS, get_form
from isoloss.recipe import catalogue

CARDS = sorted(path for path in (DOCS / "methods").glob("*.md") if path.stem != "index")
HEADINGS = ["Formula", "Source", "Use", "When it helps", "Measured worth here", "Cost", "Limits"]
KINDS = ("optimizer", "schedule", "average", "extrapolate", "sharpness")
LAWS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "laws").glob("*.md"))}


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows() -> list[tuple[str, str, str]]:
    """The table of methods: file of the card, its modules, its names in a study."""
    text = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    return re.findall(r"^\| \[[^\]]+\]\(([^)]+)\) \| ?(.*?) ?\| ?(.*?) ?\|$", text, re.MULTILINE)


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_every_card_has_the_same_headings(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    found = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert found in (HEADINGS, [*HEADINGS, "Details"])
    sections = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    assert all(section.strip() for section in sections)
    source, measured = sections[1], sections[4]
    assert re.search(r"\b(19|20)\d\d\b", source) or "](" in source or "own" in source
    assert re.search(r"`isoloss |reproductions/index\.md|^\s*None", measured)


def test_every_method_has_a_card() -> None:
    table = rows()
    assert [card for card, *_ in table] and {card for card, *_ in table} == {path.name for path in CARDS}
    modules = " ".join(module for _, module, _ in table)
    files = [path.stem for path in (ROOT / "src" / "isoloss" / "methods").glob("*.py") if not path.stem.startswith("_")]
    assert [stem for stem in files if f"`isoloss.methods.{stem}`" not in modules] == []
    for kind in KINDS:
        named = [re.findall(r"`([^`]+)`", names) for _, _, names in table if names.startswith(f"`{kind}`")]
        assert sorted(name for names in named for name in names[1:]) == sorted(catalogue.names(kind)), kind


def test_numbers_of_cards_are_the_kept_ones() -> None:
    cards = benchmark("cards")
    kept = json.loads(cards.KEPT.read_text())
    filled = [path for path in CARDS if "<!-- measured:" in path.read_text()]
    assert len(filled) > 10
    for path in filled:
        assert cards.written(path.read_text(), kept) == path.read_text(), f"python benchmarks/cards.py ({path.stem})"
        assert "| --- |" in path.read_text().split("<!-- measured:")[1]


@pytest.mark.parametrize("page", ["index.md", "tutorials/quickstart.md"])
def test_the_answer_shown_is_the_kept_one(page: str) -> None:
    readme = benchmark("readme")
    text = (DOCS / page).read_text()
    answer = json.loads((DOCS / "quickstart" / "answer.json").read_text())
    block = text[text.index(readme.BEGIN) + len(readme.BEGIN) : text.index(readme.END)]
    assert block.strip() == readme.sentences(answer).strip()


@pytest.mark.parametrize("name", [*FORMS, "additive:width,depth,D"])
def test_every_law_has_a_section(name: str) -> None:
    heading = f"\n### `{name}`\n"
    (text,) = [page for page in LAWS.values() if heading in page]
    section = re.split(r"^##+ ", text.split(heading)[1], maxsplit=1, flags=re.MULTILINE)[0]
    form = get_form(name)
    flat = " ".join(section.split())
    assert f"    {form.formula}\n" in section
    assert f"**Source**: {' '.join(form.source.split())}" in flat
    for part in ("**When to use**: ", "**Limits**: "):
        assert re.search(re.escape(part) + r"\S.{20,}", flat), part


def test_the_list_of_laws_names_all() -> None:
    for name in (*FORMS, *ALIASES):
        assert f"`{name}`" in LAWS["index"], name
