"""The labellers of the page, and the names that a person writes for them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from pipeline.api.labeller import Labeller
from pipeline.errors import UserError

MEMORY = 1 << 30
"""Bytes of CLIP's features that are kept."""

WORLD = "demo"
"""The CLIP of the demo, and the world of its scenes."""

_LEAST = "The lowest threshold. The threshold of a photograph, a line on its bars, can be higher."
SLIDER = {"minimum": 0, "maximum": 1, "label": "Minimum score", "info": _LEAST}
"""Arguments of Gradio's slider for ``tags.min_score``."""


@dataclass
class Labellers:
    """Makes labellers for the names that a person tries. They share one CLIP and what it found.

    Attributes:
        clip: the choice of ``clip=``.
        chosen: the methods of the command line, by group.
        overrides: its other settings.
        min_score: the minimum score with these settings.
        plugins: what the command line names as plug-ins, in its own form.
        lock: is held by the request that computes.
    """

    clip: str
    chosen: Mapping[str, str]
    overrides: Sequence[str]
    min_score: float
    plugins: Sequence[str] = ()
    lock: Lock = field(default_factory=Lock)
    _last: Labeller | None = None
    _newest: dict[str, int] = field(default_factory=dict)  # part of a page → its last request

    @property
    def choices(self) -> list[str]:
        """The methods of the command line, as it names them."""
        return [f"{group}={name}" for group, name in self.chosen.items()]

    def labeller(self, names: str, backgrounds: str, *more: str) -> Labeller:
        """Returns the labeller of what a person wrote; a UserError if it cannot be used."""
        self._last = Labeller(
            classes_of(names),
            clip=self.clip,
            backgrounds=lines(backgrounds) or None,
            overrides=["runtime.crop_batch_size=1", *self.overrides, *more],
            keep=MEMORY if self._last is None else self._last,
        )
        return self._last

    def warm_up(self) -> None:
        """Loads CLIP while the page opens; what prevents it is told to whoever uses the page."""
        with self.lock, suppress(UserError):
            self.labeller("object", "", *self.choices).scores(np.zeros((64, 64, 3), np.uint8))

    def begin(self, part: str) -> int:
        """Returns the number of a new request of a part of somebody's page."""
        self._newest[part] = self._newest.get(part, 0) + 1
        return self._newest[part]

    def is_newest(self, part: str, number: int) -> bool:
        """Tells whether no later request has ended this one."""
        return self._newest[part] == number


def lines(text: str) -> list[str]:
    """Returns the lines of a text that are not empty."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def classes_of(text: str) -> list[Any]:
    """Returns the class of each line; further names for it follow after commas."""
    classes: list[Any] = []
    for line in lines(text):
        names = [name.strip() for name in line.split(",") if name.strip()]
        if names:
            classes.append({"name": names[0], "names": names} if len(names) > 1 else names[0])
    if not classes:
        raise UserError("no names are given: write at least one")
    return classes
