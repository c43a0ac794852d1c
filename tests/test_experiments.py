"""Every published experiment has its authors' constants; tests/presets.py runs them."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

from pipeline.cams.pass_method import competitors_of
from pipeline.clip.dimensions import block_window
from pipeline.configuration.registry import methods
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.report.tables.configurations import flatten
from pipeline.stages.config import compose, read_config
from tests import REPOSITORY

CONFIGS = REPOSITORY / "configs"
QUIRKS = ("exif", "position_fp16", "open_border", "cwr_stop", "crf_bgr", "crf_fp16")
OF_EXCEL = ("imagenet_norm", "token_norm", "head_sum")
RELEASED = {
    "clip.model": "ViT-B-16-quickgelu",
    "clip.pretrained": "openai",
    "clip.checkpoint": None,
    "compat.name": "released",
    **{f"compat.{quirk}": True for quirk in QUIRKS},
    "images.longest_side": None,
    "runtime.precision": "fp32",
    "tags.min_score": 0,
    "dataset.limit": None,
}
TAGCLIP = {"tags.templates": "tagclip", "tags.reidentify": True}
TAGCLIP |= {"tags.votes": 4, "tags.variants": ["coarse", "dmar", "cwr"]}
CRF = {
    "cams.templates": "clip_es",
    "masks.crf": {
        "iterations": 10,
        "gaussian_sxy": 1,
        "gaussian_compat": 3,
        "bilateral_sxy": 67,
        "bilateral_srgb": 3,
        "bilateral_compat": 4,
        "min_probability": 0,
    },
}
WHOLE = [["tags", "cams", "masks", "evaluate", "report"]]

# Data set, split, α, blocks of DMAR, blocks of Ā, φ, number
# of backgrounds for q, β of the CAMs, β of the masks, confidence.
SEGMENTATION = {
    "cls_seg_voc2012": ("voc2012", "val", 0.5, (9, 11), (5, 11), 0.4, 25, [1], 1, 0),
    "cls_seg_coco2017": ("coco2017", "val", 0.5, (9, 11), (5, 12), 0.7, 23, [1], 1, 0),
    "cls_seg_cocostuff": ("cocostuff", "val", 0.1, (1, 11), (5, 12), 0.7, 1, [None], None, 0),
    "clip_es_voc2012": ("voc2012", "train", None, None, (5, 12), 0.4, 25, [1, 2], 1, 0.95),
    "clip_es_coco2014": ("coco2014", "train", None, None, (5, 12), 0.7, 23, [1, 2], 1, 0.95),
}
CLASSIFICATION = {
    "tagclip_voc2007": ("voc2007", "test", 0.5, (9, 11)),
    "tagclip_coco2014": ("coco2014", "val", 0.5, (9, 11)),
}
PUBLISHED = {**SEGMENTATION, **CLASSIFICATION}
# Of no published figure: data set, split, tags, K and φ (docs/other-methods.md, "ExCEL").
EXCEL = {
    "excel_voc2012": ("voc2012", "train", "ground_truth", 112, 0.79),
    "excel_voc2012_tagclip": ("voc2012", "val", "tagclip", 112, 0.79),
    "excel_coco2014": ("coco2014", "train", "ground_truth", 224, 0.88),
}
STUDIES = ("precision", "quirks", "input_size", "alpha", "scene_names", "classes_in_classes")
STUDIES += ("dmar_blocks", "dmar_votes", "dmar_windows", "alpha_piaa", "z")


def composed(*overrides: str) -> DictConfig:
    return compose(overrides)


def method(config: DictConfig, group: str) -> str:
    """Returns the name of the method that a group chooses, by the type of its settings."""
    kind = OmegaConf.get_type(config[group])
    return next(m.name for m in methods() if m.settings is kind)


def assert_holds(config: DictConfig, expected: dict) -> None:
    for key, value in expected.items():
        found = OmegaConf.select(config, key, throw_on_missing=True)
        found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        assert found == value, key


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_experiment_holds_the_published_values(name):
    config = composed(f"experiment={name}")
    dataset, split, alpha, dmar, *maps = PUBLISHED[name]
    assert_holds(config, RELEASED)
    assert_holds(config, {"experiment_name": name, "dataset.name": dataset, "dataset.split": split})
    assert_holds(config, {"dataset.image_list": None, "dataset.labels": None})
    if alpha is None:
        assert method(config, "tags") == "ground_truth"
    else:
        assert method(config, "tags") == "tagclip"
        assert_holds(config, {**TAGCLIP, "tags.alpha": alpha})
        blocks = block_window("tags.attention_blocks", list(config.tags.attention_blocks), 12)
        assert (blocks[0], blocks[-1]) == dmar
    if not maps:
        assert list(config.stage) == ["tags", "evaluate", "report"]
        return
    affinity, threshold, competitors, map_betas, beta, confidence = maps
    assert [list(config.stage)] == WHOLE
    assert_holds(config, CRF)
    assert_holds(config, {"cams.box_threshold": threshold, "cams.background_betas": map_betas})
    assert_holds(config, {"masks.beta": beta, "masks.confidence": confidence})
    blocks = block_window("cams.affinity_blocks", list(config.cams.affinity_blocks), 12)
    assert (blocks[0], blocks[-1]) == affinity
    options = read_config(compose([f"experiment={name}", "dataset.root=unused"]))
    backgrounds = competitors_of(options.cams, build_vocabulary(options.dataset))
    assert len(backgrounds) == competitors
    assert name != "cls_seg_cocostuff" or backgrounds == ("background",)


def test_labels_of_voc_are_those_of_the_published_figures():
    # 7,632 positives on test count difficult objects; CLIP-ES takes every object too.
    for name in ("tagclip_voc2007", "clip_es_voc2012"):
        assert_holds(
            composed(f"experiment={name}"),
            {"dataset.label_source": "xml", "dataset.difficult": True},
        )
    assert_holds(composed("experiment=cls_seg_voc2012"), {"dataset.label_source": "masks"})
    for name in ("tagclip_coco2014", "cls_seg_coco2017", "clip_es_coco2014"):
        assert_holds(composed(f"experiment={name}"), {"dataset.only_annotated": True})


@pytest.mark.parametrize(
    ("dataset", "split", "fit_split", "constants"),
    [
        ("voc2007", "test", "trainval", (100, 200, 80)),
        ("coco2014", "val", "train", (0.01, 400, 80)),
    ],
)
@pytest.mark.parametrize("encoder", ["sclip", "sc_clip"])
def test_piaa_has_its_authors_constants_and_names(dataset, split, fit_split, constants, encoder):
    name = f"piaa_{dataset}" + "_sc_clip" * (encoder == "sc_clip")
    config = composed(f"experiment={name}")
    assert_holds(config, RELEASED)
    assert method(config, "tags") == "piaa" and list(config.stage) == ["tags", "evaluate", "report"]
    of = ("rescoring_temperature", "local_factor", "global_factor")
    expected = {f"tags.{key}": value for key, value in zip(of, constants)}
    expected |= {"tags.bank_size": 512, "tags.fit_split": fit_split, "tags.templates": "piaa"}
    expected |= {"tags.encoder": encoder, "tags.crop": True, "compat.piaa_batch": True}
    assert_holds(config, {**expected, "experiment_name": name, "dataset.split": split})
    assert config.dataset.get("difficult") in (False, None), "7,013 positives on VOC 2007 test"
    options = read_config(compose([f"experiment={name}", "dataset.root=x"]))
    names = build_vocabulary(options.dataset)
    renamed = [pair for pair in zip(names.classes, names.tag_names) if (pair[0],) != pair[1]]
    assert len(renamed) == {"voc2007": 3, "coco2014": 6}[dataset]


def test_the_command_line_wins_over_an_experiment():
    given = ["experiment=cls_seg_voc2012", "clip=file", "clip.checkpoint=/weights.pt"]
    given += ["compat=clean", "dataset.split=mine", "experiment_name=mine", "stage=tags"]
    config = composed(*given, "masks=argmax", "cams.box_threshold=0.1", "masks.beta=3")
    expected = {"clip.name": "file", "clip.model": None, "clip.checkpoint": "/weights.pt"}
    expected |= {"compat.exif": False, "dataset.split": "mine", "experiment_name": "mine"}
    expected |= {"stage": "tags", "masks.crf": None, "masks.beta": 3, "cams.box_threshold": 0.1}
    assert_holds(config, expected)


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONFIGS / "dataset").glob("*.yaml")))
def test_every_data_set_composes(name):
    config = composed(f"dataset={name}", "dataset.root=/here")
    if name == "folder":
        config = composed(f"dataset={name}", "dataset.root=/here", "dataset.classes=[cat,dog]")
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert plain["dataset"]["name"] == name
    assert plain["output_dir"] == f"outputs/{name}"
    vocabulary = build_vocabulary(read_config(config).dataset)
    count = {"demo": 10, "demo_crowded": 10, "folder": 2, "voc2007": 20, "voc2012": 20}
    count |= {"coco2014": 80, "coco2017": 80, "cocostuff": 171, "ade20k": 150}
    count |= {"voc20": 20, "coco_object": 80, "context59": 59, "context60": 59, "cityscapes": 19}
    assert len(vocabulary.classes) == count[name]
    assert plain["compat"]["name"] == ("clean" if name == "folder" else "released")
    seen = (*plain["images"].values(), plain["runtime"]["precision"])
    assert seen == ((1024, 1200, "auto") if name == "folder" else (None, 4096, "fp32"))
    reported = {"demo_crowded": "report", "voc2007": "test", "folder": None}.get(name, "val")
    assert plain["dataset"]["report_split"] == reported


def test_studies_choose_settings_on_scenes_that_no_figure_is_reported_on():
    for name in STUDIES:
        config = composed(f"experiment={name}")
        expected = {"dataset.name": "demo_crowded", "dataset.split": "choose"}
        assert_holds(config, {**expected, "experiment_name": name})


def test_thresholds_without_a_published_value_are_those_of_the_studies():
    tags = composed("dataset=voc2012", "dataset.root=/here", "tags=piaa").tags
    assert (tags.alpha, tags.z) == (0.2, 0)


def test_the_recipe_differs_from_the_defaults_in_what_its_page_tells():
    recipe, usual = (composed(given) for given in ("experiment=recipe", "dataset=demo_crowded"))
    changes = {"tags.attention_blocks": [1, -1], "tags.reidentify": False, "tags.alpha": 0.3}
    changes |= {"cams.affinity": False}
    assert_holds(recipe, changes)
    assert method(recipe, "masks") == "par"
    before, after = (flatten(OmegaConf.to_container(each)) for each in (usual, recipe))
    found = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    found = {key for key in found if not key.startswith("masks.")}
    assert found == {*changes, "experiment_name", "stage"}


@pytest.mark.parametrize("name", EXCEL)
def test_excel_has_its_authors_constants(name):
    config = composed(f"experiment={name}")
    dataset, split, tags, clusters, threshold = EXCEL[name]
    assert_holds(config, RELEASED)
    assert_holds(config, {"experiment_name": name, "dataset.name": dataset, "dataset.split": split})
    assert [method(config, group) for group in ("tags", "cams", "masks")] == [tags, "excel", "par"]
    expected = {"clusters": clusters, "kept": 0.9, "blocks": 5, "size": 320, "descriptors": None}
    expected |= {"affinity_blocks": [-5, 0], "box_threshold": threshold, "templates": "clip_es"}
    assert_holds(config, {f"cams.{key}": value for key, value in expected.items()})
    assert_holds(config, {f"compat.{quirk}": True for quirk in OF_EXCEL})
