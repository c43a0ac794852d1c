"""The published figures, and the tables that stand ours beside them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import pipeline.stages.config  # noqa: F401  registers the methods of experiments
from pipeline.report import published
from pipeline.report.published import load_published, published_experiments
from pipeline.report.runs import Run, choose_run, find_files, read_runs
from tests import REPOSITORY, SHARED
from tests.small_runs import Finished

CRF = {"crf": {"iterations": 10, "bilateral_sxy": 67}}
TOOL = REPOSITORY / "tools" / "make_tables.py"


def measured(stage: str, split: str, images: int, about: dict, **figures: object) -> dict:
    """An entry of ``runs``; ``about`` holds what differs from TagCLIP on VOC 2012."""
    usual = {
        "experiment": "",
        "dataset": "voc2012",
        "clip": "vit_b16",
        "pretrained": "openai",
        "tags": "tagclip",
        "compat": "released",
        "precision": "fp32",
        "segmenter": "demo",
        "commit": "0123456789",
    }
    entry = {
        "stage": stage,
        "split": split,
        "key": f"key of {stage} {split} {sorted(figures.items())}",
        "images": images,
        "about": {**usual, **about},
        "configuration": CRF if stage == "masks" else {},
    }
    return {**entry, **figures}


def voc2007(value: float, images: int = 4952, **about: str) -> dict:
    of = {"dataset": "voc2007", "experiment": "tagclip_voc2007", **about}
    return measured("tags", "test", images, of, map=value, f1=0.8, precision=0.7, recall=0.9)


def write_runs(path: Path, *runs: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"latest": {}, "runs": runs}), encoding="utf-8")
    return path


def rows_of(text: str, beginning: str) -> list[list[str]]:
    """Returns the cells of the table rows that begin with a text."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def make_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_tool: Callable[..., Finished]
) -> Callable[..., Finished]:
    """Runs ``tools/make_tables.py`` in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Finished:
        return run_tool("make_tables.py", *arguments)

    return run


# The published figures


def test_published_figures_are_those_of_the_shared_file():
    path = SHARED / "published.yaml"
    if not path.is_file():
        pytest.skip("the shared facts are not here")
    names = {
        "multilabel_map": "multilabel",
        "annotation_free_miou": "annotation_free",
        "pseudo_masks_voc2012_train_miou": "pseudo_masks",
        "wsss_miou": "weakly_supervised",
        "tags_of_the_released_run": "released_tags",
    }
    words = {"method", "backbone", "network", "source", "split", "images"}
    shared, errors = Counter(), []
    for table, rows in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for row in rows:
            method = re.split(r"[ (]", row.get("method", "TagCLIP"))[0]
            prefix = f"{row['split']}_" if table == "tags_of_the_released_run" else ""
            figures = {k: v for k, v in row.items() if k not in words}
            shared.update((names[table], method, prefix + k, v) for k, v in figures.items())
            if not figures:
                errors.append(row["method"])
    ours = Counter(
        (table.name, re.split(r"[ (,]", figure.row.method)[0], figure.column.name, figure.value)
        for table in load_published()
        for figure in table.figures
    )
    assert ours == shared
    assert len(errors) == 1 and "97.5" in errors[0] and "92.1" in errors[0]
    wrong = [row for table in load_published() for row in table.rows if row.error]
    assert [row.error for row in wrong] == [[97.5, 92.1]] and "error" in wrong[0].method


def test_published_reruns_are_those_of_the_shared_sources():
    path = SHARED / "published.yaml"
    if not path.is_file():
        pytest.skip("the shared facts are not here")
    text = path.read_text(encoding="utf-8")
    rows = [row for table in load_published() for row in table.rows if row.rerun]
    assert len(rows) == 3
    for row in rows:
        assert " / ".join(f"{row.rerun[name]:.1f}" for name in row.figures) in text


def test_every_published_figure_has_a_source_and_says_what_it_learned_from():
    figures = [figure for table in load_published() for figure in table.figures]
    assert all(figure.row.source and figure.row.supervision for figure in figures)
    coco = [f for f in figures if f.row.backbone.endswith(", COCO")]
    assert coco and all("COCO's masks" in figure.row.supervision for figure in coco)


def test_every_experiment_has_a_published_figure():
    there = {path.stem for path in (REPOSITORY / "configs" / "experiment").glob("*.yaml")}
    assert published_experiments() <= there and len(published_experiments()) == 8


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("{voc2007_test: 88.3}", "{voc2007_test: 883}", "883 is not between 0 and 100"),
        ("{voc2007_test: 88.3}", "{voc2007_test: high}", "'high' is not a number"),
        ("{voc2007_test: 88.3}", "{voc2008_test: 88.3}", "no column voc2008_test"),
        ("method: ITACLIP\n", "method: TagCLIP CLS-SEG + CRF\n", None),
        ("method: WeCLIP+ (TPAMI 2025)", "method: WeCLIP (CVPR 2024)", "occurs twice"),
        ("source: the DHR repository", "source: ''", "source and supervision are needed"),
    ],
)
def test_typing_errors_in_the_published_figures_are_refused(tmp_path, old, new, complaint):
    text = published.PUBLISHED.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path = tmp_path / "published.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    if complaint is None:  # the same method with another backbone is another row
        load_published(path)
        return
    with pytest.raises(ValueError, match=re.escape(complaint)):
        load_published(path)


# The tables


def test_without_runs_the_tables_hold_the_published_figures_and_blanks(make_tables, tmp_path):
    finished = make_tables()
    assert finished.code == 0 and not finished.errors
    written = (tmp_path / "outputs" / "tables.md").read_text(encoding="utf-8")
    assert finished.output.startswith(written)
    assert rows_of(written, "ours: TagCLIP  ")[0][3:6] == ["", "", ""]
    assert rows_of(written, "CCD")[0] == [
        *("CCD (CVPR 2025)", "RN50x64", "none; trains a classifier"),
        *("91.0", "70.3", "44.5", "[2]"),
    ]
    assert "2. a secondary page" in written
    assert "experiment=tagclip_voc2007 dataset.root=DIR" in written, "how to fill the blanks"
    assert "Other measurements" not in written and "from:" not in written


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
    assert "have seen masks: not free of annotation" in text
    assert "100.0" not in text, "given labels are no measurement"


def test_a_changed_setting_leaves_the_row_of_the_presets(make_tables, tmp_path):
    run = voc2007(0.93)
    run["configuration"] = {"method": "tagclip", "alpha": 0.3, "attention_blocks": [-3, -1]}
    write_runs(tmp_path / "outputs" / "metrics.json", run)
    text = make_tables().output
    assert rows_of(text, "ours: TagCLIP (tagclip_voc2007, changed")[0][3] == "93.0"
    assert "tags.alpha=0.3" in text
    finished = make_tables("--check")
    assert finished.code == 2 and "tags.alpha=0.3" in finished.errors


def test_levels_are_shown_apart_and_count_in_their_column(make_tables, tmp_path):
    levels = [{"miou": 0.312, "per_class": {"background": {}, "sky": {}, "food": {}}}]
    fine = {"background": {}, **{f"class {i}": {} for i in range(171)}}
    about = {"dataset": "cocostuff", "experiment": "cls_seg_cocostuff"}
    write_runs(
        tmp_path / "outputs" / "metrics.json",
        measured("cams", "val", 123, about, miou=0.12, levels=levels, per_class=fine),
    )
    text = make_tables().output
    assert rows_of(text, "ours: TagCLIP CLS-SEG (CAMs)")[0][5] == "31.2", "any number is whole"
    section = text.split("## Classes, and the levels above them")[1]
    assert [row[7:12] for row in rows_of(section, "cocostuff val")] == [
        ["classes", "171", "", "", "12.0"],
        ["level 1", "2", "", "", "31.2"],
    ]


def test_other_data_sets_and_rare_classes_have_sections(make_tables, tmp_path):
    per_class = {f"class {i}": {"ap": 0.1 * i, "positives": i} for i in range(9)}
    about = {"dataset": "ade20k"}
    write_runs(
        tmp_path / "outputs" / "metrics.json",
        measured("tags", "val", 2000, about, map=0.4, f1=0.5, per_class=per_class),
        measured("masks", "val", 2000, about, miou=0.3),
        voc2007(0.92),
    )
    text = make_tables().output
    section = text.split("## Other measurements")[1].split("##")[0]
    assert [row[5:11] for row in rows_of(section, "ade20k val")] == [
        ["2,000", "40.0", "50.0", "", "30.0", ""]
    ]
    assert "voc2007" not in section, "what a published table shows is not repeated"
    rare = rows_of(text.split("## Rare classes")[1], "ade20k val")
    assert rare[0][5:] == [
        *("8", "15.0 (1–2)", "35.0 (3–4)", "55.0 (5–6)", "75.0 (7–8)", "+1.00"),
    ]


def test_damaged_entries_and_files_are_skipped_and_named(make_tables, tmp_path):
    whole = measured("cams", "val", 5, {"dataset": "demo"}, miou=0.5)
    strange = [{"stage": "tags"}, {**whole, "images": "many"}, 7, {**whole, "levels": [3]}]
    write_runs(tmp_path / "outputs" / "demo" / "metrics.json", whole, *strange)
    (tmp_path / "outputs" / "torn").mkdir()
    (tmp_path / "outputs" / "torn" / "metrics.json").write_text('{"latest": {}, "ru')
    (tmp_path / "outputs" / "list").mkdir()
    (tmp_path / "outputs" / "list" / "metrics.json").write_text("[]")
    finished = make_tables()
    assert finished.code == 0
    assert rows_of(finished.output, "demo val")[0][8] == "50.0"
    notes = finished.errors.splitlines()
    assert sum("torn/metrics.json is damaged" in note for note in notes) == 1
    assert sum("list/metrics.json is damaged" in note for note in notes) == 1
    assert sum("demo/metrics.json has 4 damaged entries" in note for note in notes) == 1
    assert len(notes) == 3


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


def test_runs_of_several_files_are_numbered_through(tmp_path):
    first = write_runs(tmp_path / "a" / "metrics.json", {}, voc2007(0.1))
    second = write_runs(tmp_path / "b" / "metrics.json", voc2007(0.2), voc2007(0.3))
    assert [run.order for run in read_runs([first, second])[0]] == [0, 1, 2]


def test_the_latest_run_on_all_images_is_chosen(tmp_path):
    path = write_runs(tmp_path / "metrics.json", *(voc2007(0.9, n) for n in (7, 9, 8)))
    runs, _ = read_runs([path])
    assert choose_run(runs)[0].images == 9
    assert choose_run(runs, (7, 8))[0].images == 8


# The check


@pytest.mark.parametrize(("value", "code"), [(0.930, 0), (0.926, 0), (0.9301, 2), (0.9259, 2)])
def test_check_allows_a_fifth_of_a_point(make_tables, tmp_path, value, code):
    write_runs(tmp_path / "outputs" / "metrics.json", voc2007(value))
    finished = make_tables("--check")
    assert finished.code == code
    row = rows_of(finished.output, "tagclip_voc2007")[0]
    assert row[2:7] == ["4,952", f"{100 * value:.2f}", "92.8", f"{100 * value - 92.8:+.2f}", "92.8"]
    assert ("**further than 0.2**" in row) == bool(code)
    assert ("1 figure is further than 0.2 points" in finished.errors) == bool(code)
    assert not (tmp_path / "outputs" / "tables.md").exists()


def test_check_compares_only_what_claims_to_be_published(make_tables, tmp_path):
    path = tmp_path / "outputs" / "metrics.json"
    write_runs(
        path,
        voc2007(0.1, clip="vit_l14"),
        voc2007(0.2, compat="clean"),
        voc2007(0.3, precision="bf16"),
        voc2007(0.4, images=12),
        voc2007(0.5, experiment="mine"),
        measured("masks", "val", 1449, {"experiment": "cls_seg_voc2012"}, miou=0.6871),
    )
    finished = make_tables("--check")
    assert finished.code == 0
    assert rows_of(finished.output, "cls_seg_voc2012")[0][1] == "voc2012 val masks mIoU"
    for reason in ("clip=vit_l14", "compat=clean", "precision=bf16", "partial: 12 images"):
        assert reason in finished.output.split("Not compared:")[1]
    assert "mine" not in finished.output
    write_runs(path, voc2007(0.5, experiment="mine"))
    finished = make_tables("--check")
    assert finished.code == 2 and "nothing to check: run experiment=… first" in finished.errors


def test_check_takes_each_file_s_latest_run_and_the_level_of_the_figure(make_tables, tmp_path):
    about = {"dataset": "cocostuff", "experiment": "cls_seg_cocostuff"}
    stuff = measured("masks", "val", 9, about, miou=0.1, levels=[{"miou": 0.3105}])
    write_runs(tmp_path / "outputs" / "a" / "metrics.json", voc2007(0.5), voc2007(0.928), stuff)
    write_runs(tmp_path / "outputs" / "b" / "metrics.json", voc2007(0.929))
    finished = make_tables("--check", "--output", "check.md")
    assert finished.code == 0
    assert [row[3] for row in rows_of(finished.output, "tagclip")] == ["92.80", "92.90"]
    assert rows_of(finished.output, "cls_seg")[0][3:5] == ["31.05", "31.0"]
    assert "92.90" in (tmp_path / "check.md").read_text(encoding="utf-8")


def test_settings_are_held_against_the_experiment_s_own():
    inner = {"method": "tagclip", "alpha": 0.5, "templates": ["a {}", "b {}"]}
    maps = {"affinity_blocks": [-7, -1], "backgrounds": ["sky"], "tags": inner}
    masks = {"beta": 1.0, "crf": {"iterations": 10, "bilateral_sxy": 67}, "cams": maps}

    def changes(stage: str, configuration: dict, **figures: object) -> list[str]:
        about = {"experiment": "cls_seg_voc2012"}
        place = (Path("metrics.json"), 0, stage, "val", "key", 1449)
        return Run(*place, about, configuration, figures).changes()

    assert not changes("masks", masks)
    assert not changes("predictions", {"segmenter": {"masks": masks}})
    assert not changes("predictions", {"segmenter": {"masks": "ground truth"}})
    assert changes("masks", {**masks, "crf": None}) == ["masks.crf=null"]
    assert changes("masks", {**masks, "method": "crf_weighted"}) == ["masks.method=crf_weighted"]
    assert changes("cams", {**maps, "method": "clip_es"}) == []
    assert changes("cams", {**maps, "method": "file"}) == ["cams.method=file"]
    inner["alpha"], masks["crf"]["iterations"] = 0.3, 5
    assert changes("masks", masks) == ["masks.crf.iterations=5", "tags.alpha=0.3"]
    chosen = {"chosen_by_ground_truth": {"1": 0.1, "2": 0.2}}
    assert changes("cams", {}, **chosen) == ["cams.background_betas=[1, 2]"]


# The command line


def test_the_tool_starts_without_torch_and_explains_itself(tmp_path):
    program = f"""
import runpy, sys
sys.argv = [{str(TOOL)!r}]
runpy.run_path({str(TOOL)!r}, run_name="__main__")
assert not {{"torch", "scipy", "hydra"}} & sys.modules.keys()
"""
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_wrong_arguments_end_with_one_sentence(make_tables):
    finished = make_tables("--chek")
    assert finished.code == 2 and len(finished.errors.splitlines()) == 1
    finished = make_tables("--output", str(REPOSITORY))
    assert finished.code == 2 and "is a folder: give the name of a file in it" in finished.errors
    finished = make_tables("--help")
    assert finished.code == 0 and "--study alpha" in finished.output


def test_another_file_is_not_replaced(make_tables, tmp_path):
    (tmp_path / "notes.md").write_text("theirs")
    finished = make_tables("--output", str(tmp_path / "notes.md"))
    assert finished.code == 2 and (tmp_path / "notes.md").read_text() == "theirs"
    assert "notes.md exists, and tools/make_tables.py did not write it" in finished.errors


SEGMENTER = {"name": "demo", "masks": {"crf": None}}


def seeded(seed: int, miou: float, **changes: object) -> dict:
    segmenter = {**SEGMENTER, "seed": seed, **changes}
    of = {"dataset": "demo", "experiment": "mine", "cams": "clip_es", "masks": "argmax"}
    return measured(
        "predictions", "val", 150, of, miou=miou, configuration={"segmenter": segmenter}
    )


def test_seeds_are_merged_into_mean_and_standard_deviation(make_tables, tmp_path):
    path, runs = tmp_path / "outputs" / "metrics.json", [seeded(k, 0.6 + k / 10) for k in range(3)]
    write_runs(path, *runs)
    (row,) = rows_of(make_tables("--output", "a.md").output, "demo val")
    assert "70.0 ± 10.0 (3 seeds)" in row
    # Of other settings there is one more configuration, and as many images belong together.
    other, fewer = seeded(0, 0.1, masks={"crf": {}}), {**seeded(3, 0.2), "images": 9}
    write_runs(path, other, fewer, *runs)
    (row,) = rows_of(make_tables("--output", "b.md").output, "demo val")
    assert "70.0 ± 10.0 (3 seeds, latest of 2)" in row


def test_own_methods_stand_beside_their_figures(make_tables, tmp_path):
    about = {"dataset": "demo", "experiment": "mine"}
    chains = {"clip_es": "crf", "own_cams": "own_masks"}
    runs = [measured("tags", "val", 150, about, map=0.9, f1=0.8, precision=0.8, recall=0.8)]
    for k, (cams, masks) in enumerate(chains.items()):
        runs.append(measured("cams", "val", 150, {**about, "cams": cams}, miou=0.5 + k / 10))
        named = {**about, "cams": cams, "masks": masks}
        runs.append(measured("masks", "val", 150, named, miou=0.6 + k / 10))
    write_runs(tmp_path / "outputs" / "metrics.json", *runs)
    rows = rows_of(make_tables().output, "demo val")
    assert [row[2:10] for row in rows] == [
        ["tagclip", "clip_es", "crf", "150", "90.0", "80.0", "50.0", "60.0"],
        ["tagclip", "own_cams", "own_masks", "150", "90.0", "80.0", "60.0", "70.0"],
    ]


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


def test_folders_are_compared(make_tables, tmp_path):
    for name, beta in (("first", 1), ("second", 2)):
        named = {"dataset": "demo", "masks": "crf"}
        run = measured("masks", "val", 150, named, miou=beta / 10, configuration={"beta": beta})
        write_runs(tmp_path / name / "metrics.json", run)
    write_runs(tmp_path / "outputs" / "metrics.json", voc2007(0.9))
    finished = make_tables("--study", "first", "second")
    assert finished.code == 0, finished.errors
    assert "# first and second" in finished.output and "voc2007" not in finished.output
    assert rows_of(finished.output, "first") == [["first", "1", "10.0"]]
    assert rows_of(finished.output, "second") == [["second", "2", "**20.0**"]]
    (tmp_path / "empty").mkdir()
    finished = make_tables("--study", "first", "empty")
    assert (
        finished.code == 2
        and "nothing was measured in empty: run stage=evaluate" in finished.errors
    )
