"""Second backbones against timm's own modules, and what is said of a wrong file."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer_sam import get_decomposed_rel_pos_bias
from torchvision.transforms.functional import normalize

from pipeline.clip.dimensions import OPENAI_NORMALISATION, Dimensions
from pipeline.clip.image_text import releases
from pipeline.clip.models.dino import IMAGENET
from pipeline.clip.origins.origin import OfRelease
from pipeline.clip.second import SECONDS, FrozenSecond
from pipeline.errors import NotDownloaded, UserError
from tests import c_radio_files, small_models
from tests.tiny_second import build_dino, build_sam, dino_file, sam_file


def second(
    path: object = None, model: str | None = None, usual: str = "dino_vitb8"
) -> FrozenSecond:
    given = None if path is None else str(path)
    return FrozenSecond(
        ("cams.second.model", "cams.second.checkpoint"), usual, model, given, "cpu", "fp32"
    )


def sam(path: object, model: str | None = None) -> FrozenSecond:
    return second(path, model, "sam_vit_b")


releases()  # which registers all second backbones
NVIDIA = "https://huggingface.co/nvidia/C-RADIOv3-"


def pixels_of(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.manual_seed(height))


@pytest.mark.parametrize("size", [(32, 32), (40, 64)])
@pytest.mark.parametrize("normalisation", [IMAGENET, OPENAI_NORMALISATION])
@torch.no_grad()
def test_tokens_are_those_of_timm(size, normalisation):
    pixels, vit = pixels_of(*size), build_dino()
    shown = normalize(pixels, [0] * 3, [1 / each for each in normalisation.std])
    shown = normalize(shown, [-each for each in normalisation.mean], [1] * 3)
    theirs = vit.patch_embed.proj(normalize(shown, IMAGENET.mean, IMAGENET.std))
    grid = theirs.shape[-2:]
    places = vit.pos_embed[:, 1:].mT.unflatten(-1, (4, 4))
    if grid != (4, 4):
        factors = [(side + 0.1) / 4 for side in grid]
        places = F.interpolate(places, scale_factor=factors, mode="bicubic")
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(2, 1, -1)
    entering = vit.blocks[0](torch.cat([first, (theirs + places).flatten(2).mT], 1))
    own = second(dino_file()).encoder
    assert own.grid(pixels) == grid
    found = own.tokens(pixels, normalisation)
    expected = vit.norm(vit.blocks[1](entering))[:, 1:].mT.unflatten(-1, grid)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    block = vit.blocks[1]
    expected = block.attn.qkv(block.norm1(entering))[:, 1:].chunk(3, -1)
    for each, theirs in zip(own.projections(pixels, normalisation), expected, strict=True):
        torch.testing.assert_close(each.flatten(2).mT, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pixels_beside_whole_patches_are_resized():
    encoder, pixels = second(dino_file()).encoder, pixels_of(35, 42)
    assert encoder.grid(pixels) == (5, 6)
    whole = F.interpolate(pixels, (40, 48), mode="bilinear")
    assert torch.equal(encoder.tokens(pixels, IMAGENET), encoder.tokens(whole, IMAGENET))


@torch.no_grad()
def test_dinov2_of_timm_and_of_its_authors_are_one(tmp_path):
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 1, "img_size": 56, "num_classes": 0}
    torch.manual_seed(0)
    vit = timm.create_model("vit_base_patch14_reg4_dinov2", **sizes).eval()
    weights = {name: each.contiguous() for name, each in vit.state_dict().items()}
    save_file(weights, tmp_path / "timm.safetensors")
    theirs = {k: v for k, v in weights.items() if k not in ("reg_token", "pos_embed")}
    theirs["register_tokens"] = weights["reg_token"]
    # timm adds the position of the class token to it.
    theirs["pos_embed"] = F.pad(weights["pos_embed"], (0, 0, 1, 0), value=0.25)
    theirs["cls_token"] = weights["cls_token"] - 0.25
    torch.save(theirs, tmp_path / "own.pth")
    pixels = pixels_of(56, 56)
    expected = vit.forward_features(pixels)[:, 5:].mT.unflatten(-1, (4, 4))
    for name in ("timm.safetensors", "own.pth"):
        found = second(tmp_path / name).encoder.tokens(pixels, IMAGENET)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(96, 128), (50, 40)])
@torch.no_grad()
def test_attention_of_sam_is_that_of_timms_modules(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    grid, values, heads = sam(sam_file()).encoder.last_attention(image)
    tall, wide = (round(side * 128 / max(size)) for side in size)
    resized = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR))
    pixels = normalize(torch.tensor(resized).permute(2, 0, 1) / 255, IMAGENET.mean, IMAGENET.std)
    pixels = F.pad(pixels, (0, 128 - wide, 0, 128 - tall))[None]
    whole = build_sam()
    tokens = whole.blocks[:3](whole.patch_embed(pixels) + whole.pos_embed)
    last = whole.blocks[3]
    query, key, value = last.attn.qkv(last.norm1(tokens).flatten(1, 2)).chunk(3, -1)
    inside = [8 * row + column for row in range(tall // 16) for column in range(wide // 16)]
    assert grid == (tall // 16, wide // 16)
    for head, (found, attention) in enumerate(zip(values, heads, strict=True)):
        q, k, v = (each[0, :, 16 * head : 16 * head + 16] for each in (query, key, value))
        bias = get_decomposed_rel_pos_bias(
            q[None], last.attn.rel_pos_h, last.attn.rel_pos_w, (8, 8), (8, 8)
        )
        expected = (q @ k.T / 4 + bias[0]).softmax(-1)[inside][:, inside]
        torch.testing.assert_close(attention, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found, v[inside], atol=1e-5, rtol=1e-5)


def test_a_backbone_is_sent_without_its_weights():
    given = second(dino_file())
    given.encoder  # noqa: B018
    sent = pickle.loads(pickle.dumps(given))
    assert sent == given and len(pickle.dumps(given)) < 5000
    assert sent.encoder is given.encoder  # one in a process


def test_the_key_follows_the_weights_and_not_the_path(tmp_path):
    moved = tmp_path / "moved.pth"
    moved.write_bytes(dino_file().read_bytes())
    assert second(moved).key_facts() == second(dino_file()).key_facts()
    assert second(dino_file(16)).key_facts() != second(dino_file()).key_facts()


@pytest.mark.parametrize(
    "name", [name for name, each in SECONDS.items() if each.files["weights"] != ("",)]
)
def test_published_backbones_have_an_address_and_are_refused_by_their_size(name, tmp_path):
    if SECONDS[name].terms:
        with pytest.raises(UserError, match="on request at https"):
            second(None, name, name).origin.published()
    else:
        [source] = second(None, name, name).origin.published().values()
        assert source.urls[0].startswith(("https://dl.fbaipublicfiles.com/", NVIDIA))
    file = sam_file() if name.startswith("sam") else dino_file()
    if name.startswith("c_radio"):
        file = c_radio_files.timm(small_models.c_radio(), tmp_path)["image"]
        assert source.urls[0].startswith(NVIDIA) and source.name.endswith("_half.pth.tar")
    with pytest.raises(UserError, match=f"does not hold cams.second.model={name} .width"):
        second(file, name, name).check()
    with pytest.raises(UserError, match=r"missing: give .*cams\.second\.mod"):
        second(tmp_path, name, name).check()


@pytest.mark.parametrize(
    ("path", "model", "message"),
    [
        (None, None, "names no backbone: give cams.second.model=NAME, one of dino_vitb8"),
        (None, "dino", "cams.second.model=dino is unknown: choose from dino_vitb8"),
        (None, "radio", r"=radio is unknown: .*demo, c_radio_v3_b16, c_\w+l16, c_\w+h16$"),
        (sam_file(), "sam_vit_b", "cams.second.model=sam_vit_b is unknown: choose from dino_vitb8"),
        ("nowhere.pth", None, "nowhere.pth is missing"),
        (Path(__file__), None, "is damaged or holds no weights"),
    ],
)
def test_what_is_wrong_is_one_sentence(path, model, message):
    with pytest.raises(UserError, match=message):
        second(path, model).check()


def test_a_file_of_another_kind_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not hold .* in DINO's layout"):
        second(tmp_path / "other.safetensors").check()
    with pytest.raises(UserError, match="does not hold SAM's image encoder"):
        sam(tmp_path / "other.safetensors").check()
    with pytest.raises(UserError, match="does not hold SAM's image encoder"):
        sam(dino_file()).check()
    with pytest.raises(UserError, match=r"=c_radio_v3_b16 is unknown: choose from sam_vit_b$"):
        sam(None, "c_radio_v3_b16")
    with pytest.raises(UserError, match="not hold .* in DINO's layout"):
        second(sam_file()).check()


def gated(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights of DINO with the names and shapes of SwiGLU layers."""
    found = {}
    for name, each in weights.items():
        each = torch.cat([each, each]) if "mlp.fc1" in name else each
        found[name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")] = each
    return found


def test_a_release_says_how_many_registers_it_has(tmp_path):
    declared = replace(SECONDS["dinov2_vitb14_reg"], dimensions=Dimensions(2, 14, 56), heads=1)
    for registers in (4, 0, 1):
        shapes = {name: each.shape for name, each in build_dino(patch_size=14).state_dict().items()}
        more = {"register_tokens": (1, registers, 64)} if registers else {}
        path = tmp_path / f"{registers}.safetensors"
        save_file(small_models.draw(shapes | more, 0), path)
        second(path).check()  # of any number, where no model is named
        origin = OfRelease(declared, str(path), ("cams.second.model", ""))
        if registers == 4:
            assert origin.load("cpu").prefix == 5
            continue
        sentence = rf"hold cams.second.model=dinov2_vitb14_reg .registers {registers}, not 4"
        with pytest.raises(UserError, match=sentence):
            origin.load("meta")


@pytest.mark.parametrize("kind", ["width", "gated"])
def test_a_file_with_other_heads_or_layers_is_refused(kind, tmp_path):
    weights = gated(build_dino().state_dict())
    if kind == "width":
        sizes = {"embed_dim": 96, "num_heads": 1, "depth": 2, "img_size": 64, "num_classes": 0}
        weights = timm.create_model("vit_tiny_patch16_224", **sizes).state_dict()
    save_file(weights, path := tmp_path / "other.safetensors")
    reason = {"width": "width 96, not a multiple of 64", "gated": "gated MLPs, not plain ones"}
    with pytest.raises(UserError, match=f"vision transformer in DINO's layout .{reason[kind]}"):
        second(path).check()


def test_without_a_network_a_download_is_one_sentence():
    with pytest.raises(NotDownloaded, match="run .*dino_vitbase8_pretrain.pth --output DIR"):
        second(None, "dino_vitb8").fingerprint  # noqa: B018
