"""The published figures: complete, with their sources, and without typing errors."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import yaml

from pipeline.configuration.hydra import composing
from pipeline.report.tables import published
from pipeline.report.tables.grouping import describe_images
from pipeline.report.tables.published import load_published, published_experiments, remark_on_clip
from tests import REPOSITORY


def test_published_figures_are_those_of_the_shared_file(shared_data):
    path = shared_data("published.yaml")
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
            if row.get("source", "").startswith("secondary page"):  # which is not a source
                continue
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
    # Further figures, such as those of dense methods, are from the authors' own pages.
    assert not shared - ours
    assert len(errors) == 1 and "97.5" in errors[0] and "92.1" in errors[0]
    wrong = [row for table in load_published() for row in table.rows if row.error]
    assert [row.error for row in wrong] == [[97.5, 92.1]] and "error" in wrong[0].method


def test_published_reruns_are_those_of_the_shared_sources(shared_data):
    text = shared_data("published.yaml").read_text(encoding="utf-8")
    rows = [row for table in load_published() for row in table.rows if row.rerun]
    assert len(rows) == 3
    for row in rows:
        assert " / ".join(f"{row.rerun[name]:.1f}" for name in row.figures) in text


def test_every_published_figure_has_a_source_and_says_what_it_learned_from():
    figures = [figure for table in load_published() for figure in table.figures]
    assert all(figure.row.source and figure.row.supervision for figure in figures)
    coco = [f for f in figures if f.row.backbone.endswith(", COCO")]
    assert coco and all("COCO's masks" in figure.row.supervision for figure in coco)


def test_two_images_are_part_of_every_split_that_an_experiment_is_measured_on():
    for table in load_published():
        for figure in table.figures:
            images = describe_images(2, figure.column.split.images)
            assert not figure.experiment or images == "partial: 2 images", figure


def test_every_experiment_is_a_study_or_of_a_publication(monkeypatch):
    """A new preset of a publication belongs into published.yaml, so that another CLIP is named."""
    there = {path.stem for path in (REPOSITORY / "configs" / "experiment").glob("[!_]*.yaml")}
    assert published_experiments() <= there and len(published_experiments()) == 107
    studies = {name for name in there if name.startswith(("alpha", "dmar_", "leaderboard"))}
    studies |= {"classes_in_classes", "input_size", "noisy_masks", "precision", "quirks", "recipe"}
    studies |= {"corrections", "scene_names", "segmenters", "self_training", "z"}
    monkeypatch.setattr(published, "compose", lambda _: {"clip": {"name": "vit_b16"}})
    assert {name for name in there if remark_on_clip(name, "vit_l14")} == there - studies


def test_every_choice_with_constants_has_an_experiment_that_takes_it():
    choices = yaml.safe_load(published.PUBLISHED.read_text(encoding="utf-8"))["choices"]
    files = [p for group in ("tags", "cams") for p in (REPOSITORY / "configs" / group).iterdir()]
    assert {*choices} == {f"{path.parent.name}={path.stem}" for path in files}
    with composing() as (compose, _):
        for choice, experiment in choices.items():
            (group, _, name), chosen = choice.partition("="), compose([f"experiment={experiment}"])
            swept = (chosen.hydra.sweeper.params or {}).get(group, "")
            assert name in (chosen.hydra.runtime.choices[group], *swept.split(",")), choice


@pytest.mark.parametrize("table", load_published(), ids=lambda table: table.name)
def test_the_published_figures_have_no_typing_errors(table):
    columns = {column.name for column in table.columns}
    # The same method with another backbone is another row.
    assert Counter((row.method, row.backbone) for row in table.rows).most_common(1)[0][1] == 1
    for row in table.rows:
        assert row.source and (row.supervision or row.error), row.method
        assert row.figures.keys() | row.rerun.keys() | row.experiments.keys() <= columns
        for value in (*row.figures.values(), *row.rerun.values(), *row.error):
            assert isinstance(value, int | float) and 0 <= value <= 100, row.method


@pytest.mark.parametrize(
    ("experiment", "clip", "expected"),
    [
        ("cls_seg_voc2012", "vit_l14", "were chosen for clip=vit_b16, not for clip=vit_l14"),
        ("cls_seg_voc2012", "vit_b16", ""),
        ("excel_voc2012", "vit_l14", "were chosen for clip=vit_b16, not for clip=vit_l14"),
        ("clip_es_voc2012", "", ""),  # of tags that are given
        ("cams=excel_coco2014", "demo", "were chosen for clip=vit_b16, not for clip=demo"),
        ("tags=piaa_voc", "vit_b16", ""),
        ("cams=corrclip_v2", "vit_b16_metaclip", ""),
        ("cams=corrclip_v2", "vit_b16", "for clip=vit_b16_metaclip, not for clip=vit_b16"),
        ("corrclipv2_voc21", "vit_b16", "for clip=vit_b16_metaclip, not for clip=vit_b16"),
        ("cams=lposs_demo", "demo", ""),
        ("tags=piaa", "vit_l14", ""),
        ("precision", "vit_l14", ""),  # a study of ours
        ("", "vit_l14", ""),
    ],
)
def test_another_clip_than_the_constants_were_chosen_for_is_named(experiment, clip, expected):
    remark = remark_on_clip(experiment, clip)
    assert remark.endswith(expected) and bool(remark) == bool(expected)
