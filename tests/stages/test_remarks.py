"""Runs that were spoiled on purpose are named early, in a sentence; sound ones are not."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.cams.cams import Cams, encode_cams
from pipeline.cams.stage import ComputedCams
from pipeline.engine.sample import Sample, evenly
from pipeline.files.images import encode_png
from pipeline.files.shipped import DEMO
from pipeline.masks.stage import Masks
from pipeline.segmenter.runner import predicts_objects
from pipeline.tags.remarks import find_near_synonyms, remarks_on_tags
from tests.results import open_writer, write
from tests.small_runs import TINY_SEGMENTER

NAMES = ["disc", "square", "triangle", "star", "heart", "ring", "cross", "crescent", "arrow"]
NAMES.append("hexagon")


def tagged(tags: list[list[int]], classes: list[str], **statistics: object) -> list[str]:
    """Returns the remarks on images with some tags."""
    entries = {
        str(k): {"tags": of_image, "inputs": {"photograph": str(k)}}
        for k, of_image in enumerate(tags)
    }
    counts = {n: sum(k in t for t in tags) for k, n in enumerate(classes)}
    manifest = {"statistics": {"classes": counts, **statistics}}
    folder = SimpleNamespace(entries=entries, split="val", statistics=manifest["statistics"])
    return [*remarks_on_tags(folder, entries, classes)]


def test_few_tags_are_remarkable():
    classes = ["cat", "dog"]
    assert tagged([[0], [1], [], []], classes) == []
    assert tagged([[0]] + [[]] * 19, classes) == [], "one of twenty may be all that there is"
    (remark,) = tagged([[0]] + [[]] * 20, classes)
    assert remark.startswith("only 1 of 21 images of split val have a tag: lower tags.min_score")
    assert "no image of split val has a tag" in tagged([[]] * 3, classes)[0]
    assert tagged([], classes) == []


def test_a_class_without_an_image_is_remarkable_among_many_images():
    classes = ["cat", "dog", "cup"]
    assert tagged([[0], [1]] * 29, classes) == [], "fewer than twenty images for each class"
    (remark,) = tagged([[0], [1]] * 30, classes)
    assert remark.startswith("no image of split val has the tag cup: give the class further names")


def test_names_that_clip_hardly_tells_apart_are_near_synonyms():
    angle = np.arccos(0.96)
    embeddings = np.array([[2, 0, 0], [np.cos(angle), np.sin(angle), 0], [0, 0, 1.0]])
    assert find_near_synonyms(embeddings, ["sofa", "couch", "cat"]) == [["sofa", "couch"]]
    embeddings[1] = [np.cos(1.2 * angle), np.sin(1.2 * angle), 0]  # a cosine of 0.94
    assert find_near_synonyms(embeddings, ["sofa", "couch", "cat"]) == []
    pairs = [["a", "b"], ["a", "c"], ["b", "c"], ["c", "d"]]
    (remark,) = tagged([[0], [1]], ["a", "b"], near_synonyms=pairs)
    assert remark.startswith("CLIP hardly tells apart a and b, a and c, b and c, and 1 more pairs:")


def folder_of(tmp_path: Path, stage: str, files: dict[str, bytes]):
    folder = open_writer(tmp_path, "val", stage, {})
    samples = [Sample(name, tmp_path / f"{name}.jpg") for name in files]
    with folder:
        for sample in samples:
            suffix = "npz" if stage == "cams" else "png"
            write(
                folder,
                sample.id,
                {"photograph": "input"},
                {f"{sample.id}.{suffix}": files[sample.id]},
            )
    return folder, samples


def remark_of(kind: type, folder, samples) -> str:
    statistics = kind.statistics(None, folder, samples)
    with folder:
        folder.finish([s.id for s in samples], statistics=statistics)
    return kind.remark(None, folder.results, ())


@pytest.mark.parametrize(("flat", "is_said"), [(1, False), (2, True)])
def test_flat_cams_are_remarkable(flat, is_said, tmp_path):
    sound = np.pad(np.ones((1, 2, 2)), ((0, 0), (2, 2), (2, 2)))
    maps = [np.full((1, 6, 6), 0.5)] * flat + [sound] * (11 - flat)
    files = {
        f"{k}": encode_cams(Cams(np.array([0]), each.astype(np.float16), (6, 6)))
        for k, each in enumerate(maps)
    }
    remark = remark_of(ComputedCams, *folder_of(tmp_path, "cams", files))
    assert remark.startswith("18% of the CAMs of split val are flat") if is_said else not remark


def stored_cam(cam: np.ndarray) -> bytes:
    return encode_cams(Cams(np.array([0]), cam[None].astype(np.float16), (6, 6)))


@pytest.mark.parametrize(
    ("kind", "name", "store", "before", "after"),
    [(ComputedCams, "flat", stored_cam, 1, 0.5), (Masks, "background", encode_png, 1, 0.75)],
)
def test_results_are_looked_at_again_when_there_are_more(
    kind, name, store, before, after, tmp_path
):
    result = np.zeros((6, 6), np.uint8)
    folder, samples = folder_of(tmp_path, kind.name, {"a": store(result)})
    remark_of(kind, folder, samples)
    assert folder.results.statistics == {name: before}
    result[:3] = 1
    folder, more = folder_of(tmp_path, kind.name, {"b": store(result)})
    assert kind.statistics(None, folder, [*samples, *more]) == {name: after}


@pytest.mark.parametrize(
    ("kind", "store"), [(ComputedCams, stored_cam), (Masks, encode_png)], ids=["cams", "masks"]
)
def test_nothing_is_said_where_no_result_is_left(kind, store, tmp_path):
    folder, samples = folder_of(tmp_path, kind.name, {"a": store(np.zeros((6, 6), np.uint8))})
    assert remark_of(kind, folder, samples)
    folder = open_writer(tmp_path, "val", kind.name, {})  # of a run that leaves out all
    assert not remark_of(kind, folder, [])
    folder = open_writer(tmp_path, "val", kind.name, {})
    assert remark_of(kind, folder, samples), "of the run after it, which finds them in the cache"


@pytest.mark.parametrize(("rows", "is_said"), [(4, False), (2, True)])
def test_masks_of_background_are_remarkable(rows, is_said, tmp_path):
    mask = np.zeros((100, 10), np.uint8)
    mask[:rows] = 1
    files = {name: encode_png(mask) for name in "abc"}
    remark = remark_of(Masks, *folder_of(tmp_path, "masks", files))
    said = "half of the masks of split val are at least 98.0% background"
    assert remark.startswith(said) if is_said else not remark


def test_elements_are_chosen_from_one_end_to_the_other():
    assert evenly([*range(100)], 4) == [0, 33, 66, 99]
    assert evenly("abc", 9) == ["a", "b", "c"] and evenly([], 3) == []


def test_a_network_is_looked_at_without_being_changed(trained):
    from pipeline.segmenter.predict import Segmenter

    model = Segmenter.from_run(trained).network.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    images = [torch.randint(0, 256, (3, 32, width), dtype=torch.uint8) for width in (32, 20)]
    samples = [
        SegDataSample(
            metainfo={"img_shape": tuple(image.shape[1:])},
            gt_sem_seg=PixelData(data=torch.zeros_like(image[:1])),
        )
        for image in images  # the smaller one is padded
    ]
    batch = {"inputs": images, "data_samples": samples}
    state = torch.random.get_rng_state()
    with torch.no_grad():
        for bias, expected in ((1e4, False), (-1e4, True)):
            model.decode_head.conv_seg.bias[0] = bias
            assert predicts_objects(model, batch) is expected
    assert torch.equal(torch.random.get_rng_state(), state)
    after = model.state_dict()
    changed = {n for n, value in before.items() if not torch.equal(value, after[n])}
    assert changed <= {"decode_head.conv_seg.bias"}, "no statistics of batch norm"


# On the demo's CLIP and scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """A folder with drawn photographs."""
    from pipeline.stages.config import compose, read_config
    from pipeline.stages.pipeline import Pipeline

    folder = tmp_path_factory.mktemp("scenes")
    given = ["dataset=demo", "dataset.limit=20", f"output_dir={folder / 'unused'}"]
    images = Pipeline.open(read_config(compose(given))).builder.images.of("val")
    (folder / "photographs").mkdir()
    for sample in images:
        (folder / "photographs" / sample.image.name).write_bytes(sample.image.read_bytes())
    return folder / "photographs"


@pytest.fixture
def notes(run_stage, scenes, tmp_path):
    """Runs stages on the photographs; returns what is said of them."""

    def notes(*given: str, stage: str = "[tags,cams,masks]", root: Path = scenes) -> list[str]:
        names = ",".join(NAMES)
        finished = run_stage(
            f"stage={stage}",
            "dataset=folder",
            f"dataset.root={root}",
            *([] if any("dataset.classes" in g for g in given) else [f"dataset.classes=[{names}]"]),
            "dataset.backgrounds=[grass,gravel,brick,sky,sand,water]",
            *([] if "clip=file" in given else ["clip=demo"]),
            *([] if any("min_score" in g or "tags=" in g for g in given) else ["tags.min_score=0"]),
            f"output_dir={tmp_path / 'out'}",
            *given,
        )
        assert finished.code == 0, finished.errors
        lines = [li[6:] for li in finished.errors.splitlines() if li.startswith("note: ")]
        return [line for line in lines if not line.startswith("the demo CLIP")]

    return notes


def black(folder: Path) -> Path:
    folder.mkdir()
    for k in range(8):
        pixels = np.zeros((240, 320, 3), np.uint8)
        pixels[0, 0] = k
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


@pytest.mark.large
def test_sound_runs_give_no_remark(notes):
    assert notes() == []
    assert notes("tags.min_score=0.3", "tags.reidentify=false", "masks=par") == []


@pytest.mark.large
@pytest.mark.parametrize(
    ("given", "stage", "said"),
    [
        (["dataset.classes=[cat,dog,person,car]"], "tags", r"hardly tells apart cat and person"),
        (["dataset.classes=[disc,circle,round,star]"], "tags", r"apart circle and round"),
        (["tags.min_score=0.99"], "tags", r"no image of split all has a tag: lower tags.min_score"),
        (["masks.beta=0.05"], "[tags,cams,masks]", r"half of the masks .* are at least"),
        (["tags.alpha=0"], "[tags,cams]", r"\d+% of the CAMs of split all are flat"),
    ],
)
def test_spoiled_settings_are_named(given, stage, said, notes):
    found = notes(*given, "dataset.limit=6", stage=stage)
    assert any(re.search(said, note) for note in found), found


@pytest.mark.large
def test_spoiled_weights_and_photographs_are_named(notes, tmp_path):
    flat = r"(\d+)% of the CAMs of split all are flat, and show no object: check the weights"
    found = notes(stage="[tags,cams]", root=black(tmp_path / "black"))
    assert any(re.search(flat, note) for note in found), found
    torch.manual_seed(0)
    weights = load_file(DEMO / "clip.safetensors")
    for name, value in weights.items():
        if name.startswith("visual.transformer") and value.ndim > 1:
            weights[name] = torch.randn_like(value) * value.std()
    save_file(weights, tmp_path / "random.safetensors")
    given = ["clip=file", f"clip.checkpoint={tmp_path / 'random.safetensors'}"]
    found = notes(*given, stage="[tags,cams]")
    assert any(re.search(flat, note) for note in found), found


@pytest.mark.large
def test_copies_and_classes_without_an_image_are_named(notes, scenes, tmp_path):
    root = tmp_path / "photographs"
    root.mkdir()
    for path in scenes.iterdir():
        (root / path.name).write_bytes(path.read_bytes())
        (root / f"copy_{path.name}").write_bytes(path.read_bytes())
    first, *others = sorted(path.stem for path in root.iterdir())
    (tmp_path / "tags.txt").write_text("".join([f"{first}\n", *(f"{i} 0\n" for i in others)]))
    given = ["dataset.classes=[disc,banana]", "tags=file", f"tags.path={tmp_path / 'tags.txt'}"]
    (found,) = notes(*given, stage="tags", root=root)
    assert "no image of split all has the tag banana: give the class further names" in found
    assert "20 photographs are copies of another one of split all" in found


@pytest.mark.large
def test_a_network_that_predicts_background_alone_is_named_while_it_trains(
    run_stage, arguments, tmp_path, monkeypatch
):
    said = "after 2 iterations the network predicted only background"
    monkeypatch.setattr("pipeline.segmenter.train.LOG_INTERVAL", 1)  # else it is not looked at
    monkeypatch.setattr("pipeline.segmenter.runner.predicts_objects", lambda *_: False)
    given = [*arguments, *TINY_SEGMENTER, "stage=[tags,cams,masks,train]"]
    trained = run_stage(*given)
    assert trained.code == 0 and trained.errors.count(said) == 1, trained.errors
    kept = run_stage(*given, "stage=[train,report]")
    assert kept.code == 0 and kept.errors.count(said) == 1, kept.errors
    assert said in (tmp_path / "out" / "report.html").read_text()
