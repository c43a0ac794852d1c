"""CAMs of dense methods: their common footing, and every method from an image to its file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.cams.affinity import refine_cams
from pipeline.cams.cams import read_cams
from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.cams.dense import DenseCams
from pipeline.cams.pass_method import PassCams
from pipeline.clip.device import Batches
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.settings import compat_settings
from pipeline.clip.shared_pass import MeanAttention
from pipeline.configuration.plugins import import_plugins
from pipeline.configuration.registry import methods, register
from pipeline.dense.method import DenseMethod, NameEmbeddings
from pipeline.dense.sclip import Sclip, SclipSettings
from pipeline.dense.settings import DenseSettings
from pipeline.engine.run import Outcome
from pipeline.errors import UserError
from pipeline.files.images import decode_image
from pipeline.stages.config import Config, compose, read_config
from pipeline.stages.pipeline import Pipeline
from tests.methods import ALONE, DENSE, ON_CLIP, RELEASED, cams_of, dense_method
from tests.small_runs import draw_photograph, folder_options, latest
from tests.tiny_second import frozen, tiny_seconds

SIZES = {"small": (64, 64), "tall": (112, 80), "wide": (96, 128)}  # 16, 35 and 48 patches


def options_of(name: str, **given: object) -> DenseSettings:
    (method,) = (each for each in methods() if (each.group, each.name) == ("cams", name))
    return method.settings(**tiny_seconds(method.settings()), **given)


def dense_cams(
    encoder: ClipEncoder, text: torch.Tensor, options: DenseSettings, batches: Batches = ALONE
) -> DenseCams:
    seconds = frozen(tiny_seconds(options))
    return DenseCams(encoder, text[:3], text[3:], options, batches, RELEASED, seconds)


def footing(similarities: torch.Tensor, temperature: float, tags: int) -> torch.Tensor:
    """Returns the maps of tags, K×N, from similarities with tags and then backgrounds, N×C."""
    maps = torch.stack([(temperature * row).softmax(0) for row in similarities])[:, :tags].T
    maps = torch.stack([row - row.min() for row in maps])
    return torch.stack([row / (1e-7 + row.max()) for row in maps])


def rounding(similarities: torch.Tensor, temperature: float, tags: int) -> torch.Tensor:
    """Returns how far the stored map of each tag may lie from :func:`footing`, K×1.

    Maps are stored as float16. Cosine similarities are float32 sums, of which processors and passes
    round four units in the last place differently; the normalisation divides by the range of a map.
    """
    maps = (temperature * similarities).softmax(-1)[:, :tags].T
    high, low = maps.amax(1, keepdim=True), maps.amin(1, keepdim=True)
    return 2**-11 + 2 * temperature * 2**-21 * high / (high - low)


# The common footing


@pytest.mark.parametrize("temperature", [None, 3.0])
@torch.no_grad()
def test_a_map_is_the_probability_among_tags_and_backgrounds_normalised_once(
    encoder, text, temperature
):
    image, tags = draw_photograph(0, 64, 96), [2, 0]
    options = options_of("sclip", temperature=temperature)
    cams = cams_of(dense_cams(encoder, text, options), image, tags)
    method = options.dense_method()
    seen = method.run_pass(encoder, encoder.prepare(image)[None])
    features = F.normalize(method.patch_features(encoder, seen)[0], dim=-1)
    tau = 50.0 if temperature is None else temperature  # the tiny CLIP's is 50
    expected = footing(features @ text[[2, 0, 3, 4]].T, tau, 2)
    np.testing.assert_allclose(cams.reshape(2, -1), expected, atol=1e-5)
    assert cams.shape == (2, 4, 6) and cams.dtype == np.float32
    assert cams_of(dense_cams(encoder, text, options), image, []).shape == (0, 4, 6)


@pytest.mark.parametrize("name", ["clip_es", "naclip", "resclip"])
@torch.no_grad()
def test_the_affinity_refines_the_maps_of_any_method_if_it_is_asked_for(encoder, text, name):
    image, tags = draw_photograph(1, 64, 96), [0, 1]

    def method(affinity: bool) -> PassCams:
        given = {"affinity": affinity, "affinity_blocks": [2, 3], "box_threshold": 0.5}
        if name == "clip_es":
            options = ClipEsOptions(**given)
            return ClipEs(encoder, text[:3], text[3:], options, ALONE, RELEASED)
        return dense_cams(encoder, text, options_of(name, **given))

    coarse, refined = (cams_of(method(affinity), image, tags) for affinity in (False, True))
    mean = MeanAttention(range(2, 4))
    encoder.backbone(encoder.prepare(image)[None], mean)
    coarse = torch.from_numpy(coarse).flatten(1)
    expected = refine_cams(coarse, mean.result()[0], (4, 6), threshold=0.5, open_border=True)
    np.testing.assert_allclose(refined.reshape(2, -1), expected, atol=1e-5)
    assert not np.allclose(refined.reshape(2, -1), coarse, atol=0.05)


def test_the_affinity_is_off_for_dense_methods_and_on_for_clip_es():
    assert {options_of(name).affinity for name in DENSE} == {False}
    assert ClipEsOptions().affinity


@pytest.mark.parametrize("name", DENSE)
def test_an_image_has_the_same_cams_whatever_shares_its_batch(encoder, text, name):
    own = {"neighbours": 9} if name == "sc_clip" else {}
    images = [draw_photograph(seed, 64, 96) for seed in range(3)]
    method = dense_cams(encoder, text, options_of(name, **own), Batches(3, 4, 32))

    def cams(*seeds: int) -> dict[int, np.ndarray]:
        return dict(method.stream((seed, images[seed], [0, seed]) for seed in seeds))

    together, alone = cams(0, 1, 2), cams(1)
    assert together.keys() == {0, 1, 2}
    np.testing.assert_allclose(together[1], alone[1], atol=1e-5)
    assert np.array_equal(cams(0, 1, 2)[1], together[1])


def test_to_a_method_the_backgrounds_are_one_thing(encoder, text, monkeypatch):
    seen, look = [], Sclip.similarities

    def similarities(self, encoder, seen_pass, names):
        seen.append(names)
        return look(self, encoder, seen_pass, names)

    options = options_of("sclip", temperature=7.0)
    monkeypatch.setattr(Sclip, "similarities", similarities)
    cams_of(dense_cams(encoder, text, options), draw_photograph(0, 64, 96), [2, 0])
    ((vectors, labels, temperature),) = seen
    assert labels.tolist() == [1, 2, 0, 0] and temperature == 7
    assert torch.equal(vectors, text[[2, 0, 3, 4]])


# From an image to its file


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder with a photograph of each size."""
    root = tmp_path_factory.mktemp("pictures")
    for seed, (name, size) in enumerate(SIZES.items()):
        Image.fromarray(draw_photograph(seed, *size)).save(root / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def configured(pictures, tiny_checkpoint) -> Config:
    """A run on the photographs, composed once, since that takes longer than what the tests do."""
    given = [*folder_options(pictures, tiny_checkpoint), "runtime.batch_size=1", "masks=argmax"]
    return read_config(compose(given))


@pytest.fixture
def start(configured, tmp_path) -> Callable[..., Pipeline]:
    """Opens a pipeline with these settings: start(output, cams=…, …)."""

    def open_pipeline(output: str, **parts: object) -> Pipeline:
        return Pipeline.open(replace(configured, output_dir=str(tmp_path / output), **parts))

    return open_pipeline


def run(pipeline: Pipeline, *commands: str) -> list[Outcome]:
    return list(pipeline.run(commands))


def stored(root: Path) -> dict[str, np.ndarray]:
    return {path.stem: read_cams(path).cams for path in sorted(latest(root, "cams").glob("*.npz"))}


def tags_of(root: Path) -> dict[str, Sequence[int]]:
    lines = (latest(root, "tags") / "tags.txt").read_text().splitlines()
    return {line.split()[0]: [int(tag) for tag in line.split()[1:]] for line in lines}


def left_out(root: Path, stage: str) -> dict[str, str]:
    path = latest(root, stage) / "failures.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["id"]: line["reason"] for line in map(json.loads, lines)}


@pytest.mark.parametrize("name", ON_CLIP)
@torch.no_grad()
def test_stored_cams_are_the_methods_own(name, start, pictures, tmp_path, monkeypatch):
    passes = []
    look = ClipEncoder.backbone

    def backbone(encoder: ClipEncoder, *given: object) -> object:
        passes.extend([1] * (encoder.native_size == 64))  # and not a second backbone
        return look(encoder, *given)

    monkeypatch.setattr(ClipEncoder, "backbone", backbone)
    shared = start("shared", cams=options_of(name))
    run(shared, "tags", "cams")
    method = dense_method(name)
    # An image that SC-CLIP refuses in the pass with the tags has one of its own.
    assert len(passes) == 3 * method.passes + (name == "sc_clip")
    alone = start("alone", cams=options_of(name))
    run(alone, "tags")
    run(alone, "cams")

    tags, found = tags_of(tmp_path / "shared"), stored(tmp_path / "shared")
    assert set(tags) == {"small", "tall", "wide"}
    refused = {"small"} if name == "sc_clip" else set()
    assert set(found) == set(tags) - refused
    for root in ("shared", "alone"):
        reasons = left_out(tmp_path / root, "cams")
        assert set(reasons) == refused and not left_out(tmp_path / root, "tags")
        assert all("has 16 patches, too few" in reason for reason in reasons.values())
    of_own_pass = stored(tmp_path / "alone")
    assert set(of_own_pass) == set(found)

    (stage,) = shared.stages(["cams"])
    clip, encoder = stage.resources.clip, stage.resources.clip.encoder
    vocabulary = stage.vocabulary
    text = clip.embed(vocabulary.cam_names, vocabulary.backgrounds or ("background",), "clip_es")
    for image_id, cams in found.items():
        image = decode_image(pictures / f"{image_id}.png")
        chosen = [*tags[image_id], *range(len(vocabulary.classes), len(text))]
        labels = torch.arange(1, len(chosen) + 1)
        labels[len(tags[image_id]) :] = 0
        names = (text[chosen], labels, encoder.temperature)
        seen = method.run_pass(encoder, encoder.prepare(image)[None])
        similarities = method.similarities(encoder, seen, NameEmbeddings(*names))
        fine = similarities.mT.unflatten(-1, method.grid(seen))
        similarities = F.adaptive_avg_pool2d(fine, seen.grid)[0].flatten(1).mT
        given = similarities, encoder.temperature, len(tags[image_id])
        expected, allowed = footing(*given), rounding(*given)
        for maps in (cams, of_own_pass[image_id]):
            assert (torch.from_numpy(maps).flatten(1) - expected).abs().le(allowed).all()


def test_a_method_runs_in_bfloat16(start, configured, tmp_path):
    runtime = replace(configured.runtime, precision="bf16")
    run(start("rough", cams=options_of("clearclip"), runtime=runtime), "tags", "cams")
    rough = stored(tmp_path / "rough")
    assert rough.keys() == SIZES.keys()
    assert all(np.isfinite(cams).all() and cams.max() > 0.99 for cams in rough.values())


def test_an_own_dense_method_is_a_choice_for_workers_too(start, tmp_path, monkeypatch):
    import_plugins(["tests.plugins.keys"])
    options = options_of("key_key", gain=2.0, affinity=True, affinity_blocks=[-1, 0])
    sent = pickle.loads(pickle.dumps(options))
    assert sent == options and type(sent).__module__ == "tests.plugins.keys"
    run(start("out", cams=sent), "tags", "cams")
    assert stored(tmp_path / "out").keys() == SIZES.keys()
    manifest = json.loads((latest(tmp_path / "out", "cams") / "manifest.json").read_text())
    assert manifest["configuration"]["code"] == "tests.plugins.keys.Keys"
    assert manifest["configuration"]["method_source"]
    compat = pickle.dumps(compat_settings()(double_gain=True))
    monkeypatch.setattr("pipeline.clip.settings.quirks", dict)  # as without the plug-in
    assert pickle.loads(compat).double_gain


@pytest.mark.large
def test_workers_have_all_methods_and_their_quirks(run_stage, pictures, tiny_checkpoint, tmp_path):
    """The method of another group declares the templates; the quirk doubles the logits."""
    given = [*folder_options(pictures, tiny_checkpoint), "plugins=[tests.plugins.keys]"]
    given += ["cams=key_key", "tags.templates=tagclip", "stage=[tags,cams]"]

    def cams(name: str, *more: str) -> dict[str, np.ndarray]:
        finished = run_stage(*given, f"output_dir={tmp_path / name}", *more)
        assert finished.code == 0, finished.errors
        return stored(tmp_path / name)

    here = cams("here", "compat=released")
    there = cams("there", "compat=released", "executor=processes", "executor.workers=2")
    doubled = cams("doubled", "compat=released", "compat.double_gain=true")
    for name, expected in here.items():
        assert np.array_equal(there[name], expected) and not np.array_equal(doubled[name], expected)
    masks = {"masks=dense", "stage=masks", "compat=released", f"output_dir={tmp_path / 'masks'}"}
    for more in ("compat.double_gain=false", "compat.double_gain=true"):
        assert run_stage(*given[:-1], *masks, more).code == 0
    assert len([*(tmp_path / "masks" / "all" / "masks").glob("*/manifest.json")]) == 3  # and latest


def test_a_dense_method_does_not_take_the_name_of_another():
    taken = type("Other", (SclipSettings,), {"__module__": __name__})
    with pytest.raises(UserError, match="cams=sclip, which .* already"):
        register("dense", "sclip", taken)(DenseMethod)


def test_images_that_a_method_of_ones_own_refuses_are_left_out_by_name(start, tmp_path):
    import_plugins(["tests.plugins.refusing"])
    from tests.plugins.refusing import RefusingCamOptions, RefusingTagOptions

    run(start("out", tags=RefusingTagOptions(), cams=RefusingCamOptions()), "tags", "cams", "masks")
    root = tmp_path / "out"
    assert left_out(root, "tags") == {"small": "is too small to be tagged"}
    assert left_out(root, "cams")["wide"] == "is too small for CAMs"
    assert set(tags_of(root)) == {"tall", "wide"} and set(stored(root)) == {"tall"}
    assert [path.stem for path in latest(root, "masks").glob("*.png")] == ["tall"]
