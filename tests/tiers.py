"""The tests of ``make test``, and those that ``make test-large`` adds."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest


def large_except(small: Collection, values: Iterable) -> list:
    """Returns the values of parameters, all large except a few that stand for the rest.

    A tuple holds the values of several parameters.
    """
    values = list(values)
    assert all(value in values for value in small)
    return [v if v in small else _large(*(v if isinstance(v, tuple) else [v])) for v in values]


def _large(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.large)
