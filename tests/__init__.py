"""The tests mirror the package; what several of them share lies in modules without tests."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
"""Reference data that a user does not have; the tests that need them are skipped there."""
