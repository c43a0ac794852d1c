"""The tests mirror the package; what several of them share lies in modules without tests."""

import gc
import os
import sys
from pathlib import Path

if "pytest" in sys.modules:  # and not a program that a test starts
    gc.disable()  # nothing that is imported becomes garbage; conftest.py enables it again

# Each of the two processes of `make test` has a core. Torch reads this when it is imported.
os.environ["OMP_NUM_THREADS"] = "1"

REPOSITORY = Path(__file__).resolve().parents[1]
IN_CI = bool(os.environ.get("CI"))
NOT_HERE = "not run on this processor"  # how the reason begins why such a test is skipped
SHARED = Path(os.environ.get("SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
"""Reference data that a user does not have; .ci/run sets the variable where it finds them."""
