"""Models that are registered, in a folder, or on Hugging Face: what is asked and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from pipeline.clip import image_text
from pipeline.clip.dimensions import Dimensions, Pretraining
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.frozen import FrozenClip
from pipeline.clip.image_text import register_release, releases
from pipeline.clip.origins.origin import OfRelease, find_origin, hashable
from pipeline.errors import NotDownloaded, UserError
from pipeline.files.download import source_at
from tests import small_models
from tests.tiny_clip import build_tiny_clip

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "image_size": 32,
    "num_attention_heads": 2,
    "patch_size": 16,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
CONFIG = {"model_type": "clip", "vision_config": TOWER, "text_config": TOWER}


def small(name: str) -> image_text.Release:
    depth = {"tipsv2_b14": 3, "talk2dino_b14": 3, "dinotxt_l14": 5}[name]
    dimensions = Dimensions(depth, 14, 56)
    release = replace(releases()[name], dimensions=dimensions, heads=2, text_heads=2)
    return replace(release, head_width=8, packages=())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with TIPSv2's files; the tokenizer is not read here."""
    save_file(small_models.tips(), tmp_path / "model.safetensors")
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    return tmp_path


def test_a_folder_has_the_files_of_a_model_under_their_published_names(folder):
    origin = OfRelease(small("tipsv2_b14"), str(folder))
    names = {"weights": "model.safetensors", "tokenizer": "tokenizer.model"}
    assert origin.files() == {part: folder / name for part, name in names.items()}
    (folder / "tokenizer.model").rename(folder / "tokenizer.json")  # as transformers writes it
    assert origin.files()["tokenizer"] == folder / "tokenizer.json"
    encoder = ClipEncoder(origin.load("cpu").image)
    assert encoder.patch_size == 14 and encoder.native_size == 56 and encoder.depth == 3
    pixels = torch.rand(1, 3, 42, 70, generator=torch.Generator().manual_seed(0))
    assert encoder.image_features(pixels).shape == (1, small_models.WIDTH)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.model"])
def test_a_file_that_a_folder_lacks_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(UserError, match=rf"{missing}.* is missing: give the folder of clip.model"):
        OfRelease(small("tipsv2_b14"), str(folder)).files()


def test_a_file_for_each_part_is_given_by_its_name(folder):
    given = {"weights": folder / "model.safetensors", "tokenizer": folder / "tokenizer.model"}
    release, given = small("tipsv2_b14"), {part: str(path) for part, path in given.items()}
    assert OfRelease(release, hashable(given)).files()["weights"] == Path(given["weights"])
    with pytest.raises(UserError, match="no part head: give {weights: PATH,"):
        OfRelease(release, hashable({**given, "head": "x"})).files()
    with pytest.raises(UserError, match=r"clip.checkpoint=7 is not a path"):
        hashable(7)
    with pytest.raises(UserError, match=r"clip.model=ViT-B-16 has one"):
        find_origin("ViT-B-16", "openai", hashable(given))


@pytest.mark.parametrize("change", ["other", "shapes", "short", "shallow", "nan"])
def test_weights_of_another_model_are_refused_in_a_sentence(folder, change):
    weights, path = small_models.tips(), folder / "model.safetensors"
    if change == "other":
        weights = {name.removeprefix("vision_encoder."): value for name, value in weights.items()}
    elif change == "shapes":
        weights["vision_encoder.blocks.1.mlp.fc1.weight"] = torch.zeros(10, small_models.WIDTH)
    elif change == "shallow":
        weights = {name: value for name, value in weights.items() if ".blocks.2." not in name}
    elif change == "nan":
        weights["vision_encoder.norm.bias"][3] = float("nan")
    save_file(weights, path)
    if change == "short":
        path.write_bytes(path.read_bytes()[:5000])
    message = {"short": "is damaged", "nan": "not finite"}.get(change, "do not hold clip.model=")
    with pytest.raises(UserError, match=message) as caught:
        OfRelease(small("tipsv2_b14"), str(folder)).load("cpu")
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_a_model_names_the_package_that_it_requires(folder, monkeypatch):
    monkeypatch.setattr("pipeline.clip.origins.origin.find_spec", lambda name: None)
    origin = find_origin("tipsv2_b14", None, str(folder))
    sentence = r"clip.model=tipsv2_b14 requires sentencepiece and tokenizers: install the extra"
    with pytest.raises(UserError, match=sentence):
        origin.pretraining  # noqa: B018


def test_files_that_are_not_here_are_published(monkeypatch):
    monkeypatch.setattr("pipeline.files.hugging_face.find_cached", lambda url: None)

    def unreachable(url: str) -> Path:
        raise OSError("no network")

    monkeypatch.setattr("pipeline.files.hugging_face.fetch_to_cache", unreachable)
    for name, release in releases().items():
        if release.terms:
            with pytest.raises(UserError, match=f"clip.model={name} is given on request at https"):
                find_origin(name, None, None).published()
            with pytest.raises(UserError, match=r"give its file as clip.checkpoint=PATH"):
                find_origin(name, None, None).files()
        elif not name.startswith("small_"):
            origin = find_origin(name, None, None)
            addressed = {part for part, urls in release.files.items() if urls}
            assert not origin.is_on_disk and origin.published().keys() == addressed
            with pytest.raises(NotDownloaded, match=r"OSError.* --output DIR") as caught:
                origin.files()
            assert all(each.urls[0] in str(caught.value) for each in origin.published().values())
    origin = find_origin("hf:org/name", None, None)
    assert not origin.is_on_disk and origin.dimensions is None
    place = "https://huggingface.co/org/name/resolve/main"
    urls = f"{place}/model.safetensors", f"{place}/pytorch_model.bin"
    assert origin.published()["weights"].urls == urls
    with pytest.raises(NotDownloaded, match="config.json could not be downloaded"):
        origin.files()


def test_a_folder_of_the_hub_is_known_once_it_is_here(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    pixels = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    here: set[str] = set()

    def find_cached(url: str) -> Path | None:
        return tmp_path / Path(url).name if url in here else None

    def fetch_to_cache(url: str) -> Path | None:
        path = tmp_path / Path(url).name
        if not path.is_file():
            return None
        here.add(url)
        return path

    monkeypatch.setattr("pipeline.files.hugging_face.find_cached", find_cached)
    monkeypatch.setattr("pipeline.files.hugging_face.fetch_to_cache", fetch_to_cache)
    url = "https://huggingface.co/org/name/resolve/main/config.json"
    origin = find_origin("hf:org/name", None, None)
    assert not origin.is_on_disk and origin.dimensions is None
    with pytest.raises(NotDownloaded, match="model.safetensors .*NotFoundError"):
        origin.files()  # and nothing is believed to be complete
    save_file({"logit_scale": torch.tensor(1.0)}, tmp_path / "model.safetensors")
    assert origin.files().keys() == {"config", "weights", "pixels"}
    assert origin.is_on_disk and origin.dimensions == (2, 16, 32)
    assert origin.pretraining.normalisation.mean == (0.5, 0.4, 0.3)
    other = OfRelease(replace(small("tipsv2_b14"), files={"tokenizer": ("no.model", url)}), None)
    assert other.published()["tokenizer"].urls == ("no.model", url)
    assert other.files() == {"tokenizer": tmp_path / "config.json"}  # any address will do


def test_the_code_of_a_plug_in_is_in_the_key_of_its_text(tmp_path, monkeypatch):
    computed, about = [], {"max_patches": 9, "position_fp16": False, "batches": None}

    def embed_names(names, prompts):
        computed.append(names)
        return torch.ones(len(names), 4)

    model = SimpleNamespace(embed_names=embed_names)
    monkeypatch.setattr("pipeline.clip.frozen._model", lambda *_: model)
    monkeypatch.setattr(OfRelease, "_about", (None, Pretraining()))
    for source in ("first", "first", "changed"):
        monkeypatch.setattr(OfRelease, "source", source)
        clip = FrozenClip("tipsv2_b14", None, None, "cpu", "fp32", **about, root=tmp_path)
        vars(clip)["fingerprint"] = "weights"
        assert clip.embed_sentences(["a cat"]).shape == (1, 4)
    assert len(computed) == 2


def test_openais_weights_are_verified_wherever_they_are_asked_for():
    (url,) = releases()["talk2dino_b14"].files["text"]
    source = source_at(url)
    assert (source.name, source.algorithm) == ("ViT-B-16.pt", "sha256") and source.digest in url


def test_a_name_is_taken_once():
    with pytest.raises(UserError, match="there is a model tipsv2_b14 already"):
        register_release(replace(releases()["tipsv2_b14"], heads=1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"model_type": "siglip"}', "the model siglip, and clip and metaclip_2 are read"),
        ("[1, 2]", "describes the model None"),
        ('{"model_type": "clip", "text_config"', "cannot be read as JSON"),
        ('{"model_type": "clip", "vision_config": 3}', "is damaged"),
        (json.dumps(CONFIG | {"vision_config": {**TOWER, "hidden_act": "swish"}}), "no CLIP has"),
        *(
            (json.dumps(CONFIG | {"vision_config": {**TOWER, name: value}}), "is damaged .vision")
            for name, value in [
                *[("hidden_size", value) for value in ("32", 0, -1, None, 1e9, True, [3])],
                *[("patch_size", value) for value in ("14", 14.0, 0)],
                *[("num_hidden_layers", value) for value in ("3", float("inf"), 10**8)],
                *[("num_attention_heads", value) for value in (None, 0)],
            ]
        ),
        (json.dumps(CONFIG | {"projection_dim": "12"}), "is damaged .projection_dim"),
        (json.dumps(CONFIG | {"text_config": {**TOWER, "vocab_size": 0}}), "is damaged .text"),
        (json.dumps(CONFIG), r"do not hold the model of config.json \(0 blocks, not 2\)"),
        ('{"model_type": "clip"}', r"do not hold the model of config.json \(0 blocks, not 12\)"),
        ('{"model_type": "tipsv2"}', "choose clip=tipsv2_b14 or clip=tipsv2_l14"),
    ],
)
def test_folders_of_other_models_are_refused(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    save_file({"logit_scale": torch.tensor(1.0)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=message):
        find_origin(None, None, str(tmp_path)).load("cpu")


@pytest.mark.parametrize(
    "pixels",
    [
        {"image_mean": ["0.5"] * 3, "image_std": [0.5] * 3},
        {"image_mean": [0.5] * 3, "image_std": [0.5, 0, 0.5]},
        {"image_mean": [0.5], "image_std": [0.5]},
        {"image_mean": 3, "image_std": None},
    ],
)
def test_pixels_need_a_mean_and_a_std(tmp_path, pixels):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({"logit_scale": torch.tensor(1.0)}, tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    with pytest.raises(UserError, match="mean and std of pixels"):
        find_origin(None, None, str(tmp_path)).dimensions  # noqa: B018


@pytest.mark.parametrize(
    "name", ["hf:../..", "hf:a--b/c", "hf:-a/b.", "hf:a/b.git", "hf:a/b/c", "hf:a", "hf:", "hf: / "]
)
def test_what_names_no_repository_is_refused(name):
    with pytest.raises(UserError, match="names no repository: .*hf:org/name"):
        find_origin(name, None, None)


def test_a_repository_without_its_prefix_is_told(run_tool):
    for model in ("openai/clip", "me/my_pets.v2"):
        with pytest.raises(UserError, match=f"lacks hf: .* give clip.model=hf:{model}$"):
            find_origin(model, None, None)
    done = run_tool("download.py", "clip=hugging_face", "clip.model=openai/clip", "--dry-run")
    assert done.code == 2 and "give clip.model=hf:openai/clip" in done.errors


def test_a_folder_of_the_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "clip").mkdir()
    assert isinstance(find_origin(None, None, "~/clip"), OfRelease)


def test_weights_by_a_name_are_open_clips_alone(folder):
    with pytest.raises(UserError, match="tipsv2_b14 has no .* openai"):
        find_origin("tipsv2_b14", "openai", str(folder))


def test_optional_parts_may_be_given_or_not(tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (tmp_path / name).write_text("{}")
    given = {"config": "config.json", "weights": "model.safetensors"}
    for more in ({}, {"pixels": "preprocessor_config.json"}):
        parts = {part: str(tmp_path / name) for part, name in (given | more).items()}
        assert find_origin("hf:org/name", None, hashable(parts)).files().keys() == parts.keys()
    with pytest.raises(UserError, match="clip.checkpoint lacks weights: give"):
        find_origin("hf:org/name", None, hashable({"config": parts["config"]})).files()


def test_what_a_release_says_is_in_the_key():
    release = small("talk2dino_b14")
    changed = (
        {"heads": 4},
        {"text_heads": 4},
        {"dimensions": Dimensions(3, 14, 112)},
        {"module": "tests.plugins.small_models"},
    )
    sources = [OfRelease(replace(release, **each), None).source for each in ({}, *changed)]
    assert len({*sources}) == len(sources)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pos_embed", torch.zeros(1, 18, small_models.WIDTH)),
        ("register_tokens", torch.zeros(1, 4, 7)),
        ("register_tokens", torch.zeros(small_models.WIDTH)),
        ("register_tokens", torch.zeros(1, 1, small_models.WIDTH)),
        ("register_tokens", None),
        ("linear_layer.weight", torch.zeros(7, 32)),
        ("hidden_layers.0.weight", None),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(tmp_path, name, change):
    parts = small_models.talk2dino(32)
    weights = parts["image" if name in parts["image"] else "head"]
    if change is None:
        del weights[name]
    else:
        weights[name] = change
    given = {part: str(tmp_path / f"{part}.safetensors") for part in ("image", "head", "text")}
    for part in ("image", "head"):
        save_file(parts[part], given[part])
    save_file({"unread": torch.zeros(1)}, given["text"])
    with pytest.raises(UserError, match="not hold clip.model=talk2dino_b14"):
        OfRelease(small("talk2dino_b14"), hashable(given)).load("cpu")


@pytest.mark.parametrize(("patch", "layers"), [(16, 4), (8, 4), (16, 3)])
def test_the_text_tower_of_talk2dino_is_that_of_its_clip(tmp_path, patch, layers):
    parts = small_models.talk2dino(32)
    parts["text"] = build_tiny_clip(patch_size=patch, layers=layers).state_dict()
    given = {part: str(tmp_path / f"{part}.safetensors") for part in parts}
    for part, weights in parts.items():
        save_file({name: each.contiguous() for name, each in weights.items()}, given[part])
    expected = "a ViT of width 64, patch 16 and 4 blocks"
    undeclared = replace(small("talk2dino_b14"), text_clip="")
    embed_names = OfRelease(undeclared, hashable(given)).load("cpu").embed_names
    assert embed_names([["cat"]], ["{}"]).shape == (1, small_models.WIDTH)
    release = replace(undeclared, text_clip=expected)
    embed_names = OfRelease(release, hashable(given)).load("cpu").embed_names
    if (patch, layers) == (16, 4):
        assert embed_names([["cat"]], ["{}"]).shape == (1, small_models.WIDTH)
        return
    found = f"a ViT of width 64, patch {patch} and {layers} blocks"
    with pytest.raises(UserError, match=f"text.safetensors holds {found}.*, not {expected}"):
        embed_names([["cat"]], ["{}"])


def test_a_head_of_another_width_is_refused(tmp_path):
    parts = small_models.dinotxt()
    parts["head"]["ln_final.weight"] = torch.ones(8)
    given = {part: str(tmp_path / f"{part}.safetensors") for part in parts}
    for part, weights in parts.items():
        save_file(weights, given[part])
    with pytest.raises(UserError, match="dinotxt_l14 .width 8, not 16"):
        OfRelease(small("dinotxt_l14"), hashable(given)).load("cpu")


def test_a_model_of_another_width_is_refused(folder):
    release = replace(small("tipsv2_b14"), heads=3)  # by which the width cannot be divided
    with pytest.raises(UserError, match="do not hold clip.model=tipsv2_b14"):
        OfRelease(release, str(folder)).load("cpu")
