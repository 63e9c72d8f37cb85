"""A cache of its own for every test run: nothing is read from or left in the user's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests that only read."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, session_cache: Path) -> None:
    """Whatever forgets to name a cache still stays out of the user's."""
    monkeypatch.setenv("ISOLOSS_CACHE", str(session_cache))
