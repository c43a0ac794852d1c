"""Registers all methods that come with the package, by importing what declares them."""

import pipeline.cams.settings
import pipeline.masks.settings
import pipeline.tags.options  # noqa: F401
from pipeline.configuration.plugins import import_methods

for _room in ("clip.models", "dense", "tags", "cams", "masks"):
    import_methods(f"pipeline.{_room}")
