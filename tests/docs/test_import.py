"""The scripts of docs/import.md run, and each source's file goes in to the pixel."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.datasets.annotations import Reading, open_annotations
from pipeline.masks.settings import MaskFileOptions
from tests import REPOSITORY
from tests.datasets.miniature_coco import packed
from tests.extras import library
from tests.small_runs import draw_photograph

SCRIPTS = REPOSITORY / "examples" / "masks"
CLASSES = ["cat", "person", "cup"]
Script = Callable[..., Mapping[str, object]]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Runs a script of the examples in the folder of the test, with arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(name: str, *arguments: str) -> Mapping[str, object]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        return runpy.run_path(str(SCRIPTS / name))

    return run


def labels_of(path: Path, image_id: str, size: tuple[int, int], **settings: object) -> np.ndarray:
    """Returns the labels, H×W uint8, that ``masks=file`` reads of an image."""
    options = MaskFileOptions(path=str(path), **settings)
    reading = Reading.of(options, "masks", CLASSES)
    opened = open_annotations(str(path), "masks.path", reading, None, known=[image_id])
    return opened.find(image_id).labels(size)


def two_parts() -> np.ndarray:
    """Returns a mask of two parts, one with a hole, 20×30 bool."""
    inside = np.zeros((20, 30), bool)
    inside[2:12, 3:15] = inside[14:18, 20:28] = True
    inside[5:8, 6:9] = False
    return inside


def save_photographs(folder: Path) -> dict[str, tuple[int, int]]:
    """Saves three photographs, one to be turned, and returns their heights and widths by id."""
    (folder / "holiday").mkdir(parents=True)
    for number, name in enumerate(("a.png", "holiday/b c.png")):
        Image.fromarray(draw_photograph(number, 40, 60)).save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90°
    Image.fromarray(draw_photograph(2, 40, 60)).save(folder / "turned.jpg", exif=exif)
    return {"a": (40, 60), "holiday/b c": (40, 60), "turned": (60, 40)}


@pytest.fixture
def sam3(tmp_path: Path) -> Path:
    """A small random SAM 3, saved with a tokenizer that spells names."""
    transformers, torch = library("transformers"), pytest.importorskip("torch")
    letters = sorted(set("".join(CLASSES)))
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: k for k, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    end = len(vocabulary) - 1
    width = {"hidden_size": 32, "num_attention_heads": 2}
    layers = {**width, "num_layers": 1, "intermediate_size": 32}
    vision = {**width, "num_hidden_layers": 1, "intermediate_size": 32, "image_size": 112}
    vision |= {"window_size": 4, "global_attn_indexes": [0], "pretrain_image_size": 56}
    text = {**width, "num_hidden_layers": 1, "intermediate_size": 32, "projection_dim": 16}
    text |= {"max_position_embeddings": 32, "vocab_size": len(vocabulary)}
    text |= {"eos_token_id": end, "bos_token_id": end - 1}
    config = transformers.Sam3Config(
        vision_config={
            "backbone_config": {"model_type": "sam3_vit_model", **vision},
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={"model_type": "clip_text_model", **text},
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config={**layers, "num_queries": 6},
        mask_decoder_config=width,
    )
    torch.manual_seed(0)
    model = transformers.Sam3Model(config)
    for weights in model.parameters():  # so that scores and masks differ
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.1)
    torch.nn.init.constant_(model.detr_decoder.presence_head.layer3.bias, 0.6)
    processor = transformers.Sam3Processor(
        transformers.Sam3ImageProcessor(size={"height": 112, "width": 112}),
        transformers.CLIPTokenizer(vocab=vocabulary, merges=[]),
    )
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.extras
def test_sam_3_segments_a_folder_as_transformers_own_function_does(sam3, script, tmp_path):
    size = save_photographs(tmp_path / "PHOTOS")["turned"]
    (tmp_path / "PHOTOS" / "damaged.jpg").write_bytes(b"no image")
    about = script("sam3.py", "PHOTOS", "--model", str(sam3), *CLASSES)
    image = ImageOps.exif_transpose(Image.open(tmp_path / "PHOTOS" / "turned.jpg")).convert("RGB")
    model, processor = about["model"].requires_grad_(False), about["processor"]
    expected, best = np.zeros(size, np.uint8), np.zeros(size)
    for label, name in enumerate(CLASSES, 1):
        inputs = processor(images=image, text=name, return_tensors="pt").to(about["DEVICE"])
        settings = {"threshold": 0.3, "mask_threshold": 0.5, "target_sizes": [size]}
        [found] = processor.post_process_instance_segmentation(model(**inputs), **settings)
        for score, inside in zip(found["scores"].tolist(), found["masks"].cpu().numpy()):
            won = (inside > 0) & (best < score)
            expected[won], best[won] = label, score
    assert len(np.unique(expected)) > 1
    assert np.array_equal(labels_of(tmp_path / "sam3.json", "turned", size), expected)
    images = json.loads((tmp_path / "sam3.json").read_text())["images"]
    assert [each["file_name"] for each in images] == ["a.png", "holiday/b c.png", "turned.jpg"]


@pytest.mark.extras
@pytest.mark.parametrize("scored", [True, False])
def test_supervisions_detections_go_in(scored, script, tmp_path):
    supervision = library("supervision")
    save_photographs(tmp_path / "PHOTOS")
    inside = np.zeros((2, 40, 60), bool)
    inside[0, :20, :30] = two_parts()
    inside[1, 5:30, 5:20] = True
    path = str(tmp_path / "PHOTOS" / "a.png")
    detections = supervision.Detections(
        xyxy=supervision.mask_to_xyxy(inside),
        mask=inside,
        class_id=np.array([2, 0]),
        confidence=np.array([0.9, 0.8]) if scored else None,
    )
    dataset = supervision.DetectionDataset(CLASSES, [path], {path: detections})
    write = script("detections.py")["write_detections"]
    write(str(tmp_path / "all.json"), dataset, tmp_path / "PHOTOS")
    expected = np.where(inside[0], 3, inside[1])
    assert np.array_equal(labels_of(tmp_path / "all.json", "a", (40, 60)), expected)
    scores = {
        each["score"] for each in json.loads((tmp_path / "all.json").read_text())["annotations"]
    }
    assert scores == ({0.9, 0.8} if scored else {1.0})

    # As the page says, its own file would have ignored the mask of two parts.
    dataset.as_coco(annotations_path=str(tmp_path / "theirs.json"))
    assert (labels_of(tmp_path / "theirs.json", "a", (40, 60))[15, 25], 255) == (255, 255)
    assert labels_of(tmp_path / "theirs.json", "a", (40, 60))[28, 18] == 1


@pytest.mark.extras
def test_yolos_polygons_go_in_through_supervision(script, tmp_path):
    supervision = library("supervision")
    save_photographs(tmp_path / "PHOTOS")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("2 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")
    (tmp_path / "data.yaml").write_text(json.dumps({"names": CLASSES}))
    folders = [str(tmp_path / name) for name in ("PHOTOS", "labels", "data.yaml")]
    dataset = supervision.DetectionDataset.from_yolo(*folders, force_masks=True)
    write = script("detections.py")["write_detections"]
    write(str(tmp_path / "all.json"), dataset, tmp_path / "PHOTOS")
    labels = labels_of(tmp_path / "all.json", "a", (40, 60))
    assert (labels[5:20, 7:30] == 3).all() and not labels[22:].any() and not labels[:, 32:].any()
    assert not labels_of(tmp_path / "all.json", "turned", (60, 40)).any()


def test_grounded_sams_files_go_in(script, tmp_path):
    (tmp_path / "RESULTS").mkdir()
    inside = two_parts()
    found = {"class_name": "cup", "bbox": [3, 2, 28, 18], "segmentation": packed(inside)}
    about = {"box_format": "xyxy", "img_width": 30, "img_height": 20}
    for name, instances in (("a", [{**found, "score": [0.9]}]), ("b", [])):
        content = {"image_path": f"PHOTOS/x/{name}.jpg", "annotations": instances, **about}
        (tmp_path / "RESULTS" / f"{name}_results.json").write_text(json.dumps(content))
    script("grounded.py", "RESULTS", "PHOTOS", "grounded.json")
    assert np.array_equal(labels_of(tmp_path / "grounded.json", "x/a", (20, 30)), 3 * inside)
    assert not labels_of(tmp_path / "grounded.json", "x/b", (20, 30)).any()


def test_a_list_of_results_goes_in(tmp_path):
    # Ultralytics' image_id is the stem of the file, a number if it is one.
    result = {"category_id": 2, "bbox": [3, 2, 25, 16], "score": 0.9}
    results = [{**result, "image_id": 7, "segmentation": packed(two_parts())}]
    results += [{**result, "image_id": "b c", "file_name": "b c.jpg", "score": 0.2}]
    results[1]["segmentation"] = packed(two_parts())
    (tmp_path / "predictions.json").write_text(json.dumps(results))
    images = [{"id": 7, "file_name": "x/7.jpg"}, {"id": "b c", "file_name": "b c.jpg"}]
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    content = json.dumps({"images": images, "categories": categories})
    (tmp_path / "images.json").write_text(content)
    path = tmp_path / "predictions.json"
    assert np.array_equal(labels_of(path, "x/7", (20, 30), min_score=0.5), 2 * two_parts())
    unsure = labels_of(path, "b c", (20, 30), min_score=0.5)
    assert np.array_equal(unsure, np.where(two_parts(), 255, 0))


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_masks_of_cvat_go_in(mode, tmp_path):
    (tmp_path / "SegmentationClass").mkdir()
    table = (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncup:250,50,83::\ncat:51,221,255::\n"
    )
    (tmp_path / "labelmap.txt").write_text(table)
    numbers = np.where(two_parts(), 1, 0).astype(np.uint8)  # of the lines, not of our classes
    numbers[19] = 2
    picture = Image.fromarray(numbers).convert("P")
    picture.putpalette([0, 0, 0, 250, 50, 83, 51, 221, 255])
    picture.convert(mode).save(tmp_path / "SegmentationClass" / "a.png")
    colours = {"colours": str(tmp_path / "labelmap.txt"), "palette": "colour"}
    found = labels_of(tmp_path / "SegmentationClass", "a", (20, 30), **colours)
    assert np.array_equal(found, np.array([0, 3, 1])[numbers])


@pytest.mark.extras
def test_datumaros_data_sets_go_in(tmp_path):
    """CVAT exports through datumaro."""
    components, media = (
        library("datumaro.components.annotation"),
        library("datumaro.components.media"),
    )
    Dataset = library("datumaro.components.dataset").Dataset
    DatasetItem = library("datumaro.components.dataset_base").DatasetItem
    image = media.Image.from_numpy(np.zeros((20, 30, 3), np.uint8))
    labels = ["background", *CLASSES]
    brush = components.Mask(two_parts(), label=3, id=1, group=1)
    item = DatasetItem("a", subset="default", media=image, annotations=[brush])
    Dataset.from_iterable([item], categories=labels).export(
        str(tmp_path / "voc"), "voc_segmentation"
    )
    Dataset.from_iterable([item], categories=labels).export(
        str(tmp_path / "coco"), "coco_instances"
    )
    colours = {"colours": str(tmp_path / "voc" / "labelmap.txt"), "palette": "colour"}
    found = labels_of(tmp_path / "voc" / "SegmentationClass", "a", (20, 30), **colours)
    assert np.array_equal(found, 3 * two_parts())
    [path] = (tmp_path / "coco").rglob("*.json")
    crowd = labels_of(path, "a", (20, 30))
    assert np.array_equal(crowd, np.where(two_parts(), 255, 0)), "as the page says"


@pytest.mark.extras
def test_label_studios_export_goes_in(tmp_path):
    brush = library("label_studio_sdk.converter.brush")
    about = {"original_width": 30, "original_height": 20, "image_rotation": 0, "id": "r"}
    about |= {"from_name": "label", "to_name": "image"}
    inside = np.zeros((20, 30), np.uint8)
    inside[two_parts()] = 255
    drawn = {"format": "rle", "rle": brush.mask2rle(inside), "brushlabels": ["cup"]}
    corners = [[0, 90], [100, 90], [100, 100], [0, 100]]  # in percent
    results = [
        {**about, "type": "brushlabels", "value": drawn},
        {**about, "type": "polygonlabels", "value": {"points": corners, "polygonlabels": ["cat"]}},
    ]
    task = {"id": 1, "data": {"image": "/data/local-files/?d=photos/x/a.jpg"}}
    task["annotations"] = [{"id": 1, "was_cancelled": False, "result": results}]
    (tmp_path / "export.json").write_text(json.dumps([task]))
    labels = labels_of(tmp_path / "export.json", "x/a", (20, 30))
    assert np.array_equal(labels[:18], np.where(two_parts(), 3, 0)[:18])
    assert (labels[18:] == 1).all()


@pytest.mark.extras
def test_labelmes_files_go_in(tmp_path):
    loader = library("labelme._label_file")
    corners = [[3.0, 2.0], [20.0, 2.0], [20.0, 12.0], [3.0, 12.0]]
    shape = {"label": "cup", "points": corners, "shape_type": "polygon", "group_id": None}
    (tmp_path / "x").mkdir()
    path = tmp_path / "x" / "a.json"
    loader.LabelFile().save(str(path), [{**shape, "flags": {}}], "a.jpg", 20, 30)
    labels = labels_of(tmp_path, "x/a", (20, 30))
    assert (labels[3:12, 4:20] == 3).all() and np.count_nonzero(labels) < 11 * 18 + 1
