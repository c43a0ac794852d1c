"""The settings behind a run: as text, side by side, and against the experiment that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.fingerprints import fingerprint
from pipeline.report.runs import Run, as_number

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_LONGEST_LIST = 4
_BEFORE = {"masks": "cams", "cams": "tags"}
"""stage → the one before it, whose settings lie within its own."""

_IN_OTHER_WORDS = ("templates", "variants", "background_betas")
"""Settings that a run's configuration does not hold, or not by the name they have in a file."""


def describe_setting(value: object) -> str:
    """Returns a setting as one would type it; a long list is its length and a fingerprint."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        if len(value) > _LONGEST_LIST:
            return f"{len(value)} entries ({fingerprint(value)[:4]})"
        return "[" + ", ".join(map(describe_setting, value)) + "]"
    if isinstance(value, Mapping):
        return "on"
    return str(value)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by their dotted names; lists stay whole."""
    flat = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def find_changes(run: Run) -> list[str]:
    """Returns the settings in which a run departs from the experiment that it names.

    What the tables have columns for (CLIP, compat, precision) is not among them.

    Raises:
        UserError: the experiment's files cannot be read.
    """
    experiment = _compose(run.choices.experiment)
    changes = []
    for section, found in _sections(run):
        for name, expected in experiment[section].items():
            if name in _IN_OTHER_WORDS or name not in found:
                continue
            # Without a list of its own an experiment takes the data set's backgrounds.
            if name == "backgrounds" and expected is None:
                continue
            changes += _differences(f"{section}.{name}", found[name], expected)
    if run.stage == "cams":
        changes += _changed_betas(run, experiment["cams"]["background_betas"])
    return changes


def _differences(name: str, found: object, expected: object) -> list[str]:
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        shared = [key for key in expected if key in found]
        each = (_differences(f"{name}.{key}", found[key], expected[key]) for key in shared)
        return [difference for differences in each for difference in differences]
    return [] if found == expected else [f"{name}={describe_setting(found)}"]


def _sections(run: Run) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the stages that a run went through, from the last one, and the settings of each."""
    section, settings = run.stage, run.configuration
    if section == "predictions":
        segmenter = settings.get("segmenter")
        section, settings = "masks", segmenter.get("masks") if isinstance(segmenter, dict) else None
    while isinstance(settings, Mapping):
        yield section, settings
        section = _BEFORE.get(section, "")
        settings = settings.get(section)


def _changed_betas(run: Run, expected: list[float | None]) -> list[str]:
    """Compares the backgrounds that maps were measured with, which are not in their key."""
    chosen = run.figures.get("chosen_by_ground_truth") or {}
    found = {str(as_number(_parse(beta))) for beta in chosen}
    wanted = {str(as_number(beta)) for beta in expected} if len(expected) > 1 else set()
    if found == wanted:
        return []
    return [f"cams.background_betas={describe_setting([*chosen] or 'a single one')}"]


def _parse(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@cache
def _compose(experiment: str) -> dict[str, Any]:
    """Returns an experiment's whole configuration, with Hydra's rules of what overrides what."""
    # Only needed where a run names an experiment, and slow to import.
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("config", overrides=[f"experiment={experiment}"])
    except HydraException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"experiment={experiment} cannot be read: {reason}") from error
    return OmegaConf.to_container(config)
