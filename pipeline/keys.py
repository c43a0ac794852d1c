"""What the result of every stage depends on, apart from the images themselves.

A stage's configuration holds that of the stages before it. Its fingerprint is the stage's key, so
that whatever changes a result changes the folder in which it is looked for, and nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cams import from_files
from pipeline.cams import stage as cams_stage
from pipeline.clip.architectures import find_training
from pipeline.clip.pixels import OPENAI_NORMALISATION
from pipeline.clip.text import TEMPLATES
from pipeline.datasets.vocabulary import Names, Vocabulary
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.text import given_path
from pipeline.masks import stage as masks_stage
from pipeline.segmenter import self_training
from pipeline.segmenter import stage as segmenter_stage
from pipeline.tags import stage as tags_stage

_NOT_IN_MAPS = ("templates", "backgrounds", "background_betas")
"""Keys of ``cams`` that do not change a map, or whose meaning is in the key in another form."""

_NOT_IN_SEGMENTERS = (
    "ceiling",
    "checkpoint_interval",
    "validation_interval",
    "workers",
    "checkpoint",
    "masks",
    "test",
)
"""Keys of ``segmenter`` that do not change its weights."""

USES_CLIP = ("tagclip", "clip")
"""The methods of tagging that look at images with CLIP."""


def clip_configuration(config: Mapping, weights: str) -> dict[str, Any]:
    """Returns what CLIP's features of an image depend on; ``weights`` is their fingerprint."""
    clip, compat = config["clip"], config["compat"]
    training = find_training(clip["model"], clip["pretrained"])
    facts: dict[str, Any] = {}
    # Named only where they are not as they always were, so that older results keep their keys.
    if training.normalisation != OPENAI_NORMALISATION:
        facts["mean"] = list(training.normalisation.mean)
        facts["std"] = list(training.normalisation.std)
    if training.forces_quick_gelu:
        facts["quick_gelu"] = True
    return {
        **facts,
        "model": clip["model"],
        "weights": weights,
        "precision": config["runtime"]["precision"],
        "longest_side": config["images"]["longest_side"],
        "most_patches": config["images"]["most_patches"],
        "exif": compat["exif"],
        "position_fp16": compat["position_fp16"],
        "open_border": compat["open_border"],
    }


def _names(names: Names) -> list[str | list[str]]:
    return [several[0] if len(several) == 1 else list(several) for several in names]


def cam_backgrounds(config: Mapping, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Returns the backgrounds of class activation maps: the preset's, or the data set's.

    Where there is neither, it is the word itself: without any competitor the only tag of an image
    would have a constant score, and an empty map.
    """
    chosen = config["cams"]["backgrounds"]
    chosen = vocabulary.backgrounds if chosen is None else chosen
    return tuple(chosen) or ("background",)


def tags_configuration(config: Mapping, vocabulary: Vocabulary, weights: str) -> dict[str, Any]:
    """Returns what tags depend on.

    Args:
        config: the whole configuration, as plain dictionaries.
        vocabulary: the class names.
        weights: fingerprint of CLIP's weights.
    """
    tags = config["tags"]
    facts = {
        "algorithm": tags_stage.ALGORITHM,
        "method": tags["method"],
        "classes": list(vocabulary.classes),
    }
    if tags["method"] == "file":
        path = given_path(tags["path"], "tags.path")
        return {**facts, "list": _fingerprint_if_there(path)}
    if tags["method"] not in USES_CLIP:
        return facts
    settings = {k: v for k, v in tags.items() if k not in ("variants", "templates")}
    return {
        **facts,
        **settings,
        "names": _names(vocabulary.tag_names),
        "backgrounds": list(vocabulary.backgrounds),
        "templates": list(TEMPLATES[tags["templates"]]),
        "clip": clip_configuration(config, weights),
        "cwr_stop": config["compat"]["cwr_stop"],
    }


def _fingerprint_if_there(path: Path) -> str:
    try:
        return fingerprint_file(path)
    except OSError:  # the stage says what is wrong with it
        return str(path)


def cams_configuration(
    config: Mapping, vocabulary: Vocabulary, weights: str, tags: Mapping
) -> dict[str, Any]:
    """Returns what class activation maps depend on; ``tags`` is the tags' configuration."""
    if from_files.is_chosen(config):
        return from_files.configuration(config, vocabulary.classes)
    settings = {k: v for k, v in config["cams"].items() if k not in _NOT_IN_MAPS}
    return {
        "algorithm": cams_stage.ALGORITHM,
        **settings,
        "names": _names(vocabulary.cam_names),
        "backgrounds": list(cam_backgrounds(config, vocabulary)),
        "templates": list(TEMPLATES[config["cams"]["templates"]]),
        "clip": clip_configuration(config, weights),
        "tags": tags,
    }


def masks_configuration(config: Mapping, cams: Mapping) -> dict[str, Any]:
    """Returns what masks depend on; ``cams`` is the maps' configuration."""
    compat, settings = config["compat"], dict(config["masks"])
    # Named only where it is true, so that older results keep their keys.
    if not settings.get("keep_probability"):
        settings.pop("keep_probability", None)
    return {
        "algorithm": masks_stage.ALGORITHM,
        **settings,
        "crf_bgr": compat["crf_bgr"],
        "crf_fp16": compat["crf_fp16"],
        "cams": cams,
    }


def segmenter_configuration(
    config: Mapping, vocabulary: Vocabulary, masks: Mapping | None, data: str
) -> dict[str, Any]:
    """Returns what a trained segmenter depends on.

    Args:
        config: the whole configuration, as plain dictionaries.
        vocabulary: the class names.
        masks: the pseudo masks' configuration; none for the ground truth.
        data: fingerprint of the images and masks that it is trained on, since a network depends on
            all of them.
    """
    settings = {k: v for k, v in config["segmenter"].items() if k not in _NOT_IN_SEGMENTERS}
    settings["pretrained"], weights = _initial_weights(settings["pretrained"])
    if masks is None:
        settings["pixel_weights"] = None  # the ground truth is sure of every pixel
    return {
        **settings,
        "seed": config["seed"],
        "longest_side": config["images"]["longest_side"],
        "exif": config["compat"]["exif"],
        "classes": list(vocabulary.classes),
        "masks": "ground truth" if masks is None else masks,
        "data": data,
        **weights,
    }


def _initial_weights(pretrained: str | None) -> tuple[str | None, dict[str, str]]:
    """Returns what a table calls the weights, and the fingerprint of the file that holds them."""
    if pretrained in (None, "none"):
        return None, {}
    path = Path(pretrained).expanduser()
    return path.name, {"weights": fingerprint_file(path)} if path.is_file() else {}


def seen_tags_configuration(
    config: Mapping, vocabulary: Vocabulary, segmenter: Mapping, first_tags: Mapping
) -> dict[str, Any]:
    """Returns what the tags and scores of a later round depend on.

    Args:
        config: the whole configuration, as plain dictionaries.
        vocabulary: the class names.
        segmenter: the configuration of the segmenter that sees them.
        first_tags: the configuration of the first round's tags.
    """
    settings = config["self_training"]
    return {
        "algorithm": self_training.ALGORITHM,
        "method": "segmenter",
        "classes": list(vocabulary.classes),
        "tag_region": settings["tag_region"],
        "tag_threshold": settings["tag_threshold"],
        **({"first_tags": first_tags} if settings["keep_tags"] else {}),
        "sees": _sees(config, segmenter),
    }


def seen_masks_configuration(
    config: Mapping, segmenter: Mapping, first_tags: Mapping
) -> dict[str, Any]:
    """Returns what the masks of a later round depend on.

    Args:
        config: the whole configuration, as plain dictionaries.
        segmenter: the configuration of the segmenter that sees them.
        first_tags: the configuration of the first round's tags.
    """
    settings = config["self_training"]
    keep = config["masks"].get("keep_probability")
    return {
        "algorithm": self_training.ALGORITHM,
        **settings,
        **({"first_tags": first_tags} if settings["keep_tags"] else {}),
        **({"keep_probability": True} if keep else {}),
        "sees": _sees(config, segmenter),
    }


def _sees(config: Mapping, segmenter: Mapping) -> dict[str, Any]:
    """Returns what a segmenter's probabilities of an image depend on."""
    test = config["segmenter"]["test"]
    return {
        "longest_side": config["images"]["longest_side"],
        "exif": config["compat"]["exif"],
        "scales": test["scales"],
        "flip": test["flip"],
        "segmenter": segmenter,
    }


def predictions_configuration(config: Mapping, segmenter: Mapping) -> dict[str, Any]:
    """Returns what predictions depend on; ``segmenter`` is its configuration."""
    chosen = config["segmenter"]
    return {
        "algorithm": segmenter_stage.ALGORITHM,
        "longest_side": config["images"]["longest_side"],
        "exif": config["compat"]["exif"],
        "checkpoint": chosen["checkpoint"],
        "test": chosen["test"],
        "segmenter": segmenter,
    }


def without_seed(configuration: Mapping) -> dict[str, Any]:
    """Returns a configuration in which runs that differ in their seed alone are equal."""
    return {
        key: without_seed(value) if isinstance(value, Mapping) else value
        for key, value in configuration.items()
        if key != "seed"
    }


def describe(config: Mapping, stage: str) -> dict[str, str]:
    """Returns what a table says beside a figure of a stage: the choices that have names."""
    clip, data = config["clip"], _describe_ground_truth(config["dataset"])
    given = from_files.is_chosen(config) and stage != "tags"
    if given:
        data = ", ".join(filter(None, (data, f"maps of {Path(config['cams']['path']).name}")))
    return {
        "experiment": config["experiment_name"] or "",
        "dataset": config["dataset"]["name"],
        "data": data,
        "clip": "" if given else clip["name"],
        "pretrained": "" if given else clip["pretrained"] or "",
        "tags": "" if given else config["tags"]["method"],
        "compat": _describe_compat(config["compat"], stage),
        "precision": config["runtime"]["precision"],
        "segmenter": config["segmenter"]["name"],
    }


def _describe_ground_truth(dataset: Mapping[str, Any]) -> str:
    """Returns which images and which convention of their labels were measured, beyond the split."""
    facts = []
    if dataset.get("label_source") == "xml":
        counted = "" if dataset["difficult"] else "not "
        facts.append(f"labels from XML, difficult objects {counted}counted")
    for key, text in (("image_list", "images"), ("labels", "labels"), ("masks", "masks")):
        if dataset[key] is not None:
            facts.append(f"{text} of {Path(dataset[key]).name}")
    return ", ".join(facts)


def _describe_compat(compat: Mapping[str, Any], stage: str) -> str:
    """Returns "released" or "clean", or the quirks that a stage keeps where it is neither."""
    of_crf = stage not in ("tags", "cams")
    quirks = {
        key: value
        for key, value in compat.items()
        if key != "name" and (of_crf or not key.startswith("crf_"))
    }
    if len(set(quirks.values())) == 1:
        return "released" if all(quirks.values()) else "clean"
    return " ".join(key for key, kept in quirks.items() if kept)
