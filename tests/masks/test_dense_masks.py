"""``masks=dense``: the published protocol from an image to labels, its names and its key."""

from __future__ import annotations

import hashlib
import pickle
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.clip.device import Batches
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import Resources
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.text import prompts_of
from pipeline.configuration.registry import methods
from pipeline.configuration.settings import check
from pipeline.datasets.vocabulary import Vocabulary, build_vocabulary
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.naclip.method import NaClip
from pipeline.dense.pixel_adaptive import pamr
from pipeline.dense.windows import resize_as_opencv
from pipeline.engine.sample import ImageReader
from pipeline.errors import UserError
from pipeline.masks.dense import DenseLabeller
from pipeline.masks.dense_stage import DenseMasks
from pipeline.masks.name_lists import names_in, read_name_list, shipped_lists
from pipeline.masks.settings import DenseMaskOptions
from pipeline.stages.config import compose, read_config
from tests.dense import naive_protocol as naive
from tests.methods import dense_method

CLASSES = Vocabulary(tuple("abc"), (("a",), ("b", "bb"), ("c",)), (("a",), ("b", "bb"), ("c",)))
WITH_BACKGROUND = (("sky", "wall"), ("a",), ("b", "bb"), ("c",))
MEAN = np.array([122.771, 116.746, 104.094], np.float32)
STD = np.array([68.501, 66.632, 70.323], np.float32)


class Clip:
    """A CLIP whose names have random embeddings."""

    batches = Batches(images=3, crops=4, waiting=8)

    def __init__(self, encoder: ClipEncoder):
        self.encoder = encoder
        self.given: list[tuple] = []

    def embed(self, names, backgrounds, templates):
        self.given.append((names, backgrounds, templates))
        text = torch.randn(len(names), 32, generator=torch.manual_seed(0))
        return F.normalize(text, dim=-1)


def build_labeller(
    tiny_clip, names, *, position_scale=True, max_patches=None, method="naclip", **options
):
    chosen = DenseMaskOptions(temperature=20.0, **options)
    check(chosen, "masks")
    quirks = SimpleNamespace(position_scale=position_scale)
    clip = Clip(ClipEncoder(ImageTower.of(tiny_clip), max_patches=max_patches))
    resources = Resources(CLASSES, "cpu", clip, quirks)
    return DenseLabeller(dense_method(method), chosen, names, resources), clip


def prepared(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns an image as the authors normalise it, 3×height×width."""
    resized = resize_as_opencv(image, height, width).astype(np.float32)
    return np.ascontiguousarray(((resized - MEAN) / STD).transpose(2, 0, 1))


# Noise everywhere: where colours are equal, PAMR's weights depend on the last digits.
IMAGE = np.random.default_rng(0).integers(0, 256, (75, 110, 3), dtype=np.uint8)
FLAT = [0, 0, 1, 2, 2, 3]


@pytest.mark.parametrize("resize", ["opencv", "pillow"])
def test_a_strip_has_patches_at_least_and_a_large_image_no_more_than_allowed(tiny_clip, resize):
    label, clip = build_labeller(
        tiny_clip, WITH_BACKGROUND, window=0, short_side=128, max_patches=12, resize=resize
    )
    patch = clip.encoder.patch_size
    rows, columns = (side // patch for side in label._prepare(IMAGE).shape[1:])
    assert 6 <= rows * columns <= 12
    strip = np.zeros((3, 3000, 3), np.uint8)
    assert label._prepare(strip).shape[1] == patch and label(strip, (3, 3000))[0].shape == (3, 3000)


def test_a_background_by_threshold_comes_beside_that_of_the_names(tiny_clip):
    for names in (WITH_BACKGROUND, WITH_BACKGROUND[1:]):
        label, _ = build_labeller(tiny_clip, names, window=0, short_side=64, background=-1.0)
        above, _ = build_labeller(tiny_clip, names, window=0, short_side=64, background=1.0)
        plain, _ = build_labeller(tiny_clip, names, window=0, short_side=64)
        np.testing.assert_array_equal(label(IMAGE, (75, 110))[0], plain(IMAGE, (75, 110))[0])
        assert not above(IMAGE, (75, 110))[0].any()


@pytest.mark.parametrize("quirk", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("iterations", [0, 2])
def test_an_image_is_labelled_as_published(tiny_clip, whole, iterations, quirk):
    options = {"window": 0 if whole else 70, "stride": 33, "short_side": 84}
    options |= {"pamr_iterations": iterations, "pamr_dilations": [2, 5]}
    label, clip = build_labeller(
        tiny_clip,
        WITH_BACKGROUND,
        position_scale=quirk,
        min_probability=0.3,
        min_area=0.2,
        **options,
    )
    ((names, backgrounds, templates),) = clip.given
    assert names == (("sky",), ("wall",), ("a",), ("b",), ("bb",), ("c",))
    assert backgrounds == () and templates == "imagenet"

    text = F.normalize(torch.randn(6, 32, generator=torch.manual_seed(0)), dim=-1)
    compared = NameEmbeddings(text, torch.arange(6), 20.0)
    pixels = prepared(IMAGE, 84, 123)
    method, encoder = dense_method("naclip"), clip.encoder
    if whole:
        similarities = naive.on_grid(method, encoder, pixels, compared, quirk)
    else:
        similarities = naive.windowed(method, encoder, pixels, compared, 70, 33, scaled=quirk)
    similarities = naive.bilinear(similarities, 75, 110)
    if iterations:
        guide = naive.bilinear(pixels, 75, 110)
        both = (
            torch.from_numpy(np.array(each, np.float32))[None] for each in (guide, similarities)
        )
        similarities = pamr(*both, iterations=iterations, dilations=(2, 5))[0].numpy()
    lines, probability = naive.decide(similarities, FLAT, 20.0, 0.2, 0.3)

    found, of_label = label(IMAGE, (75, 110))
    assert found.dtype == np.uint8 and of_label.dtype == np.float32
    assert (found == lines).mean() > 0.999  # ties of float32
    np.testing.assert_allclose(of_label, probability, atol=1e-4)
    assert len(np.unique(lines)) > 1


def test_without_a_background_labels_begin_with_1(tiny_clip):
    label, _ = build_labeller(tiny_clip, WITH_BACKGROUND[1:], short_side=64)
    found, _ = label(IMAGE, (75, 110))
    assert set(np.unique(found)) <= {1, 2, 3} and len(np.unique(found)) > 1


def test_a_shrunk_image_is_labelled_at_its_full_size(tiny_clip):
    label, _ = build_labeller(tiny_clip, WITH_BACKGROUND, short_side=64, pamr_iterations=1)
    found, probability = label(IMAGE, (300, 440))
    assert found.shape == probability.shape == (300, 440)


def test_windows_follow_the_clip():
    assert DenseMaskOptions().side(336) == 336 and DenseMaskOptions(window=224).side(336) == 224
    clip = Dimensions(depth=12, patch_size=16, native_size=224)
    for window, stride in ((None, None), (0, 999), (16, 16), (None, 224)):
        DenseMaskOptions(window=window, stride=stride).validate_for(clip, "masks")
    with pytest.raises(UserError, match="masks.window=15 is smaller"):
        DenseMaskOptions(window=15).validate_for(clip, "masks")
    with pytest.raises(UserError, match="masks.stride=225 leaves gaps .*224"):
        DenseMaskOptions(stride=225).validate_for(clip, "masks")
    with pytest.raises(UserError, match="masks.stride=65 leaves gaps .*64"):
        check(DenseMaskOptions(window=64, stride=65), "masks")


def test_an_image_of_too_many_patches_is_shrunk(tiny_clip):
    label, clip = build_labeller(
        tiny_clip, WITH_BACKGROUND, window=0, short_side=128, max_patches=12
    )
    grids = []
    run_pass = NaClip.run_pass

    def watched(self, encoder, pixels):
        seen = run_pass(self, encoder, pixels)
        grids.append(seen.grid)
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NaClip, "run_pass", watched)
        label(IMAGE, (75, 110))
    assert grids == [(2, 4)]


def test_pamr_in_parts_is_pamr(tiny_clip, monkeypatch):
    options = {"short_side": 64, "pamr_iterations": 2}
    whole = build_labeller(tiny_clip, WITH_BACKGROUND, **options)[0](IMAGE, (75, 110))
    monkeypatch.setattr("pipeline.masks.dense._PAMR_VALUES", 2 * 75 * 110)
    parts = build_labeller(tiny_clip, WITH_BACKGROUND, **options)[0](IMAGE, (75, 110))
    np.testing.assert_array_equal(whole[0], parts[0])


# Names


@cache
def classes_of(dataset: str) -> Vocabulary:
    return build_vocabulary(
        read_config(compose([f"dataset={dataset}", "dataset.root=unused"])).dataset
    )


OF_CLEARCLIP = {"boat": "ship", "diningtable": "table"}
OF_SCLIP = {**OF_CLEARCLIP, "tvmonitor": "television monitor"}
OF_CORRCLIP = {"person": "people"}
OTHER_WORDS = {"sclip_voc21": OF_SCLIP, "sclip_voc20": OF_SCLIP, "clearclip_voc21": OF_CLEARCLIP}
OTHER_WORDS |= {"corrclip_ade20k": OF_CORRCLIP, "corrclip_coco_stuff": OF_CORRCLIP}
"""List → class → the first of its names there."""


@pytest.mark.parametrize(
    ("name", "dataset", "lines", "names"),
    [
        ("sclip_voc21", "voc2012", 21, 56),
        ("sclip_voc20", "voc2012", 20, 30),
        ("clearclip_voc21", "voc2012", 21, 21),
        ("sclip_ade20k", "ade20k", 150, 150),
        ("sclip_coco_stuff", "cocostuff", 171, 171),
        ("corrclip_ade20k", "ade20k", 150, 150),
        ("corrclip_coco_stuff", "cocostuff", 171, 171),
    ],
)
def test_shipped_lists_are_in_the_order_of_the_classes(name, dataset, lines, names):
    vocabulary = classes_of(dataset)
    listed = read_name_list(name, vocabulary)
    assert len(listed) == lines and sum(map(len, listed)) == names
    assert name in shipped_lists()

    of_classes = listed[lines - len(vocabulary.classes) :]
    words = OTHER_WORDS.get(name, {})
    ours = [words.get(each, each).replace(" ", "") for each in vocabulary.classes]
    assert [first.replace(" ", "") for first, *_ in of_classes] == ours


OF_THE_AUTHORS = {
    "clearclip_voc21": "265d9ede93be",
    "corrclip_ade20k": "09ac710c57fc",
    "corrclip_cityscapes": "8dba4f1e3eee",
    "corrclip_coco_object": "5fef5cd3f25f",
    "corrclip_coco_stuff": "c39fe2dd982f",
    "corrclip_context59": "106c0f1f2c9c",
    "corrclip_context60": "d0ee86d64aeb",
    "corrclip_voc20": "dd9755431039",
    "corrclip_voc21": "19086957392b",
    "corrclipv2_cityscapes": "9e4263255b12",
    "lposs_coco_object": "7c873470f0fc",
    "lposs_context59": "9ea0b2deeb7b",
    "lposs_context60": "017946d1336e",
    "lposs_voc20": "51783cbb05b1",
    "lposs_voc21": "464b64690bf8",
    "proxyclip_coco_object": "d4a6ca50ef3d",
    "proxyclip_voc20": "6b9a85ffb907",
    "proxyclip_voc21": "5018ccdc754e",
    "sclip_ade20k": "e53ded02c488",
    "sclip_cityscapes": "6f6782fc1bf9",
    "sclip_coco_object": "3475d03d61f8",
    "sclip_coco_stuff": "fb98709b9ab1",
    "sclip_context60": "e29ff1a0eaea",
    "sclip_voc20": "c68f65a2b342",
    "sclip_voc21": "80e643a9a143",
    "tips_ade20k": "f9dbd8a75a07",
}
"""List → the beginning of the SHA-256 of its lines, as the authors' configurations have them."""


def test_shipped_lists_are_those_of_the_authors():
    def line(names):
        return ", ".join(name.replace(",", "\\,") for name in names)

    def digest(name):
        return hashlib.sha256("\n".join(map(line, names_in(name))).encode()).hexdigest()[:12]

    assert {name: digest(name) for name in shipped_lists()} == OF_THE_AUTHORS


def test_names_are_the_data_sets_unless_they_are_given():
    assert read_name_list(None, CLASSES) == CLASSES.cam_names
    voc = classes_of("voc2012")
    assert read_name_list(None, voc) == (voc.backgrounds, *voc.cam_names)


def test_a_file_gives_the_names(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a, first\n\nb,bb\n  c \n")
    assert read_name_list(str(path), CLASSES) == (("a", "first"), ("b,bb",), ("c",))
    path.write_text("wall, sky\r\na\r\nb\r\nc")
    assert read_name_list(str(path), CLASSES) == (("wall", "sky"), ("a",), ("b",), ("c",))
    path.write_text("a\nb\\, bb, b\\,b\nc\\d", encoding="utf-8")
    assert read_name_list(str(path), CLASSES) == (("a",), ("b, bb", "b,b"), ("c\\d",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\nb\n", "holds 2 lines for 3 classes"),
        ("a\nb\nc\nd\ne\n", "holds 5 lines for 3 classes"),
        ("a\nb, , c\nc\n", "an empty name"),
        ("a\nb\x01\nc\n", "control character"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path, text, problem):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=problem):
        read_name_list(str(path), CLASSES)


def test_a_list_that_does_not_exist_is_refused():
    with pytest.raises(UserError, match="masks.names=sclip_voc .*sclip_voc21"):
        read_name_list("sclip_voc", CLASSES)


def test_the_imagenet_templates_are_80():
    assert len(prompts_of("imagenet")) == len(set(prompts_of("imagenet"))) == 80
    assert prompts_of("tagclip")[:80] == prompts_of("imagenet")


# The stage


def stage_of(names: str | None = None, cams: str = "sclip", **options) -> DenseMasks:
    """Returns the stage for the classes a, b and c."""
    chosen = DenseMaskOptions(names=names, **options)
    return DenseMasks(
        split="val",
        options=chosen,
        resources=Resources(CLASSES, "cpu", None, SimpleNamespace(position_scale=True)),
        reader=ImageReader(),
        cams=next(m.settings for m in methods() if (m.group, m.name) == ("cams", cams))(),
    )


def test_the_names_are_in_the_key_by_their_content(tmp_path):
    path, other = tmp_path / "names.txt", tmp_path / "other.txt"
    path.write_text("a\nb, bb\nc\n")
    key = stage_of(str(path)).key
    other.write_bytes(path.read_bytes())
    assert stage_of(str(other)).key == key == stage_of().key  # which has the same names
    path.write_text("a\nb, BB\nc\n")
    assert stage_of(str(path)).key != key


def test_a_background_is_given_once(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("sky\na\nb\nc\n")
    with pytest.raises(UserError, match="background, and so do the names"):
        stage_of(str(path), background=0.5)
    assert stage_of("classes", background=0.5, min_probability=0.2).names == (
        ("a",),
        ("b",),
        ("c",),
    )
    with pytest.raises(UserError, match="masks.min_probability makes"):
        stage_of("classes", min_probability=0.2)


def test_the_dense_method_is_in_the_key_and_what_cams_alone_read_is_not():
    def key(cams: str, **settings: object) -> str:
        stage = stage_of(cams=cams)
        for name, value in settings.items():
            setattr(stage.cams, name, value)
        return stage.key

    assert len({key("sclip"), key("naclip"), key("naclip", sigma=4.0)}) == 3
    for name, value in {"affinity": True, "templates": "piaa", "temperature": 3.0}.items():
        assert key("naclip", **{name: value}) == key("naclip")


def test_a_worker_needs_no_file_of_names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("sky\na\nb, bb\nc\n")
    stage = stage_of(str(path), min_area=0.1)
    sent = pickle.dumps(stage)
    path.unlink()
    assert pickle.loads(sent).names == stage.names == (("sky",), ("a",), ("b", "bb"), ("c",))


def test_the_stage_needs_no_other():
    stage = stage_of()
    assert not stage.needs and not stage.from_cams and stage.batch_size is not None
