"""Every kind of vision transformer with a class token against open_clip's own forward pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.zero_shot_classifier import build_zero_shot_classifier

from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.clip.device import Batches
from pipeline.clip.dimensions import block_window, patch_grid
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.text import class_embeddings, load_tokenizer, prompts_of
from pipeline.errors import UserError
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from tests.methods import ALONE, RELEASED, cams_of, scores_of
from tests.small_runs import draw_photograph

# As in open_clip's models, but narrow: B/32, B/16, L/14, L/14 at 336, H/14 at 378, g/14,
# bigG/14, patches of 16 and 32 at 448, and layer scale.
KINDS = {
    "b32": {"patch_size": 32, "layers": 12, "width": 128},
    "b32_448": {"patch_size": 32, "layers": 3, "image_size": 448},
    "b16": {"patch_size": 16, "layers": 12},
    "b16_448": {"patch_size": 16, "layers": 3, "image_size": 448},
    "l14": {"patch_size": 14, "layers": 24},
    "l14_336": {"patch_size": 14, "layers": 3, "image_size": 336},
    "h14_378": {"patch_size": 14, "layers": 3, "width": 160, "head_width": 80, "image_size": 378},
    "g14": {"patch_size": 14, "layers": 3, "width": 88, "head_width": 88, "mlp_ratio": 4.3637},
    "bigg14": {"patch_size": 14, "layers": 3, "width": 104, "head_width": 104, "mlp_ratio": 4.9231},
    "layer_scale": {"patch_size": 16, "layers": 3, "ls_init_value": 0.5},
    "no_ln_pre": {"patch_size": 16, "layers": 3, "no_ln_pre": True},
}
CASES = [(kind, quick_gelu) for kind in KINDS for quick_gelu in (False, True)]


def build(
    vision: dict, *, quick_gelu: bool = False, model: type = CLIP, **text: object
) -> CLIP | CustomTextCLIP:
    """Returns a small CLIP whose random weights are large enough to tell images apart."""
    torch.manual_seed(0)
    text = {"vocab_size": 50, "context_length": 8, "width": 32, "heads": 2, "layers": 1, **text}
    clip = model(
        embed_dim=16,
        vision_cfg=CLIPVisionCfg(**{"width": 64, "head_width": 64, **vision}),
        text_cfg=CLIPTextCfg(**text),
        quick_gelu=quick_gelu,
    )
    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(2.0)
        clip.logit_scale.fill_(np.log(20.0))
    return clip.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tower() -> Callable[..., CLIP]:
    """Returns a function that builds each kind once."""
    built: dict[tuple, CLIP] = {}

    def get(kind: str, quick_gelu: bool = False) -> CLIP:
        key = (kind, quick_gelu)
        if key not in built:
            built[key] = build(KINDS[kind], quick_gelu=quick_gelu)
        return built[key]

    return get


def native_pixels(clip: CLIP, count: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, *clip.visual.image_size, generator=generator)


# The same numbers as open_clip's


@pytest.mark.parametrize(("kind", "quick_gelu"), CASES)
def test_the_class_token_of_every_kind_is_open_clips(kind, quick_gelu, tower):
    clip = tower(kind, quick_gelu)
    encoder, pixels = ClipEncoder(ImageTower.of(clip)), native_pixels(clip, 2)
    assert encoder.patch_size == KINDS[kind]["patch_size"]
    assert encoder.depth == KINDS[kind]["layers"]
    assert encoder.native_size == KINDS[kind].get("image_size", 224)
    expected = clip.encode_image(pixels, normalize=True)
    assert (expected[0] - expected[1]).norm() > 0.02, "two images have to differ in this test"
    features = encoder.image_features(pixels)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)
    inputs = encoder.backbone(pixels)
    for alone in (encoder.attended_features(inputs)[:, 0], encoder.whole_image_features(inputs)):
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "quick_gelu"), CASES)
def test_the_patches_of_every_kind_are_open_clips(kind, quick_gelu, tower):
    clip = tower(kind, quick_gelu)
    encoder, pixels = ClipEncoder(ImageTower.of(clip)), native_pixels(clip)
    outputs = clip.visual.forward_intermediates(
        pixels, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
    )
    [patches] = outputs["image_intermediates"]
    expected = F.normalize(patches @ clip.visual.proj, dim=-1)
    features = encoder.attended_features(encoder.backbone(pixels))[:, 1:]
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_attention_of_every_kind_is_multihead_attentions(kind, tower):
    clip = tower(kind)
    blocks = clip.visual.transformer.resblocks
    inputs: dict[int, torch.Tensor] = {}
    hooks = [
        block.ln_1.register_forward_hook(lambda *args, n=number: inputs.update({n: args[2]}))
        for number, block in enumerate(blocks, 1)
    ]
    clip.encode_image(native_pixels(clip))
    for hook in hooks:
        hook.remove()
    recorded: dict[int, torch.Tensor] = {}
    ClipEncoder(ImageTower.of(clip)).backbone(
        native_pixels(clip), lambda n, attention: recorded.update({n: attention})
    )
    assert sorted(recorded) == list(range(1, len(blocks) + 1))
    for number in {1, len(blocks) // 2 + 1, len(blocks)}:
        x = inputs[number]
        _, weights = blocks[number - 1].attn(x, x, x, need_weights=True)
        torch.testing.assert_close(recorded[number], weights[:, 1:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pool", ["argmax", "eos"])
@pytest.mark.parametrize("model", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_class_embeddings_of_every_kind_are_open_clips(model, pool, quick_gelu):
    end = 49407
    clip = build(
        {"layers": 1, "image_size": 32},
        quick_gelu=quick_gelu,
        model=model,
        vocab_size=end + 1,
        context_length=77,
        pool_type=pool,
        eos_id=end,
        layers=3,
    )
    tokenizer, templates = load_tokenizer(None), prompts_of("tagclip")[::12]
    names = ["cat", "traffic light", "potted plant"]
    embeddings = class_embeddings(clip, tokenizer, [*zip(names)], templates)
    expected = build_zero_shot_classifier(clip, tokenizer, names, templates).T
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).norm() > 0.02, "names have to differ in this test"
    assert ClipEncoder(ImageTower.of(clip)).temperature == pytest.approx(20)


# Both methods as a whole


@pytest.mark.parametrize("kind", ["b32", "b16", "l14", "h14_378"])
def test_both_methods_run_at_every_patch_size(kind, tower):
    encoder = ClipEncoder(ImageTower.of(tower(kind)))
    text = F.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(2)), dim=-1)
    image = draw_photograph(0, 150, 210)
    variants = ("clip", "clip_native", "coarse", "coarse_last", "dmar", "cwr")
    options, batches = TagClipOptions(votes=2), Batches(1, crops=1, waiting=8)
    tagger = TagClip(encoder, text, 4, options, batches, RELEASED)
    [result] = scores_of(tagger, [image], variants)
    assert result.keys() == {"scores", *variants}
    for name, scores in result.items():
        assert scores.shape == (4,) and np.isfinite(scores).all(), name
        assert (scores >= 0).all() and (scores <= 1).all() and scores.any(), name
    method = ClipEs(encoder, text[:4], text[4:], ClipEsOptions(), ALONE, RELEASED)
    cams = cams_of(method, image, [0, 3])
    assert cams.shape == (2, *patch_grid(150, 210, encoder.patch_size))
    assert np.isfinite(cams).all() and cams.min() >= 0 and 0.9 < cams.max() <= 1


# Blocks relative to the depth


@pytest.mark.parametrize(
    ("window", "depth", "expected"),
    [
        ([-3, -1], 12, [9, 10, 11]),
        ([-7, -1], 12, [5, 6, 7, 8, 9, 10, 11]),
        ([-3, -1], 24, [21, 22, 23]),
        ([5, 0], 12, [5, 6, 7, 8, 9, 10, 11, 12]),
        ([1, -1], 4, [1, 2, 3]),
        ([12, 12], 12, [12]),
        ([0, 0], 12, [12]),
        ([-7, -1], 4, [1, 2, 3]),
        ([-7, -5], 3, [1]),
        ([-3, -1], 1, [1]),
    ],
)
def test_windows_count_from_one_or_from_the_last_block(window, depth, expected):
    assert list(block_window("tags.attention_blocks", window, depth)) == expected


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ([9, 13], r"tags.attention_blocks=\[9,13\] asks for block 13, but this CLIP has 12"),
        ([-1, -3], r"tags.attention_blocks=\[-1,-3\] is empty, since this CLIP has 12 blocks"),
        ([11, -3], r"block 11 comes after block 9"),
        ([9], r"tags.attention_blocks=\[9\] is not a window"),
    ],
)
def test_a_window_without_blocks_is_named_with_the_depth(window, message):
    with pytest.raises(UserError, match=message):
        block_window("tags.attention_blocks", window, 12)


def test_both_methods_average_existing_blocks_only(tower):
    encoder, text = ClipEncoder(ImageTower.of(tower("b16_448"))), torch.eye(3, 16)
    tag_options, cam_options = TagClipOptions(), ClipEsOptions()
    tagger = TagClip(encoder, text, 2, tag_options, ALONE, RELEASED)
    assert list(tagger.window) == [1, 2]
    cams = ClipEs(encoder, text[:2], text[2:], cam_options, ALONE, RELEASED)
    assert list(cams.blocks) == [1, 2]
    tag_options.attention_blocks, cam_options.affinity_blocks = [9, 11], [5, 11]
    with pytest.raises(UserError, match=r"tags.attention_blocks=\[9,11\].*has 3"):
        TagClip(encoder, text, 2, tag_options, ALONE, RELEASED)
    with pytest.raises(UserError, match=r"cams.affinity_blocks=\[5,11\].*has 3"):
        ClipEs(encoder, text[:2], text[2:], cam_options, ALONE, RELEASED)
