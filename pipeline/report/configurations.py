"""The configurations behind runs: as text, and compared with the experiment that a run names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pipeline.files.fingerprints import fingerprint
from pipeline.report.runs import Run

_MAX_LIST = 4  # entries
_INPUTS = {"predictions": "segmenter", "segmenter": "masks", "masks": "cams", "cams": "tags"}
"""Stage → the one before it, whose settings are nested in its own."""

_NOT_COMPARABLE = ("templates", "variants", "background_betas")
"""Settings that a run's configuration does not hold, or holds in another form than the files."""


def describe_setting(value: object) -> str:
    """Returns a setting as on the command line; for a long list its length and fingerprint."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        if len(value) > _MAX_LIST:
            return f"{len(value)} entries ({fingerprint(value)[:4]})"
        return f"[{', '.join(map(describe_setting, value))}]"
    return "on" if isinstance(value, Mapping) else str(value)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by their dotted names; lists stay whole."""
    flat = {}
    for name, value in settings.items():
        is_group = isinstance(value, Mapping)
        flat |= flatten(value, f"{prefix}{name}.") if is_group else {prefix + name: value}
    return flat


def find_changes(run: Run) -> list[str]:
    """Returns the settings in which a run differs from the experiment that it names.

    Those with columns of their own in the tables (CLIP, compat, precision) are left out. The
    methods that the experiment names must be registered.

    Raises:
        UserError: the experiment's files cannot be read.
    """
    experiment = _compose(run.choices.experiment)
    changes = []
    for stage, settings in _stages(run):
        for name, expected in experiment[stage].items():
            # Without a list of its own an experiment takes the data set's backgrounds.
            inherited = name == "backgrounds" and expected is None
            if name in settings and name not in _NOT_COMPARABLE and not inherited:
                changes += _differences(f"{stage}.{name}", settings[name], expected)
    if run.stage == "cams":
        # The values of β among which ground truth chose are not part of the key.
        tried = list(run.figures.get("chosen_by_ground_truth") or {})
        expected = experiment["cams"]["background_betas"]
        wanted = set(expected) if len(expected) > 1 else set()
        if {None if beta == "None" else float(beta) for beta in tried} != wanted:
            changes.append(f"cams.background_betas={describe_setting(tried or 'a single one')}")
    return changes


def _differences(name: str, value: object, expected: object) -> list[str]:
    if isinstance(value, Mapping) and isinstance(expected, Mapping):
        shared = [key for key in expected if key in value]
        each = (_differences(f"{name}.{key}", value[key], expected[key]) for key in shared)
        return [difference for differences in each for difference in differences]
    return [] if value == expected else [f"{name}={describe_setting(value)}"]


def _stages(run: Run) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the stages before the segmenter that led to a run, the last first, with settings."""
    stage, settings = run.stage, run.configuration
    while isinstance(settings, Mapping):
        if stage not in ("predictions", "segmenter"):
            yield stage, settings
        stage = _INPUTS.get(stage, "")
        settings = settings.get(stage)


@cache
def _compose(experiment: str) -> dict[str, Any]:
    # Rarely needed, and slow to import.
    from omegaconf import OmegaConf

    from pipeline.engine.configuration import compose_config

    return OmegaConf.to_container(compose_config([f"experiment={experiment}"]))
