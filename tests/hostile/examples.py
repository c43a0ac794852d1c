"""How the tests draw their examples."""

from hypothesis import HealthCheck, settings

SEEDED = settings(
    derandomize=True,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
"""The same examples in every run, however busy the machine is."""
