"""The pages of the documentation and the code blocks in them.

What a block is for stands in its info string:

    ```python                     executed; the blocks of a page share one namespace
    ```bash                       executed by bash, in the page's folder
    ```yaml                       a study is planned, a part of one is merged into a small study and checked
    ```LANGUAGE title="NAME"      written to that file of the page's folder, not executed
    ```text title="output"        must be what the Python block before it prints
    ```text                       neither

An HTML comment ``<!-- not run: REASON -->`` on the line before a block keeps it from being executed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LANGUAGES = ("python", "bash", "yaml", "text", "csv", "json")

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_NOT_RUN = re.compile(r"<!-- not run:(?P<reason>.*?)-->\s*\Z", re.DOTALL)
_INFO = re.compile(r"(?P<language>\w*)(?:\s+title=\"(?P<title>[^\"]+)\")?\s*\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block. ``reason``: why it is not executed, or None; ``line``: of its first line of code, from 1."""

    page: str
    line: int
    language: str
    title: str | None
    code: str
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def executable(self) -> bool:
        """Whether it would be executed or checked, were there no reason against it."""
        return self.language in ("python", "bash", "yaml")


def pages() -> list[Path]:
    """README and every Markdown file under docs."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def name_of(path: Path) -> str:
    """A page as tests name it: README.md, or the path below docs."""
    return path.relative_to(DOCS).as_posix() if path.is_relative_to(DOCS) else path.name


def blocks_of(text: str, page: str) -> list[Block]:
    """The fenced blocks of a page in its order; ValueError for an info string that says nothing."""
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        info = _INFO.match(match["info"])
        if info is None or info["language"] not in LANGUAGES:
            raise ValueError(f"{page}:{line - 1}: found ```{match['info']}; allowed: {', '.join(LANGUAGES)}")
        before = _NOT_RUN.search(text, 0, match.start())
        indent = len(match["indent"])
        code = "".join(row[indent:] if row.strip() else "\n" for row in match["code"].splitlines(keepends=True))
        reason = " ".join(before["reason"].split()) if before else None
        found.append(Block(page, line, info["language"], info["title"], code, reason))
    return found


def read(path: Path) -> list[Block]:
    """The blocks of a file."""
    return blocks_of(path.read_text(encoding="utf-8"), name_of(path))


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", text)


def inline(text: str) -> list[str]:
    """The inline code of a page's prose."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(text))
