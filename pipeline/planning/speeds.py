"""How long stages took, as their manifests tell, and how long they would take again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pipeline.engine.store import Store

_DECISIVE = {
    "tags": ("method", "clip", "reidentify", "squeeze"),
    "cams": ("clip",),
    "masks": ("crf", "sees"),
    "segmenter": ("name", "backbone", "config", "batch_size", "crop_size", "precision"),
    "predictions": ("test",),
}
"""Stage → what of its configuration decides how long an image takes."""

_LEAST = 1e-3
"""Seconds an image. Maps that came with the tags took no time of their own, which says nothing of
how long maps take alone."""


class Speeds:
    """What was measured below an output directory."""

    def __init__(self, store: Store):
        """Measures nothing itself; manifests are read when they are first needed.

        Args:
            store: the output directory.
        """
        self._store = store

    @cached_property
    def _manifests(self) -> list[dict]:
        return [manifest for _, manifest in reversed(self._store.folders())]

    def estimate(self, stage: str, configuration: Mapping[str, Any], images: int) -> float | None:
        """Returns how long a stage would take, by the last run that was like it.

        Args:
            stage: the name of its folder.
            configuration: what its results depend on.
            images: how many would be computed; of a training it is the whole that is estimated.

        Returns:
            Seconds, or none where nothing like it was ever measured.
        """
        wanted = _decisive(stage, configuration)
        for manifest in self._manifests:
            measured = manifest.get("configuration", {})
            if manifest.get("stage") != stage or _decisive(stage, measured) != wanted:
                continue
            if stage == "segmenter":
                if manifest.get("seconds") and manifest.get("checkpoint"):
                    return (
                        manifest["seconds"] * configuration["iterations"] / measured["iterations"]
                    )
                continue
            last = manifest.get("last") or {}
            facts = last if last.get("computed") else manifest
            if facts.get("computed"):
                each = facts.get("seconds", 0) / facts["computed"]
                if stage != "cams" or each >= _LEAST:
                    return each * images
        return None


def _decisive(stage: str, configuration: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: configuration.get(key) for key in _DECISIVE[stage]}
    if stage == "predictions":
        facts["network"] = (configuration.get("segmenter") or {}).get("name")
    return facts
