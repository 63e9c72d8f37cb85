"""Nothing public is undocumented, and nothing that the pages name is missing."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from types import ModuleType
from typing import Any

import pytest
import typer
from docs_pages import DOCS, ROOT, inline, name_of, pages, read
from docs_public import defined, imported, members, modules, names, resolve, spoken_of

from isoloss.cli.main import app
from isoloss.cli.reference import reference

API = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "api").glob("*.md")))


def directives() -> dict[str, bool]:
    """Modules that the API pages render, and whether with their submodules."""
    found = re.findall(r"^::: (\S+)((?:\n    .*)*)", API, re.MULTILINE)
    return {name: "show_submodules: true" in options for name, options in found}


@pytest.mark.parametrize("module", modules())
def test_every_public_name_has_a_docstring(module: str) -> None:
    found = importlib.import_module(module)
    assert inspect.getdoc(found), module
    for name in names(module):
        value = getattr(found, name)
        if inspect.isclass(value):
            assert value.__doc__, name
            assert not [member for member in members(value) if not inspect.getdoc(getattr(value, member))], name
        elif callable(value):
            assert inspect.getdoc(value), name


@pytest.mark.parametrize("module", modules())
def test_every_public_module_is_on_an_api_page(module: str) -> None:
    shown = directives()
    package, _, _ = module.rpartition(".")
    assert module in shown or shown.get(package), f"add ::: {module} to a page of docs/api"


def test_what_pages_import_is_public() -> None:
    for module, name in imported():
        assert not name or name.isupper() or name in names(module), f"{module}.{name}"


def test_names_in_the_text_exist() -> None:
    missing = []
    for name in sorted(spoken_of()):
        try:
            resolve(name)
        except (AttributeError, ModuleNotFoundError):
            missing.append(name)
    assert not missing


def test_the_page_of_commands_is_up_to_date() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m isoloss.cli.reference > docs/commands.md"


def test_the_page_of_commands_has_every_option() -> None:
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    for path, command in commands(typer.main.get_command(app), "isoloss"):
        section = re.split(r"^##+ ", page, flags=re.MULTILINE)
        (text,) = [part for part in section if part.startswith(f"{path}\n")]
        for parameter in command.params:
            for option in {*parameter.opts, *parameter.secondary_opts} - {"--help"}:
                if option.startswith("--"):
                    assert f"`{option}`" in text, (path, option)


def commands(group: Any, path: str) -> list[tuple[str, Any]]:
    found = []
    for name, command in group.commands.items():
        found.append((f"{path} {name}", command))
        if hasattr(command, "commands"):
            found += commands(command, f"{path} {name}")
    return found


def calls() -> list[tuple[str, str]]:
    """(page, command) of every command that a page shows, in a block or in its text."""
    found = []
    for path in pages():
        lines = inline(path.read_text(encoding="utf-8"))
        for block in read(path):
            if block.language == "bash":
                lines += block.code.replace("\\\n", " ").splitlines()
        found += [(name_of(path), line.strip()) for line in lines]
    return found


def test_commands_in_the_text_exist() -> None:
    """Subcommands and options, also of commands that stand in a sentence or are not run."""
    root, checked = typer.main.get_command(app), 0
    for page, line in calls():
        match = re.match(r"(?:.*\s-m )?isoloss (?=[a-z])(.*)", line)
        if match is None or "|" in line or "/" in line.split()[0]:
            continue
        words = shlex.split(match[1], comments=True)
        command: Any = root
        while words and hasattr(command, "commands") and words[0].isidentifier():
            # A group that answers without the name of a command knows which one is meant.
            if words[0] not in command.commands and hasattr(command, "default"):
                break
            assert words[0] in command.commands, f"{page}: isoloss {match[1]}"
            command = command.commands[words.pop(0)]
        command = getattr(command, "commands", {}).get(getattr(command, "default", ""), command)
        options = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        for word in words:
            if re.match(r"--\w", word):
                assert word.split("=")[0] in options, f"{page}: isoloss {match[1]}"
        checked += 1
    assert checked > 60


def test_scripts_and_targets_in_the_text_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page, line in calls():
        for script in re.findall(r"\b((?:benchmarks|tests|studies|examples)/[\w./-]+\.(?:py|yaml))", line):
            assert (ROOT / script).exists() or (ROOT / "src" / "isoloss" / script).exists(), f"{page}: {script}"
        if target := re.match(r"make (\w+)$", line.split("#")[0].strip()):
            assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE), f"{page}: {line}"


def test_links_of_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_what_lacks_a_docstring_is_found() -> None:
    made = ModuleType("made")
    exec("class Plain:\n    'Has one.'\n    def step(self): ...\n\ndef bare(): ...\n\ndef _own(): ...", made.__dict__)
    assert [name for name, _ in defined(made)] == ["Plain", "bare"]
    assert list(members(made.Plain)) == ["step"]
    assert not inspect.getdoc(made.bare) and not inspect.getdoc(made.Plain.step)
