"""Every code block of README and docs is executed, page by page, in an empty folder, in its order."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docs_pages import ROOT, Block, name_of, pages, read
from docs_scenes import IMAGES, STUDY, Scene, scene_of

import isoloss
from isoloss.bridges.runmap import load as load_map
from isoloss.laws import FORMS
from isoloss.recipe import catalogue
from isoloss.study import from_dict
from isoloss.study.reader import read as read_yaml

ELSEWHERE = {"branch.md": "tests/test_branch_docs.py", "transfer.md": "tests/worth/test_transfer_tutorial.py"}
"""Pages whose commands a test of their own executes, which knows what they must print."""

REASONS = ("cluster", "machines", "gpu", "network", "long training", "until ctrl-c", "next tutorials")
PAGES = {name_of(path): path for path in pages()}
RUN = sorted(page for page, path in PAGES.items() if page not in ELSEWHERE and any(b.executable for b in read(path)))
QUICK = ("laws/", "methods/", "api/", "data.md", "fixed-durations.md", "images.md", "models.md", "study-file.md")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished study."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(STUDY)
    isoloss.run(folder / "study.yaml", folder / "study.store", quiet=True)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def marks(page: str) -> list[pytest.MarkDecorator]:
    return [] if page.startswith(QUICK) and page != "methods/mup.md" else [pytest.mark.slow, pytest.mark.multiprocess]


@pytest.mark.parametrize("page", [pytest.param(page, marks=marks(page)) for page in RUN])
def test_blocks_run(
    page: str, tmp_path: Path, cache: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, scene = read(PAGES[page]), scene_of(page)
    code = "\n".join(block.code for block in blocks if block.executable and block.reason is None)
    for name in re.findall(r"study\.(?:yaml|store)", code):
        if not (tmp_path / name).exists() and page != "large-batches.md":
            source = request.getfixturevalue("finished") / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ISOLOSS_CACHE", str(cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    modules, forms = set(sys.modules), dict(FORMS)
    try:
        Page(page, tmp_path, scene).run(blocks)
    finally:
        for name in set(sys.modules) - modules:
            if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
                del sys.modules[name]
        for name in set(FORMS) - set(forms):
            del FORMS[name]


class Page:
    """One page while it is executed."""

    def __init__(self, name: str, folder: Path, scene: Scene) -> None:
        self.name, self.folder, self.scene = name, folder, scene
        self.names: dict[str, Any] = {"__name__": "page"} | scene.names(folder)
        self.used: set[tuple[str, str]] = set()
        self.printed = ""

    def run(self, blocks: list[Block]) -> None:
        for i, block in enumerate(blocks):
            if block.reason is None:
                self.one(block, self.shorter(block.code), "\n".join(b.code for b in blocks[i + 1 :]))
        assert self.used == set(self.scene.instead), f"no longer on the page: {set(self.scene.instead) - self.used}"

    def shorter(self, code: str) -> str:
        for long, short in self.scene.instead:
            if long in code:
                self.used.add((long, short))
                code = code.replace(long, short)
        return code

    def one(self, block: Block, code: str, later: str) -> None:
        if block.language == "text":
            if block.title == "output":
                assert code == self.printed, f"{block.place}: prints something else"
            return
        if block.title is not None:
            (self.folder / block.title).write_text(code)
        if block.language == "yaml":
            self.yaml(block, code, later)
        elif block.title is None and block.language == "python":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * (block.line - 1) + code, str(PAGES[self.name]), "exec"), self.names)
            self.printed = printed.getvalue()
        elif block.title is None and block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code], cwd=self.folder, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{block.place}:\n{code}\n{done.stdout}\n{done.stderr}"
            assert "Traceback" not in done.stderr, f"{block.place}:\n{done.stderr}"

    def yaml(self, block: Block, code: str, later: str) -> None:
        """A study is planned, unless a later command of the page does it; a part of one is merged into a small study.

        A map of an import is checked as one.
        """
        if block.title is not None and block.title.startswith("map"):
            load_map(self.folder / block.title)
            return
        if not any(read_yaml(part, block.place)[0].get("study") for part in alternatives(code)):
            for part in alternatives(code):
                assert from_dict(merged(self.scene.part_of, read_yaml(part, block.place)[0])).cells
        elif block.title is None:
            (self.folder / "planned.yaml").write_text(code)
            assert isoloss.plan(self.folder / "planned.yaml", calibrate=False).shared.updates > 0
        elif block.title not in later:
            assert isoloss.plan(self.folder / block.title, calibrate=False).shared.updates > 0


def alternatives(code: str) -> list[str]:
    """The block, or its lines where one key stands several times: alternatives beside each other."""
    keys = re.findall(r"^(\w+):", code, re.MULTILINE)
    return [code] if len(keys) == len(set(keys)) else [line for line in code.splitlines() if line.strip()]


def merged(study: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A part of a study on top of a whole one: `training` key by key, all else replaced."""
    family = (part.get("model") or {}).get("family")
    if family and "data" not in part and "vectors" in catalogue.get("model", family).tags:
        study = IMAGES
    whole = {key: value for key, value in study.items() if key != "duration" or "duration" not in str(part.get("grid"))}
    return whole | part | {"training": study["training"] | part.get("training", {})}


def test_what_is_not_run_has_a_reason() -> None:
    every = [block for path in PAGES.values() for block in read(path)]
    left_out = [block for block in every if block.reason is not None]
    for block in left_out:
        assert block.executable, f"{block.place}: a reason, but the block would not be executed anyway"
        assert any(word in block.reason.lower() for word in REASONS), f"{block.place}: {block.reason!r} is no reason"
    assert 0 < len(left_out) < 0.2 * sum(block.executable for block in every)


def test_a_page_run_elsewhere_is_run_there() -> None:
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / test).read_text()


def test_every_scene_belongs_to_a_page() -> None:
    from docs_scenes import SCENES

    assert set(SCENES) <= set(RUN)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<!-- not run: needs a GPU -->\n```bash\nx\n```\n", [("bash", None, "needs a GPU")]),
        ("<!-- not run: -->\n```bash\nx\n```\n", [("bash", None, "")]),
        ('```yaml title="a.yaml"\nx\n```\n\n```python\n1\n```\n', [("yaml", "a.yaml", None), ("python", None, None)]),
    ],
)
def test_blocks_are_found(text: str, found: list[tuple[str, str | None, str | None]]) -> None:
    from docs_pages import blocks_of

    assert [(b.language, b.title, b.reason) for b in blocks_of(text, "page")] == found


@pytest.mark.parametrize("info", ["", "sh", "pycon", 'yaml name="a"'])
def test_a_block_without_a_known_language_is_an_error(info: str) -> None:
    from docs_pages import blocks_of

    with pytest.raises(ValueError, match="page:1"):
        blocks_of(f"```{info}\nx\n```\n", "page")
