"""What a table says beside a figure: the choices that have names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.clip.quirks import Quirks
from pipeline.datasets.settings import DatasetSettings
from pipeline.engine.stage import Stage

if TYPE_CHECKING:
    from pipeline.stages.config import Config

_WITH_METHODS = ("scores", "cams", "pseudo masks")


def describe(stage: Stage, config: Config) -> dict[str, str]:
    """Returns the choices that led to the results of the measured stage, and "" for the others."""
    chain = list(_chain(stage))
    notes = [note for each in chain if (note := getattr(each, "note", ""))]
    uses_clip = any(getattr(each, "uses_clip", False) for each in chain)
    methods = {}
    for each in reversed(chain):
        if each.kind in _WITH_METHODS:
            own = each.own_settings()
            methods[each.kind] = own.get("method", "")
            # Masks that are made without CAMs may take the method of cams= all the same.
            methods |= {"cams": own["cams"]["method"]} if "cams" in own else {}
    return {
        "experiment": config.experiment_name or "",
        "dataset": config.dataset.name,
        "data": ", ".join(filter(None, (_describe_ground_truth(config.dataset), *notes))),
        "clip": config.clip.name if uses_clip else "",
        "pretrained": (config.clip.pretrained or "") if uses_clip else "",
        "tags": methods.get("scores", ""),
        "cams": methods.get("cams", ""),
        "masks": methods.get("pseudo masks", ""),
        "compat": _describe_quirks(config.compat, stage.kind),
        "precision": config.runtime.precision,
        "segmenter": config.segmenter.name,
    }


def _chain(stage: Stage) -> Iterator[Stage]:
    """Yields a stage, and all those that its results are made from."""
    yield stage
    for need in stage.needs.values():
        yield from _chain(need)


def _describe_ground_truth(dataset: DatasetSettings) -> str:
    """Returns which images and which convention of their labels were measured."""
    facts = []
    if getattr(dataset, "label_source", None) == "xml":
        counted = "" if dataset.difficult else "not "
        facts.append(f"labels from XML, difficult objects {counted}counted")
    facts += ["background ignored"] * dataset.ignore_background
    lists = {"images": dataset.image_list, "labels": dataset.labels, "masks": dataset.masks}
    facts += [f"{what} of {Path(path).name}" for what, path in lists.items() if path is not None]
    return ", ".join(facts)


def _describe_quirks(quirks: Quirks, kind: str) -> str:
    """Returns the preset that is in force, "released" or "clean", or what differs from one."""
    before_masks = kind in ("scores", "cams")
    names = [n for n in vars(quirks) if n != "name" and not (before_masks and n.startswith("crf_"))]
    kept = [name for name in names if getattr(quirks, name) is True]
    if kept in ([], names):
        return "released" if kept else "clean"
    left_out = [name for name in names if name not in kept]
    if len(left_out) < len(kept):
        return f"released without {' '.join(left_out)}"
    return " ".join(kept)
