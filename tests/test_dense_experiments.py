"""The presets of dense methods as published: their constants, and what they need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.configuration.registry import method_of
from pipeline.masks.name_lists import names_in
from pipeline.report.tables.published import load_published
from pipeline.stages.config import compose, read_config
from tests import REPOSITORY
from tests.small_runs import folder_options
from tests.tiers import large_except

DATASETS = {
    "voc21": "voc2012",
    "voc20": "voc20",
    "coco_object": "coco_object",
    "ade20k": "ade20k",
    "coco_stuff": "cocostuff",
    "context60": "context60",
    "context59": "context59",
    "cityscapes": "cityscapes",
}
"""What presets end on → data set."""

PRETRAINED = dict.fromkeys(("corrclip", "corrclipv2"), "metaclip_fullcc")
PRETRAINED |= {"lposs": "laion2b_s34b_b88k"}
MODELS = {"tipsv2": "tipsv2_b14", "talk2dino": "talk2dino_b14", "radseg": "c_radio_v3_b16"}
MODELS |= {"tipsv2_l14": "tipsv2_l14", "dinotxt3": "dinotxt3_l16"}
ENLARGED = "tipsv2", "tipsv2_l14", "dinotxt3"  # windows and pictures as in notebooks
"""Method → the weights of its CLIP if not OpenAI's, and the model if not a CLIP."""

# ResCLIP: threshold of the first pass, τ_r, λ_r, τ_s, λ_s.
RESCLIP = {
    "voc21": (0.5, 2, 0.3, 2.2, 0.7),
    "voc20": (0.1, 2, 0.6, 2.1, 0.6),
    "coco_object": (0.11, 2, 0.4, 1.8, 0.7),
    "ade20k": (0.25, 2, 0.3, 2.1, 0.7),
    "coco_stuff": (0.11, 2, 0.4, 1.8, 0.7),
    "context60": (0.3, 2, 0.3, 1.8, 0.7),
    "context59": (0.25, 2, 0.4, 1.8, 0.7),
    "cityscapes": (0.1, 2, 0.2, 2.1, 0.6),
}


def parts_of(preset: str) -> tuple[str, str]:
    """Returns the method of a preset, and what it ends on."""
    last = next(each for each in DATASETS if preset.endswith(each))
    return preset.removesuffix(f"_{last}"), last


def cams_of(method: str) -> str:
    """Returns the ``cams=`` of a method's presets."""
    others = {"tipsv2": "value_path", "tipsv2_l14": "value_path", "dinotxt3": "as_trained"}
    return (others | {"corrclipv2": "corrclip"}).get(method, method)


def read_presets() -> dict[str, dict[str, str]]:
    """Returns preset → column → cell of the table of published constants."""
    table = Path(__file__).with_name("dense_presets.md").read_text(encoding="utf-8")
    table = table[table.index("| `experiment=`") :]
    header, _, *rows = (row.strip("| ").split(" | ") for row in table.strip().splitlines())
    return {p: dict(zip(header, row)) for row in rows for p in re.findall(r"\w+", row[0])}


PRESETS = read_presets()


def number(cell: str) -> float:
    return float((re.findall(r"\d+(?:\.\d+)?", cell) or ["0"])[0])


def test_every_preset_is_listed():
    files = (REPOSITORY / "configs" / "experiment").glob("*.yaml")
    texts = {path.stem: path.read_text(encoding="utf-8") for path in files}

    def chooses_dense(name: str) -> bool:
        bases = re.findall(r"^  - (\w+[a-z0-9])$", texts[name], re.MULTILINE)
        return "override /masks: dense" in texts[name] or any(map(chooses_dense, bases))

    dense = {name for name in texts if not name.startswith("_") and chooses_dense(name)}
    assert dense == PRESETS.keys() | {"leaderboard_clip"}


def test_names_of_tipsv2_are_those_of_sclip_in_words():
    ours, theirs = (names_in(f"{who}_ade20k") for who in ("tips", "sclip"))
    assert [[n.replace(" ", "") for n in names] for names in ours] == [
        [n.replace(" ", "") for n in names] for names in theirs
    ]
    assert sum(a != b for a, b in zip(ours, theirs)) == 15


OF_MODELS = [preset for preset in PRESETS if preset.startswith(tuple(MODELS))]


SMALL = [preset for preset in PRESETS if preset.endswith("voc21") or preset in OF_MODELS]


@pytest.mark.parametrize("preset", large_except(SMALL, PRESETS))
def test_a_preset_holds_the_authors_constants(preset):
    method, last = parts_of(preset)
    config = read_config(compose([f"experiment={preset}", "dataset.root=unused"]))
    assert (config.dataset.name, config.dataset.split) == (DATASETS[last], "val")
    assert config.dataset.ignore_background == (last in ("voc20", "context59"))
    assert config.experiment_name == preset
    assert list(config.stage) == ["masks", "evaluate", "report"]
    assert method_of(config.cams).name == cams_of(method)
    assert method_of(config.masks).name == "dense"
    assert config.clip.model.startswith(MODELS.get(method, "ViT-B-16"))
    if method not in MODELS:
        assert config.clip.pretrained == PRETRAINED.get(method, "openai")
        assert config.compat.name == "released" and config.compat.position_scale
    of, cells = config.masks, PRESETS[preset]
    authors = cells["names"].removesuffix("'s").lower()
    assert of.names == ("classes" if authors == "the classes" else f"{authors}_{last}")
    templates = {"tipsv2": "tips", "tipsv2_l14": "tips", "talk2dino": "talk2dino"}
    assert of.templates == templates.get(method, "imagenet")
    side, *fit = cells["short side"].split(", ")
    assert of.short_side == int(side) and of.resize == ("pillow" if fit else "opencv")
    assert of.long_side == (16_384 if method in ENLARGED else 2048)
    sizes, *ways = cells["window / stride"].split(", ")
    window = 224 if of.window is None else of.window
    wanted = [int(size) for size in re.findall(r"\d+", sizes)] or [0]  # the whole image
    assert [window, of.stride or window // 2][: len(wanted)] == wanted
    remainder = "enlarge" if method in ENLARGED else "pad" if "padded" in ways else "stretch"
    found = of.remainder, of.window_softmax, of.align_corners
    assert found == (remainder, "softmax in each" in ways, "aligned corners" in ways)
    assert getattr(config.cams, "cleaning", False) == ("cleaning" in ways)
    assert (of.temperature or 0) == number(cells["factor"])
    threshold = (of.background or 0) if "background" in cells["min. p"] else of.min_probability
    assert threshold == number(cells["min. p"]) and of.min_area == number(cells["min. area"])
    assert of.pamr_iterations == number(cells["PAMR"]) and list(of.pamr_dilations) == [8, 16]
    if method == "corrclipv2":
        of, bank = config.cams, config.cams.bank
        assert (of.second.model, of.whole_picture, of.merge) == ("c_radio_v3_l16", True, 0)
        assert (of.sharpness, of.spatial, of.semantic, of.correct) == (4, 1, 0.5, True)
        assert (bank.second.model, bank.neighbours, bank.share) == ("dino_vitb8", 20, 0.5)
        assert (bank.short_side, bank.window, bank.stride, bank.own) == (448, 336, 112, True)
        pixels = 2048 * 1024 if last == "cityscapes" else 640 * 640
        assert config.images.most_patches * 16**2 >= pixels, "the whole picture is not shrunk"
    if method == "resclip":
        of = config.cams
        first, second = (of.cross_scale, of.cross_share), (of.feedback_scale, of.feedback_share)
        assert (of.confidence, *first, *second) == RESCLIP[last]


def test_published_figures_are_of_presets_on_whole_splits():
    [table] = [each for each in load_published() if each.name == "dense_as_published"]
    assert table.metric == "miou_union"
    assert {name for row in table.rows for name in row.experiments.values()} == PRESETS.keys()
    found = {figure.experiment for figure in table.figures} - {""}
    methods = "sclip", "naclip", "sc_clip", "resclip", "proxyclip", "corrclip", "lposs"
    printed = {n for n in PRESETS if n.startswith((*methods, "dinotxt3"))}
    printed |= {"tipsv2_ade20k", "tipsv2_l14_ade20k"}
    assert found == printed
    for figure in table.figures:
        if figure.experiment:
            split = figure.column.split
            assert split.dataset == DATASETS[parts_of(figure.experiment)[1]]
            assert split.split == "val" and split.images in (
                [500],
                [1449],
                [2000],
                [5000],
                [5104, 5105],
            )


@pytest.mark.large
def test_all_spares_what_nobody_needs(run_stage, tiny_checkpoint, photographs, tmp_path):
    given = "cams=sclip", "masks=dense", f"output_dir={tmp_path / 'out'}", "dry_run=true"
    arguments = folder_options(photographs, tiny_checkpoint, *given)

    def planned(*more: str) -> list[str]:
        finished = run_stage(*arguments, *more)
        assert finished.code == 0, finished.errors
        rows = (line.split("│") for line in finished.output.splitlines() if line.startswith("│"))
        return list(dict.fromkeys(cells[1].strip() for cells in rows))

    rest = ["masks", "segmenter", "predictions", "evaluate", "report"]
    assert planned() == rest
    assert planned("stage=[all,tags]") == ["tags", *rest]
    assert planned("rounds=2")[:2] == ["tags", "masks"]
    assert planned("rounds=2", "self_training.keep_tags=false")[0] == "masks"
    assert planned("masks=crf")[:3] == ["tags", "cams", "masks"]


def test_another_method_of_cams_is_refused(run_stage, arguments):
    finished = run_stage(*arguments, "masks=dense", "stage=masks")
    assert finished.code == 2 and "cams=clip_es is not one: give one of cams=" in finished.errors
    finished = run_stage(*arguments, "cams=sclip", "masks=dense", "stage=evaluate")
    assert finished.code == 2 and "'stage=[masks,evaluate]'" in finished.errors


def test_thresholds_require_a_background(run_stage, arguments):
    with_names = ["cams=sclip", "masks=dense", "dataset.backgrounds=[]", "stage=masks"]
    finished = run_stage(*arguments, *with_names, "masks.min_area=0.1")
    assert finished.code == 2 and "masks.min_area makes pixels background" in finished.errors
