"""``make_tables.py --check``: which runs are held against the published figures, and how."""

from __future__ import annotations

import pytest

from tests.report.measured import measured, rows_of, voc2007, write_runs


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
    stuff = measured("masks", "val", 4172, about, miou=0.1, levels=[{"miou": 0.3105}])
    write_runs(tmp_path / "outputs" / "a" / "metrics.json", voc2007(0.5), voc2007(0.928), stuff)
    write_runs(tmp_path / "outputs" / "b" / "metrics.json", voc2007(0.929))
    finished = make_tables("--check", "--output", "check.md")
    assert finished.code == 0
    assert [row[3] for row in rows_of(finished.output, "tagclip")] == ["92.80", "92.90"]
    assert rows_of(finished.output, "cls_seg")[0][3:5] == ["31.05", "31.0"]
    assert "92.90" in (tmp_path / "check.md").read_text(encoding="utf-8")
