"""From photographs to a report with each image-text model, offline, from a folder of its files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from skimage.io import imread, imsave

from pipeline.configuration.registry import methods
from tests import small_models
from tests.extras import library
from tests.report.measured import rows_of
from tests.tiny_second import dino_file, sam_file

SECOND = {
    name: (f"cams.{name}.model=null", f"cams.{name}.checkpoint={file()}")
    for name, file in (("second", dino_file), ("sam", sam_file))
}
OWN = {
    "tags=tagclip": ("tags.votes=2", "tags.attention_blocks=[-1,0]"),
    "tags=piaa": ("tags.min_score=0",),
    "cams=sc_clip": ("cams.neighbours=8",),
    "cams=talk2dino": ("cams.cleaning=true",),
}
"""What some methods require on a few patches and three blocks."""

CHOICES = [f"{m.group}={m.name}" for m in methods() if m.group in ("tags", "cams") and m.uses_clip]

PLUGIN = "plugins=[tests.plugins.small_models]"
VOTES = "tags.votes=2"
STAGES = "stage=[tags,cams,masks,evaluate,report]"


@pytest.fixture
def chain(run_stage, photographs, tmp_path):
    """Runs the stages on two photographs with a small model; returns what finished."""

    def run(name: str, checkpoint: object, *more: str):
        return run_stage(
            *("dataset=folder", f"dataset.root={photographs}", "dataset.classes=[cat,cup]"),
            *("dataset.limit=2", f"clip={name}", f"clip.model=small_{name}", PLUGIN, STAGES),
            *(f"clip.checkpoint={checkpoint}", f"output_dir={tmp_path / 'out'}"),
            *more,
        )

    return run


@pytest.fixture
def dino(tmp_path, tiny_checkpoint) -> dict[str, dict[str, Path]]:
    """The files of small models of DINOv2, by model and part."""
    found: dict[str, dict[str, Path]] = {}
    drawn = {"talk2dino_b14": small_models.talk2dino(32), "dinotxt_l14": small_models.dinotxt()}
    for name, parts in drawn.items():
        found[name] = {part: tmp_path / f"{name}_{part}.safetensors" for part in parts}
        for part, weights in parts.items():
            save_file(weights, found[name][part])
    found["talk2dino_b14"]["text"] = tiny_checkpoint
    return found


def as_transformers(weights: dict) -> dict:
    """Renames TIPSv2's weights as transformers calls them, with Q, K and V apart."""
    renamed = {}
    for name, tensor in weights.items():
        image = name.startswith("vision_encoder.")
        name = name.partition(".")[2]
        if image:
            name = re.sub(r"^blocks", "encoder.layer", name)
            name = re.sub(r"attn\.proj", "attention.o_proj", name)
            name = re.sub(r"ls(\d)\.gamma", r"layer_scale\1.lambda1", name)
            name = re.sub(r"^norm", "layernorm", name)
            name = re.sub(r"^pos_embed", "embeddings.position_embeddings", name)
            name = re.sub(r"^(\w+_tokens?)$", r"embeddings.\1", name)
            name = re.sub(r"^patch_embed\.proj", "embeddings.patch_embeddings.projection", name)
            joined, parts = "attn.qkv.", "attention.{}_proj."
        else:
            name = re.sub(r"^transformer\.resblocks", "encoder.layers", name)
            name = re.sub(r"attn\.out_proj", "self_attn.out_proj", name)
            name = re.sub(r"ln_(\d)", r"layer_norm\1", name)
            name = name.replace("c_fc", "fc1").replace("c_proj", "fc2")
            name = re.sub(r"^ln_final", "final_layer_norm", name)
            name = re.sub(r"^token_embedding", "embeddings.token_embedding", name)
            joined, parts = "attn.in_proj_", "self_attn.{}_proj."
        prefix = "vision_model." if image else "text_model."
        if joined in name:
            for part, third in zip("qkv", tensor.chunk(3)):
                key = prefix + name.replace(joined, parts.format(part))
                renamed[key] = third.contiguous()
        else:
            renamed[prefix + name] = tensor
    return renamed


def given(files: dict[str, Path]) -> str:
    return "{" + ",".join(f"{part}: {path}" for part, path in files.items()) + "}"


def frozen_network(folder: Path) -> list[str]:
    """Writes masks of two photographs; returns what trains the model itself on them."""
    folder.mkdir()
    for name, height, width in (("a", 90, 70), ("b", 64, 96)):
        labels = np.random.default_rng(height).integers(0, 3, (height, width), dtype=np.uint8)
        imsave(folder / f"{name}.png", labels, check_contrast=False)
    sizes = ["segmenter.iterations=2", "segmenter.batch_size=2", "dataset.training.crop_size=60"]
    return [
        *("masks=file", f"masks.path={folder}", "stage=[masks,train,predict]"),
        *(*sizes, "+segmenter.overrides.decode_head.channels=32"),
    ]


def assert_trained(run, tmp_path: Path, patch_size: int) -> None:
    """The default network of photographs, whose tower is the model's."""
    assert run.code == 0, run.errors
    manifest = tmp_path / "out/segmenter/latest/manifest.json"
    facts = json.loads(manifest.read_text())
    assert facts["configuration"]["name"] == "frozen_clip"
    assert facts["configuration"]["crop_size"] == round(60 / patch_size) * patch_size
    model, *files = facts["initial_weights"]["source"].split(", ")
    assert model == facts["configuration"]["tower"]["model"]
    assert files and all(Path(file).exists() for file in files)
    for name, size in (("a", (90, 70)), ("b", (64, 96))):
        [file] = (tmp_path / "out/all/predictions").glob(f"[!l]*/{name}.png")
        assert imread(file).shape[:2] == size


@pytest.mark.large
@pytest.mark.parametrize("name", ["dinotxt_l14", "talk2dino_b14"])
def test_a_network_is_the_model_itself_frozen(chain, dino, tmp_path, name):
    run = chain(name, given(dino[name]), *frozen_network(tmp_path / "truth"))
    assert_trained(run, tmp_path, 14)


def test_dinotxt_labels_photographs(chain, dino, tmp_path):
    run = chain("dinotxt_l14", given(dino["dinotxt_l14"]), "tags.templates=dinotxt", VOTES)
    assert run.code == 0, run.errors
    assert "2 images, 2 computed now" in run.output and (tmp_path / "out/report.html").is_file()
    manifest = json.loads(next((tmp_path / "out").glob("all/tags/*/manifest.json")).read_text())
    assert manifest["configuration"]["clip"]["model"] == "small_dinotxt_l14"
    assert len(manifest["configuration"]["clip"]["weights"]) == 16
    again = chain("dinotxt_l14", given(dino["dinotxt_l14"]), "tags.templates=dinotxt", VOTES)
    assert "0 computed now, 2 from the cache" in again.output
    weights = small_models.dinotxt(seed=9)["head"]
    save_file(weights, dino["dinotxt_l14"]["head"])  # any part is in the key
    other = chain("dinotxt_l14", given(dino["dinotxt_l14"]), "tags.templates=dinotxt", VOTES)
    assert "2 images, 2 computed now" in other.output


@pytest.mark.large
@pytest.mark.parametrize("choice", CHOICES)
def test_every_method_runs_on_rotary_positions(chain, tmp_path, choice):
    files = {part: tmp_path / f"{part}.safetensors" for part in ("image", "head")}
    for part, weights in small_models.dinotxt3().items():
        save_file(weights, files[part])
    group, _, name = choice.partition("=")
    [method] = [m for m in methods() if (m.group, m.name) == (group, name)]
    seconds = [each for key in method.settings().seconds() for each in SECOND[key]]
    more = *OWN.get(choice, ()), *(OWN["tags=tagclip"] if group == "cams" else ()), *seconds
    run = chain("dinotxt3_l16", given(files), choice, *more, "stage=[tags,cams]")
    if name == "radseg":
        assert run.code == 2 and "cams=radseg needs a language adaptor" in run.errors
    else:
        assert run.code == 0, run.errors
        done = run.output.count("2 images, 2 computed now")
        assert done == (4 if name == "piaa" else 2), run.output


def test_models_are_beside_each_other_in_the_leaderboard(chain, dino, run_tool, tmp_path):
    truth = tmp_path / "truth"
    for name, height, width in (("a", 90, 70), ("b", 64, 96)):
        truth.mkdir(exist_ok=True)
        labels = np.random.default_rng(height).integers(0, 3, (height, width), dtype=np.uint8)
        imsave(truth / f"{name}.png", labels, check_contrast=False)
    axis = ["experiment=leaderboard_clip", "stage=[masks,evaluate]", f"dataset.masks={truth}"]
    axis += ["masks.short_side=56", "masks.window=28", "masks.stride=28"]
    for model, files in dino.items():
        run = chain(model, given(files), *axis)
        assert run.code == 0, run.errors
    table = run_tool("make_tables.py", "--leaderboard", tmp_path / "out").output
    assert {row[2] for row in rows_of(table, "As trained")} == {*dino}


@pytest.mark.large
def test_workers_know_the_models_and_their_templates(chain, dino):
    processes = ["executor=processes", "executor.workers=1", "tags.templates=dinotxt", VOTES]
    run = chain("dinotxt_l14", given(dino["dinotxt_l14"]), *processes, "stage=tags")
    assert run.code == 0 and "2 images, 2 computed now" in run.output, run.errors


def test_what_needs_a_vector_of_the_whole_image_is_refused(chain, dino):
    files = given(dino["talk2dino_b14"])
    for arguments, remedy in (
        ([], "tags.reidentify=false"),
        (["tags.reidentify=false", "tags.variants=[clip,dmar]"], "leave clip out of tags.variants"),
        (["tags=clip"], "choose tags=tagclip tags.reidentify=false"),
        (["tags=piaa", "tags.min_score=0"], "choose tags=tagclip tags.reidentify=false"),
        (["tags.reidentify=false"], "choose a dense method as cams, see docs"),
    ):
        run = chain("talk2dino_b14", files, *arguments)
        sentence = "clip.model=small_talk2dino_b14 does not embed whole images: "
        assert run.code == 2 and sentence in run.errors and remedy in run.errors, run.errors
        assert "computed now" not in run.output


def test_talk2dino_labels_photographs(chain, dino, tmp_path):
    arguments = [
        "tags.reidentify=false",
        "tags.variants=[]",
        VOTES,
        "cams=talk2dino",
        "cams.cleaning=true",
    ]
    run = chain("talk2dino_b14", given(dino["talk2dino_b14"]), *arguments)
    assert run.code == 0, run.errors
    dense = ["masks=dense", "masks.names=classes", "masks.short_side=56", "masks.window=28"]
    dense.append("masks.align_corners=true")
    files = given(dino["talk2dino_b14"])
    run = chain("talk2dino_b14", files, *arguments, *dense, "masks.enlarge=features")
    sentence = "masks.enlarge=features compares features with names, and cams=talk2dino computes"
    assert run.code == 2 and sentence in run.errors
    run = chain("talk2dino_b14", files, *arguments, *dense)
    assert run.code == 0 and "2 images, 2 computed now" in run.output, run.errors


@pytest.mark.extras
@pytest.mark.parametrize("layout", ["release", "transformers"])
def test_tipsv2_labels_photographs_in_both_layouts(chain, tmp_path, layout):
    folder = tmp_path / "tips"
    folder.mkdir()
    sentences = tmp_path / "sentences.txt"
    words = ["cat", "cup", "photo", "of", "the", "large", "small", "in", "a", "video", "game"]
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, 6)) for _ in range(400)]
    sentences.write_text("\n".join(lines))
    given = {"vocab_size": 60, "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
    trainer = library("sentencepiece").SentencePieceTrainer
    trainer.train(
        input=str(sentences), model_prefix=str(folder / "tokenizer"), model_type="bpe", **given
    )
    weights = small_models.tips()
    if layout == "transformers":
        model = library("sentencepiece").SentencePieceProcessor(
            model_file=str(folder / "tokenizer.model")
        )
        pieces = {model.id_to_piece(number): number for number in range(model.get_piece_size())}
        tokenizers = library("tokenizers")
        fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(pieces, unk_token="<unk>"))
        fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
        fast.save(str(folder / "tokenizer.json"))
        (folder / "tokenizer.model").unlink()
        weights = as_transformers(weights)
    save_file(weights, folder / "model.safetensors")
    run = chain("tipsv2_b14", folder, "tags.templates=tips", "cams=value_path", VOTES)
    assert run.code == 0 and (tmp_path / "out/report.html").is_file(), run.errors
    assert_trained(chain("tipsv2_b14", folder, *frozen_network(tmp_path / "truth")), tmp_path, 14)
