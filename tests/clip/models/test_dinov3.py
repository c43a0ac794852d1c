"""DINOv3, and dino.txt on it, against the released code and timm's class on the same weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.clip.compute.kept import KeptFeatures
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import ClipEncoder, to_pixels
from pipeline.clip.image_text import releases
from pipeline.clip.models.dino import IMAGENET
from pipeline.clip.models.dino.model import build as build_dino
from pipeline.clip.models.dinov2 import dinotxt
from pipeline.clip.second import SECONDS, FrozenSecond
from pipeline.clip.second_encoder import SecondEncoder
from pipeline.dense.method import NameEmbeddings
from pipeline.dense.windows import Windows, cut_size, resize, similarity_map
from pipeline.errors import UserError
from pipeline.segmenter.architecture import licence_notes
from tests import small_models
from tests.extras import library
from tests.golden_models import assert_close
from tests.methods import dense_method

GRIDS = {"wide": (5, 7), "tall": (10, 6)}
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def folder(golden_folder: Path) -> Path:
    return golden_folder / "dinov3"


@pytest.fixture(scope="module")
def read(folder):
    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"golden_{name}.npz") as arrays:
            return dict(arrays)

    return read


def tower_of(path: Path, kind: str, depth: int = 3):
    releases()
    known = SECONDS["dinov3_vits16plus" if kind == "swiglu" else "dinov3_vits16"]
    dimensions = known.dimensions._replace(depth=depth)
    small = replace(known, dimensions=dimensions, heads=2, head_width=32)
    return build_dino(small, {"weights": path}, "cpu")


@pytest.fixture(scope="module")
def tower(folder):
    def tower(kind: str):
        return tower_of(folder / f"weights_dinov3_{kind}.safetensors", kind)

    return tower


def pixels_of(encoder: ClipEncoder, image: np.ndarray) -> torch.Tensor:
    return to_pixels(image, *image.shape[:2], encoder.normalisation)[None]


@pytest.mark.parametrize("size", GRIDS)
@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
@torch.no_grad()
def test_every_block_is_that_of_the_released_code(read, tower, kind, size):
    golden, encoder = read(f"dinov3_{kind}"), ClipEncoder(tower(kind))
    pixels = pixels_of(encoder, golden[f"{size}/image"])
    assert_close(pixels[0], golden[f"{size}/pixels"])
    found = encoder.tokens_after(pixels, range(1, 4))
    tokens = torch.cat([encoder.embed_patches(pixels), *(found[n] for n in (1, 2, 3))])
    assert_close(tokens, golden[f"{size}/tokens"], TOLERANCE)
    assert_close(encoder.embed(tokens[-1]), golden[f"{size}/final"], TOLERANCE)
    inputs = encoder.backbone(pixels)
    assert_close(encoder.attended(inputs)[0], golden[f"{size}/final"], TOLERANCE)
    second = encoder.blocks[1]
    normed = second.ln_1(tokens[1:2])
    turned, plain = second.project(normed, pixels.shape[-2:]), second.project(normed)
    for ours, theirs in zip((*plain[:2], *turned[:2]), ("query", "key") * 2):
        suffix = "" if any(ours is each for each in plain) else "_rotated"
        assert_close(ours[0], golden[f"{size}/{theirs}{suffix}"], TOLERANCE)
    few = second.project_for(normed, normed[:, :1], pixels.shape[-2:])
    assert_close(few[1][0], golden[f"{size}/key_rotated"], TOLERANCE)
    assert_close(few[0][0], golden[f"{size}/query_rotated"][:, :1], TOLERANCE)
    cosine, sine = second.rotary.angles(*GRIDS[size])
    assert_close(cosine, golden[f"{size}/cos"], TOLERANCE)
    assert_close(sine, golden[f"{size}/sin"], TOLERANCE)
    attention = []
    encoder.backbone(pixels, lambda number, between: attention.append(between))
    expected = torch.from_numpy(golden[f"{size}/attention"]).mean(0)
    assert_close(attention[2][0], expected, TOLERANCE)


@torch.no_grad()
def test_a_second_backbone_gives_what_enters_the_last_attention_unturned(folder, read, tower):
    golden = read("dinov3_mlp")
    weights = {
        n: t.float() for n, t in load_file(folder / "weights_dinov3_mlp.safetensors").items()
    }
    encoder = SecondEncoder(tower("mlp"), torch.float32, None)
    for size, (rows, columns) in GRIDS.items():
        pixels = torch.from_numpy(golden[f"{size}/pixels"])[None]
        found = encoder.projections(pixels, IMAGENET)
        norm = (weights[f"blocks.2.norm1.{part}"] for part in ("weight", "bias"))
        normed = F.layer_norm(torch.from_numpy(golden[f"{size}/tokens"][2]), (64,), *norm, 1e-5)
        bias = weights["blocks.2.attn.qkv.bias"] * weights["blocks.2.attn.qkv.bias_mask"]
        expected = F.linear(normed, weights["blocks.2.attn.qkv.weight"], bias)[5:].chunk(3, -1)
        for ours, theirs in zip(found, expected):
            assert_close(ours[0], theirs.T.unflatten(-1, (rows, columns)), TOLERANCE)
        final = torch.from_numpy(golden[f"{size}/final"])[5:]
        tokens = encoder.tokens(pixels, IMAGENET)[0]
        assert_close(tokens, final.T.unflatten(-1, (rows, columns)), TOLERANCE)


# dino.txt


@pytest.fixture(scope="module")
def model(folder):
    release = replace(
        releases()["dinotxt3_l16"],
        dimensions=Dimensions(5, 16, 224),
        heads=2,
        head_width=32,
        text_heads=4,
    )
    files = {"image": folder / "weights_dinov3_mlp.safetensors"}
    files["head"] = folder / "weights_dinotxt3.safetensors"
    return dinotxt.build_of_dinov3(release, files, "cpu")


@pytest.fixture
def named(read, monkeypatch):
    """The tokens of the golden names, four templates each, in place of a tokenizer's."""
    numbers = torch.zeros(4, 7, 77, dtype=torch.int64)
    numbers[..., :16] = torch.from_numpy(read("dinotxt3")["text/ids"]).transpose(0, 1)

    def tokenize(prompts: list[str]) -> torch.Tensor:
        wanted = torch.tensor([[*map(int, prompt.split())] for prompt in prompts])
        return numbers[wanted[:, 0], wanted[:, 1]]

    monkeypatch.setattr(dinotxt, "load_tokenizer", lambda _: tokenize)
    return tuple((str(k),) for k in range(7)), [f"{t} {{}}" for t in range(4)]


@pytest.mark.parametrize("size", GRIDS)
@torch.no_grad()
def test_the_head_of_dinotxt_is_not_turned(read, model, size):
    golden, encoder = read("dinotxt3"), ClipEncoder(model.image)
    pixels = pixels_of(encoder, read("dinov3_mlp")[f"{size}/image"])
    found = encoder.tokens_after(pixels, (4, 5))
    assert_close(torch.cat([found[4], found[5]]), golden[f"{size}/head_tokens"], TOLERANCE)
    embedded = encoder.attended(encoder.backbone(pixels))[0]
    assert_close(embedded[0], golden[f"{size}/class"], TOLERANCE)
    assert_close(encoder.patches(embedded), golden[f"{size}/patches"], TOLERANCE)
    whole = encoder.image_features(pixels)[0]
    assert_close(whole, golden[f"{size}/whole"], TOLERANCE)
    inputs = encoder.backbone(pixels)
    assert_close(encoder.whole_image_features(inputs)[0], golden[f"{size}/whole"], TOLERANCE)
    first = F.normalize(torch.from_numpy(golden["text/vectors"])[:, 0], dim=-1)
    logits = encoder.temperature * first @ whole
    assert_close(logits, golden[f"{size}/image_logits"], TOLERANCE)


@torch.no_grad()
def test_names_are_halved_template_by_template(read, model, named):
    golden, encoder = read("dinotxt3"), ClipEncoder(model.image)
    text = model.embed_names(*named)
    assert_close(text[:, :128], golden["text/whole_names"], TOLERANCE)
    assert_close(encoder.text_for_patches(text), golden["text/names"], TOLERANCE)
    once = F.normalize(text[:, 64:128], dim=-1)
    assert (once - text[:, 128:]).abs().max() > 0.02, "halved after the mean"
    (zero, one, *_), (first, *_) = named
    for prompts in ([first], named[1]):  # several names of a class, too, are halved before a mean
        halves = model.embed_names([zero, one], prompts)[:, 128:]
        joint = model.embed_names([(*zero, *one)], prompts)[0, 128:]
        assert_close(joint, F.normalize(halves.mean(0), dim=-1), TOLERANCE)


@pytest.mark.parametrize(("patches", "suffix"), [("head", ""), ("backbone", "_backbone")])
@torch.no_grad()
def test_a_scene_is_segmented_as_in_the_notebook(read, model, named, patches, suffix):
    golden, encoder = read("dinotxt3"), ClipEncoder(model.image)
    method = dense_method("as_trained", patches=patches)
    text = encoder.text_for_patches(model.embed_names(*named))
    names = NameEmbeddings(text, torch.arange(7), 1.0)
    for size in GRIDS:
        pixels = pixels_of(encoder, read("dinov3_mlp")[f"{size}/image"])
        cosines = method.similarities(encoder, method.run_pass(encoder, pixels), names)
        expected = golden[f"{size}/cosines{suffix}"]
        assert_close(cosines[0].T.view(expected.shape), expected, TOLERANCE)
    image = golden["scene/image"]
    size = cut_size(*image.shape[:2], 64, 16384, 16)
    resized = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    assert np.array_equal(resized, golden["scene/resized"])
    for name, side in (("slide", 48), ("slide_odd", 40)):
        windows = Windows(side, 24, "enlarge", False, 1.0)
        found = similarity_map(method, encoder, pixels_of(encoder, resized)[0], names, windows, 1)
        assert_close(found, golden[f"scene/{name}{suffix}"], TOLERANCE)
        two = resize(found, image.shape[:2]).topk(2, dim=0)
        is_decided = (two.values[0] - two.values[1] > 2 * TOLERANCE * found.max()).numpy()
        differs = two.indices[0].numpy() != golden[f"scene/{name}{suffix}_labels"]
        assert is_decided.mean() > 0.98 and not (differs & is_decided).any()


# Files of other layouts, and other sizes


def as_timm(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns released weights by timm's names, which lack the bias of keys."""
    found = {}
    for name, tensor in weights.items():
        if name in ("mask_token", "rope_embed.periods") or name.endswith("bias_mask"):
            continue
        if name.endswith("qkv.bias"):
            query, _, value = tensor.chunk(3)
            stem = name.removesuffix("qkv.bias")
            found |= {f"{stem}q_bias": query.clone(), f"{stem}v_bias": value.clone()}
            continue
        for ours, theirs in (
            ("storage_tokens", "reg_token"),
            ("ls1.gamma", "gamma_1"),
            ("ls2.gamma", "gamma_2"),
            ("mlp.w1", "mlp.fc1_g"),
            ("mlp.w2", "mlp.fc1_x"),
            ("mlp.w3", "mlp.fc2"),
        ):
            name = name.replace(ours, theirs)  # noqa: PLW2901
        found[name] = tensor
    return found


def as_transformers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns released weights by the names of Hugging Face's transformers."""
    found, is_gated = {}, any(".w1." in name for name in weights)
    mlp = {"w1": "gate_proj", "w2": "up_proj", "w3": "down_proj"}
    mlp = mlp if is_gated else {"fc1": "up_proj", "fc2": "down_proj"}
    for name, tensor in weights.items():
        if name == "rope_embed.periods" or name.endswith("bias_mask"):
            continue
        first, _, rest = name.partition(".")
        tops = {"cls_token": "cls_token", "storage_tokens": "register_tokens"}
        tops["mask_token"] = "mask_token"
        if first in tops:
            found[f"embeddings.{tops[first]}"] = tensor
        elif first == "patch_embed":
            found[name.replace("patch_embed.proj", "embeddings.patch_embeddings")] = tensor
        elif first == "norm":
            found[name] = tensor
        elif ".attn.qkv." in rest:
            stem, _, kind = rest.partition("attn.qkv.")
            for part, values in zip("qkv", tensor.chunk(3)):
                if (part, kind) != ("k", "bias"):
                    found[f"layer.{stem}attention.{part}_proj.{kind}"] = values.clone()
        else:
            rest = rest.replace("attn.proj", "attention.o_proj")
            rest = re.sub(r"ls([12])\.gamma", r"layer_scale\1.lambda1", rest)
            for ours, theirs in mlp.items():
                rest = rest.replace(f"mlp.{ours}.", f"mlp.{theirs}.")
            found[f"layer.{rest}"] = tensor
    return found


def as_gated(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns weights with gated MLPs in place of plain ones."""
    found = {name.replace("mlp.fc2.", "mlp.w3."): tensor for name, tensor in weights.items()}
    for name in [name for name in found if "mlp.fc1." in name]:
        gate = found.pop(name)
        found[name.replace("fc1", "w1")], found[name.replace("fc1", "w2")] = gate, gate.flip(0)
    return found


@pytest.fixture(scope="module")
def drawn():
    """Weights of two blocks by the released names; periods are those of the formula."""

    def drawn(kind: str) -> dict[str, torch.Tensor]:
        found = small_models.dinov3(seed=5, depth=2, width=64, head_width=32)
        found["rope_embed.periods"] = 100 ** (torch.arange(8) * 4 / 32)
        return as_gated(found) if kind == "swiglu" else found

    return drawn


@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
@torch.no_grad()
def test_files_of_three_layouts_are_one_tower_and_timms_class(drawn, tmp_path, kind):
    weights = drawn(kind)
    pixels = torch.randn(2, 3, 80, 112, generator=torch.Generator().manual_seed(6))
    found = []
    for number, of in enumerate((dict, as_timm, as_transformers)):
        path = tmp_path / f"{number}.safetensors"
        save_file(of(weights), path)
        encoder = ClipEncoder(tower_of(path, kind, depth=2))
        found.append(encoder.attended(encoder.backbone(pixels)))
    for other in found[1:]:
        assert torch.equal(found[0], other)
    theirs = timm.create_model(
        "vit_small_plus_patch16_dinov3_qkvb"
        if kind == "swiglu"
        else "vit_small_patch16_dinov3_qkvb",
        embed_dim=64,
        depth=2,
        num_heads=2,
        mlp_ratio=4,
        dynamic_img_size=True,
    )
    theirs.load_state_dict(as_timm(weights))
    assert_close(found[0], theirs.eval().forward_features(pixels), TOLERANCE)


@pytest.mark.extras
@pytest.mark.parametrize("kind", ["mlp", "swiglu"])
@torch.no_grad()
def test_the_tower_is_that_of_transformers(drawn, tmp_path, kind):
    transformers, weights = library("transformers"), as_transformers(drawn(kind))
    config = transformers.DINOv3ViTConfig(
        patch_size=16,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_register_tokens=4,
        use_gated_mlp=kind == "swiglu",
        hidden_act="silu" if kind == "swiglu" else "gelu",
    )
    theirs = transformers.DINOv3ViTModel(config).eval()
    weights["embeddings.mask_token"] = weights["embeddings.mask_token"][None]
    named = {name.replace("layer.", "model.layer.", 1): each for name, each in weights.items()}
    theirs.load_state_dict(
        named if "model.layer.0.norm1.weight" in theirs.state_dict() else weights
    )
    theirs.save_pretrained(tmp_path)  # by the names of this release
    encoder = ClipEncoder(tower_of(tmp_path / "model.safetensors", kind, depth=2))
    pixels = torch.randn(1, 3, 160, 96, generator=torch.Generator().manual_seed(6))
    found = encoder.attended(encoder.backbone(pixels))
    assert_close(found, theirs(pixels).last_hidden_state, TOLERANCE)


def shapes(width: int, depth: int, *, gated: bool = False) -> dict[str, torch.Tensor]:
    """Returns weights of a DINOv3 of a size, without values."""
    with torch.device("meta"):
        found = small_models.dinov3(depth=1, width=width)
    found = as_gated(found) if gated else found
    block = {n.partition(".0.")[2]: t for n, t in found.items() if n.startswith("blocks.")}
    rest = {n: t for n, t in found.items() if not n.startswith("blocks.")}
    return rest | {f"blocks.{k}.{n}": t for k in range(depth) for n, t in block.items()}


@pytest.mark.parametrize(
    ("model", "given", "why"),
    [
        ("dinov3_vits16", {"width": 384, "depth": 12}, ""),
        ("dinov3_vits16plus", {"width": 384, "depth": 12, "gated": True}, ""),
        ("dinov3_vits16", {"width": 384, "depth": 12, "gated": True}, "gated MLPs, not plain"),
        ("dinov3_vits16plus", {"width": 384, "depth": 12}, "plain MLPs, not gated"),
        ("dinov3_vitb16", {"width": 384, "depth": 12}, "width 384, not 768"),
        ("dinov3_vitl16", {"width": 1024, "depth": 12}, "depth 12, not 24"),
        ("dino_vits16", {"width": 384, "depth": 12}, "registers 4, not 0"),
        ("dinov2_vitb14_reg", {"width": 768, "depth": 12}, "patch size 16, not 14"),
    ],
)
def test_a_file_of_another_size_is_refused_by_name(tmp_path, model, given, why):
    path = tmp_path / "given.pth"
    torch.save({n: torch.zeros(t.shape) for n, t in shapes(**given).items()}, path)
    keys = "cams.second.model", "cams.second.checkpoint"
    chosen = FrozenSecond(keys, "dino_vitb8", model, str(path), "cpu", "fp32")
    if why:
        with pytest.raises(UserError, match=rf"given.pth does not hold .*={model} \(.*{why}"):
            chosen.check()
    else:
        chosen.check()


def test_a_model_on_request_says_where_to_ask():
    keys = "cams.second.model", "cams.second.checkpoint"
    chosen = FrozenSecond(keys, "dino_vitb8", "dinov3_vitb16", None, "cpu", "fp32")
    sentence = r"dinov3_vitb16 is given on request at https://.*: give .*second.checkpoint=PATH"
    with pytest.raises(UserError, match=sentence):
        chosen.fingerprint  # noqa: B018


def test_networks_name_the_licence():
    model = {"backbone": {"type": "TIMMBackbone", "model_name": "vit_base_patch16_dinov3.lvd1689m"}}
    assert any("DINOv3" in note for note in licence_notes(model))
    assert not licence_notes({"backbone": {"type": "TIMMBackbone", "model_name": "resnet18"}})


@torch.no_grad()
def test_gradcam_refuses_a_last_block_that_turns(drawn, tmp_path):
    save_file(drawn("mlp"), tmp_path / "model.safetensors")
    encoder = ClipEncoder(tower_of(tmp_path / "model.safetensors", "mlp", depth=2))
    with pytest.raises(UserError, match="Grad-CAM cannot pass rotary positions"):
        encoder.last_block.pull_back(torch.zeros(1, 3 * 64))


@torch.no_grad()
def test_a_kept_pass_and_half_precision_turn_alike(drawn, tmp_path):
    save_file(drawn("mlp"), tmp_path / "model.safetensors")
    towers = [tower_of(tmp_path / "model.safetensors", "mlp", depth=2) for _ in range(3)]
    pixels = torch.randn(1, 3, 80, 112, generator=torch.Generator().manual_seed(6))
    plain = ClipEncoder(towers[0])
    expected = plain.attended(plain.backbone(pixels))
    kept = ClipEncoder(towers[1], kept=KeptFeatures(1 << 20))
    for _ in range(2):
        assert torch.equal(kept.attended(kept.backbone_results(pixels)[0]()), expected)
    rough = ClipEncoder(towers[2], precision=torch.bfloat16)
    found = rough.attended(rough.backbone(pixels))
    assert 0 < (found - expected).abs().mean() < 0.03 * expected.abs().mean()


@torch.no_grad()
def test_a_class_token_alone_sees_keys_that_are_turned(drawn, tmp_path):
    """It passes all blocks beside the patches: in CWR's crops, and once a region in CorrCLIP."""
    save_file(drawn("mlp"), tmp_path / "model.safetensors")
    encoder = ClipEncoder(tower_of(tmp_path / "model.safetensors", "mlp", depth=2))
    pixels = torch.randn(1, 3, 80, 112, generator=torch.Generator().manual_seed(6))
    expected = encoder.attended_features(encoder.backbone(pixels))[:, 0]
    assert_close(encoder.image_features(pixels), expected, TOLERANCE)
    everywhere = torch.ones(1, 5, 7, dtype=torch.bool)
    assert_close(encoder.image_features(pixels, everywhere), expected, TOLERANCE)
    method, size = dense_method("corrclip"), pixels.shape[-2:]
    [every] = method.run_pass(encoder, pixels).for_cams[0]
    region = method._semantic(encoder, every, torch.zeros(5, 7, dtype=torch.int64), size)
    assert_close(F.normalize(region[:, 2, 3], dim=0), expected[0], TOLERANCE)
    # SC-CLIP projects patches without the tokens before them.
    block, normed = encoder.last_block, encoder.last_block.ln_1(every[-1:])
    whole, alone = block.project(normed, size), block.project(encoder.patches(normed), size)
    for every_token, patches in zip(whole, alone):
        assert_close(patches, encoder.patches(every_token), TOLERANCE)
