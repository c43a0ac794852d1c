"""The splits that a run works on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pipeline.datasets.settings import DatasetSettings, split_names
from pipeline.errors import UserError


def choose_splits(wanted: Any, available: Collection[str]) -> list[str]:  # noqa: ANN401
    """Returns the splits that a run works on.

    Args:
        wanted: as for ``dataset.split``.
        available: the splits of the data set.

    Raises:
        UserError: a split that the data set does not have.
    """
    chosen = split_names(wanted) or list(available)
    for split in chosen:
        if split not in available:
            raise UserError(f"there is no split {split}: choose from {', '.join(available)}")
    return chosen


def splits_of_run(settings: DatasetSettings, available: Collection[str]) -> list[str]:
    """Returns ``dataset.split``, else those of ``dataset.default_splits`` that exist, else all.

    Raises:
        UserError: a split that the data set does not have.
    """
    defaults = [split for split in settings.default_splits if split in available]
    return choose_splits(settings.split or defaults, available)
