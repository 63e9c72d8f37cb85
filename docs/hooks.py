"""What the site adds to the pages: links to files of the repository that lie outside of docs.

On GitHub a link from a page to ``../benchmarks/results/store.md`` or ``../studies`` leads into the repository. The
site takes such files along under the same path: Markdown becomes a page, everything else is copied, a folder becomes
a list of its study files.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)]*)?(\))")


def outside(page: str, target: str) -> str | None:
    """Path below the repository of a link that leads out of docs, from ``page`` below docs; None for other links."""
    if "://" in target or target.startswith(("/", "mailto:")):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith(("docs/", "..")) or path == "docs" else path


def place(path: str) -> str:
    """Where the site has it."""
    return f"{path}/index.md" if (ROOT / path).is_dir() else path


def on_files(files: Files, config: Any) -> Files:
    wanted: set[str] = set()
    for file in files.documentation_pages():
        wanted.update(filter(None, (outside(file.src_uri, m[2]) for m in _LINK.finditer(file.content_string))))
    for path in sorted(wanted):
        source = ROOT / path
        if source.is_dir():
            studies = sorted(source.glob("*.yaml"))
            lines = [f"# {path}\n", *(f"- [{study.name}]({study.name})" for study in studies)]
            files.append(_file(config, place(path), content="\n".join(lines) + "\n"))
            for study in studies:
                files.append(_file(config, f"{path}/{study.name}", abs_src_path=str(study)))
        elif source.exists():
            files.append(_file(config, path, abs_src_path=str(source)))
    return files


def _file(config: Any, place: str, **content: str) -> File:
    return File.generated(config, place, inclusion=InclusionLevel.NOT_IN_NAV, **content)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    def moved(match: re.Match[str]) -> str:
        path = outside(page.file.src_uri, match[2])
        if path is None:
            return match[0]
        link = posixpath.relpath(place(path), posixpath.dirname(page.file.src_uri) or ".")
        return f"{match[1]}{link}{match[3] or ''}{match[4]}"

    return _LINK.sub(moved, markdown)
