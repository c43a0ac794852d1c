"""Fixtures of the report's tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.report.page.images import ReportInputs
from tests.report.browsing import browser, visit  # noqa: F401  fixtures of tests in a browser
from tests.report.small_run import build_run


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., ReportInputs]:
    """Builds runs in folders of their own."""
    numbers = itertools.count()
    return lambda *args, **kwargs: build_run(tmp_path / f"run{next(numbers)}", *args, **kwargs)
