"""Which models and weights are accepted or refused, and the settings of their training."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import yaml
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.transformer import QuickGELU
from PIL import Image

from pipeline.cams.clip_es import ClipEsOptions
from pipeline.cams.clip_es.method import ClipEs
from pipeline.clip.architectures import find_architecture, find_pretrained
from pipeline.clip.device import Batches
from pipeline.clip.dimensions import OPENAI_NORMALISATION, Normalisation
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import FrozenClip
from pipeline.clip.image_text import releases
from pipeline.clip.image_tower import ImageTower
from pipeline.clip.origins.open_clip_origin import OfOpenClip
from pipeline.clip.text import load_tokenizer
from pipeline.clip.weights.checkpoint import load_clip
from pipeline.clip.weights.published import find_pretraining, hub_files
from pipeline.errors import UserError
from pipeline.files.download import Source
from pipeline.tags.baseline.method import global_scores
from pipeline.tags.tagclip import TagClipOptions
from pipeline.tags.tagclip.method import TagClip
from tests import REPOSITORY
from tests.methods import ALONE, RELEASED, cams_of, scores_of
from tests.small_runs import draw_photograph, folder_options

PRESETS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((REPOSITORY / "configs" / "clip").glob("*.yaml"))
}
HALF = (0.5, 0.5, 0.5)


# Refused before anything is downloaded or built


@pytest.fixture
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("this must not be reached")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    monkeypatch.setattr(open_clip, "create_model", fail)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("RN50", "has a ResNet"),
        ("ViT-B-16-SigLIP", r"an image tower of timm \(vit_base_patch16_siglip_224\)"),
        ("EVA02-B-16", r"an image tower of timm \(eva02_base_patch16_clip_224\)"),
        ("convnext_base", r"an image tower of timm \(convnext_base\)"),
        ("coca_ViT-B-32", "is a CoCa"),
        ("ViT-H-14-CLIPA", "averages its patches"),
    ],
)
def test_other_image_towers_are_refused(model, what, nothing_is_fetched, tmp_path):
    pretrained = open_clip.list_pretrained_tags_by_model(model)[0]
    message = rf"clip.model={model} .*{what}.*, but TagCLIP needs .* choose clip=vit_b16"
    for checkpoint in (None, "/no/such.pt"):
        with pytest.raises(UserError, match=message):
            OfOpenClip(model, pretrained, checkpoint).files()
    with pytest.raises(UserError, match=message):
        load_clip(tmp_path / "never_read.pt", model, pretrained)


def test_every_model_of_open_clip_is_accepted_or_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # transformers is there
    taken = set()
    for name in open_clip.list_models():
        try:
            find_architecture(name)
            taken.add(name)
        except UserError as error:
            assert "choose clip=vit_b16" in str(error)
    vits = {n for n in open_clip.list_models() if "ViT-" in n}
    others = {n for n in vits if "SigLIP" in n or "CLIPA" in n or n.startswith("coca")}
    assert taken == (vits - others) | {"nllb-clip-base", "nllb-clip-large"}


def test_a_text_tower_of_hugging_face_needs_a_package(monkeypatch, nothing_is_fetched):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for model in ("xlm-roberta-base-ViT-B-32", "ViT-H-14-worldwide"):
        with pytest.raises(UserError, match=rf"{model} .*pip install transformers"):
            find_pretraining(model, None)


def test_a_tokenizer_that_cannot_be_loaded_is_named(monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "get_tokenizer", unreachable)
    with pytest.raises(UserError, match="ViT-H-14-worldwide.*OSError"):
        load_tokenizer("ViT-H-14-worldwide")


PUBLISHED = {
    name: preset for name, preset in PRESETS.items() if preset["pretrained"] not in (None, "demo")
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_that_cannot_be_downloaded_are_said_to_be_elsewhere(
    name, monkeypatch, nothing_is_fetched
):
    monkeypatch.setattr(OfOpenClip, "is_on_disk", False)
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(url)
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.utils.get_session", Session)
    model, pretrained = PUBLISHED[name]["model"], PUBLISHED[name]["pretrained"]
    with pytest.raises(UserError) as caught:
        OfOpenClip(model, pretrained, None).files()
    message = str(caught.value)
    assert len(asked) == 1  # open_clip's clients would try a dozen times
    named = f"python tools/download.py clip.model={model} clip.pretrained={pretrained} --output ."
    assert f"{named} where there is a network" in message
    assert message.endswith("clip.checkpoint=PATH") and len(message) < 400


def published_weights(model: str, pretrained: str) -> Source:
    return OfOpenClip(model, pretrained, None).published()["weights"]


def test_openais_addresses_hold_their_checksums():
    for name in ("vit_b16", "vit_b32", "vit_l14", "vit_l14_336"):
        source = published_weights(PUBLISHED[name]["model"], "openai")
        assert re.fullmatch("[0-9a-f]{64}", source.digest) and source.algorithm == "sha256"
        assert source.urls[0].endswith(f"/{source.digest}/{source.name}")
        assert source.name.startswith("ViT-") and source.name.endswith(".pt")


def test_a_pickle_of_the_hub_may_be_kept_as_safetensors():
    assert hub_files({"hf_hub": "laion/clip/model.bin"}) == [
        ("laion/clip", "model.bin"),
        ("laion/clip", "model.safetensors"),
    ]
    assert hub_files({"hf_hub": "laion/clip/model.safetensors"}) == [
        ("laion/clip", "model.safetensors")
    ]
    assert [name for _, name in hub_files({"hf_hub": "laion/clip/"})] == [
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    ]
    assert hub_files({"url": "https://example.org/model.pt"}) == []


def test_files_of_the_hub_get_names_of_their_own():
    names = [published_weights(p["model"], p["pretrained"]).name for p in PUBLISHED.values()]
    assert len({*names}) == len(PUBLISHED)
    source = published_weights("ViT-B-16", "laion2b_s34b_b88k")
    assert source.name == "ViT-B-16-laion2b_s34b_b88k.safetensors"
    assert [url.rpartition("/")[2] for url in source.urls] == [
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    ]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-B/16", "did you mean ViT-B-16 or"),
        ("vit-l-14", "did you mean ViT-L-14 or"),
        ("xyzzy", r"open_clip.list_models\(\) shows all names"),
        ("hf-hub:laion/CLIP-ViT-B-16", "names a place, not an architecture"),
    ],
)
def test_an_unknown_name_gets_suggestions(model, message, nothing_is_fetched):
    with pytest.raises(UserError, match=message):
        OfOpenClip(model, None, None).files()


def test_a_resnets_file_in_openais_naming_is_refused_by_name(tmp_path):
    resnet = CLIP(
        embed_dim=16,
        vision_cfg=CLIPVisionCfg(layers=(1, 2, 1, 1), width=16, image_size=32),
        text_cfg=CLIPTextCfg(vocab_size=50, context_length=8, width=32, heads=2, layers=1),
    )
    path = tmp_path / "RN.pt"
    torch.save({k: v.half() for k, v in resnet.state_dict().items()}, path)
    with pytest.raises(UserError, match="RN.pt holds a ResNet with 1-2-1-1"):
        load_clip(path)
    with pytest.raises(UserError, match="has no class token"):
        ClipEncoder(ImageTower.of(resnet))


def test_a_file_without_the_number_of_heads_needs_the_model(tmp_path, monkeypatch):
    config = tiny_config(layers=3, width=160, head_width=80, text={"layers": 1})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-ViT-of-80", config)
    clip = open_clip.create_model("tiny-ViT-of-80", pretrained=None)
    path = tmp_path / "h.pt"
    torch.save(clip.state_dict(), path)
    with pytest.raises(UserError, match="patch 16 .*give clip.model.*tiny-"):
        load_clip(path)
    clip = load_clip(path, "tiny-ViT-of-80")
    assert clip.visual.transformer.resblocks[0].attn.num_heads == 2


# The settings of the training


def tiny_config(text: dict | None = None, **vision: object) -> dict:
    """Returns a configuration as open_clip keeps them."""
    text = {"vocab_size": 49408, "context_length": 77, "width": 32, "heads": 2, **(text or {})}
    vision = {"image_size": 64, "layers": 4, "width": 64, "patch_size": 16, **vision}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model of open_clip's, ``tiny-ViT``, with weights of three names in one file."""
    config = tiny_config(text={"layers": 2})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-ViT", config)
    custom = {**config, "custom_text": True}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-ViT-custom", custom)
    path = tmp_path / "published.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny-ViT", pretrained=None).state_dict(), path)
    openai = {"mean": OPENAI_NORMALISATION.mean, "std": OPENAI_NORMALISATION.std, "file": str(path)}
    tags = {
        "plain": openai,
        "quick": {**openai, "quick_gelu": True},
        "half": {**openai, "mean": HALF, "std": HALF},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", tags)
    return path


@pytest.mark.parametrize("pretrained", ["plain", "quick", "half", None])
def test_weights_decide_the_activation(pretrained, published):
    clip = load_clip(published, "tiny-ViT", pretrained)
    # open_clip itself builds GELU for the name, and warns that the weights were trained otherwise.
    expected = open_clip.create_model(
        "tiny-ViT", pretrained=str(published), force_quick_gelu=pretrained == "quick"
    ).eval()
    assert isinstance(clip.visual.transformer.resblocks[0].mlp.gelu, QuickGELU) == (
        pretrained == "quick"
    )
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(clip.encode_image(pixels), expected.encode_image(pixels))
    tokens = load_tokenizer("tiny-ViT")(["a photo of a cat."])
    torch.testing.assert_close(clip.encode_text(tokens), expected.encode_text(tokens))


def test_older_files_fit_a_separate_text_tower(published, tmp_path):
    weights = torch.load(published)
    weights["logit_scale"] = weights["logit_scale"].reshape(1)  # torch takes it for a scalar
    weights["text.transformer.embeddings.position_ids"] = torch.arange(8).unsqueeze(0)
    torch.save(weights, tmp_path / "older.pt")
    clip = load_clip(tmp_path / "older.pt", "tiny-ViT-custom")
    assert isinstance(clip, CustomTextCLIP)
    tokens = load_tokenizer("tiny-ViT")(["a photo of a cat."])
    expected = load_clip(published, "tiny-ViT").encode_text(tokens)
    torch.testing.assert_close(clip.encode_text(tokens), expected)


def test_the_training_of_published_weights_is_open_clips():
    assert find_pretraining(None, None).normalisation == OPENAI_NORMALISATION
    assert find_pretraining(None, None).quick_gelu
    large = find_pretraining("ViT-L-14", "laion2b_s32b_b82k")
    assert large.normalisation == Normalisation(HALF, HALF) and not large.quick_gelu
    for model, pretrained, quick_gelu in [
        ("ViT-B-16", "openai", True),
        ("ViT-B-16", "metaclip_400m", True),
        ("ViT-B-16", "dfn2b", True),
        ("ViT-B-16-quickgelu", "openai", True),
        ("ViT-B-16-quickgelu", None, True),
        ("ViT-B-16", "laion2b_s34b_b88k", False),
        ("ViT-B-16", None, False),
    ]:
        training = find_pretraining(model, pretrained)
        assert training.normalisation == OPENAI_NORMALISATION
        assert training.quick_gelu == quick_gelu, model


def test_unknown_weights_are_refused_with_a_file_too(published):
    with pytest.raises(UserError, match="plain, quick, half .* not openai"):
        OfOpenClip("tiny-ViT", "openai", str(published)).files()
    with pytest.raises(UserError, match="pretrained=openai needs the arch"):
        OfOpenClip(None, "openai", str(published)).files()
    assert OfOpenClip("tiny-ViT", None, str(published)).files() == {"weights": published}
    assert OfOpenClip("tiny-ViT", "quick", None).files() == {"weights": published}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_existing_weights(name):
    preset = PRESETS[name]
    assert preset["name"] == name and preset.keys() == PRESETS["vit_b16"].keys()
    if preset["model"] is None:
        assert preset["checkpoint"] or preset["pretrained"] == "demo"
        return
    if preset["model"] == "???":
        assert name == "hugging_face"
        return
    if preset["pretrained"] is None:
        assert releases()[preset["model"]].name == name
        return
    assert preset["pretrained"] in open_clip.list_pretrained_tags_by_model(preset["model"])
    config = find_architecture(preset["model"])
    settings = find_pretrained(preset["model"], preset["pretrained"])
    assert config.get("quick_gelu", False) == settings.get("quick_gelu", False)


def by_hand(image: np.ndarray, side: tuple[int, int], mean: tuple, std: tuple) -> np.ndarray:
    """Returns normalised pixels, 3×height×width."""
    resized = Image.fromarray(image).resize(side[::-1], Image.Resampling.BICUBIC)
    return ((np.asarray(resized) / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)


def test_mean_and_std_of_the_training_reach_the_pixels(tiny_clip, monkeypatch):
    training = find_pretraining("ViT-L-14", "laion2b_s32b_b82k").normalisation
    text, image = torch.eye(5, 32), draw_photograph(0, 40, 70)
    recorded = []
    embed = ClipEncoder.embed_patches
    monkeypatch.setattr(
        ClipEncoder,
        "embed_patches",
        lambda self, pixels: recorded.append(pixels) or embed(self, pixels),
    )
    for normalisation in (OPENAI_NORMALISATION, training):
        recorded.clear()
        encoder = ClipEncoder(ImageTower.of(tiny_clip, normalisation))
        tagger = TagClip(encoder, text, 3, TagClipOptions(reidentify=False), ALONE, RELEASED)
        scores_of(tagger, [image])
        method = ClipEs(encoder, text[:3], text[3:], ClipEsOptions(), ALONE, RELEASED)
        cams_of(method, image, [1])
        global_scores(encoder, text, 3, [image])
        sizes = [(48, 80), (48, 80), (64, 64)]
        for pixels, side in zip(recorded, sizes, strict=True):
            expected = by_hand(image, side, normalisation.mean, normalisation.std)
            np.testing.assert_allclose(pixels[0], expected, atol=1e-5)
    assert training.mean == HALF


def test_a_command_takes_normalisation_and_activation_of_the_weights(
    published, photographs, run_stage, monkeypatch, tmp_path
):
    recorded = []
    backbone = ClipEncoder.backbone

    def watched(self: ClipEncoder, pixels: torch.Tensor, *rest: object) -> torch.Tensor:
        recorded.append((pixels, type(self.tower.blocks[0].mlp.gelu)))
        return backbone(self, pixels, *rest)

    monkeypatch.setattr(ClipEncoder, "backbone", watched)
    folders = {}
    for pretrained in ("plain", "half", "quick"):
        given = ["stage=tags", "dataset.limit=1", "tags.variants=[]", "clip=vit_b16"]
        given += ["clip.model=tiny-ViT", f"clip.pretrained={pretrained}"]
        given.append(f"output_dir={tmp_path / 'out'}")
        finished = run_stage(*folder_options(photographs, None, *given))
        assert finished.code == 0, finished.errors
        folders[pretrained] = (tmp_path / "out" / "all" / "tags" / "latest").resolve()
    assert len(set(folders.values())) == 3, "results of different weights must not be mixed up"
    image = np.asarray(Image.open(photographs / "a.jpg"))
    plain = (OPENAI_NORMALISATION.mean, OPENAI_NORMALISATION.std)
    assert [activation for _, activation in recorded] == [torch.nn.GELU, torch.nn.GELU, QuickGELU]
    for (pixels, _), (mean, std) in zip(recorded, (plain, (HALF, HALF), plain), strict=True):
        np.testing.assert_allclose(pixels[0], by_hand(image, (96, 80), mean, std), atol=1e-5)


def test_the_training_of_the_weights_is_in_the_key(published, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"weights")

    def facts(model: str | None, pretrained: str | None) -> dict:
        return FrozenClip(
            model=model,
            pretrained=pretrained,
            checkpoint=str(weights),
            device="cpu",
            precision="fp32",
            max_patches=4096,
            position_fp16=False,
            batches=Batches(1, 4, 8),
        ).key_facts()

    usual = facts("tiny-ViT", "plain")
    assert usual == facts("tiny-ViT", None) and not usual["quick_gelu"]
    assert facts(None, None) == {**usual, "model": None, "quick_gelu": True}
    assert facts("tiny-ViT", "half") == {**usual, "mean": [*HALF], "std": [*HALF]}
    assert facts("tiny-ViT", "quick") == {**usual, "quick_gelu": True}
