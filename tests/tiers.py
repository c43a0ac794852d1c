"""The tests of ``make test``, and those that ``make test-large`` adds."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest


def large_except(small: Collection[str], values: Iterable[str]) -> list:
    """Returns the values of a parameter, all large except a few that stand for the rest."""
    values = list(values)
    assert {*small} <= {*values}
    return [v if v in small else pytest.param(v, marks=pytest.mark.large) for v in values]
