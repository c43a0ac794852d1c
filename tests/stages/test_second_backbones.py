"""Runs of methods with a second backbone: keys, files of regions, downloads and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import Labeller
from pipeline.cams.cams import read_cams
from pipeline.clip.dimensions import Dimensions
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.image_text import releases
from pipeline.clip.second import SECONDS
from pipeline.errors import ImageError, UserError
from pipeline.files.label_images import read_labels
from tests import c_radio_files, small_models
from tests.small_runs import draw_photograph, latest
from tests.tiny_second import dino_file, sam_file

SMALL = ["cams.second.model=null", f"cams.second.checkpoint={dino_file()}"]
SAM = ["cams.sam.model=null", f"cams.sam.checkpoint={sam_file()}"]
CAMS = ["stage=[tags,cams]"]
DENSE = ["masks=dense", "masks.short_side=64", "stage=masks"]


def key_of(root: Path, stage: str) -> str:
    return json.loads((latest(root, stage) / "manifest.json").read_text())["key"]


@pytest.mark.parametrize(
    "more",
    [
        ["cams=trident", *SMALL, *SAM],
        ["cams=trident", *SMALL, *SAM, *DENSE, "masks.names=classes"],
        ["cams=lposs", *SMALL, "cams.pixels=true", *DENSE, "masks.names=classes"],
    ],
    ids=["trident", "trident dense", "lposs"],
)
def test_a_run_comes_to_its_end_and_is_cached(run_stage, arguments, tmp_path, more):
    done = run_stage(*arguments, *CAMS, *more)
    assert done.code == 0, done.errors
    again = run_stage(*arguments, *CAMS, *more)
    assert all(now == 0 for now, _, _ in again.counts.values()), again.output
    stage = "masks" if "masks=dense" in more else "cams"
    files = [*latest(tmp_path / "out", stage).glob("?.*")]
    for path in files:
        values = read_labels(path) if stage == "masks" else read_cams(path).cams
        assert np.isfinite(values).all() and values.any()
    assert len(files) == 4


@pytest.fixture
def c_radio(monkeypatch, tmp_path) -> list[str]:
    """Settings that choose a small C-RADIO, which stands for a published one."""
    releases()  # which registers second backbones as well
    small = replace(SECONDS["c_radio_v3_l16"], dimensions=Dimensions(3, 16, 64))
    monkeypatch.setitem(SECONDS, small.name, replace(small, heads=2, head_width=8))
    path = c_radio_files.timm(small_models.c_radio(), tmp_path)["image"]
    return [f"cams.second.model={small.name}", f"cams.second.checkpoint={path}"]


@pytest.mark.large
@pytest.mark.parametrize("method", ["corrclip", "proxyclip", "lposs"])
def test_methods_of_dino_take_c_radio(run_stage, arguments, tmp_path, c_radio, method):
    done = run_stage(*arguments, *CAMS, f"cams={method}", *c_radio)
    assert done.code == 0, done.errors
    found = [read_cams(path).cams for path in latest(tmp_path / "out", "cams").glob("?.*")]
    assert len(found) == 4 and all(np.isfinite(cams).all() and cams.any() for cams in found)


def test_the_key_has_the_weights_and_the_constants_of_what_is_used(run_stage, arguments, tmp_path):
    def key(*more: str) -> str:
        done = run_stage(*arguments, *CAMS, *more)
        assert done.code == 0, done.errors
        return key_of(tmp_path / "out", "cams")

    spread = key("cams=lposs", *SMALL)
    assert key("cams=lposs", *SMALL, "cams.alpha=0.5") != spread
    proxy = key("cams=proxyclip", *SMALL)
    moved = tmp_path / "moved.pth"
    moved.write_bytes(dino_file().read_bytes())
    second = "cams.second.model=null"
    assert key("cams=proxyclip", second, f"cams.second.checkpoint={moved}") == proxy
    assert key("cams=proxyclip", second, f"cams.second.checkpoint={dino_file(16)}") != proxy


def regions_of(photographs: Path, folder: Path) -> None:
    for path in photographs.rglob("*.*"):
        with Image.open(path) as image:
            halves = np.ones(image.size[::-1], np.uint8)
        halves[:, halves.shape[1] // 2 :] = 2
        halves[: len(halves) // 4] = 0
        (folder / path.relative_to(photographs)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(halves).save((folder / path.relative_to(photographs)).with_suffix(".png"))


@pytest.mark.parametrize("masks", [[], DENSE])
def test_a_changed_file_of_regions_costs_one_image(
    run_stage, arguments, photographs, tmp_path, masks
):
    folder = tmp_path / "SAM"
    regions_of(photographs, folder)
    given = [*arguments, *CAMS, "cams=corrclip", *SMALL, f"cams.regions={folder}", *masks]
    done, stage = run_stage(*given), "masks" if masks else "cams"
    count = len([*photographs.rglob("*.*")])
    assert done.code == 0 and done.counts[stage] == (count, 0, 0), done.errors
    if masks:
        for path in latest(tmp_path / "out", "masks").rglob("*.png"):
            mask = read_labels(path)  # each region has one label
            assert len(np.unique(mask[len(mask) // 4 :, : mask.shape[1] // 2])) == 1
    changed = next(iter(sorted(folder.rglob("*.png"))))
    Image.fromarray(np.asarray(Image.open(changed)).T.copy().T[::-1].copy()).save(changed)
    assert run_stage(*given).counts[stage] == (1, count - 1, 0)
    changed.unlink()
    without = run_stage(*given)
    assert without.code == 0 and "has no regions" in without.output + without.errors
    superpixels = run_stage(*arguments, *CAMS, "cams=corrclip", *SMALL, *masks)
    assert superpixels.counts[stage][0] == count


def test_python_takes_superpixels_and_no_folder(tiny_checkpoint):
    given = {"checkpoint": tiny_checkpoint, "overrides": ["cams=corrclip", *SMALL]}
    image = draw_photograph(1, 64, 80)
    assert Labeller(["cat", "cup"], **given).cams(image, ["cup"]).shape[0] == 1
    given["overrides"].append("cams.regions=SAM")
    with pytest.raises(UserError, match=r"leave cams\.regions=slic here"):
        Labeller(["cat", "cup"], **given)


def test_another_name_needs_no_pass_of_the_second_backbone(tiny_checkpoint, monkeypatch):
    passes, look = [], ClipEncoder.backbone

    def backbone(encoder: ClipEncoder, *given: object) -> object:
        passes.append(encoder.native_size)
        return look(encoder, *given)

    monkeypatch.setattr(ClipEncoder, "backbone", backbone)
    given = {"checkpoint": tiny_checkpoint, "overrides": ["cams=proxyclip", *SMALL]}
    first = Labeller(["cat", "cup"], keep=1 << 28, **given)
    image = draw_photograph(1, 64, 80)
    cams = first.cams(image, ["cup"])
    assert sorted(passes) == [32, 64]
    second = Labeller(["cat", "cup", "dog"], keep=first, **given)
    assert not np.array_equal(second.cams(image, ["dog"]), cams)
    assert sorted(passes) == [32, 64]
    plain = Labeller(["cat", "cup", "dog"], **given).cams(image, ["dog"])
    np.testing.assert_allclose(second.cams(image, ["dog"]), plain, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["cams=proxyclip"], "dino_vitbase8_pretrain.pth could not be downloaded"),
        (
            ["cams=proxyclip", f"cams.second.checkpoint={dino_file()}"],
            "does not hold cams.second.model=dino_vitb8",
        ),
        (["cams=proxyclip", "cams.second.model=dino"], "cams.second.model=dino is unknown"),
        (["cams=lposs", *SMALL[:1]], "cams.second names no backbone"),
        (["cams=corrclip", *SMALL, "cams.regions=nowhere"], "cams.regions=nowhere is not a folder"),
        pytest.param(
            ["cams=corrclip_v2", *SMALL, "cams.regions=slic"],
            "cams.bank.regions=bank_masks is not a folder",
            marks=pytest.mark.large,
        ),
    ],
)
def test_what_cannot_be_used_is_said_before_anything_is_computed(
    run_stage, arguments, tmp_path, more, message
):
    refused = run_stage(*arguments, *CAMS, *more)
    assert refused.code == 2 and message in refused.errors
    assert not [*(tmp_path / "out").rglob("scores.npz")]


def test_a_dry_run_names_what_is_downloaded_and_keeps_the_tags(run_stage, arguments):
    assert run_stage(*arguments, "stage=tags").code == 0
    planned = run_stage(*arguments, *CAMS, "cams=trident", "dry_run=true")
    assert planned.code == 0 and "known after download" in planned.output
    both = f"{addresses('dino_vitb16')[0]} and {addresses('sam_vit_b')[0]}"
    sizes = "(second backbone: 343.0 MB and 375.0 MB)"
    assert f"the run first downloads the weights {both} {sizes}" in planned.errors


def addresses(name: str) -> tuple[str, ...]:
    return tuple(SECONDS[name].files["weights"])


def test_the_download_tool_lists_them_with_their_licence(run_tool, tmp_path):
    arguments = ["dataset=demo", "clip=demo", "stage=[tags,cams]", "cams=trident", "--dry-run"]
    done = run_tool("download.py", *arguments, "--output", tmp_path)
    assert done.code == 0, done.errors
    for name in ("dino_vitb16", "sam_vit_b"):
        assert addresses(name)[0] in done.output
    assert done.output.count("licence: Apache 2.0") == 2


@pytest.mark.large
def test_both_second_backbones_of_corrclipv2_are_listed(run_tool, tmp_path):
    arguments = ["experiment=corrclipv2_voc21", f"dataset.root={tmp_path / 'VOC2012'}"]
    done = run_tool("download.py", *arguments, "cams.bank.root=coco/train2017", "--dry-run")
    assert done.code == 0, done.errors
    for name in ("c_radio_v3_l16", "dino_vitb8"):
        assert addresses(name)[0] in done.output
    for licence in ("CC BY-NC 4.0", "NVIDIA open model licence", "Apache 2.0"):
        assert f"licence: {licence}\n" in done.output


@pytest.mark.large
def test_of_c_radio_the_image_file_alone_is_downloaded(run_tool, run_stage, arguments, tmp_path):
    chosen = ["stage=[tags,cams]", "cams=corrclip", "cams.second.model=c_radio_v3_l16"]
    more = ["dataset=demo", "clip=demo", "--dry-run", "--output", tmp_path]
    done = run_tool("download.py", *more, *chosen)
    assert done.code == 0, done.errors
    assert addresses("c_radio_v3_l16")[0] in done.output and done.output.count("https://") == 1
    assert "licence: NVIDIA open model licence\n" in done.output
    planned = run_stage(*arguments, *chosen, "dry_run=true")
    assert "c-radio-v3_l_half.pth.tar (second backbone: 800.0 MB)" in planned.errors


DENSE = ["masks=dense", "masks.names=classes", "masks.short_side=64"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["masks.window_softmax=true"], "masks.window_softmax has no meaning for cams=trident"),
        (["masks.align_corners=true"], "masks.align_corners has no meaning for cams=trident"),
        (["masks.window=50"], "masks.window and masks.stride that are multiples of 16"),
        (["masks.window=32", "masks.stride=20"], "that are multiples of 16"),
    ],
)
def test_what_splicing_cannot_follow_is_refused(run_stage, arguments, more, message):
    given = ["cams=trident", *SMALL, *SAM, *DENSE, *more, "stage=masks"]
    refused = run_stage(*arguments, *given)
    assert refused.code == 2 and message in refused.errors, refused.errors


@pytest.mark.parametrize("size", [(3, 900), (900, 3), (1, 1)])
def test_narrow_images_are_looked_at(tiny_checkpoint, size):
    given = ["cams=trident", *SMALL, *SAM, "masks=argmax"]
    labeller = Labeller(["cat", "cup"], checkpoint=tiny_checkpoint, overrides=given)
    cams = labeller.cams(np.zeros((*size, 3), np.uint8), ["cup"])
    assert len(cams) == 1 and np.isfinite(cams).all()


def test_an_image_that_is_refused_leaves_the_next_one_alone(tiny_checkpoint):
    given = ["cams=sc_clip", "cams.neighbours=20", *DENSE, "masks.window=0"]
    labeller = Labeller(["cat", "cup"], checkpoint=tiny_checkpoint, overrides=given)
    image = draw_photograph(1, 64, 200)
    wanted = labeller(image).mask
    with pytest.raises(ImageError, match="has 16 patches, too few"):
        labeller(draw_photograph(2, 64, 64))
    assert np.array_equal(labeller(image).mask, wanted)


def test_each_backbone_is_loaded_once(tiny_checkpoint, capsys):
    given = ["cams=trident", *SMALL, *SAM]
    labeller = Labeller(["cat", "cup"], checkpoint=tiny_checkpoint, overrides=given)
    labeller.cams(draw_photograph(1, 64, 80), ["cup"])
    capsys.readouterr()
    labeller.cams(draw_photograph(2, 64, 80), ["cup"])
    assert "loading" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("pattern", ["trident", "proxyclip*"])
def test_a_pattern_of_such_methods_alone_is_refused(run_stage, arguments, pattern):
    refused = run_stage(*arguments, "stage=cams", "-m", f"cams=glob({pattern})")
    assert refused.code == 2 and "stands for no choice that runs on every CLIP" in refused.errors


def test_a_file_without_blocks_is_refused_before_tags(run_stage, arguments, tmp_path):
    weights = torch.load(dino_file(), weights_only=True)
    torch.save({k: v for k, v in weights.items() if "blocks." not in k}, tmp_path / "none.pth")
    given = ["cams=proxyclip", SMALL[0], f"cams.second.checkpoint={tmp_path / 'none.pth'}"]
    refused = run_stage(*arguments, *CAMS, *given)
    assert refused.code == 2 and "in DINO's layout (no blocks)" in refused.errors
    assert not [*(tmp_path / "out").rglob("scores.npz")]


def test_only_what_the_stages_read_is_downloaded(run_tool):
    done = run_tool("download.py", "dataset=demo", "clip=demo", "stage=tags", "cams=proxyclip")
    assert done.code == 0 and "dino" not in done.output
