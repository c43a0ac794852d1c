"""The tables of measured figures beside the published ones, and the command that writes them."""

from __future__ import annotations

import pytest

from pipeline.commands.make_tables import run
from pipeline.report.tables.runs import find_files
from tests import REPOSITORY
from tests.processes import run_python
from tests.report.measured import measured, rows_of, voc2007, write_runs

pytestmark = pytest.mark.usefixtures("figures_are_current")
TOOL = REPOSITORY / "tools" / "make_tables.py"


def test_without_runs_the_tables_hold_the_published_figures_and_blanks(make_tables, tmp_path):
    finished = make_tables()
    assert finished.code == 0 and not finished.errors
    written = (tmp_path / "outputs" / "tables.md").read_text(encoding="utf-8")
    assert finished.output.startswith(written)
    assert rows_of(written, "ours: TagCLIP  ")[0][3:6] == ["", "", ""]
    assert rows_of(written, "SCLIP+PIAA (ICML")[0] == [
        *("SCLIP+PIAA (ICML 2026)", "CLIP ViT-B/16", "none"),
        *("91.7", "73.0", "49.2", "[2]"),
    ]
    assert "2. README of the PIAA repository" in written
    assert "experiment=tagclip_voc2007 dataset.root=DIR" in written, "how to fill the blanks"
    assert "from:" not in written


def test_figures_stand_in_their_columns_with_what_they_are_from(make_tables, tmp_path):
    write_runs(
        tmp_path / "outputs" / "voc" / "metrics.json",
        voc2007(0.9279),
        measured("tags", "val", 40137, {"dataset": "coco2014", "clip": "vit_l14"}, map=0.7),
        measured("cams", "val", 1449, {"experiment": "cls_seg_voc2012"}, miou=0.6475),
        measured("masks", "val", 1449, {"experiment": "cls_seg_voc2012"}, miou=0.6864),
    )
    text = make_tables().output
    assert rows_of(text, "ours: TagCLIP (preset")[0][:6] == [
        *("ours: TagCLIP (preset, released, fp32)", "vit_b16 (openai)", "none"),
        *("92.8", "", ""),
    ]
    assert rows_of(text, "ours: TagCLIP (no experiment")[0][3:6] == ["", "70.0", ""]
    assert rows_of(text, "ours: TagCLIP CLS-SEG (CAMs)")[0][3] == "64.8"
    assert rows_of(text, "ours: TagCLIP CLS-SEG + CRF")[0][3] == "68.6"
    origin = next(line for line in text.splitlines() if "68.6 mIoU" in line)
    for part in ("voc2012 val", "1,449", "cls_seg_voc2012", "released", "fp32", "0123456789"):
        assert f"| {part} " in origin or f" {part} |" in origin


def test_a_run_on_fewer_images_is_marked_as_partial(make_tables, tmp_path):
    coco = measured("cams", "val", 4952, {"dataset": "coco2017"}, miou=0.34)
    path = tmp_path / "outputs" / "metrics.json"
    write_runs(path, voc2007(0.93, images=100), coco)
    text = make_tables().output
    assert "93.0 (partial: 100 images)" in text
    assert "34.0 (" not in text, "COCO 2017 val without the images that show nothing is whole"
    write_runs(path, voc2007(0.95, images=100), voc2007(0.92), voc2007(0.94, images=99))
    assert rows_of(make_tables().output, "ours: TagCLIP (preset")[0][3] == "92.0 (latest of 3)"


def test_eight_sets_are_one_table_by_backbone(tmp_path, capsys):
    """A mean is over whole sets that have a published figure, and only presets count."""

    def dense(dataset, images, value, experiment="sclip_context60", changed=None, **about):
        of = {"dataset": dataset, "experiment": experiment, "tags": "", **about}
        entry = measured("masks", "val", images, of, miou=value, miou_union=value)
        return {**entry, "configuration": {"method": "dense"}, "settings": changed or {}}

    write_runs(
        tmp_path / "outputs" / "metrics.json",
        dense("voc2012", 1449, 0.59, "sclip_voc21"),
        dense("context60", 5104, 0.3),
        dense("cityscapes", 3, 0.5, "sclip_cityscapes"),
        dense("context60", 5105, 0.4, clip="vit_l14"),
        dense("context60", 5104, 0.9, changed={"images": {"longest_side": 32}}),
        dense("context60", 5104, 0.35, "talk2dino_context60", clip="talk2dino_b14"),
    )
    run(["--eight", str(tmp_path)])
    text = capsys.readouterr().out
    header = rows_of(text, "method")[0]
    assert header[3:] == [
        *("VOC21", "Context60", "COCO-Object", "VOC20", "Context59", "COCO-Stuff", "ADE20K"),
        *("Cityscapes", "mean"),
    ]
    published, *_ = rows_of(text, "SCLIP (ECCV 2024)† ")
    assert published[2:5] == ["published", "59.63", "31.74"] and published[10:] == ["32.34", ""]
    assert "† README of the SCLIP repository" in text
    ours, large = rows_of(text, "SCLIP (ECCV 2024) ")
    assert ours[1:5] == ["vit_b16 (openai)", "ours (released, fp32)", "59.0", "30.0"]
    assert ours[10:] == ["50.0 (partial: 3 images)", "44.5 (published 45.7)"]
    assert large[1] == "vit_l14 (openai)" and large[11] == "40.0 (published 31.7)"
    assert "constants of sclip_context60 were chosen for clip=vit_b16" in text
    assert len(rows_of(text, "CorrCLIP (ICCV")) == 1, "its preset was not run"
    assert rows_of(text, "Talk2DINO")[0][4] == "35.0"


def test_the_choice_by_ground_truth_and_the_network_s_weights_are_said(make_tables, tmp_path):
    about = {"experiment": "clip_es_voc2012", "tags": "ground_truth"}
    chosen = {"background_beta": 2, "chosen_by_ground_truth": {"1": 0.7, "2": 0.708}}
    network = {"segmenter": {"pretrained": "weights/resnet101.pth", "masks": {}}}
    write_runs(
        tmp_path / "outputs" / "metrics.json",
        measured("cams", "train", 1464, about, miou=0.708, **chosen),
        measured(
            "predictions",
            "val",
            1449,
            about,
            miou=0.7,
            configuration=network,
            initial_weights={"seen_masks": True},
        ),
        measured("tags", "train", 1464, about, map=1.0),
    )
    text = make_tables().output
    assert rows_of(text, "ours: CLIP-ES (preset")[0][3:5] == ["70.8†", ""]
    assert "† background chosen by ground truth (β=2)" in text
    assert "segmenter starts from resnet101.pth" in text
    assert "trained on masks: not annotation-free" in text
    assert "100.0" not in text, "given labels are no measurement"


def test_a_changed_setting_leaves_the_row_of_the_presets(make_tables, tmp_path):
    run = voc2007(0.93)
    run["settings"] = {"tags": {"method": "tagclip", "alpha": 0.3, "attention_blocks": [-3, -1]}}
    write_runs(tmp_path / "outputs" / "metrics.json", run)
    text = make_tables().output
    assert rows_of(text, "ours: TagCLIP (tagclip_voc2007, changed")[0][3] == "93.0"
    assert "tags.alpha=0.3" in text


def test_levels_count_in_their_column(make_tables, tmp_path):
    levels = [{"miou": 0.312, "per_class": {"background": {}, "sky": {}, "food": {}}}]
    fine = {"background": {}, **{f"class {i}": {} for i in range(171)}}
    about = {"dataset": "cocostuff", "experiment": "cls_seg_cocostuff"}
    write_runs(
        tmp_path / "outputs" / "metrics.json",
        measured("cams", "val", 4172, about, miou=0.12, levels=levels, per_class=fine),
    )
    text = make_tables().output
    assert rows_of(text, "ours: TagCLIP CLS-SEG (CAMs)")[0][5] == "31.2"


def test_damaged_entries_and_files_are_skipped_and_named(make_tables, tmp_path):
    whole = measured("cams", "val", 1449, {}, miou=0.5)
    strange = [{"stage": "tags"}, {**whole, "images": "many"}, 7, {**whole, "levels": [3]}]
    write_runs(tmp_path / "outputs" / "demo" / "metrics.json", whole, *strange)
    (tmp_path / "outputs" / "torn").mkdir()
    (tmp_path / "outputs" / "torn" / "metrics.json").write_text('{"latest": {}, "ru')
    (tmp_path / "outputs" / "list").mkdir()
    (tmp_path / "outputs" / "list" / "metrics.json").write_text("[]")
    write_runs(tmp_path / "outputs" / "old" / "metrics.json", measured("cams", "val", 9, {}))
    (tmp_path / "outputs" / "old" / "store.json").write_text('{"format": 1}')
    finished = make_tables()
    assert finished.code == 0
    assert rows_of(finished.output, "ours: TagCLIP CLS-SEG (CAMs) (no exp")[0][3] == "50.0"
    notes = finished.errors.splitlines()
    assert sum("torn/metrics.json is damaged" in note for note in notes) == 1
    assert sum("list/metrics.json is damaged" in note for note in notes) == 1
    assert sum("demo/metrics.json has 4 damaged entries" in note for note in notes) == 1
    assert sum("old/metrics.json is skipped" in note for note in notes) == 1
    assert len(notes) == 4


def test_files_are_found_three_levels_down_and_where_the_arguments_say(make_tables, tmp_path):
    for folder in ("outputs", "outputs/a/b/c", "outputs/a/b/c/d", "elsewhere/x"):
        write_runs(tmp_path / folder / "metrics.json")
    files = find_files([tmp_path / "outputs", tmp_path / "outputs" / "a"])
    below = sorted(path.parent.relative_to(tmp_path).as_posix() for path in files)
    assert below == ["outputs", "outputs/a/b/c", "outputs/a/b/c/d"], "d from a; none twice"
    write_runs(tmp_path / "elsewhere" / "x" / "metrics.json", voc2007(0.921))
    assert "92.1 |" in make_tables("elsewhere").output
    assert "92.1 |" in make_tables("elsewhere/x/metrics.json", "--output", "t.md").output
    assert "92.1 |" in (tmp_path / "t.md").read_text(encoding="utf-8")
    finished = make_tables("nowhere")
    assert finished.code == 2 and "there is no nowhere" in finished.errors


def test_the_tool_starts_without_torch_and_explains_itself(tmp_path):
    program = f"""
import runpy, sys
sys.argv = [{str(TOOL)!r}]
runpy.run_path({str(TOOL)!r}, run_name="__main__")
assert not {{"torch", "scipy", "hydra"}} & sys.modules.keys()
"""
    run_python("-c", program, cwd=tmp_path).check_returncode()
    # Only a published experiment is composed.
    write_runs(tmp_path / "outputs" / "metrics.json", voc2007(0.921))
    run_python(TOOL, cwd=tmp_path).check_returncode()


def test_wrong_arguments_end_with_one_sentence(make_tables):
    finished = make_tables("--output", str(REPOSITORY))
    assert finished.code == 2 and "is a folder: give the name of a file in it" in finished.errors
    finished = make_tables("--splits", "train,val")
    assert (finished.code, finished.errors) == (2, "error: --splits requires --leaderboard\n")


def test_own_methods_have_rows_of_their_own_in_published_tables(make_tables, tmp_path):
    runs = [
        measured("masks", "val", 1449, {"cams": cams, "masks": "crf"}, miou=value)
        for cams, value in (("clip_es", 0.61), ("own_cams", 0.62))
    ]
    write_runs(tmp_path / "outputs" / "metrics.json", *runs)
    text = make_tables().output
    (usual,) = rows_of(text, "ours: TagCLIP CLS-SEG + CRF (no experiment, released")
    (own,) = rows_of(text, "ours: TagCLIP CLS-SEG + CRF (no experiment, cams=own_cams, released")
    assert "61.0" in usual and "62.0" in own
