"""``examples/tagclip_to_mask.py`` is an oracle for ours: it shares no line with the package."""

from __future__ import annotations

import json
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from PIL import Image

from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.clip.device import Batches
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.text import class_embeddings, load_tokenizer, prompts_of
from pipeline.tags.scores import decode_scores
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from tests import REPOSITORY
from tests.methods import RELEASED, cams_of, scores_of
from tests.small_runs import draw_photograph
from tests.tiny_clip import build_tiny_clip

FILE = REPOSITORY / "examples" / "tagclip_to_mask.py"
BATCHES = Batches(images=2, crops=3, waiting=32)


@pytest.fixture(scope="module")
def plain() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(FILE)))


@pytest.fixture(scope="module")
def clip() -> CLIP:
    """Eight blocks, whose windows are those of the papers, and a softmax that is not one-hot."""
    clip = build_tiny_clip(layers=8).requires_grad_(requires_grad=False)
    clip.logit_scale.fill_(1.0)
    return clip


@pytest.fixture(scope="module")
def released(clip) -> ClipEncoder:
    """Its image tower, with the quirk of its positions."""
    return ClipEncoder(ImageTower.of(clip), position_fp16=True)


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return F.normalize(torch.randn(7, 32, generator=torch.Generator().manual_seed(5)), dim=-1)


def test_it_uses_nothing_of_the_package():
    lines = FILE.read_text(encoding="utf-8").splitlines()
    imports = [line for line in lines if line.startswith(("from ", "import "))]
    assert len(imports) > 9 and not any("pipeline" in line for line in imports)


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_scores_are_those_of_the_package(plain, clip, released, text, seed):
    image = draw_photograph(seed, 70 + 16 * seed, 96)
    tagger = TagClip(released, text, 4, TagClipOptions(), BATCHES, RELEASED)
    pixels = plain.to_pixels(clip, Image.fromarray(image))
    expected = plain.score_classes(clip, pixels, text, 4)
    assert expected.min() > 0 and len({*expected}) == 4
    (found,) = scores_of(tagger, [image])
    np.testing.assert_allclose(found["scores"], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(2, 6))
@torch.no_grad()
def test_cams_are_those_of_the_package(plain, clip, released, text, seed):
    image, tags = draw_photograph(seed, 80, 64 + 16 * seed), [0, 2]
    method = ClipEs(released, text[:4], text[4:], ClipEsOptions(), BATCHES, RELEASED)
    pixels = plain.to_pixels(clip, Image.fromarray(image))
    expected = plain.activation_maps(clip, pixels, text[tags], text[4:])
    assert expected.std() > 0.1
    np.testing.assert_allclose(cams_of(method, image, tags), expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("scores", [[0.7], [0.5, 0.5]])
def test_one_class_and_equal_scores_have_a_tag(plain, scores):
    assert plain.choose_tags(np.float32(scores)) == [0]


def test_names_are_embedded_as_by_the_package(plain, tiny_clip):
    tokenizer, names = load_tokenizer(None), ["cat", "traffic light"]
    found = class_embeddings(tiny_clip, tokenizer, [*zip(names)], prompts_of("tagclip"))
    assert [*prompts_of("tagclip")] == plain.TAG_PROMPTS
    for name, embedding in zip(names, found):
        expected = plain.embed(tiny_clip, tokenizer, name, plain.TAG_PROMPTS)
        torch.testing.assert_close(embedding, expected, atol=2e-6, rtol=0)


@pytest.mark.large
def test_tags_and_masks_of_the_demo_are_those_of_a_run(
    plain, run_stage, tmp_path, monkeypatch, capsys
):
    given = ["dataset=demo", "clip=demo", "dataset.split=val", "dataset.limit=3", "compat=released"]
    given += [f"dataset.root={tmp_path / 'scenes'}", f"output_dir={tmp_path}"]
    given += ["runtime.precision=fp32", "stage=[tags,cams,masks]"]
    assert run_stage(*given).code == 0
    folder = {name: tmp_path / "val" / name / "latest" for name in ("tags", "masks")}
    entries = [json.loads(line) for line in (folder["tags"] / "entries.jsonl").open()]
    assert len(entries) == 3
    for entry in entries:
        [scene] = (tmp_path / "scenes").glob(f"*/val/{entry['id']}.png")
        monkeypatch.setattr(sys, "argv", [FILE.name, str(scene), str(tmp_path / "mask.png")])
        capsys.readouterr()
        runpy.run_path(str(FILE), run_name="__main__")
        scores = decode_scores(entry["scores"])
        said = ", ".join(f"{plain.CLASSES[k]} {scores[k]:.3f}" for k in entry["tags"])
        assert capsys.readouterr().out == f"tags: {said}\n"
        mask, expected = (
            Image.open(p) for p in (tmp_path / "mask.png", folder["masks"] / scene.name)
        )
        assert np.array_equal(mask, expected)
        assert mask.getpalette()[:33] == expected.getpalette()[:33]
