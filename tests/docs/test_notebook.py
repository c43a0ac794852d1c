"""``examples/quickstart.ipynb`` runs from its first cell to its last, on a few scenes."""

from __future__ import annotations

import base64
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from docs.pictures import PROGRESS
from tests import REPOSITORY

EVERYTHING = os.environ.get("DOCS") == "all"

NOTEBOOK = REPOSITORY / "examples" / "quickstart.ipynb"
SMALL = ["segmenter.batch_size=2", "segmenter.crop_size=64", "runtime.workers=1"]
PARAMETERS = f"IMAGES, ITERATIONS, OUTPUT, OPTIONS = 2, 2, 'out', {SMALL}"
RESULTS = """
import json
json.dumps({
    "images": [i.shape for i in images], "scores": scores.tolist(), "names": names,
    "cams": [*cams.shape, float(cams.min()), float(cams.max())],
    "equal": bool((labelling.cams == cams).all()) and list(labelling.names) == names,
    "masks": [np.unique(each.mask).tolist() for each in labellings],
    "tags": [list(each.tags) for each in labellings],
    "predictions": [[*p.shape, str(p.dtype), int(p.max())] for p in predictions],
    "sum": float(abs(probabilities.sum(0) - 1).max()), "figures": figures,
    "report": report.is_file(),
})
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Returns the cells by their ids after a run, and what their variables hold."""
    if not EVERYTHING:
        pytest.skip("make docs-test executes it")
    import nbformat
    from nbclient import NotebookClient

    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    [parameters] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    parameters.source += f"\n{PARAMETERS}"
    notebook.cells.append(nbformat.v4.new_code_cell(RESULTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
            patch.setenv(name, str(folder / name))
        resources = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=300, resources=resources).execute()
    [answer] = [o for o in notebook.cells[-1].outputs if o.output_type == "execute_result"]
    results = json.loads(answer.data["text/plain"].strip("'"))
    return {cell.id: cell for cell in notebook.cells}, results


def pictures(cell) -> list[np.ndarray]:
    """Returns the pictures below a cell."""
    data = (output.get("data", {}).get("image/png") for output in cell.outputs)
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(d))).convert("RGB")) for d in data if d
    ]


def test_the_cells_find_what_the_scenes_show(executed):
    _, results = executed
    assert results["images"] == [[240, 320, 3]] * 3
    assert len(results["scores"]) == 10 and min(results["scores"]) >= 0
    assert results["names"] == ["heart"] and np.argmax(results["scores"]) == 4
    assert results["cams"][:3] == [1, 15, 20] and results["cams"][3] >= 0.0
    assert 0.9 < results["cams"][4] <= 1
    assert results["equal"]
    for tags, values in zip(results["tags"], results["masks"]):
        assert tags and set(values) == {0, *(tag + 1 for tag in tags)}


def test_the_stages_train_a_segmenter_which_the_cells_apply(executed):
    cells, results = executed
    told = "".join(output.text for output in cells["stages"].outputs)
    assert re.search("train .*computed now", told) and "\x1b" not in told
    for height, width, kind, best in results["predictions"]:
        assert (height, width, kind) == (240, 320, "uint8") and best <= 10
    assert results["sum"] < 1e-5
    assert results["figures"]["masks"] > 0.5 > results["figures"]["predictions"] >= 0
    assert results["report"]


def test_each_step_is_looked_at(executed):
    cells, _ = executed
    shown = {name: pictures(cell) for name, cell in cells.items() if cell.cell_type == "code"}
    colours = {name: [*map(count_colours, found)] for name, found in shown.items() if found}
    least = {"images": [5000], "tags": [2], "cams": [5000], "mask": [5000, 50]}
    least |= {"segmenter": [0], "probabilities": [5000]}  # two iterations may see background alone
    assert colours.keys() == least.keys()
    for name, counts in colours.items():
        assert len(counts) == len(least[name])
        assert all(map(np.greater_equal, counts, least[name])), f"{name} shows {counts} colours"


def count_colours(picture: np.ndarray) -> int:
    """Returns how many colours that are not grey a picture has."""
    pixels = picture.reshape(-1, 3).astype(int)
    return len(np.unique(pixels[np.ptp(pixels, axis=1) > 20], axis=0))


def test_the_notebook_is_stored_as_it_was_executed():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 7
    text = "".join("".join(output.get("text", ())) for output in outputs)
    assert "report.html" in text
    assert not re.search(r"(?<![\w.])/\w", text), "paths of a machine"
    assert not PROGRESS.search(text)
