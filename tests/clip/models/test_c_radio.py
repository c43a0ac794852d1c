"""C-RADIO in its three layouts, what is refused, and the text tower of SigLIP 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pipeline.clip.dimensions import OPENAI_NORMALISATION, Dimensions
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_text import Release, releases
from pipeline.clip.models.c_radio.model import Adaptor, build
from pipeline.clip.models.c_radio.siglip2 import build_text_tower, tokenize
from pipeline.clip.origins.origin import OfRelease, hashable
from pipeline.clip.second import SECONDS, FrozenSecond
from pipeline.clip.text import class_embeddings
from pipeline.clip.weights import tokenizers
from pipeline.clip.weights.layouts import part_of
from pipeline.errors import UserError
from tests import c_radio_files, small_models
from tests.c_radio_files import LAYOUTS, NUMBER, TEACHERS, hub, nvlabs, timm
from tests.extras import library
from tests.golden_models import assert_close, draw_pixels, small_release
from tests.small_models import siglip2_text

READER = "pipeline.clip.models.c_radio.siglip2.read_tokenizer"
UNREAD = {"text": Path("not read"), "tokenizer": Path("not read")}
WIDTH, SIZE, VOCABULARY, LENGTH = 24, 20, 90, 8
"""Of a small text tower."""


@pytest.fixture
def release() -> Release:
    return small_release("c_radio_v3_b16")


def plainly(weights: dict[str, torch.Tensor], pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Returns the tokens after the last block, and its queries, keys and values, side by side.

    It is written from the description of the files.
    """
    weights = {name: tensor.float() for name, tensor in weights.items()}
    vit, (rows, columns) = part_of(weights, "vit."), (side // 16 for side in pixels.shape[-2:])
    patches = F.conv2d(pixels, vit["patch_embed.proj.weight"], stride=16)[0].flatten(1).T
    table, side = vit["pos_embed"].view(1, 6, 6, -1).permute(0, 3, 1, 2), max(rows, columns)
    square = F.interpolate(table, (side, side), mode="bilinear")[0, :, :rows, :columns]
    x = torch.cat([c_radio_files.tokens_of(weights), patches + square.flatten(1).T])
    for number in range(2):
        block = part_of(vit, f"blocks.{number}.")

        def layer(name: str, inputs: torch.Tensor, block=block) -> torch.Tensor:
            return F.linear(inputs, block[f"{name}.weight"], block[f"{name}.bias"])

        def norm(name: str, inputs: torch.Tensor, block=block) -> torch.Tensor:
            return F.layer_norm(inputs, (64,), block[f"{name}.weight"], block[f"{name}.bias"], 1e-6)

        projected = layer("attn.qkv", norm("norm1", x))
        heads = projected.view(len(x), 3, 4, 16).permute(1, 2, 0, 3)
        attended = (heads[0] @ heads[1].mT / 4).softmax(-1) @ heads[2]
        x = x + block["ls1.gamma"] * layer("attn.proj", attended.transpose(0, 1).flatten(1))
        x = x + block["ls2.gamma"] * layer("mlp.fc2", F.gelu(layer("mlp.fc1", norm("norm2", x))))
    return x, projected


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_picture_means_the_same_in_each_layout(layout, release, radseg_weights, tmp_path):
    files = LAYOUTS[layout](radseg_weights, tmp_path)
    encoder = ClipEncoder(build(release, files | UNREAD, "cpu").image)
    pixels = draw_pixels((3, 5), 16)[:1]
    inputs = encoder.backbone(pixels)
    head = Adaptor({k: v.float() for k, v in part_of(radseg_weights, "head.").items()})
    expected = head(plainly(radseg_weights, pixels)[0])
    assert_close(encoder.attended(inputs)[0, 8:], expected[8:].numpy())
    # The whole image is the adaptor's own class token, which is the second one in two layouts.
    whole = F.normalize(expected[:1], dim=-1).numpy()
    assert_close(encoder.image_features(pixels), whole)
    assert_close(encoder.whole_image_features(inputs), whole)
    assert encoder.native_size == 96 and encoder.tower.prefix == 8 and encoder.temperature == 100
    assert not encoder.tower.is_stretched_as_clip, "the quirks of CLIP's positions do not apply"


def test_layouts_hold_other_numbers_if_the_adaptor_is_another_teachers(
    release, radseg_weights, tmp_path
):
    first = nvlabs(radseg_weights, tmp_path, TEACHERS[::-1])  # the number is the same
    tower = build(release, first | UNREAD, "cpu").image
    assert torch.equal(tower.class_token, radseg_weights["vit.cls_token"][0, 0].float())
    moved = [TEACHERS[NUMBER], *TEACHERS[:NUMBER]]
    files = nvlabs(radseg_weights, tmp_path, moved, head="_heads.siglip2-g.")
    tower = build(release, files | UNREAD, "cpu").image
    assert torch.equal(tower.class_token, radseg_weights["vit.reg_token"][0, 0].float())


def test_averaged_weights_count(release, radseg_weights, tmp_path):
    files = nvlabs(radseg_weights, tmp_path, averaged=True)
    tower = build(release, files | UNREAD, "cpu").image
    assert torch.equal(tower.class_token, radseg_weights["vit.cls_token"][0, 0].float())


def test_several_class_tokens_and_a_bias_of_timms_files(release, radseg_weights, tmp_path):
    vit = part_of(radseg_weights, "vit.")
    vit["cls_token"] = torch.cat([vit["cls_token"], vit["reg_token"][:, :2]], 1)
    vit["reg_token"] = vit["reg_token"][:, 2:].contiguous()
    vit["patch_embed.proj.bias"] = torch.ones(64, dtype=torch.float16)
    files = timm(radseg_weights, tmp_path)
    save_file(vit, files["image"])
    tower = build(release, files | UNREAD, "cpu").image
    assert tower.prefix == 8 and tower.patch_embedding.bias.eq(1).all()


@pytest.mark.parametrize("aligned", [False, True])
def test_positions_are_part_of_a_square(build, arrays, aligned):

    golden, tower = arrays("radseg"), build("c_radio_v3_b16").image
    table = torch.from_numpy(golden["positions/table"]).flatten(0, 1)
    stretch = {"mode": "bilinear", "align_corners": aligned}
    tower = replace(tower, positions=F.pad(table, (0, 0, 1, 0)), stretch=stretch)
    found = tower.position_embedding(5, 7)
    assert not found[0].any(), "class tokens and registers have no position"
    expected = golden["positions/align_corners" if aligned else "positions/half_pixel"]
    assert_close(found[1:].unflatten(0, (5, 7)), expected)
    assert torch.equal(tower.position_embedding(12, 12), tower.positions)


def test_a_release_says_how_positions_are_aligned(release, radseg_weights, tmp_path):

    files = timm(radseg_weights, tmp_path) | UNREAD
    for aligned in (False, True):
        tower = build(replace(release, align_corners=aligned), files, "cpu").image
        assert tower.stretch["align_corners"] is aligned
    sources = {OfRelease(replace(release, align_corners=a), None).source for a in (False, True)}
    assert len(sources) == 2


# What is refused


def load(release: Release, files: dict[str, Path]) -> None:

    given = {part: str(path) for part, path in (UNREAD | files).items()}
    for path in set(given.values()):
        if not Path(path).is_file():
            given = {k: __file__ if v == path else v for k, v in given.items()}
    OfRelease(replace(release, packages=()), hashable(given)).load("cpu")


def of(number: int, **changed: str) -> list[dict]:
    return [t | changed if n == number else t for n, t in enumerate(TEACHERS)]


@pytest.mark.parametrize(
    ("layout", "teachers", "sentence"),
    [
        (nvlabs, of(NUMBER, model="siglip2-so400m"), "an adaptor to siglip2-so400m, not to"),
        (hub, of(NUMBER, model="siglip2-so400m"), "an adaptor to siglip2-so400m, not to"),
        (nvlabs, TEACHERS[:NUMBER], "no adaptor to siglip2-g-384 among its teachers"),
        (hub, TEACHERS[:NUMBER], "no adaptor to siglip2-g-384 among its teachers"),
        (nvlabs, [], "no adaptor to siglip2-g-384 among its teachers"),
    ],
)
def test_a_checkpoint_of_another_adaptor_is_refused(
    layout, teachers, sentence, release, radseg_weights, tmp_path
):
    files = layout(radseg_weights, tmp_path, teachers)
    with pytest.raises(UserError, match=f"hold clip.model=c_radio_v3_b16 .{sentence}"):
        load(release, files)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_another_model_are_refused(layout, release, radseg_weights, tmp_path):
    tower = part_of(radseg_weights, "vit.")
    for name, change in (
        ("vit.blocks.1.attn.proj.weight", None),
        ("vit.blocks.0.attn.q_norm.weight", torch.ones(16)),
        ("vit.pos_embed", torch.ones(1, 35, 64)),
        ("head.final.2.weight", None),
        ("head.pre_norm.0.weight", torch.ones(64)),
        ("head.fc1.weight", torch.ones(96, 32)),
    ):
        weights = {k: v for k, v in radseg_weights.items() if k != name}
        files = LAYOUTS[layout](weights | ({} if change is None else {name: change}), tmp_path)
        with pytest.raises(UserError, match="c_radio_v3_b16 .*: give that"):
            load(release, files)
    files = LAYOUTS[layout]({f"vit.{k}": v for k, v in tower.items()}, tmp_path)
    if layout == "timm":
        del files["head"]
    with pytest.raises(UserError, match="no head of a language adaptor"):
        load(release, files)


@pytest.mark.parametrize("layout", ["nvlabs", "timm"])
def test_a_tower_with_a_norm_at_its_end_is_refused(layout, release, radseg_weights, tmp_path):
    files = timm(radseg_weights, tmp_path)
    if layout == "timm":
        save_file(load_file(files["image"]) | {"norm.weight": torch.ones(64)}, files["image"])
    else:
        save_file(small_models.draw(small_models.dinov2(), 0), files["image"])
    with pytest.raises(UserError, match="not hold clip.model=c_radio_v3_b16"):
        load(release, files)


def test_a_checkpoint_is_read_without_running_code(release, radseg_weights, tmp_path):
    files = nvlabs(radseg_weights, tmp_path)
    content = torch.load(files["image"], weights_only=False)
    content["args"].path = Path("an object that is no plain value")
    torch.save(content, files["image"])
    with pytest.raises(UserError, match="is damaged or holds no weights"):
        load(release, files)


# Text


@pytest.fixture
def text(tmp_path, monkeypatch) -> dict[str, Path]:
    monkeypatch.setattr(READER, c_radio_files.read_words)
    save_file(siglip2_text(SIZE, WIDTH), tmp_path / "open_clip_model.safetensors")
    return {"text": tmp_path / "open_clip_model.safetensors", "tokenizer": tmp_path / "unread"}


def test_prompts_are_lowered_without_punctuation_and_padded(text):
    prompts = ["A photo_of: the  CAT!", "it's", "a b c d e f g h i j k"]
    found = tokenize(text["tokenizer"], LENGTH, VOCABULARY, prompts)
    assert found.tolist() == [
        [1, 5, 2, 3, 3, 1, 0, 0],
        [3, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]
    with pytest.raises(UserError, match="is not the tokenizer of the weights"):
        tokenize(text["tokenizer"], LENGTH, 5, prompts)


def test_names_meet_the_patches_of_their_own_adaptor(text, release, radseg_weights, tmp_path):
    files = nvlabs(radseg_weights, tmp_path)
    model = build(release, files | text, "cpu")
    with pytest.raises(UserError, match="siglip2-g-384, .* 48: give"):
        model.embed_names([["cat"]], ["a {}"])
    save_file(siglip2_text(48, WIDTH), text["text"])
    found = model.embed_names([["cat", "Cats"], ["dog"]], ["a {}.", "the {}"])
    assert found.shape == (2, 48) and torch.allclose(found.norm(dim=1), torch.ones(2))
    save_file({"visual.x": torch.ones(1)}, text["text"])
    with pytest.raises(UserError, match="text tower of siglip2-g-384"):
        model.embed_names([["cat"]], ["a {}"])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_the_text_of_a_file_is_read(text, device):
    tower = build_text_tower(text["text"], 4, SIZE, device)  # the image tower is not finite
    assert {parameter.device.type for parameter in tower.parameters()} == {device}


@pytest.mark.extras
@pytest.mark.parametrize("layout", ["open_clip", "transformers"])
@torch.no_grad()
def test_the_text_tower_is_that_of_transformers(layout, tmp_path):
    transformers = library("transformers")
    config = transformers.SiglipTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=89,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_size=SIZE,
    )
    theirs = transformers.SiglipTextModel(config).eval()
    for number, parameter in enumerate(theirs.parameters()):
        generator = torch.Generator().manual_seed(number)
        parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    state = {
        f"text_model.{k.removeprefix('text_model.')}": v for k, v in theirs.state_dict().items()
    }
    path = tmp_path / "model.safetensors"
    if layout == "open_clip":
        state = {f"text.{as_open_clip(name)}": tensor for name, tensor in state.items()}
        for number in range(2):
            attention = f"text.transformer.resblocks.{number}.attn."
            for part in ("weight", "bias"):
                thirds = [state.pop(f"{attention}{each}_proj.{part}") for each in "qkv"]
                state[f"{attention}in_proj_{part}"] = torch.cat(thirds)
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    tower = build_text_tower(path, 4, SIZE, "cpu")
    numbers = torch.tensor([[5, 9, 80, 3, 1, 0, 0, 0], [7, 7, 7, 12, 89, 1, 2, 3]])
    expected = theirs(numbers).pooler_output
    torch.testing.assert_close(tower(numbers), expected, atol=1e-5, rtol=1e-5)
    found = class_embeddings(tower, lambda _: numbers, [["a"], ["b"]], ["{}"])
    torch.testing.assert_close(found, F.normalize(expected, dim=-1), atol=1e-5, rtol=1e-5)


def as_open_clip(name: str) -> str:
    """Renames a weight of transformers' text tower by hand."""
    for theirs, ours in (
        ("text_model.", ""),
        ("embeddings.token_embedding", "token_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("encoder.layers", "transformer.resblocks"),
        ("self_attn", "attn"),
        ("layer_norm", "ln_"),
        ("fc1", "c_fc"),
        ("fc2", "c_proj"),
        ("final_ln_", "ln_final"),
        ("head.", "text_projection."),
    ):
        name = name.replace(theirs, ours)
    return name


@pytest.mark.extras
def test_a_json_tokenizer_ends_its_prompts(tmp_path):
    given = library("tokenizers")
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "cat": 4, "dogs": 5}
    tokenizer = given.Tokenizer(given.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = given.pre_tokenizers.Whitespace()
    tokenizer.post_processor = given.processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(64)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    found = tokenize(path, 6, 6, ["A Cat.", "a_dogs, a a a a a a"])
    assert found.tolist() == [[3, 4, 1, 0, 0, 0], [3, 5, 3, 3, 3, 1]]
    assert tokenizers.read_tokenizer(path, 9)("a") == [3, 1]


# The image tower alone, as a second backbone


@pytest.fixture
def second(monkeypatch) -> Callable[..., FrozenSecond]:
    """Chooses one whose dimensions are those of small files, unless its model is another size."""
    large = SECONDS["c_radio_v3_b16"]
    small = replace(large, dimensions=Dimensions(2, 16, 96), heads=4, head_width=16)
    monkeypatch.setitem(SECONDS, large.name, small)

    def second(path: Path, model: str | None = "c_radio_v3_b16") -> FrozenSecond:
        keys = "cams.second.model", "cams.second.checkpoint"
        return FrozenSecond(keys, "dino_vitb8", model, str(path), "cpu", "fp32")

    return second


def headless(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.startswith("vit.")}


def add(path: Path, **more: torch.Tensor) -> None:
    """Adds weights to a file of NVlabs or of the Hub."""
    if path.suffix == ".safetensors":
        save_file(load_file(path) | {f"radio_model.{k}": v for k, v in more.items()}, path)
    else:
        content = torch.load(path, weights_only=False)
        content["state_dict"] |= {f"module.{name}": each for name, each in more.items()}
        torch.save(content, path)


@pytest.mark.parametrize("grid", [(3, 5), (6, 6)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_an_image_file_is_enough_for_a_second_backbone(
    layout, grid, second, radseg_weights, tmp_path
):
    teachers = () if layout == "timm" else (TEACHERS[:NUMBER],)  # none of language
    path = LAYOUTS[layout](headless(radseg_weights), tmp_path, *teachers)["image"]
    encoder, pixels = second(path).encoder, draw_pixels(grid, 16)[:1]
    tokens, projected = plainly(radseg_weights, pixels)
    assert encoder.grid(pixels) == grid
    found = encoder.tokens(pixels, OPENAI_NORMALISATION)  # as NVIDIA's input conditioner
    assert_close(found[0], tokens[8:].T.unflatten(1, grid))
    found = encoder.projections(pixels, OPENAI_NORMALISATION)
    assert_close(torch.cat(found, 1)[0], projected[8:].T.unflatten(1, grid))


@pytest.mark.parametrize(
    ("layout", "name", "other"),
    [
        (nvlabs, "_feature_normalizer", "_intermediate_feature_normalizer"),
        (hub, "feature_normalizer", "inter_feature_normalizer"),
    ],
)
@torch.no_grad()
def test_a_feature_normaliser_follows_the_last_block(
    layout, name, other, second, radseg_weights, tmp_path
):
    path, pixels = layout(radseg_weights, tmp_path)["image"], draw_pixels((3, 5), 16)[:1]
    generator = torch.Generator().manual_seed(0)
    mean, turn = (torch.randn(*each, generator=generator) for each in ((64,), (64, 64)))
    expected = plainly(radseg_weights, pixels)[0][8:]
    add(path, **{f"{other}.mean": mean, f"{other}.tx": turn})  # that of earlier blocks
    found = second(path).encoder.tokens(pixels, OPENAI_NORMALISATION)
    assert_close(found[0].flatten(1).T, expected)
    add(path, **{f"{name}.mean": mean, f"{name}.tx": turn})
    found = second(path).encoder.tokens(pixels, OPENAI_NORMALISATION)
    assert_close(found[0].flatten(1).T, (expected - mean) @ turn.T)
    add(path, **{f"{name}.tx": turn[:32]})
    with pytest.raises(UserError, match=r"not hold cams.second.model=c_radio_v3_b16 .*32"):
        second(path).check()


def test_layer_scales_may_have_the_name_that_transformers_leaves(second, radseg_weights, tmp_path):
    renamed = {name.replace("gamma", "grandma"): each for name, each in radseg_weights.items()}
    tower = second(hub(renamed, tmp_path)["image"]).origin.load("cpu")
    expected = radseg_weights["vit.blocks.1.ls2.gamma"].float()
    assert torch.equal(tower.blocks[1].ls_2.gamma, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_backbone_of_another_size_is_refused(layout, second, radseg_weights, tmp_path):
    path, name = LAYOUTS[layout](radseg_weights, tmp_path)["image"], "cams.second.model"
    with pytest.raises(UserError, match=f"hold {name}=c_radio_v3_l16 .width 64, not 1024; depth 2"):
        second(path, "c_radio_v3_l16").check()
    with pytest.raises(UserError, match="not hold a vision transformer in DINO's layout"):
        second(path, None).check()
    second(path).check()
    if layout == "timm":
        save_file(load_file(path) | {"norm.weight": torch.ones(64)}, path)
        with pytest.raises(UserError, match=f"{name}=c_radio_v3_b16 .a norm after the last block"):
            second(path).check()


# What is published


def test_a_head_is_not_downloaded_and_the_other_parts_are():
    for size in "blh":
        published = OfRelease(releases()[f"c_radio_v3_{size}16"], None).published()
        assert published.keys() == {"image", "config", "text", "tokenizer"}
        assert published["config"].is_optional and not published["text"].is_optional
        release, alone = (models[f"c_radio_v3_{size}16"] for models in (releases(), SECONDS))
        assert release.heads * release.head_width == {"b": 768, "l": 1024, "h": 1280}[size]
        assert (alone.heads, alone.head_width) == (release.heads, release.head_width)
        assert alone.dimensions == release.dimensions
        assert alone.files["weights"] == release.files["image"][:1]  # one download for both


@pytest.mark.parametrize("layout", [nvlabs, hub])
def test_a_folder_has_the_files_under_their_published_names(
    layout, release, radseg_weights, tmp_path
):
    written = layout(radseg_weights, tmp_path)
    for name in ("open_clip_model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text("not read")
    origin = OfRelease(replace(release, packages=()), str(tmp_path))
    assert origin.files().items() >= written.items()
    assert origin.load("cpu").image.native_size == 96
