"""The house: who may import whom, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "isoloss"
ROOMS = (
    "cli", "bridges", "report", "worth", "execute", "plan", "study", "store", "train", "models", "data", "methods",
    "laws", "recipe",
)  # fmt: skip
MODULES = sorted(SOURCE.rglob("*.py"))


def imported_rooms(path: Path, text: str | None = None) -> set[str]:
    """Rooms a module imports from, lazy imports included."""
    found: set[str] = set()
    package = ["isoloss", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text() if text is None else text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "isoloss" and len(parts) > 1 and parts[1] in ROOMS:
                found.add(parts[1])
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_from_rooms_below(path: Path) -> None:
    parts = path.relative_to(SOURCE).parts
    if len(parts) == 1:
        return  # the facade stands on top
    own = ROOMS.index(parts[0])
    upward = [room for room in imported_rooms(path) if ROOMS.index(room) < own]
    assert not upward, f"{'/'.join(parts)} imports upward from {upward}"


def test_the_check_sees_lazy_and_relative_imports() -> None:
    module = SOURCE / "laws" / "sample.py"
    text = "def f():\n    from isoloss.cli import main\n    import isoloss.plan.tree\n    from ..store import Store\n"
    assert imported_rooms(module, text) == {"cli", "plan", "store"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["fit", "--help"],
        ["import", "--help"],
        ["coordinates", "--help"],
        ["store", "--help"],
    ],
)
def test_help_is_light(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['isoloss', *{arguments!r}]\n"
        "from isoloss.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        "heavy = {'torch', 'scipy', 'numpy', 'polars', 'matplotlib', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "isoloss" in done.stdout.lower() or "usage" in done.stdout.lower()


def test_importing_the_package_is_light() -> None:
    code = "import sys, isoloss; assert not {'torch', 'scipy', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_file_is_too_long() -> None:
    long = {str(p.relative_to(SOURCE)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 600}
    assert not long
