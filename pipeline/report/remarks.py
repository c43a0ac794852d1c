"""What a reader must know of figures, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report.markdown import percent

_MAX_NAMES = 3  # classes that a note lists


def has_seen_masks(figures: Mapping[str, Any]) -> bool:
    """Tells whether a segmenter started from weights that were trained on masks by people."""
    return bool((figures.get("initial_weights") or {}).get("seen_masks"))


def map_notes(figures: Mapping[str, Any]) -> list[str]:
    """Returns what a reader must know of the mAP among the figures of tags."""
    if "map_classes" not in figures:
        return []
    classes, averaged = figures["per_class"], figures["map_classes"]
    if averaged is None:
        return ["no mAP: the scores are decisions, which rank nothing"]
    notes, absent = [], [name for name, of in classes.items() if of.get("positives") == 0]
    if absent:
        more = f" and {len(absent) - _MAX_NAMES} more" if len(absent) > _MAX_NAMES else ""
        names = f"{', '.join(absent[:_MAX_NAMES])}{more} {'have' if absent[1:] else 'has'}"
        count = f", and count{'' if absent[1:] else 's'} 0" if averaged == len(classes) else ""
        over = f"mAP over {averaged} of {len(classes)} classes"
        notes.append(f"{over}; {names} no positive{count}")
    if "map_of_ties" in figures:
        low, high = map(percent, figures["map_of_ties"])
        notes.append(f"mAP from {low} to {high} by the order of images of equal score")
    return notes
