"""The manifest of a stage's folder: what its results are, and what people read of it."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import shown
from pipeline.files.atomic import Complete, read_json

MANIFEST = "manifest.json"
LATEST = "latest"
"""The link beside a stage's folders, to the one that was completed last."""

_SHAPE = {
    **dict.fromkeys(("stage", "split", "key", "recipe", "host", "input", "checkpoint"), str),
    "command": str,
    **dict.fromkeys(("finished", "began", "run", "first_run"), str),
    **dict.fromkeys(("images", "computed", "left_out"), int),
    **dict.fromkeys(("configuration", "last", "initial_weights"), dict),
    "complete": bool,
    "seconds": int | float,
    **dict.fromkeys(("versions", "files"), {str: str}),
    "machines": {str: int},
    "made_from": {str: [str]},
    "legend": {str: Complete(file=str, images=int, date=str)},
    "statistics": {
        **dict.fromkeys(("tagged", "corrected", "background_until"), int),
        **dict.fromkeys(("flat", "background"), int | float),
        "classes": {str: int},
        "near_synonyms": [[str]],
    },
}


def read_manifest(folder: Path) -> dict:
    """Returns the manifest of a stage's folder; {} where there is none, or a damaged one."""
    return read_json(folder / MANIFEST, _SHAPE) or {}


def finished_at(manifest: Mapping[str, Any]) -> str:
    """Returns the date and time (UTC) at which a stage was completed; "" if it was not."""
    return manifest.get("finished", "")[:16].replace("T", " ")


def describe_legend(legend: Mapping[str, Any]) -> str:
    """Returns what people call a content that a manifest's legend names by its fingerprint."""
    images = "1 image" if legend["images"] == 1 else f"{legend['images']:,} images"
    what = f"{legend['what']} of " if "what" in legend else ""
    return f"{what}{images} in {legend['file']} of {legend['date']}"


def describe_machines(*manifests: Mapping[str, Any]) -> str:
    """Returns in which ways results of one stage and split were computed, if in several; or ""."""
    images = sum((Counter(manifest.get("machines", {})) for manifest in manifests), Counter())
    values = Counter(trait.split("=")[0] for trait in images)
    several = [
        f"{n:,} with {shown(t)}" for t, n in images.most_common() if values[t.split("=")[0]] > 1
    ]
    what = f"{manifests[0].get('stage')} for split {manifests[0].get('split')}"
    ways = f"{what} were computed in ways that differ by rounding (images: {', '.join(several)})"
    return ways if several else ""
