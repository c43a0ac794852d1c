"""What a command imports before its first line: PyTorch only where something is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.processes import run_python

HEAVY = (
    *("torch", "torchvision", "open_clip", "timm", "mmengine", "mmseg", "mmcv", "dask", "onnx"),
    *("matplotlib", "scipy", "skimage", "sklearn", "huggingface_hub", "jinja2"),
)
PROGRAM = """
import sys
from pipeline.commands.console import run_stages, run_tool
try:
    run_tool(sys.argv.pop(1)) if sys.argv[1] == "make_tables" else run_stages()
except SystemExit:
    pass
print("imported:", *sorted({top.partition(".")[0] for top in sys.modules}))
"""


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["help", "tags.min_score"], set()),
        (["tags.alhpa=1"], set()),
        (["stage=status"], set()),
        (["stage=[tags,cams,masks]", "dry_run=true", "runtime.device=cpu"], set()),
        (["make_tables"], set()),
        pytest.param(
            ["stage=all", "dry_run=true", "runtime.device=cpu", "segmenter=demo"],
            {"torch", "mmengine", "mmseg", "mmcv", "scipy"},
            marks=pytest.mark.large,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_computes_nothing_imports_nothing_that_computes(
    arguments, allowed, photographs: Path, tmp_path: Path
):
    given = [] if "make_tables" in arguments else [f"output_dir={tmp_path / 'out'}"]
    if "dry_run=true" in arguments:
        given += ["dataset=folder", f"dataset.root={photographs}", "dataset.classes=[cat]"]
    finished = run_python(
        "-c", PROGRAM, *arguments, *given, cwd=tmp_path, PYTHONPATH=str(REPOSITORY)
    )
    assert ("dry run: nothing is" in finished.stdout) == ("dry_run=true" in arguments)
    (imported,) = [line for line in finished.stdout.splitlines() if line.startswith("imported:")]
    assert {*imported.split()} & {*HEAVY} == allowed, finished.stderr
