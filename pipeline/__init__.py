"""Semantic segmentation without a single annotation.

The public names are loaded when they are first used; see docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api.labeller import Labeller, load_image
    from pipeline.api.labelling import Labelling
    from pipeline.api.training import train
    from pipeline.segmenter.predict import Segmenter

__all__ = ["Labeller", "Labelling", "Segmenter", "load_image", "train"]

_HOMES = {
    "Labeller": "pipeline.api.labeller",
    "Labelling": "pipeline.api.labelling",
    "Segmenter": "pipeline.segmenter.predict",
    "load_image": "pipeline.api.labeller",
    "train": "pipeline.api.training",
}


if not TYPE_CHECKING:  # else every name would exist for type checkers

    def __getattr__(name: str) -> object:
        """Imports a public name; only what is used costs the seconds of importing torch."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
