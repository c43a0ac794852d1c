"""Weights with the names of published ones: in miniature, where a download puts them, or whole.

The functions change the process that calls them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import open_clip
import timm
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import save_file

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.image_text import releases
from pipeline.clip.models.c_radio import siglip2
from pipeline.clip.models.tipsv2 import model as tipsv2
from pipeline.clip.origins import origin
from pipeline.clip.second import SECONDS
from pipeline.clip.weights.layouts import part_of
from pipeline.clip.weights.published import addresses_of
from pipeline.configuration.registry import MODELS
from pipeline.datasets.vocabulary import build_vocabulary
from pipeline.errors import NotLocal
from pipeline.files import hugging_face
from pipeline.files.weight_files import Uninitialised
from pipeline.stages.config import compose, read_config
from pipeline.tags.piaa import patches
from tests import REPOSITORY, c_radio_files, small_models
from tests.tiny_clip import build_tiny_clip
from tests.tiny_second import dino_file, sam_file

CLIPS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((REPOSITORY / "configs" / "clip").glob("*.yaml"))
}


def cached(url: str) -> Path:
    """Returns where the client of Hugging Face, or torch, keeps the file of an address."""
    if found := hugging_face._FILE.fullmatch(url):
        folder = Path(constants.HF_HUB_CACHE, f"models--{found[1].replace('/', '--')}")
        path, reference = folder / "snapshots" / "0" / found[3], folder / "refs" / found[2]
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text("0")
    else:
        path = hugging_face._torch_cache() / url.rpartition("/")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def place(url: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Writes weights as if they had been downloaded from an address."""
    path = cached(url)
    unfinished = path.with_suffix(f".{os.getpid()}{path.suffix}")  # another process may want it
    save = save_file if path.suffix == ".safetensors" else torch.save
    save({name: each.contiguous() for name, each in weights.items()}, unfinished)
    unfinished.replace(path)


def need_no_packages() -> None:
    """Has words stand for the numbers of tokens, which packages of ``make test-extras`` know."""
    siglip2.read_tokenizer = tipsv2.read_tokenizer = c_radio_files.read_words
    origin.find_spec = lambda name: name


def grant() -> None:
    """Makes public what is given on request."""
    for models in (releases(), SECONDS):
        for name, release in models.items():
            models[name] = replace(release, terms="")


def use_small_models(caches: str) -> None:
    """Takes weights from some caches, and models for as small as those of the next function."""
    os.environ["TORCH_HOME"], constants.HF_HUB_CACHE = f"{caches}/torch", f"{caches}/hub"
    need_no_packages()
    grant()
    for config in open_clip.factory._MODEL_CONFIGS.values():
        config["embed_dim"] = 32
        config["vision_cfg"] |= {"width": 64, "head_width": 64}
        config["text_cfg"] |= {"width": 64, "heads": 1, "layers": 2}
    for name, release in releases().items():
        clip = release.text_clip.replace("768", "64")
        sizes = {"heads": 2, "text_heads": 2, "head_width": 8, "text_clip": clip}
        MODELS[name] = replace(release, **sizes)
    for name, second in SECONDS.items():
        patch_size = second.dimensions.patch_size
        given = {"heads": 1, "dimensions": Dimensions(2, patch_size, 4 * patch_size)}
        if name.startswith("sam"):
            given = {"heads": 3, "head_width": 16, "dimensions": Dimensions(4, patch_size, 128)}
        if name.startswith("c_radio"):
            given = {"heads": 2, "head_width": 8}
        SECONDS[name] = second if name == "demo" else replace(second, **given)
    patches.ScClipSettings = partial(patches.ScClipSettings, neighbours=9)  # of 24 patches


def write_small_models(caches: str) -> None:
    """Writes weights of models of each kind and depth, which are as narrow as can be."""
    use_small_models(caches)
    clips = {}
    for name, preset in CLIPS.items():
        if config := open_clip.get_model_config(preset["model"] or ""):
            vision, entry = config["vision_cfg"], (preset["model"], preset["pretrained"])
            size = vision["patch_size"], vision["image_size"] // vision["patch_size"]
            clip = build_tiny_clip(layers=vision["layers"], patch_size=size[0], grid=size[1])
            clips[name] = {key: each.half() for key, each in clip.state_dict().items()}
            place(addresses_of(open_clip.get_pretrained_cfg(*entry))[0], clips[name])
    for second in SECONDS.values():
        if url := second.files["weights"][0]:
            if second.name.startswith("c_radio"):  # in the file of the model of that name
                drawn = small_models.c_radio(depth=second.dimensions.depth)
                c_radio_files.nvlabs(drawn, cached(url).parent)["image"].rename(cached(url))
                continue
            is_sam = second.name.startswith("sam")
            file = sam_file() if is_sam else dino_file(second.dimensions.patch_size)
            cached(url).write_bytes(file.read_bytes())
    drawn = {
        "tipsv2_b14": {"weights": small_models.tips(depth=12)},
        "tipsv2_l14": {"weights": small_models.tips(depth=24)},
        "dinotxt3_l16": small_models.dinotxt3(depth=24),
        "talk2dino_b14": {**small_models.talk2dino(32, depth=12), "text": clips["vit_b16"]},
        "c_radio_v3_b16": {"text": small_models.siglip2_text(2 * small_models.WIDTH)},
    }
    for name, parts in drawn.items():
        files = releases()[name].files
        for part, weights in parts.items():
            place(files[part][0], weights)
        if "tokenizer" in files:
            cached(files["tokenizer"][0]).write_text("words")


def place_backbone(*words: str) -> None:
    """Writes the initial weights of the network that a run trains to where it looks for them."""
    from pipeline.segmenter.mmseg import build_config, build_model
    from pipeline.segmenter.pretrained import load_pretrained

    config = read_config(compose(words))
    settings, names = config.segmenter, build_vocabulary(config.dataset)
    if settings.decoder:
        return  # a CLIP, or a second backbone
    built = build_config(settings, names.classes, names.palette, 0)
    backbone = build_model(built.model).backbone
    given = settings.pretrained, built.model, built.pretrained_source
    try:
        load_pretrained(backbone, *given, download=False)
    except NotLocal as address:
        # timm names the parts of whole networks otherwise than those of feature maps.
        published = timm.create_model(settings.backbone) if settings.backbone else backbone
        place(str(address), published.state_dict())


# In full size, without values


def write_whole(name: str, folder: str) -> None:
    """Writes zeros as large as a model of ``clip=``: a file for each of its parts.

    They are holes in the files, which take no room on a disk.
    """
    model, path = CLIPS[name]["model"], Path(folder)
    path.mkdir()
    if model in releases():
        sizes = {"b": (768, 12), "l": (1024, 24), "h": (1280, 32)}[model[-3]]
        sizes = dict(zip(("width", "depth"), sizes))
        with patch.object(small_models, "draw", lambda shapes, _: shapes):
            if model.startswith("tips"):
                parts = {"weights": small_models.tips(**sizes)}
            elif model.startswith("talk"):
                parts = small_models.talk2dino(512, **sizes)
            elif model.startswith("dino"):
                of = small_models.dinotxt3 if "3" in model else small_models.dinotxt
                parts = of(**sizes, text_width=1280)
            else:
                drawn = small_models.c_radio(**sizes)
                head = {key: shape for key, shape in drawn.items() if key.startswith("head.")}
                parts = {"image": part_of(drawn, "vit."), "head": head}
        unread = dict.fromkeys(releases()[model].files.keys() - {"config"}, {"unread": [1]})
        parts = unread | parts
    else:
        with torch.device("meta"), Uninitialised():
            clip = open_clip.create_model(model, device="meta")
        parts = {"weights": {key: each.shape for key, each in clip.state_dict().items()}}
    for part, shapes in parts.items():
        header, end = {}, 0
        for key, shape in shapes.items():
            begin, end = end, end + 2 * math.prod(shape)
            header[key] = {"dtype": "F16", "shape": [*shape], "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        with (path / f"{part}.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + end)


def load_whole(name: str, folder: str) -> None:
    """Builds a model of ``clip=`` from such files, without values; fails if a size is another."""
    need_no_packages()
    files = tuple((path.stem, str(path)) for path in Path(folder).iterdir())
    model = CLIPS[name]["model"], CLIPS[name]["pretrained"]
    if model[0] in releases():
        origin.find_origin(*model, files).load("meta")
    else:
        assert origin.find_origin(*model, files[0][1]).dimensions
