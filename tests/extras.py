"""The libraries of the dependency group ``extras``, which read the exports of their formats."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

import pytest


def library(name: str) -> ModuleType:
    """Imports a library, or skips the test; ``make test-extras`` has them all, and skips none."""
    if os.environ.get("EXTRAS"):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"make test-extras installs {name.partition('.')[0]}")
