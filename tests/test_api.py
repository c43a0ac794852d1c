"""From Python, single images have the results of the stages, to the bit if each ran alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from pipeline import Labeller, Labelling, Segmenter, load_image
from pipeline.errors import UserError
from tests import REPOSITORY
from tests.processes import run_python
from tests.small_runs import TINY_SEGMENTER, latest
from tests.tiers import large_except

CLASSES = ["cat", "person", "rocket", "cup"]
REGIONS = ["masks=regions", "masks.regions=regions"]
SETTINGS = ["tags.min_score=0", "tags.votes=2", "tags.templates=piaa", "runtime.precision=fp32"]


@pytest.fixture(scope="module")
def labeller(tiny_checkpoint) -> Labeller:
    return Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=SETTINGS)


def assert_stored(found: Labelling, out: Path, image_id: str) -> None:
    """Checks that the result of an image is what the stages stored, to the bit."""
    with np.load(latest(out, "tags") / "scores.npz") as arrays:
        stored = dict(zip(arrays["ids"].tolist(), arrays["scores"]))
    assert found.scores.dtype == np.float32 and np.array_equal(found.scores, stored[image_id])
    with np.load(latest(out, "cams") / f"{image_id}.npz") as arrays:
        assert found.tags == tuple(arrays["keys"]) and found.tags
        assert found.cams.dtype == np.float16 and np.array_equal(found.cams, arrays["cams"])
    with Image.open(latest(out, "masks") / f"{image_id}.png") as mask:
        assert np.array_equal(found.mask, np.asarray(mask))


@pytest.mark.parametrize(
    "more", large_except([[]], [[], ["masks=crf_confident", "images.longest_side=64"]])
)
def test_a_labelling_is_what_the_stages_store(
    run_stage,
    arguments,
    photographs,
    tiny_checkpoint,
    tmp_path,
    more,
):
    for stages in ("stage=tags", "stage=[cams,masks]"):
        finished = run_stage(*arguments, *more, stages)
        assert finished.code == 0, finished.errors
    labeller = Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=[*SETTINGS, *more])
    for file in sorted(photographs.rglob("*.*")):
        image = load_image(str(file))
        found = labeller(image)
        image_id = file.relative_to(photographs).with_suffix("").as_posix()
        assert_stored(found, tmp_path / "out", image_id)
        assert found.names == tuple(CLASSES[tag] for tag in found.tags)
        assert found.mask.shape == image.shape[:2] and found.mask.dtype == np.uint8
        # Step by step it is the same.
        assert labeller.tags(image) == found.tags
        assert np.array_equal(labeller.cams(image, found.names), found.cams)
        assert np.array_equal(labeller.mask(image, found.tags), found.mask)


def test_masks_are_made_from_cams_as_they_are_stored(tiny_checkpoint, photographs, monkeypatch):
    """Few masks show the rounding to float16, so this looks at what the refiner is given."""
    labeller = Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=SETTINGS)
    refine, given = labeller._model("masks"), []
    monkeypatch.setitem(labeller._models, "masks", lambda *a: given.append(a[1]) or refine(*a))
    image = load_image(next(photographs.glob("a.*")))
    labeller.mask(image, CLASSES[:2])
    assert given[0].cams.dtype == np.float16
    assert np.array_equal(given[0].cams, labeller.cams(image, CLASSES[:2]))


def test_masks_straight_from_images_are_those_of_the_stage(
    run_stage, arguments, photographs, tiny_checkpoint, tmp_path
):
    more = ["cams=sclip", "masks=dense", "masks.short_side=80", "masks.templates=piaa"]
    finished = run_stage(*arguments, *more, "dataset.limit=2", "stage=masks")
    assert finished.code == 0, finished.errors
    labeller = Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=[*SETTINGS, *more])
    for name in ("a", "b"):
        image = load_image(next(photographs.glob(f"{name}.*")))
        with Image.open(latest(tmp_path / "out", "masks") / f"{name}.png") as mask:
            assert np.array_equal(labeller.mask(image), np.asarray(mask))
    assert np.array_equal(labeller(image).mask, labeller.mask(image))
    with pytest.raises(UserError, match="masks=dense reads no tags"):
        labeller.mask(image, ["cat"])


def test_a_segmenter_sees_what_the_stage_stores(run_stage, arguments, photographs, tmp_path):
    stages = "stage=[tags,cams,masks,train,predict]"
    finished = run_stage(*arguments, *TINY_SEGMENTER, stages)
    assert finished.code == 0, finished.errors
    segmenter = Segmenter.from_run(tmp_path / "out" / "segmenter" / "latest")
    assert segmenter.class_names == ("background", *CLASSES)
    for name in ("a.jpg", "b.png"):
        labels = segmenter(load_image(photographs / name))
        stored = latest(tmp_path / "out", "predictions") / name
        with Image.open(stored.with_suffix(".png")) as mask:
            assert np.array_equal(labels, np.asarray(mask))


def test_nothing_is_written(labeller, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    labeller(load_image(photographs / "a.jpg"))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_without_a_tag_is_background(tiny_checkpoint, photographs):
    labeller = Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=["tags.min_score=0.9999"])
    found = labeller(load_image(photographs / "a.jpg"))
    assert found.tags == found.names == ()
    assert found.cams.shape[0] == 0 and not found.mask.any()


def test_classes_come_from_a_file_too(tiny_checkpoint, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("cat\ncup\n")
    labeller = Labeller(str(names), checkpoint=tiny_checkpoint, backgrounds=["sky"])
    assert labeller.classes == ("cat", "cup") and len(labeller.palette) == 3


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda one, image: one.mask(image, ["dog"]), "there is no class dog: give names or"),
        (lambda one, image: one.cams(image, [4]), "there is no class 4"),
        (lambda one, image: one.scores(image / 255), "float64: convert it, or read it with"),
        (lambda one, image: one.tags(3), "this is int: convert"),
        (lambda one, image: one(str(REPOSITORY / "LICENSE")), "LICENSE cannot be decoded"),
        (lambda one, image: Labeller(["cat"], clip="vitb16"), "did you mean vit_b16?"),
        (lambda one, image: Labeller(["cat"], overrides=["tags.alfa=1"]), "tags.alfa"),
        (lambda one, image: Labeller(["cat"], overrides=["tags=ground_truth"]), "give tags to"),
        (lambda one, image: Labeller(["cat"], overrides=["cams=file", "cams.path=a"]), "a method"),
        (lambda one, image: Labeller(["cat"], overrides=REGIONS), "leave masks.regions=slic"),
        (lambda one, image: Labeller(["cat", "cat"]), "twice"),
        (lambda one, image: Labeller(["cat"], overrides=[1]), "is not a list of texts"),
        (lambda one, image: Labeller(["cat"], backgrounds=3), "is not a list of texts"),
        (lambda one, image: Labeller(b"cat"), "is not a list of names"),
        (lambda one, image: one.cams(image, np.int64(4)), "there is no class 4"),
        (lambda one, image: Labeller(None), "classes=None is not a list of names: give one, or a"),
        (lambda one, image: Labeller(["cat"], overrides="masks=argmax"), "is not a list of texts"),
        (lambda one, image: Labeller(["cat"], plugins="os"), "not a list of texts: give plugins="),
        (lambda one, image: Labeller(["cat"], plugins=["os"]), "plugins=os registers no method"),
        (lambda one, image: Labeller(["cat"], overrides=["masks=argmax", "masks.crf.x=4"]), "null"),
    ],
)
def test_wrong_use_is_answered_with_a_remedy(labeller, photographs, use, message):
    with pytest.raises(UserError, match=message):
        use(labeller, load_image(photographs / "a.jpg"))


def test_a_program_of_hydra_keeps_its_own(tiny_checkpoint):
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        Labeller(CLASSES, checkpoint=tiny_checkpoint)
        assert compose("config", ["seed=7"]).seed == 7


@pytest.mark.large
def test_the_process_of_a_program_stays_as_it_was(tiny_checkpoint, trained, photographs, tmp_path):
    checkpoint = shutil.copy(tiny_checkpoint, tmp_path)
    arguments = [checkpoint, trained, photographs / "a.jpg"]
    finished = run_python("-m", "tests.host", *arguments)
    assert finished.returncode == 0 and not finished.stderr, finished.stderr
    changed = json.loads(finished.stdout)
    assert changed == {"Labeller": [], "Labeller of a named CLIP": [], "Segmenter": []}


def test_importing_the_package_costs_nothing():
    program = """
import sys, pipeline
assert not {"torch", "numpy", "hydra", "mmseg"} & sys.modules.keys()
assert "Labeller" in dir(pipeline)
try:
    pipeline.Nonsense
except AttributeError as error:
    assert "Nonsense" in str(error)
else:
    raise SystemExit("no error")
"""
    assert run_python("-c", program).returncode == 0
