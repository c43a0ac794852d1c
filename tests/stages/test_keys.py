"""Keys are complete by construction: every setting of every group changes what it declares."""

from __future__ import annotations

import copy
import dataclasses
import re
import shutil
import typing
from collections.abc import Iterator
from functools import cache
from types import NoneType, SimpleNamespace
from typing import Any

import pytest

from pipeline.clip import frozen
from pipeline.clip.origins import origin
from pipeline.clip.settings import SecondSettings, compat_settings
from pipeline.commands.settings_help import computed_anew
from pipeline.configuration import registry
from pipeline.configuration.plugins import import_plugins
from pipeline.configuration.registry import methods
from pipeline.configuration.settings import Rule, check, rule_of
from pipeline.datasets import READERS
from pipeline.datasets.regions import SLIC
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.dense.corrclip import ROOT
from pipeline.engine.sample import Dataset, Images, Sample, Splits
from pipeline.engine.store import Store
from pipeline.masks.crf import CrfOptions
from pipeline.masks.settings import GroundTruthMaskOptions, PseudoMaskOptions
from pipeline.segmenter import mmseg
from pipeline.segmenter.data import TrainingData, TrainingPair
from pipeline.stages import builder
from pipeline.stages.builder import Builder
from pipeline.stages.config import EXECUTORS, Config, all_settings, compose, read_config
from pipeline.stages.pipeline import Pipeline
from pipeline.tags.options import GroundTruthOptions, TagListOptions
from pipeline.tags.piaa import PiaaOptions
from pipeline.tags.piaa.bank import SurePatches
from tests.tiny_second import dino_file, sam_file

PLUGINS = ("colour_tagger", "colour_cams", "superpixels")
DATASETS = ("folder", "voc2012", "coco2014", "ade20k")

CHAIN = ("tags", "cams", "masks", "segmenter", "relabelled", "retrained")
LEAVES = {"predictions": "segmenter", "retagged": "segmenter", "repredicted": "retrained"}
"""Stages that no later one needs → the last one before them."""

ALL, CLIP, METHODS = (*CHAIN, *LEAVES), ("tags", "cams"), ("tags", "cams", "masks")
TRAINING, TESTING = ("segmenter", "retrained"), ("predictions", "repredicted")
SEEN = ("relabelled", "retagged")
BELONGS: dict[str, tuple[str, ...]] = {
    "dataset.classes": (*CLIP, *TRAINING, "retagged"),
    "dataset.tag_names": CLIP,  # the names for CAMs follow unless they are given
    "dataset.cam_names": ("cams",),
    "dataset.backgrounds": CLIP,
    "images.longest_side": ALL,
    "images.most_patches": CLIP,
    "runtime.precision": CLIP,
    "clip.model": CLIP,
    "clip.pretrained": CLIP,
    "compat.exif": ALL,
    "compat.position_fp16": CLIP,
    "compat.open_border": CLIP,
    "compat.cwr_stop": ("tags",),
    "compat.crf_bgr": ("masks",),
    "compat.crf_fp16": ("masks",),
    "compat.imagenet_norm": ("cams",),
    "compat.token_norm": ("cams",),
    "compat.head_sum": ("cams",),
    "compat.empty_class": ("tags",),
    "compat.piaa_batch": ("tags",),
    "compat.position_scale": ("masks",),
    "tags": ("tags",),
    "cams": ("cams",),
    "masks": ("masks",),
    "segmenter": TRAINING,
    "segmenter.checkpoint": TESTING,
    "segmenter.test": (*TESTING, *SEEN),
    "segmenter.test.crf": TESTING,
    "self_training": SEEN,
    "self_training.confidence": ("relabelled",),
    "seed": TRAINING,
}
"""A setting that changes a result, or the group of it → the stages that it belongs to."""

AFTER_PATCHES = "alpha z standardise bank_size rescoring_temperature patch_temperature"
AFTER_PATCHES += " local_factor global_factor global_share reidentify"
AFTER_PATCHES = {f"tags.{name}" for name in AFTER_PATCHES.split()}
AFTER_PATCHES |= {"compat.cwr_stop", "compat.empty_class", "compat.open_border"}
"""What tags=piaa reads after the stage that stores features of patches, and this stage does not."""

AFTER_VECTORS = "templates backgrounds affinity affinity_blocks box_threshold temperature correct"
AFTER_VECTORS += " bank.neighbours bank.share bank.own"
AFTER_VECTORS = {f"cams.{name}" for name in AFTER_VECTORS.split()}
"""What cams=corrclip reads after the stage that describes the regions of a bank."""

OF_OTHERS = {
    "compat.empty_class": ("tags=piaa",),
    "compat.piaa_batch": ("tags=piaa",),
    "compat.imagenet_norm": ("cams=excel",),
    "compat.token_norm": ("cams=excel",),
    "compat.head_sum": ("cams=excel",),
    "compat.position_scale": ("cams=sclip", "masks=dense"),
}
"""Quirks that TagCLIP, CLIP-ES and the CRF do not read → choices of what does."""

Setting = tuple[str, Rule, Any]
"""A key of the configuration, what it declares, and its type."""


@pytest.fixture(scope="module")
def tmp_path(tmp_path_factory):
    """A folder of the whole module, so that a configuration is composed once."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def keys(tmp_path, monkeypatch, tiny_checkpoint):
    """Returns the key and the own key of every stage of a configuration.

    The images are always the same; so are their masks, as if every change led to the same ones.
    """
    for name in ("image.png", "mask.png"):
        (tmp_path / name).write_bytes(name.encode())
    for name in ("one", "two"):
        shutil.copy(tiny_checkpoint, tmp_path / f"{name}.safetensors")
        (tmp_path / f"{name}.yaml").write_text("{cat: [a], person: [b], cup: [c]}")
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(dino_file(), tmp_path / f"{name}.pth")
    pairs = [TrainingPair("image", tmp_path / "image.png", tmp_path / "mask.png")]
    data = TrainingData(list, lambda: pairs)
    monkeypatch.setattr(builder, "masks_of_stage", lambda *_: data)
    # As on a machine that has a kernel.
    monkeypatch.setattr(frozen, "choose_attention", lambda *_: None)
    # Files stay as they are.
    monkeypatch.setattr(mmseg, "fingerprint_config", cache(mmseg.fingerprint_config))
    monkeypatch.setattr(origin, "fingerprint_file", cache(origin.fingerprint_file))
    samples = {split: [Sample("image", tmp_path / "image.png")] for split in ("all", "val")}

    def keys(config: Config) -> dict[str, tuple[str, str]]:
        check(config)
        vocabulary = build_vocabulary(config.dataset)
        beside = Dataset(vocabulary, {ROOT: samples["val"]}, ROOT)
        further = Splits({ROOT: beside})
        images = Images(Dataset(vocabulary, samples, "all"), config.dataset.limit, further)
        pipeline = Pipeline(Builder(config, vocabulary, images, ["all"], Store(tmp_path)))
        found = {}
        for stage in pipeline.builder.stages:
            if stage.round > 2 or stage.title:
                continue
            first, second = {
                "tags": ("tags", "retagged"),
                "masks": ("masks", "relabelled"),
                "segmenter": TRAINING,
                "predictions": TESTING,
            }.get(stage.name, (stage.name, ""))
            found[first if stage.round == 1 else second] = stage
        assert {*found} == {*ALL}
        learned = found["tags"].uses.get("learned")
        if learned and learned.source.name == "patches":
            found["patches"] = learned.source
        if learned := found["cams"].uses.get("learned"):
            found["region_vectors"] = learned.source
        return {n: (stage.key, getattr(stage, "own_key", "")) for n, stage in found.items()}

    return keys


def base(tmp_path, *choices: str) -> Config:
    """Returns a configuration of two rounds in which every setting has an effect."""
    chosen = dict(choice.split("=") for choice in choices)
    config = copy.deepcopy(_base(tmp_path, chosen.pop("dataset", "folder")))
    for group, name in chosen.items():  # to compose each takes long, see test_config.py
        kinds = EXECUTORS | {m.name: m.settings for m in methods() if m.group == group}
        setattr(config, group, kinds[name]())
        if name == "file":
            getattr(config, group).path = str(tmp_path / "one")
    if chosen.get("tags") == "piaa":
        config.tags.min_score = 0.0
    config.masks.crf = CrfOptions() if hasattr(config.masks, "crf") else None
    config.segmenter.test.crf = CrfOptions()
    config.dataset.cam_names = None
    for name in getattr(config.cams, "seconds", dict)():
        file = sam_file() if name == "sam" else tmp_path / "one.pth"
        setattr(config.cams, name, SecondSettings(None, str(file)))
    return config


@cache
def _base(tmp_path, dataset: str) -> Config:
    given = [f"dataset={dataset}", "tags=tagclip", "cams=clip_es", "clip=file", "rounds=2"]
    given += [f"clip.checkpoint={tmp_path / 'one.safetensors'}", f"output_dir={tmp_path / 'out'}"]
    given += [f"dataset.root={tmp_path}", "segmenter.test.scales=[1.0,0.5]"]
    given += ["dataset.classes=[cat,person,cup]", "segmenter=light"] if dataset == "folder" else []
    return read_config(compose(given))


def settings_of(settings: Any, prefix: str = "", outer: Rule | None = None) -> Iterator[Setting]:
    """Yields all settings, those within others too; what is outside a key is so as a whole."""
    types = typing.get_type_hints(type(settings))
    for declared in dataclasses.fields(settings):
        key, value = f"{prefix}.{declared.name}".lstrip("."), getattr(settings, declared.name)
        rule, kind = rule_of(declared), types[declared.name]
        if outer:
            rule = dataclasses.replace(rule, changes=outer.changes, why=outer.why)
        if not dataclasses.is_dataclass(value) or NoneType in typing.get_args(kind):
            yield key, rule, kind
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, key, rule if rule.why else None)


def another(key: str, value: Any, rule: Rule, kind: Any) -> Any:
    """Returns another valid value of a setting."""
    if rule.choices:
        other = next(c for c in rule.choices if c != value and [c] != value)
        return [other] if isinstance(value, list) else other
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        found = (type(value)(n) for n in (value + 1, value / 3 + 0.25, value - 1))
        return next(n for n in found if rule.allows(n) and n != value)
    if isinstance(value, list) and value and isinstance(value[-1], int | float):
        return [*value[:-1], another(key, value[-1], rule, kind)]
    if isinstance(value, list):
        return [*(value[:-1] if key == "dataset.classes" else value), "other"]
    if isinstance(value, dict):
        return {**value, "other": 1}
    if isinstance(value, str):
        return f"{value}x"
    if dataclasses.is_dataclass(value):
        return None
    types = {getattr(t, "__name__", str(t)) for t in typing.get_args(kind)}
    examples = {"int": 7, "float": 0.5, "str": "other", "list": ["other"], "dict": {"other": 1}}
    return next((v for k, v in examples.items() if any(t.startswith(k) for t in types)), "other")


def prepared(config: Config, key: str, tmp_path) -> tuple[Config, Any]:
    """Returns a configuration in which a setting has an effect, and another value, if not any."""
    config = copy.deepcopy(config)
    names = len(config.dataset.classes)
    if key.startswith("cams.bank."):
        config.cams.bank.split = None if key == "cams.bank.root" else "all"
    elif hasattr(config.cams, "bank"):
        config.cams.bank.split = "all"
    if key == "cams.bank.split":
        return config, "val"
    if key.startswith("cams.bank.second."):
        config.cams.bank.second = SecondSettings(None, str(tmp_path / "one.pth"))
    if key == "cams.bank.second.checkpoint":  # of the same content
        return config, str(tmp_path / "two.pth")
    if key == "cams.bank.second.model":
        return config, "dino_vits8"
    if key == "clip.checkpoint":  # of the same content
        return config, str(tmp_path / "two.safetensors")
    if key == "cams.sam.checkpoint":
        return config, str(sam_file())
    if key in ("cams.second.model", "cams.sam.model"):
        return config, {"cams.second.model": "dino_vits8"}.get(key, "sam_vit_b")
    if key == "cams.second.checkpoint":  # of the same content
        return config, str(tmp_path / "two.pth")
    if key == "cams.descriptors":  # of the same content
        config.cams.descriptors, config.cams.clusters = str(tmp_path / "one.yaml"), 1
        return config, str(tmp_path / "two.yaml")
    if key == "tags.min_score" and hasattr(config.tags, "bank_size"):  # PIAA takes no other one
        return config, 0.0
    if key == "tags.corrections":  # its lines are another matter, see test_corrections.py
        (tmp_path / "corrections.csv").write_text("id,classes\n")
        return config, str(tmp_path / "corrections.csv")
    is_truth = isinstance(config.masks, GroundTruthMaskOptions)
    refuses = {"masks.confidence": hasattr(config.masks, "path") or is_truth}
    if (refuses | {"masks.corrections": is_truth}).get(key):
        config.masks = PseudoMaskOptions()
    if key == "masks.corrections":  # of no image of the run, see test_corrected_masks.py
        (tmp_path / "corrected" / "val").mkdir(parents=True, exist_ok=True)
        return config, str(tmp_path / "corrected")
    if key == "tags.fit_split":
        return config, "val"
    if key == "tags.z":
        config.tags.standardise = ["image"]
        return config, None
    if key == "clip.model":
        return config, "ViT-B-32"
    if key == "clip.pretrained":
        config.clip.model = "ViT-B-32"
        return config, "openai"
    if key == "segmenter.backbone":
        return config, "resnet34"
    if key in ("segmenter.enlarge", "segmenter.most_patches"):  # of frozen networks alone
        config.segmenter.decoder = "tokens"
        config.segmenter.pretrained = "clip"
        return config, None
    if key == "segmenter.config":
        return config, "pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py"
    if key in ("dataset.tag_names", "dataset.cam_names", "dataset.parents"):
        return config, [f"a thing {k}" for k in range(names)]
    if key == "runtime.device":
        return config, "cpu"
    if key == "masks.values":
        return config, [3, 2, 1]
    if key == "masks.colours":
        (tmp_path / "colours.txt").write_text("1 2 3 cat\n")
        return config, str(tmp_path / "colours.txt")
    if key == "masks.join":
        return config, {"cat": "kitten"}
    if key == "tags.min_score" and config.tags.min_score is None:  # which stands for 0.5
        return config, 0.7
    if key == "masks.names":
        (tmp_path / "names.txt").write_text("animal\nperson, man\ncup\n")
        return config, str(tmp_path / "names.txt")
    if key == "masks.background":  # for names without one
        config.masks.names = "classes"
        return config, 0.5
    if key in ("masks.min_probability", "masks.min_area"):  # which require a background
        config.dataset.backgrounds = ["wall"]
    if key == "rounds":
        return config, 3
    if key == "dataset.name":
        return config, next(n for n in READERS if n != config.dataset.name)
    return config, None


def changed(config: Config, key: str, rule: Rule, kind: Any, value: Any) -> Config:
    """Returns a configuration with another value of one setting."""
    config = copy.deepcopy(config)
    *path, name = key.split(".")
    owner = config
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, another(key, getattr(owner, name), rule, kind) if value is None else value)
    return config


def owners(key: str) -> tuple[str, ...]:
    """Returns the stages that a setting belongs to, by the longest line for it."""
    parts = key.split(".")
    lines = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    found = [line for line in lines if line in BELONGS]
    assert found, f"{key} changes a result: say in BELONGS which stages it belongs to"
    return BELONGS[found[0]]


def with_later(stages: tuple[str, ...]) -> set[str]:
    """Returns stages and all that come after them."""
    first = min((CHAIN.index(stage) for stage in stages if stage in CHAIN), default=len(CHAIN))
    later = {*stages, *CHAIN[first:]}
    return later | {leaf for leaf, before in LEAVES.items() if before in CHAIN[first:]}


def choices() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Returns choices of methods, data sets and executors → the groups to walk through with them.

    The first has the other groups as well. A quirk is changed where a method reads it.
    """
    import_plugins([f"tests.plugins.{name}" for name in PLUGINS])
    every = tuple(declared.name for declared in dataclasses.fields(Config))
    found = {("dataset=folder",): every}
    found |= {(f"dataset={name}",): ("dataset",) for name in DATASETS[1:]}
    found |= {(f"executor={name}",): ("executor",) for name in ("processes", "dask")}
    for method in methods():
        if method.code.startswith(("pipeline.", "tests.plugins.")):
            chosen = (f"{method.group}={method.name}",)
            found[chosen + ("cams=sclip",) * (chosen == ("masks=dense",))] = (method.group,)
    # What it learns from has a stage of its own.
    found["tags=piaa",] += ("dataset", "images", "runtime", "clip", "compat")
    return found


@pytest.fixture
def walked(tmp_path) -> Iterator[tuple[Config, Setting]]:
    """Every setting of every group, with a configuration that has it."""

    def walk() -> Iterator[tuple[Config, Setting]]:
        for chosen, groups in choices().items():
            config = base(tmp_path, *chosen)
            for setting in settings_of(config):
                if setting[0].partition(".")[0] in groups:
                    used = config
                    if setting[0] in OF_OTHERS:
                        used = base(tmp_path, *OF_OTHERS[setting[0]])
                    yield used, setting

    return walk()


def computes_with(config: Config, key: str) -> bool:
    """Tells whether a setting takes part in a computation, and not only in what follows from it."""
    return key not in ("tags.min_score", "tags.z") and (
        key != "tags.alpha" or _runs_cwr(config.tags)
    )


def _runs_cwr(tags: Any) -> bool:
    return getattr(tags, "reidentify", False)


def test_every_setting_changes_what_it_declares(walked, keys, tmp_path):
    wrong, used, before = [], set(), ("", {})
    for config, (key, rule, kind) in walked:
        config, value = prepared(config, key, tmp_path)
        if before[0] != repr(config):
            before = repr(config), keys(config)
        after = keys(changed(config, key, rule, kind, value))
        in_keys, in_own_keys = set(), set()
        if rule.changes == "result":
            used |= {line for line in BELONGS if f"{key}.".startswith(f"{line}.")}
            in_keys = with_later(owners(key))
            in_own_keys = {*owners(key)} if computes_with(config, key) else set()
            if "patches" in after and "tags" in owners(key) and key not in AFTER_PATCHES:
                in_keys, in_own_keys = in_keys | {"patches"}, in_own_keys | {"patches"}
            if "region_vectors" in after and "cams" in owners(key) and key not in AFTER_VECTORS:
                in_keys, in_own_keys = (
                    in_keys | {"region_vectors"},
                    in_own_keys | {"region_vectors"},
                )
            if key == "cams.bank.regions":  # of CAMs, the whole bank is an input
                in_own_keys -= {"cams"}
        for part, expected in ((0, in_keys), (1, in_own_keys - {*TRAINING})):
            found = {
                name for name in after if after[name][part] != before[1].get(name, ("", ""))[part]
            }
            found -= {*TRAINING} if part else set()  # nothing reads the own key of a network
            if found != expected:
                what = ("key", "own_key")[part]
                wrong.append(f"{key}: the {what} of {sorted(found)}, not of {sorted(expected)}")
    assert not wrong, "\n".join(wrong)
    assert used == {*BELONGS}, "lines for settings that do not exist"


def test_no_key_depends_on_the_folder_in_which_a_command_is_typed(
    walked, keys, tmp_path, monkeypatch
):
    """Paths are absolute here; a word in place of one, such as ``slic``, is none."""
    configs = {repr(config): config for config, _ in walked}
    assert len(configs) > 20
    for config in configs.values():
        config, _ = prepared(copy.deepcopy(config), "cams", tmp_path)
        if hasattr(config.cams, "bank"):
            config.cams.bank.regions = SLIC
        found = []
        for name in ("one", "two"):
            monkeypatch.chdir(tmp_path / name)
            found.append(keys(config))
        assert found[0] == found[1]


@dataclasses.dataclass
class BlurredPiaa(PiaaOptions):
    blur: int = 0


def test_a_setting_that_piaa_may_gain_is_in_the_key_of_its_patches(monkeypatch):
    monkeypatch.setitem(registry._BY_SETTINGS, BlurredPiaa, PiaaOptions().method)
    built_from = {"resources": SimpleNamespace(vocabulary=None, seconds={}), "reader": None}

    def facts(**given: object) -> dict[str, Any]:
        return SurePatches(split="all", options=BlurredPiaa(**given), **built_from).option_facts()

    assert facts() == facts(alpha=0.7, bank_size=3) != facts(blur=1)


def test_help_names_the_first_stage_that_a_setting_changes():
    """What it says follows from declarations; what is true was seen in keys above."""
    words = {"segmenter": "train", "predictions": "predict"}
    first = {name: f"{words.get(name, name)} and later stages" for name in (*CHAIN, *LEAVES)}
    first |= dict.fromkeys(SEEN, "the rounds after the first")
    order, wrong = [*CHAIN[:4], "predictions", *CHAIN[4:], *LEAVES], []
    groups = {declared.name for declared in dataclasses.fields(Config) if declared.name != "seed"}
    for setting in all_settings():
        inside = setting.key in groups or setting.key.startswith("dataset.training")
        if setting.rule.changes == "result" and not inside:
            expected = first[min(owners(setting.key), key=order.index)]
            if (found := computed_anew(setting)) != expected:
                wrong.append(f"{setting.key}: {found}, not {expected}")
    assert not wrong, "\n".join(wrong)


def test_help_names_what_defaults_of_the_segmenter_change():
    """Settings of ``segmenter`` take those of ``dataset.training``, some by other names."""
    names = {"test_scales": "test.scales", "test_flip": "test.flip", "test_crf": "test.crf"}
    declared = {s.key: s for s in all_settings()}
    for key, setting in declared.items():
        name = key.removeprefix("dataset.training.").removeprefix("frozen_")
        name = re.sub(r"^test_\w+", lambda found: names[found[0]], name)
        if name != key and setting.rule.changes == "result":
            assert computed_anew(setting) == computed_anew(declared[f"segmenter.{name}"]), key


def test_every_quirk_is_in_the_keys_of_the_methods_that_read_it(keys, tmp_path):
    quirks = [each for each in dataclasses.fields(compat_settings()) if each.type is bool]
    seen = set()
    for chosen in choices():
        choice = chosen[0]
        group, _, name = choice.partition("=")
        method = next((m for m in methods() if (m.group, m.name) == (group, name)), None)
        if method is None:
            continue
        config = base(tmp_path, *chosen)
        before = keys(config)
        for declared in quirks:
            key = f"compat.{declared.name}"
            after = keys(changed(config, key, rule_of(declared), bool, None))
            read = {quirk.name for quirk in method.quirks}
            read |= {"position_fp16"} if method.uses_clip else set()
            are_given = method.settings in (GroundTruthOptions, TagListOptions)
            read |= set() if are_given else {"exif"}
            # The own key holds what this stage itself computes with.
            assert (after[group][1] != before[group][1]) == (declared.name in read), (choice, key)
            seen |= {declared.name} & read
    left = {declared.name for declared in quirks if rule_of(declared).changes == "result"} - seen
    assert not left, "quirks that no method reads"


def test_equal_numbers_are_one_key(keys, tmp_path):
    def with_beta(*given: str) -> dict[str, tuple[str, str]]:
        config = base(tmp_path)
        config.masks.beta = read_config(compose(["dataset=demo", *given])).masks.beta
        return keys(config)

    assert with_beta("masks.beta=1") == with_beta("masks.beta=1.0") != with_beta("masks.beta=2")
