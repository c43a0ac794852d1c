"""Named choices recorded with each figure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from pipeline.cams.method import CamOptions
from pipeline.clip.device import AUTO
from pipeline.clip.method_stage import MethodStage
from pipeline.clip.settings import ClipSettings, ImageSettings, MethodOptions, RuntimeSettings
from pipeline.configuration.registry import COMPAT, methods, quirks
from pipeline.configuration.settings import key_facts
from pipeline.datasets.settings import DatasetSettings
from pipeline.engine.kinds import CAMS, MASKS, TAGS, Kind, groups
from pipeline.engine.records import describe_legend
from pipeline.engine.results import Results
from pipeline.engine.stage import OfSplit, Stage
from pipeline.masks.settings import method_word
from pipeline.segmenter.settings import SegmenterSettings
from pipeline.tags.tagger import TagOptions

_LABEL = "_label"  # in metrics.json, the end of the name of a group with a label
_TOLD = ("root", "sbd_root", "annotations", "split", "default_splits", "report_split", "limit")
_TOLD += ("corrections",)
"""Settings of places, and those of which tables tell in another way."""


class Configuration(Protocol):
    """The part of the configuration that evaluation reads."""

    experiment_name: str | None
    dataset: DatasetSettings
    images: ImageSettings
    runtime: RuntimeSettings
    clip: ClipSettings
    compat: Any
    tags: TagOptions
    cams: CamOptions
    segmenter: SegmenterSettings


@dataclass(frozen=True)
class About:
    """The choices behind figures, in words, as in ``metrics.json``; "" for those without a part."""

    experiment: str = ""
    dataset: str = ""
    data: str = ""  # which images, and which convention of their labels, if not the usual ones
    clip: str = ""
    pretrained: str = ""  # the origin of its weights
    methods: Mapping[str, str] = field(default_factory=dict)  # group → method
    labels: Mapping[str, str] = field(default_factory=dict)  # group → what tables call a plug-in's
    given: str = ""  # the files of other programs
    compat: str = ""
    precision: str = ""
    segmenter: str = ""
    round: str = ""  # of training, from the second on
    corrections: str = ""
    commit: str = ""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "About":
        """Reads them."""
        words = {name: str(value or "") for name, value in plain.items()}
        known = words.keys() & {each.name for each in fields(cls)}
        labels = {name for name in words if name.endswith(_LABEL)}
        return cls(
            **{name: words[name] for name in known},
            methods={name: words[name] for name in words.keys() - known - labels},
            labels={name.removesuffix(_LABEL): words[name] for name in labels},
        )

    @property
    def plain(self) -> dict[str, str]:
        """What is written."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        methods, labels = own.pop("methods"), own.pop("labels")
        if not own["given"]:
            del own["given"]
        return own | methods | {f"{group}{_LABEL}": label for group, label in labels.items()}


def choices_behind(stage: Stage, config: Configuration) -> About:
    """Returns the choices that led to the results of the measured stage."""
    dataset, data = config.dataset, []
    # Which images, and which convention of their labels.
    if getattr(dataset, "label_source", None) == "xml":
        counted = "" if dataset.difficult else "not "
        data.append(f"labels from XML, difficult objects {counted}counted")
    if dataset.ignore_background:
        data.append("background ignored")
    lists = {"images": dataset.image_list, "labels": dataset.labels, "masks": dataset.masks}
    data += [f"{what} of {Path(path).name}" for what, path in lists.items() if path is not None]
    computed = (each for each in stage.chain if isinstance(each, MethodStage))
    uses_clip = any(each.options.method.uses_clip for each in computed)
    chosen = dict.fromkeys(groups(), "")
    for each in reversed(stage.chain):
        if group := each.kind.group:
            settings = each.own_settings()
            chosen[group] = method_word(settings)
            # Masks that are made without CAMs may take the method of cams= all the same.
            chosen |= {CAMS.group: settings["cams"]["method"]} if "cams" in settings else {}
    theirs = (m for m in methods() if not m.is_ours and chosen.get(m.group) == m.name)
    return About(
        experiment=config.experiment_name or "",
        dataset=dataset.name,
        data=", ".join(data),
        clip=config.clip.name if uses_clip else "",
        pretrained=(config.clip.pretrained or "") if uses_clip else "",
        methods=chosen,
        labels={method.group: method.label for method in theirs},
        given=", ".join(each.note for each in stage.chain if each.note),
        compat=_describe_quirks(config.compat, stage.kind),
        precision=config.runtime.precision,
        segmenter=config.segmenter.name,
        round=str(stage.round) if stage.round > 1 else "",
        corrections=", ".join(map(describe_legend, stage.legend.values())),
    )


def settings_behind(stage: Stage, config: Configuration) -> dict[str, dict[str, Any]]:
    """Returns group → its choice, and its settings that can change the figures of a stage.

    The precision and the quirks of released code are not among them: tables have columns of them.
    """
    chain, found = stage.chain, {}
    groups = dict.fromkeys(each.kind.group or each.kind.stage for each in chain)
    # Masks of a dense method read some settings of the CAMs.
    masks = (each.own_settings() for each in chain if each.kind is MASKS)
    read = {name for settings in masks for name in settings.get("cams", ())}
    more = ["self_training"] * any(each.round > 1 for each in chain) + ["cams"] * bool(read)
    without = [*_TOLD, *["cam_names"] * (stage.kind is TAGS and stage.round == 1)]
    without += ["train_split"] * (not any(isinstance(each, OfSplit) for each in chain))
    for group in (*groups, *more, "clip", "dataset", "images"):
        if options := getattr(config, group, None):
            figures = ["figures"] if group in (stage.kind.group, "dataset") else []
            facts = key_facts(options, without, ["result", "images", *figures])
            if read and group == "cams":
                facts = {name: value for name, value in facts.items() if name in read}
            is_method = isinstance(options, MethodOptions)
            chosen = options.method.name if is_method else getattr(options, "name", None)
            found[group] = {"method" if is_method else "name": chosen, **facts}
    return found


def found_precision(precision: str, results: Results) -> str:
    """Returns a precision, and where it is "auto" those that features were computed in."""
    if precision != AUTO:
        return precision
    traits = [t for each in results.chain if each.split for t in each.manifest.get("machines", {})]
    found = {trait.removeprefix("precision=") for trait in traits if trait.startswith("precision=")}
    return f"{precision} ({', '.join(sorted(found))})" if found else precision


def _describe_quirks(compat: object, kind: Kind) -> str:
    """Returns the preset that is in force, "released" or "clean", or what differs from one."""
    so_far = groups()[: groups().index(kind.group) + 1] if kind.group else groups()
    declared = quirks(*so_far)
    for choice in COMPAT:
        if all(getattr(compat, name) == getattr(q, choice) for name, q in declared.items()):
            return choice
    kept = [name for name, quirk in declared.items() if getattr(compat, name) != quirk.clean]
    left_out = [name for name, quirk in declared.items() if getattr(compat, name) != quirk.released]
    return f"released without {' '.join(left_out)}" if len(left_out) < len(kept) else " ".join(kept)
