"""No tool replaces a file that it did not write, and each replaces what it wrote."""

from __future__ import annotations

import re

import pytest

from tests import REPOSITORY
from tests.report.two_runs import build_two

EXPORT = "export.py {masks} --images {images} --output {out}"
WRITERS = [
    ("export.py {run}/all/cams/latest --format clip_es --output {out}", "5.npy"),
    (f"{EXPORT}/annotations.json --format coco", "annotations.json"),
    (f"{EXPORT}/tasks.json --format label_studio", "tasks.xml"),
    (f"{EXPORT} --format labelme", "all/5.json"),
    (f"{EXPORT} --format yolo", "data.yaml"),
    (f"{EXPORT} --format mmsegmentation", "img_dir/all/5.png"),
    (f"{EXPORT} --format mmsegmentation", "ann_dir/all/5.png"),
    (f"{EXPORT} --format mmsegmentation", "all.py"),
    ("overlay.py {masks} --images {images} --output {out}", "masks/5.png"),
    ("compare.py {run} {other} --output {out}/comparison.html", "comparison.html"),
    ("make_tables.py --output {out}/notes.md", "notes.md"),
    ("predict.py {images} --checkpoint {trained} --output {out}", "5.png"),
    ("export_onnx.py --checkpoint {trained} --output {out}/m.onnx", "m.onnx"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory, trained):
    root = tmp_path_factory.mktemp("runs")
    run, other = build_two(root)
    places = {"run": run, "other": other, "masks": run / "all/masks/latest", "trained": trained}
    return places | {"images": root / "first/photographs"}


@pytest.mark.parametrize(("command", "name"), WRITERS, ids=range(len(WRITERS)))
def test_a_file_of_somebody_else_stays(command, name, places, run_tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("pipeline.segmenter.export._export")  # it is refused before the work
    tool, *arguments = command.format(out=tmp_path / "out", **places).split()
    (tmp_path / "out").touch()
    finished = run_tool(tool, *arguments)
    assert finished.code == 2 and "out is not a folder: give another --output" in finished.errors
    (tmp_path / "out").unlink()
    stranger = tmp_path / "out" / name
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"\xfftheirs")
    finished = run_tool(tool, *arguments)
    assert finished.code == 2
    assert f"{name} exists, and tools/{tool} did not write it" in finished.errors
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [stranger]
    assert stranger.read_bytes() == b"\xfftheirs"
    if tool != "export_onnx.py":
        stranger.unlink()
        for _ in range(2):
            finished = run_tool(tool, *arguments)
            assert finished.code == 0, finished


def test_every_tool_with_an_output_is_in_the_table():
    writing = {
        path.name
        for folder in ("tools", "pipeline/commands")
        for path in (REPOSITORY / folder).glob("*.py")
        if re.search(r'\badd(_argument)?\(\s*"--output"', path.read_text(encoding="utf-8"))
    }
    # A download keeps every other file, too; the demo's weights are trained where they lie.
    others = {"download.py", "train_demo_clip.py", "train_demo_second.py"}
    assert writing == others | {command.split()[0] for command, _ in WRITERS}
