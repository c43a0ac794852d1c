"""A web server for tests of downloads."""

from __future__ import annotations

import pytest

from tests.files.server import serving


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serving() as running:
        yield running
