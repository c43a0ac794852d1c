"""How the tests draw their examples."""

import sys

from hypothesis import HealthCheck, settings

SEEDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
"""The same examples in every run, however busy the machine is."""
TOO_LONG = "is not a file" if sys.version_info >= (3, 14) else "cannot be read (File name too long)"
"""How a path that is too long is refused."""
