"""What a caller's program does with the library: lists, pictures, tensors, trainings, processes."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pipeline import Labeller, Labelling, Segmenter, load_image, train
from pipeline.clip.method_stage import MethodStage
from pipeline.errors import UserError
from pipeline.masks.pseudo_mask import PseudoMask
from pipeline.segmenter.stage import Training
from tests.segmenter.tiny_training import CLASS_NAMES, write_pairs
from tests.small_runs import TINY_SEGMENTER, draw_photograph, folder_options
from tests.test_api import CLASSES, SETTINGS, assert_stored
from tests.tiers import large_except

EXCEL = ["cams=excel", "masks=argmax"]
DENSE = ["cams=sclip", "masks=dense", "masks.short_side=80"]


@pytest.fixture(scope="module")
def labeller(tiny_checkpoint) -> Labeller:
    return Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=SETTINGS)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Five images of two sizes."""
    return [draw_photograph(n, *((64, 96) if n % 2 else (90, 70))) for n in range(5)]


def are_equal(first: Labelling, second: Labelling) -> bool:
    arrays = ("scores", "cams", "mask")
    same = (np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays)
    return first.tags == second.tags and all(same)


def test_a_batch_gives_what_the_stages_store_with_its_size(
    run_stage, arguments, photographs, tiny_checkpoint, tmp_path
):
    for stages in ("stage=tags", "stage=[cams,masks]"):
        finished = run_stage(*arguments, "runtime.batch_size=3", stages)
        assert finished.code == 0, finished.errors
    labeller = Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=SETTINGS, batch_size=3)
    assert labeller._builder.clip.batches.images == 3
    files = sorted(photographs.rglob("*.*"))
    ids = [file.relative_to(photographs).with_suffix("").as_posix() for file in files]
    for image_id, found in zip(ids, labeller(files), strict=True):
        assert_stored(found, tmp_path / "out", image_id)


def test_every_method_takes_several_images_of_any_form(labeller, photographs):
    paths = sorted(photographs.glob("*.*"))
    arrays = [load_image(path) for path in paths]
    picture = Image.open(paths[1])
    mixed = [str(paths[0]), picture, arrays[2], paths[3]]
    one_by_one = [labeller(array) for array in arrays]
    for images in (mixed, tuple(mixed), iter(mixed)):
        assert all(map(are_equal, labeller(images), one_by_one))
    tags = labeller.tags(iter(mixed))
    assert tags == [found.tags for found in one_by_one]
    for method, attribute in (("scores", "scores"), ("cams", "cams"), ("mask", "mask")):
        found = getattr(labeller, method)(mixed)
        wanted = [getattr(one, attribute) for one in one_by_one]
        assert all(map(np.array_equal, found, wanted)) and len(found) == 4
    chosen = [["cat"], [0, "cup"], [], (3,)]
    for method in (labeller.cams, labeller.mask):
        found = method(mixed, chosen)
        assert all(map(np.array_equal, found, map(method, arrays, chosen)))
    assert labeller([]) == [] and labeller.cams([], []) == []


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda one, image: one([image, "no.jpg"]), r"images\[1\] image no.jpg is not there"),
        (lambda one, image: one.mask([image, image / 255]), r"images\[1\] .* float64: convert"),
        (lambda one, image: one.tags([[image]]), "this is list: convert"),
        (lambda one, image: one.cams([image, image], [["cat"]]), "not of 2 images: give a list"),
        (lambda one, image: one.cams([image, image], ["cat", "cup"]), "are not of 2 images"),
        (lambda one, image: one.cams([image], 0), "are not of 1 images"),
        (lambda one, image: one.features([image, image[:20]]), "images of 2×6 and 4×6 patches are"),
        (lambda one, image: one.features([]), "images of no patches"),
        (lambda one, image: one.features(image, [5]), "asks for block 5, but this CLIP has 4"),
        (lambda one, image: Labeller(["cat"], batch_size=0), "batch_size=0 is out of range"),
        (lambda one, image: Labeller(["cat"], batch_size="many"), "runtime.batch_size"),
        (lambda one, image: one.cams([image, image], [["cat"], None]), "give a list for each"),
        (lambda one, image: one.cams(image, 3.0), "give a list for each"),
        (lambda one, image: one.features(image, 3), "is not a list of numbers"),
        (lambda one, image: one.features(image, [True]), "is not a list of numbers"),
        (lambda one, image: one.mask(image, [False, True]), "no class False"),
        (lambda one, image: one.mask(image, np.array([False, True])), "no class False"),
        (lambda one, image: one.cams(image, True), "no class True"),
        (lambda one, image: one.cams(image, [1, "person"]), "person is named twice"),
        (lambda one, image: train([], [], ["cat"], output=None), "output=None is not a folder"),
        (lambda one, image: Labeller(["${oc.env:HOME}"]), r"classes=.* holds \${"),
        (lambda one, image: Labeller(["cat"], checkpoint="a${b"), r"checkpoint=a\${b holds \${"),
    ],
)
def test_arguments_of_another_form_are_one_sentence(labeller, images, use, message):
    with pytest.raises(UserError, match=message):
        use(labeller, images[1])


def test_a_result_of_a_method_is_refused_by_the_place_of_its_image(labeller, images, monkeypatch):
    cams = labeller._model("cams")
    monkeypatch.setattr(cams, "cams_of_pass", lambda shared, tags: np.full((1, 2, 2), 7.0))
    with pytest.raises(UserError, match=r"from 7 to 7.* images\[0\]: correct"):
        labeller.cams(images[:2], [["cat"], ["cat"]])


# Pictures


def test_a_labelling_is_short_in_words(labeller, images):
    found = labeller(images[0])
    assert repr(found) == f"<Labelling of 70×90 pixels: {', '.join(found.names)}>"
    assert "\n" not in repr(found) and len(repr(found)) < 100


def test_a_labelling_is_a_picture(labeller, photographs, monkeypatch):
    path = photographs / "b.png"
    found = labeller(path)
    picture = Image.open(io.BytesIO(found._repr_png_())).convert("RGB")
    assert picture.width == 5 * 96 and picture.height > 5 * 64  # enlarged, with a legend below
    tag = next(tag for tag in found.tags if (found.mask == tag + 1).any())
    rows, columns = np.nonzero(found.mask == tag + 1)
    pixels = np.asarray(picture)[5 * rows + 2, 5 * columns + 2].astype(int)
    image = load_image(path)[rows, columns].astype(int)
    tint = (image + np.array(labeller.palette[tag + 1])) / 2
    assert np.median(np.abs(pixels - tint)) < 3
    opened = []
    monkeypatch.setattr(Image.Image, "show", lambda image: opened.append(image.size))
    found.show()
    assert opened == [picture.size]
    path.unlink()
    with pytest.raises(UserError, match="b.png is not there"):
        found._repr_png_()


def test_a_notebook_shows_a_labelling_below_its_cell(labeller, images, monkeypatch):
    shown = []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown.append)
    found = labeller(images[0])
    found.show()
    assert shown == [found]


def test_a_large_photograph_is_shown_small(labeller):
    found = labeller(draw_photograph(0, 1200, 40))
    assert Image.open(io.BytesIO(found._repr_png_())).height < 1100


# Tensors


@pytest.mark.parametrize("blocks", [[0], [4], range(1, 5), [-1, 2], (0, 0)], ids=str)
def test_features_are_those_of_open_clip(labeller, tiny_clip, images, blocks):
    crops = [image[:60, :60] for image in images[:3]]
    kept = {}
    clip = labeller._model("clip")  # float16 weights of the file, in float32
    tower = pickle.loads(pickle.dumps(tiny_clip)).visual
    tower.load_state_dict({k: v.half().float() for k, v in tower.state_dict().items()})
    for number, block in enumerate(tower.transformer.resblocks, 1):
        block.register_forward_hook(lambda _, __, out, number=number: kept.update({number: out}))
    with torch.no_grad():  # 60 pixels are stretched to 4×4 patches, the native grid
        tower(torch.stack([clip.prepare(crop) for crop in crops]))
    found = labeller.features(crops, blocks)
    numbers = [n if n > 0 else 4 + n for n in np.atleast_1d(blocks)]
    assert len(found) == len(numbers)
    for tokens, number in zip(found, numbers):
        assert tokens.shape == (3, 4, 4, 64) and tokens.dtype == torch.float32
        assert tokens.device.type == "cpu" and not tokens.requires_grad
        wanted = kept[number][:, 1:].reshape(3, 4, 4, 64)
        assert torch.allclose(tokens, wanted, rtol=1e-4, atol=1e-4)


def test_features_of_other_sizes_and_precisions(tiny_checkpoint, images):
    overrides = [*SETTINGS, "runtime.precision=bf16"]
    labeller = Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=overrides)
    (tokens,) = labeller.features(images[0])
    assert tokens.shape == (1, 6, 5, 64) and tokens.dtype == torch.float32
    exact = Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=SETTINGS).features(images[0])
    assert 0 < (tokens - exact[0]).abs().max() < 0.1 * exact[0].abs().max()


def test_clip_sees_fewer_pixels_of_a_photograph_than_the_crf(labeller, monkeypatch):
    seen = []

    def refine(_, image, cams):
        seen.append((image.shape[:2], cams.cams.shape, tuple(cams.size)))
        return np.zeros(cams.size, np.uint8), None

    monkeypatch.setattr(PseudoMask, "__call__", refine)
    labeller.mask(np.zeros((1500, 2000, 3), np.uint8), ["cat"])
    assert seen == [((768, 1024), (1, 30, 40), (1500, 2000))]


def test_a_network_learns_from_features(labeller, images):
    (tokens,) = labeller.features([images[1], images[3]])
    head = torch.nn.Linear(64, 5)
    head(tokens).square().mean().backward()
    assert head.weight.grad.abs().sum() > 0


def test_cams_are_tensors_too(labeller, images):
    for image in images[:2]:
        array = labeller.cams(image, ["cat", "cup"])
        tensor = labeller.cams(image, ["cat", "cup"], as_tensors=True)
        assert tensor.dtype == torch.float32 and tensor.device.type == "cpu"
        assert not tensor.requires_grad and not tensor.is_inference()
        assert np.array_equal(tensor.numpy().astype(np.float16), array)
        assert not np.array_equal(tensor.numpy(), array)  # they are not rounded
    several = labeller.cams(images, as_tensors=True)
    for found, tags in zip(several, labeller.tags(images), strict=True):
        assert isinstance(found, torch.Tensor) and len(found) == len(tags)


# Threads and processes


@pytest.mark.parametrize("more", large_except([[]], [[], EXCEL, DENSE]))
def test_threads_share_a_labeller(tiny_checkpoint, images, more, monkeypatch):
    def build() -> Labeller:
        return Labeller(CLASSES, checkpoint=tiny_checkpoint, overrides=[*SETTINGS, *more])

    def load_slowly(self: MethodStage, inputs: dict[str, Path]) -> object:
        loaded.append(self.name)
        time.sleep(0.05)
        return load(self, inputs)

    wanted, labeller = build()(images), build()
    loaded, load = [], MethodStage.load
    monkeypatch.setattr(MethodStage, "load", load_slowly)
    with ThreadPoolExecutor(3) as pool:  # all load the models at once
        found = list(pool.map(labeller, 3 * images))
    assert all(map(are_equal, found, 3 * wanted))
    assert sorted({*loaded, "masks"}) == ["cams", "masks", "tags"] and len(loaded) <= 3


class Masks(Dataset):
    """A data set of masks that its workers compute."""

    def __init__(self, labeller: Labeller, images: list[np.ndarray]) -> None:
        self.labeller, self.images = labeller, images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> np.ndarray:
        return self.labeller.mask(self.images[place])


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.large)])
def test_workers_of_a_loader_label_after_their_parent_did(labeller, images, start):
    wanted = labeller.mask(images[:2])
    loader = DataLoader(
        Masks(labeller, images[:2]),
        batch_size=None,
        num_workers=1,
        multiprocessing_context=start,
        timeout=120,
    )
    for mask, expected in zip(loader, wanted, strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_a_pickle_holds_no_model(labeller, images):
    wanted = labeller(images[0])
    pickled = pickle.dumps(labeller)
    assert len(pickled) < 20_000
    copy = pickle.loads(pickled)
    assert copy._models == {} and are_equal(copy(images[0]), wanted)
    again = pickle.loads(pickle.dumps(wanted))
    assert are_equal(again, wanted) and again._repr_png_() == wanted._repr_png_()


# Training


@pytest.fixture
def pairs(tmp_path) -> tuple[list[Path], list[Path]]:
    written = write_pairs(tmp_path / "pairs")
    return [pair.image for pair in written], [pair.mask for pair in written]


def train_tiny(images, masks, output: Path, **more) -> Segmenter:
    changes = [c for c in TINY_SEGMENTER if not c.startswith(("segmenter=", "segmenter.iter"))]
    settings = {"segmenter": "demo", "iterations": 2, "overrides": changes} | more
    return train(images, masks, CLASS_NAMES, output=output, **settings)


def test_a_segmenter_is_trained_on_files_and_then_found(pairs, tmp_path):
    images, masks = pairs
    out = tmp_path / "out"
    segmenter = train_tiny(images, map(str, masks), out)
    assert isinstance(segmenter, Segmenter)
    assert segmenter.class_names == ("background", *CLASS_NAMES)
    assert segmenter(images[0]).shape == (40, 48)
    assert not (out / "inputs").exists()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(segmenter.logits, 2 * images))
    assert all(map(np.array_equal, found, map(segmenter.logits, 2 * images)))
    (run,) = [path for path in (out / "segmenter").iterdir() if not path.is_symlink()]
    manifest = (run / "manifest.json").read_bytes()
    again = train_tiny(images, masks, out)
    assert (run / "manifest.json").read_bytes() == manifest
    assert np.array_equal(again.logits(images[0]), segmenter.logits(images[0]))


def test_the_form_of_images_and_masks_does_not_matter(pairs, tmp_path):
    images, masks = pairs
    wanted = train_tiny(images, masks, tmp_path / "a").logits(images[0])
    pictures = [Image.open(images[0]), *map(load_image, images[1:])]
    labels = [np.asarray(Image.open(mask)) for mask in masks]
    nothing = np.zeros(0)
    classes = tuple(CLASS_NAMES)
    labels[0] = Labelling(nothing, (), (), nothing, labels[0], images[0], classes, [])
    out = tmp_path / "b"
    assert np.array_equal(train_tiny(pictures, labels, out).logits(images[0]), wanted)
    written = {path: path.stat().st_mtime_ns for path in (out / "inputs").iterdir()}
    train_tiny(pictures, labels, out)
    assert {path: path.stat().st_mtime_ns for path in (out / "inputs").iterdir()} == written


def test_a_training_is_the_one_of_the_stage(pairs, run_stage, tmp_path):
    images, masks = pairs
    folder = tmp_path / "masks"
    folder.mkdir()
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for image, mask in zip(images, masks):
        image.rename(photographs / image.name)
        mask.rename(folder / image.name)
    own = f"dataset.classes=[{','.join(CLASS_NAMES)}]", "masks=file", f"masks.path={folder}"
    own += f"output_dir={tmp_path / 'out'}", "stage=[masks,train]", *TINY_SEGMENTER
    finished = run_stage(*folder_options(photographs, None, *own))
    assert finished.code == 0, finished.errors
    stage = Segmenter.from_run(tmp_path / "out" / "segmenter" / "latest")
    files = [sorted(where.iterdir()) for where in (photographs, folder)]
    ours = train_tiny(*files, tmp_path / "ours")
    assert np.array_equal(ours.logits(files[0][0]), stage.logits(files[0][0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, m: (i[1:], m), "5 masks for 4 images: give one for each"),
        (
            lambda i, m: (i, [*m[:4], np.full((40, 48), 7, np.uint8)]),
            r"images\[4\]: mask has labels \[7\]",
        ),
        (lambda i, m: (i, [np.zeros((4, 4), np.uint8), *m[1:]]), r"images\[0\]: mask is 4×4, its"),
        (lambda i, m: (i, [np.zeros((40, 48)), *m[1:]]), r"\[0\]: its mask is float64"),
        (lambda i, m: ([3, *i[1:]], m), r"images\[0\]: an image is a path"),
        (lambda i, m: (["no.jpg", *i[1:]], m), r"images\[0\]: image no.jpg is missing"),
        (lambda i, m: (i, ["no.png", *m[1:]]), r"images\[0\]: mask no.png is missing"),
        (lambda i, m: ([], []), "there is no image to train on"),
        (lambda i, m: (None, m), "images=None is not a list: give one"),
        (lambda i, m: (i, "masks"), "masks=masks is not a list: give one"),
        (
            lambda i, m: (
                i,
                [Labelling(0, (), (), 0, np.zeros((40, 48), "u1"), 0, (), []), *m[1:]],
            ),
            "a labelling has other classes than names",
        ),
        (
            lambda i, m: (i, [np.full((40, 48), 255 * (n % 2), np.uint8) for n in range(5)]),
            "masks holds only 0 and 255",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_said(pairs, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train_tiny(*change(*pairs), tmp_path / "out")


def test_masks_are_checked_although_weights_have_yet_to_be_downloaded(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "unknown_until", lambda _: "download")
    images, masks = pairs
    with pytest.raises(UserError, match=r"images\[4\]: mask has labels \[7\]"):
        train_tiny(images, [*masks[:4], np.full((40, 48), 7, np.uint8)], tmp_path / "out")


def test_settings_of_a_training_are_checked(pairs, tmp_path):
    for more, message in [
        ({"segmenter": "deeplabv9"}, "deeplabv9"),
        ({"iterations": 0}, "segmenter.iterations=0 is out of range"),
        ({"overrides": "seed=1"}, "overrides=seed=1 is not a list of texts"),
    ]:
        with pytest.raises(UserError, match=message):
            train_tiny(*pairs, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.large
def test_a_segmenter_is_pickled_to_a_new_process(pairs, tmp_path):
    segmenter = train_tiny(*pairs, tmp_path / "out")
    wanted = segmenter(pairs[0][0])
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        (found,) = pool.map(segmenter, [str(pairs[0][0])])
    assert np.array_equal(found, wanted)
