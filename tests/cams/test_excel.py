"""ExCEL against its authors' code on the same weights, and against a slow and simple version."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from sklearn.cluster import KMeans

from pipeline.cams.affinity import refine_cams
from pipeline.cams.cams import read_cams
from pipeline.cams.excel import ExcelOptions, build_excel
from pipeline.cams.excel.method import Excel, ExcelEncoder
from pipeline.cams.excel.surgery import feature_surgery
from pipeline.cams.excel.text import cluster_sentences, enrich_classes, read_descriptors
from pipeline.cams.stage import ComputedCams
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.shared_pass import SharedPass
from pipeline.clip.text import class_embeddings, load_tokenizer
from pipeline.clip.weights.checkpoint import load_clip
from pipeline.datasets.vocabulary import Vocabulary
from pipeline.errors import UserError
from pipeline.files.images import decode_image
from tests.cams import naive_excel as naive
from tests.golden_models import assert_close
from tests.methods import ALONE, cams_of, resources_of, stage_of
from tests.small_runs import draw_photograph, latest, replaced
from tests.tiny_clip import build_tiny_clip

QUIRKS = {"open_border": True, "imagenet_norm": True, "token_norm": True, "head_sum": True}
CLEAN = dict.fromkeys(QUIRKS, False)
NAMES = ("cat", "Cup of tea", "sea")
VOCABULARY = Vocabulary(NAMES, *[tuple((name,) for name in NAMES)] * 2, backgrounds=("sky", "wall"))
SENTENCES = {
    "cat": ["a cat has fur.", "it has whiskers.", "it has a tail."],
    "cup of  TEA": ["a cup has a handle.", "it is of china."],
    "sea": ["it is blue.", "it has waves.", "it is wide."],
}
ANY = torch.Generator().manual_seed(1)
TEXT = F.normalize(torch.randn(5, 32, generator=ANY), dim=-1)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def seen_by(method: Excel, image: np.ndarray) -> SharedPass:
    """Returns what the method's own pass over an image gives."""
    pixels = method.encoder.prepare(image)[None]
    return SharedPass.over(method.encoder, pixels, cam_hooks=method.hooks())


@torch.no_grad()
def test_features_maps_and_refined_maps_are_the_released_ones(golden_folder):
    with np.load(golden_folder / "dense.npz") as arrays:
        golden = dict(arrays)
    encoder = ClipEncoder(ImageTower.of(load_clip(golden_folder / "tiny_clip_openai_format.pt")))
    encoder = ExcelEncoder(encoder, 320, imagenet_norm=True)
    text, tags = torch.from_numpy(golden["excel_text"]), np.flatnonzero(golden["excel_labels"])
    method = Excel(encoder, text[:5], text[5:], ExcelOptions(), ALONE, SimpleNamespace(**QUIRKS))
    for image_id in golden["ids"]:
        seen = seen_by(method, golden[f"{image_id}/image_320"])
        assert_close(method.features(seen), golden[f"{image_id}/excel_features"])
        cams = method.activation_maps(seen, method.names_for(tags), len(tags))
        assert_close(cams, golden[f"{image_id}/excel_maps"].T[tags])
        refined = refine_cams(
            cams, seen.for_cams[-1][0], seen.grid, threshold=0.79, open_border=True
        )
        released = torch.from_numpy(golden[f"{image_id}/excel_refined"]).flatten(1)
        low, high = released.aminmax(dim=1, keepdim=True)  # they are not normalised yet
        assert_close(low + refined * (high - low), released.numpy())


@pytest.fixture(scope="module")
def clip():
    return build_tiny_clip(head_width=16)  # four heads


def excel(clip, options: ExcelOptions, **quirks: bool) -> Excel:
    """Builds the method from two names and three backgrounds."""

    def embed(*_: object) -> torch.Tensor:
        return TEXT

    given = SimpleNamespace(encoder=ClipEncoder(ImageTower.of(clip)), embed=embed, batches=ALONE)
    vocabulary = Vocabulary(
        ("cat", "cup"), *[(("cat",), ("cup",))] * 2, backgrounds=("a", "b", "c")
    )
    return build_excel(options, resources_of(vocabulary, given, **quirks))


OPTIONS = {"size": 80, "blocks": 2, "affinity_blocks": [-2, 0], "box_threshold": 0.5}


@pytest.mark.parametrize("quirks", [QUIRKS, CLEAN], ids=["released", "clean"])
def test_cams_are_the_naive_ones(clip, quirks):
    image = draw_photograph(3, 70, 90)
    method = excel(clip, ExcelOptions(**OPTIONS), **quirks)
    norm = naive.IMAGENET if quirks["imagenet_norm"] else naive.OPENAI
    pixels = naive.pixels_of(image, 80, *norm)
    features, attention = naive.look(clip, pixels, 2)
    features = features / np.linalg.norm(features, axis=1 - quirks["token_norm"], keepdims=True)
    with torch.no_grad():
        assert_close(method.features(seen_by(method, image)), features)
    maps = naive.surgery(features, TEXT.numpy())
    mean = naive.mean_attention(attention, range(2, 5), 2, head_sum=quirks["head_sum"])
    expected = naive.refined(maps[:2], mean, (5, 5), 0.5, quirks["open_border"])
    # The affinity leaves these maps almost flat, and their normalisation enlarges the rounding of
    # float32 about 200 times. Without the affinity they are compared below.
    np.testing.assert_allclose(cams_of(method, image, [0, 1]), expected, atol=1e-3)
    # The tags' order, and which other classes there are, decide nothing.
    np.testing.assert_allclose(cams_of(method, image, [1])[0], expected[1], atol=1e-3)
    plain = excel(clip, ExcelOptions(**OPTIONS, affinity=False), **quirks)
    cams = cams_of(plain, image, [1, 0])
    np.testing.assert_allclose(cams, maps[[1, 0]].reshape(2, 5, 5), atol=1e-5)


@pytest.mark.parametrize("quirk", QUIRKS)
def test_every_quirk_changes_the_cams(clip, quirk):
    image = draw_photograph(3, 70, 90)
    released = cams_of(excel(clip, ExcelOptions(**OPTIONS), **QUIRKS), image, [0, 1])
    without = {**QUIRKS, quirk: False}
    found = cams_of(excel(clip, ExcelOptions(**OPTIONS), **without), image, [0, 1])
    assert np.abs(found - released).max() > 1e-3


def test_images_keep_their_own_grid_unless_they_are_squashed(clip):
    image = draw_photograph(3, 70, 90)
    encoder = ClipEncoder(ImageTower.of(clip), position_fp16=True, max_patches=30)
    own = ExcelEncoder(encoder, None, imagenet_norm=False)
    assert own.patch_grid(image) == (5, 6) == encoder.patch_grid(image)
    assert torch.equal(own.prepare(image), encoder.prepare(image))
    assert own.position_embedding(5, 6).half().float().ne(own.position_embedding(5, 6)).any()
    assert encoder.position_fp16, "the encoder of others stays as it is"
    for size, side in ((64, 4), (72, 5), (320, 5)):
        squashed = ExcelEncoder(encoder, size, imagenet_norm=True)
        assert squashed.patch_grid(image) == (side, side)
        pixels = naive.pixels_of(image, 16 * side, *naive.IMAGENET)[0]
        torch.testing.assert_close(squashed.prepare(image), pixels, atol=1e-5, rtol=0)


def test_any_depth_has_the_second_path_from_its_last_blocks_on(clip):
    method = excel(clip, ExcelOptions(), **CLEAN)  # five blocks of four
    assert (method.first, list(method.blocks)) == (1, [1, 2, 3, 4])
    assert cams_of(method, draw_photograph(1, 40, 50), [0]).shape == (1, 3, 4)
    assert cams_of(method, draw_photograph(1, 40, 50), []).shape == (0, 3, 4)


def test_bfloat16_changes_the_features_by_its_rounding_alone(clip):
    image = draw_photograph(3, 70, 90)
    method = excel(clip, ExcelOptions(**OPTIONS), **QUIRKS)
    with torch.no_grad():
        exact = method.features(seen_by(method, image))
        rough = ClipEncoder(ImageTower.of(build_tiny_clip(head_width=16)), precision=torch.bfloat16)
        method.encoder = ExcelEncoder(rough, 80, imagenet_norm=True)
        found = method.features(seen_by(method, image))
    assert found.dtype == torch.float32
    assert 1e-4 < (found - exact).abs().max() / exact.abs().max() < 0.05


def test_a_map_without_contrast_is_empty():
    assert torch.equal(feature_surgery(torch.ones(4, 32), TEXT), torch.zeros(5, 3))


# The text


def test_attributes_are_centres_of_sentences():
    sentences = unit(30, 8)
    attributes = cluster_sentences(sentences, 7)
    assert attributes.dtype == torch.float32
    nearest = torch.cdist(sentences, attributes).argmin(1)
    means = [sentences[nearest == k].mean(0) for k in range(7)]
    torch.testing.assert_close(attributes, torch.stack(means), atol=1e-6, rtol=0)
    theirs = KMeans(n_clusters=7, random_state=0).fit(sentences.double().numpy())
    torch.testing.assert_close(attributes, torch.from_numpy(theirs.cluster_centers_).float())
    assert torch.equal(attributes, cluster_sentences(sentences, 7))


@pytest.mark.parametrize(("count", "kept"), [(112, 0.9), (10, 0.9), (9, 0.5), (3, 1.0), (1, 0.1)])
def test_classes_take_in_the_attributes_that_are_like_them(count, kept):
    text, attributes = unit(4, 8), 0.7 * unit(count, 8, seed=1)
    found = enrich_classes(text, attributes, kept)
    expected = naive.enriched(text.numpy(), attributes.numpy(), kept)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - text.numpy()).max() > 0.01


def test_the_published_numbers_of_attributes_left_out():
    for count, left_out in ((112, 11), (224, 22)):
        attributes = torch.eye(count)
        enriched = enrich_classes(torch.full((1, count), count**-0.5), attributes, 0.9)
        assert (enriched > enriched.min() + 1e-6).sum() == count - left_out


@pytest.mark.parametrize("joins", [False, True])
def test_backgrounds_are_not_enriched(clip, tmp_path, joins):
    path = tmp_path / "sentences.yaml"
    path.write_text(yaml.safe_dump(SENTENCES))
    asked = []

    def embed_sentences(sentences: list[str]) -> torch.Tensor:
        asked.append(sentences)
        return of_images(unit(len(sentences), 32, seed=4))

    def of_images(text: torch.Tensor) -> torch.Tensor:
        return torch.cat([text, text, text], 1) if joins else text

    given = SimpleNamespace(
        encoder=ClipEncoder(replace(ImageTower.of(clip), joins_patches=joins)),
        embed=lambda *_: of_images(TEXT),
        embed_sentences=embed_sentences,
        batches=ALONE,
    )
    options = ExcelOptions(descriptors=str(path), clusters=4)
    method = build_excel(options, resources_of(VOCABULARY, given, **QUIRKS))
    assert asked == [[each for sentences in SENTENCES.values() for each in sentences]]
    torch.testing.assert_close(method.background_text, TEXT[3:])
    attributes = cluster_sentences(unit(8, 32, seed=4), 4)
    torch.testing.assert_close(method.class_text, enrich_classes(TEXT[:3], attributes, 0.9))


# The file of sentences


def written(tmp_path, content: object, name: str = "sentences.yaml") -> str:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def without(*names: str) -> dict[str, list[str]]:
    return {name: each for name, each in SENTENCES.items() if name not in names}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("sea", "cat"), "has no sentences for cat, sea: add them"),
        ({**SENTENCES, "see": ["x"]}, "has see, which is not a class.*sea"),
        ({**SENTENCES, "sea": "it is blue."}, "has for sea it is blue., not a list of sentences"),
        ({**SENTENCES, "sea": []}, "has for sea .*not a list of sentences: give from 1 to 1000"),
        ({**SENTENCES, "sea": ["x", " "]}, "not a list of sentences"),
        ({**SENTENCES, "sea": ["x", 1]}, "not a list of sentences"),
        ({**SENTENCES, "sea": ["x"] * 1001}, "not a list of sentences"),
        ([1], "has no class names: give a YAML or JSON file"),
        ("no: [x]", "has False, not a name: write names in quotes, as 'no'"),
        ("a: [x", "is not YAML: "),
        ("[a, b]: [x]", "is not YAML: "),
        ("!!python/object/apply:os.getcwd []", "is not YAML: "),
        ("cup: [x]\nsea: [x]\ncat: [x]\nsea: [y]", "is not YAML: sea occurs twice"),
        ({**SENTENCES, "Sea ": ["x"]}, "has Sea  twice: put all sentences into one list"),
    ],
)
def test_sentences_that_cannot_be_used_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=f"^cams.descriptors=.*{message}"):
        read_descriptors(written(tmp_path, content), NAMES, 1)


def test_too_few_sentences_a_broken_file_and_a_missing_one_are_refused(tmp_path):
    path = written(tmp_path, {**SENTENCES, "sea": ["it is blue.", "it is blue."]})
    assert read_descriptors(path, NAMES, 6)[2] == ("it is blue.", "it is blue.")
    with pytest.raises(UserError, match="cams.clusters=7 exceeds .*=6$"):
        read_descriptors(path, NAMES, 7)
    with pytest.raises(UserError, match="is not JSON: "):
        read_descriptors(written(tmp_path, "{cat: [x]}", "a.json"), NAMES, 1)
    twice = '{"cat": ["x"], "cat": ["y"]}'
    with pytest.raises(UserError, match="is not JSON: cat occurs twice"):
        read_descriptors(written(tmp_path, twice, "a.json"), NAMES, 1)
    with pytest.raises(UserError, match="not a file: give a YAML or JSON"):
        read_descriptors(str(tmp_path / "none.yaml"), NAMES, 1)
    many = Vocabulary(tuple("abcde"), (), ())
    with pytest.raises(UserError, match="for a, b, c and 2 more: add"):
        read_descriptors(written(tmp_path, {}), many.classes, 1)
    with pytest.raises(UserError, match="for a, b, c: add"):
        read_descriptors(written(tmp_path, {}), many.classes[:3], 1)


def test_the_key_holds_what_the_file_says_and_not_where_it_is(tmp_path):
    def key(path: str | None) -> str:
        options = ExcelOptions(descriptors=path, clusters=2)
        return stage_of(ComputedCams, options, VOCABULARY).key

    one = key(written(tmp_path, yaml.safe_dump(SENTENCES), "one.yaml"))
    assert one == key(written(tmp_path, dict(reversed(SENTENCES.items())), "two.JSON"))
    other = {**SENTENCES, "sea": ["it is green."]}
    assert len({one, key(None), key(written(tmp_path, other, "one.yaml"))}) == 3


def test_stored_cams_are_the_naive_ones(run_stage, arguments, photographs, tiny_clip, tmp_path):
    names, path = ("cat", "person", "rocket", "cup"), tmp_path / "sentences.json"
    sentences = {name: [f"a {name} is {word}." for word in ("big", "red")] for name in names}
    path.write_text(json.dumps(sentences))
    given = ["compat=released", "cams.size=64", "cams.clusters=5", f"cams.descriptors={path}"]
    (tmp_path / "tags.txt").write_text("a 1 3\n")
    given += ["tags=file", f"tags.path={tmp_path / 'tags.txt'}", "dataset.backgrounds=[sky,wall]"]
    given += ["stage=[tags,cams]", "cams=excel", "dataset.limit=1"]
    done = run_stage(*replaced(arguments, *given))
    assert done.code == 0, done.errors
    stored = read_cams(latest(tmp_path / "out", "cams") / "a.npz")

    def embed(each: list[str], template: str) -> torch.Tensor:
        return class_embeddings(clip, load_tokenizer(None), [(one,) for one in each], [template])

    clip = tiny_clip
    text = embed([*names, "sky", "wall"], "a clean origami {}.").numpy()
    flat = [each for name in names for each in sentences[name]]
    points = embed(flat, "{}").double().numpy()
    centres = KMeans(n_clusters=5, random_state=0).fit(points).cluster_centers_
    text[:4] = naive.enriched(text[:4], centres, 0.9)
    image = decode_image(photographs / "a.jpg", apply_exif=False)
    features, attention = naive.look(clip, naive.pixels_of(image, 64, *naive.IMAGENET), 5)
    features = features / np.linalg.norm(features, axis=0)
    mean = naive.mean_attention(attention, range(1, 5), 5, head_sum=True)
    expected = naive.refined(naive.surgery(features, text)[[1, 3]], mean, (4, 4), 0.79, True)
    assert stored.classes.tolist() == [1, 3] and stored.cams.dtype == np.float16
    np.testing.assert_allclose(stored.cams.astype(float), expected, atol=3e-3)
