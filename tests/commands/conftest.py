"""``tools/make_tables.py`` in an empty folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_runs import Finished


@pytest.fixture
def make_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_tool: Callable[..., Finished]
) -> Callable[..., Finished]:
    """Runs ``tools/make_tables.py`` in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Finished:
        return run_tool("make_tables.py", *arguments)

    return run
