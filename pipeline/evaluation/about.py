"""What a table says beside a figure: the choices that have names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.clip.settings import ClipSettings, Quirks
from pipeline.engine.stage import Stage

_IN_NO_PRESET = ("float16_argmax", "tag_order")
"""Quirks that the preset ``released`` does not keep, either."""


def chain_of(stage: Stage) -> Iterator[Stage]:
    """Yields a stage, and all those that its results are made from."""
    yield stage
    for need in stage.needs.values():
        yield from chain_of(need)


def describe(
    stage: Stage,
    *,
    experiment: str | None,
    dataset: Any,  # noqa: ANN401
    clip: ClipSettings,
    quirks: Quirks,
    precision: str,
    segmenter: str,
) -> dict[str, str]:
    """Returns the choices that led to the results of the measured stage, and "" for the others."""
    chain = list(chain_of(stage))
    notes = [each.note for each in chain if each.note]
    uses_clip = any(getattr(each, "uses_clip", False) for each in chain)
    tagger = next((each for each in chain if each.kind == "scores"), None)
    return {
        "experiment": experiment or "",
        "dataset": dataset.name,
        "data": ", ".join(filter(None, (_describe_ground_truth(dataset), *notes))),
        "clip": clip.name if uses_clip else "",
        "pretrained": (clip.pretrained or "") if uses_clip else "",
        "tags": tagger.own_settings()["method"] if tagger else "",
        "compat": _describe_quirks(quirks, stage.kind),
        "precision": precision,
        "segmenter": segmenter,
    }


def _describe_ground_truth(dataset: Any) -> str:  # noqa: ANN401
    """Returns which images and which convention of their labels were measured."""
    facts = []
    if getattr(dataset, "label_source", None) == "xml":
        counted = "" if dataset.difficult else "not "
        facts.append(f"labels from XML, difficult objects {counted}counted")
    lists = {"images": dataset.image_list, "labels": dataset.labels, "masks": dataset.masks}
    facts += [f"{what} of {Path(path).name}" for what, path in lists.items() if path is not None]
    return ", ".join(facts)


def _describe_quirks(quirks: Quirks, kind: str) -> str:
    """Returns "released" or "clean", or the quirks that are kept if neither preset is in force."""
    before_masks = kind in ("scores", "cams")
    kept = {name for name, value in vars(quirks).items() if value is True}
    kept -= {name for name in kept if before_masks and name.startswith("crf_")}
    released = vars(quirks).keys() - {"name", *_IN_NO_PRESET}
    released -= {name for name in released if before_masks and name.startswith("crf_")}
    if kept in (released, set()):
        return "released" if kept else "clean"
    return " ".join(name for name in vars(quirks) if name in kept)
