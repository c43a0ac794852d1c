"""The demo's first validation scene gives what it gave when our outputs were the released code's.

The golden outputs themselves are not part of the repository (see test_golden.py); these figures
were computed by the code that reproduced them.
"""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from pipeline.cams.cams import Cams
from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.text import class_embeddings, load_tokenizer, prompts_of
from pipeline.clip.weights.checkpoint import load_clip
from pipeline.datasets.scenes import load_world, render_scene
from pipeline.masks.crf import CrfOptions
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from pipeline.tags.tagger import choose_tags
from tests import REPOSITORY
from tests.methods import ALONE, RELEASED, cams_of, scores_of

SCORES = {
    "coarse": [0.00110, 0.00013, 0.00028, 0.01792, 0.99970]
    + [0.04935, 0.99574, 0.02433, 0.00101, 0.00190],
    "dmar": [0.00003, 0, 0, 0.00028, 0.66422, 0.00175, 0.25533, 0.00081, 0.00001, 0.00001],
    "scores": [0.00003, 0, 0, 0.00028, 0.83104, 0.00175, 0.25533, 0.00081, 0.00001, 0.00001],
}


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return render_scene(load_world("demo"), "val", 0).image


def test_the_first_scene_is_scored_and_masked_as_ever(scene):
    settings = yaml.safe_load((REPOSITORY / "configs/dataset/demo.yaml").read_text())["dataset"]
    names = settings["classes"] + settings["backgrounds"]
    clip = load_clip(REPOSITORY / "data/demo/clip.safetensors")
    encoder, tokenizer = ClipEncoder(ImageTower.of(clip), position_fp16=True), load_tokenizer(None)
    text = class_embeddings(clip, tokenizer, [*zip(names)], prompts_of("tagclip"))
    tagger = TagClip(encoder, text, 10, TagClipOptions(), ALONE, RELEASED)
    (scores,) = scores_of(tagger, [scene], ["coarse", "dmar"])
    for step, expected in SCORES.items():
        np.testing.assert_allclose(scores[step], expected, atol=2e-5, err_msg=step)
    tags = choose_tags(scores["scores"], 0.5)
    assert tags == (4,)

    text = class_embeddings(clip, tokenizer, [*zip(names)], prompts_of("clip_es"))
    method = ClipEs(encoder, text[:10], text[10:], ClipEsOptions(), ALONE, RELEASED)
    maps = cams_of(method, scene, tags)
    assert maps.shape == (1, 15, 20) and maps.mean() == pytest.approx(0.53651, abs=1e-4)
    cams = Cams(np.array(tags), maps.astype(np.float16), scene.shape[:2])
    labels, _ = pseudo_mask(scene, cams, CrfOptions(), bgr=True, fp16=True)
    assert abs(int((labels == 5).sum()) - 20190) < 40
    assert set(np.unique(labels)) == {0, 5}
