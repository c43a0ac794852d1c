"""The README of an ONNX file: a model card, as Hugging Face shows it."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from pipeline.engine.kinds import NETWORK, PREDICTIONS, kinds
from pipeline.engine.result_folder import read_manifest
from pipeline.report.configurations import describe_setting, flatten, last_part, readable
from pipeline.report.markdown import Table, percent
from pipeline.report.runs import METRICS, MeasuredRun, read_runs
from pipeline.segmenter.architecture import RESTRICTED
from pipeline.segmenter.export import Shape
from pipeline.segmenter.predict import Segmenter

_UNKNOWN = "not known"
_IDENTITIES = ("algorithm", "code", "method_algorithm", "method_source", "config_content", "data")
_CARD = """\
---
library_name: onnx
pipeline_tag: image-segmentation
license: other
---
# {file}

It labels every pixel, and takes {batch} of {size}.

{classes}
## Use

With annotation-free-segmentation:

    python tools/predict.py --checkpoint {file} PHOTOS --crf

With ONNX Runtime:

```python
import numpy, onnxruntime, PIL.Image

image = PIL.Image.open("photograph.jpg").convert("RGB"){resized}
pixels = numpy.asarray(image, "float32").transpose(2, 0, 1)[None]  # 1×3×H×W, RGB in [0, 255]
logits, labels = onnxruntime.InferenceSession({file!r}).run(None, {{"image": pixels}})
```

## Metrics

{metrics}
## Training data

Data set: {dataset}. Training images: {images}. Each stage reads the results of the one below it.

```text
{settings}
```

## Licences

* Code of the network: {code}.
* Initial weights: {initial}. Those of torchvision and OpenMMLab state no licence; those of MiT are
  non-commercial; `timm.get_pretrained_cfg(NAME).license` is that of timm's.
* CLIP, if the settings name it: {clip}. OpenAI, LAION and DataComp: MIT; DFN: research only;
  MetaCLIP: CC BY-NC 4.0.
* Images: {dataset}.

Whether terms of weights and images extend to a network that learned from them, their sources do not
say. docs/licences.md of annotation-free-segmentation names these sources.
"""


def write_card(file: str, segmenter: Segmenter, shape: Shape, checkpoint: Path, best: bool) -> str:
    """Returns Markdown: classes, use, metrics, training data and licences.

    Args:
        file: the name of the ONNX file.
        segmenter: the network of mmsegmentation that it was written from.
        shape: the input of the graph.
        checkpoint: where the network was read from, a file or its folder; the manifest and metrics
            of its run are read if they are there.
        best: whether the best checkpoint of the folder was read.
    """
    folder = (checkpoint if checkpoint.is_dir() else checkpoint.parent).resolve()
    manifest, best = read_manifest(folder), best or checkpoint.name.startswith("best_")
    is_last = checkpoint.is_dir() or checkpoint.name == manifest.get("checkpoint")
    runs = _find_runs(folder, best) if best or is_last else []
    about = runs[0].about if runs else {}
    metrics = Table(
        ["split", "images", "mIoU (%)", "notes"], [*map(_row, runs)], ["split", "notes"]
    )
    settings = readable(manifest.get("configuration", {}), manifest.get("legend", {}))
    colours = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in segmenter.palette)
    classes = zip(map(str, range(256)), segmenter.class_names, colours)
    parts, is_free = (
        {type(part).__name__ for part in segmenter.network.modules()},
        None in shape[1:],
    )
    restricted = [note for part, note in RESTRICTED.items() if part in parts]
    return _CARD.format(
        file=file,
        batch="any number of images" if shape.batch is None else "one image",
        size="any size" if is_free else f"{shape.height}×{shape.width} pixels",
        resized="" if is_free else f".resize(({shape.width}, {shape.height}))",
        classes=Table(["label", "class", "colour"], [*classes], ["class", "colour"]).text,
        metrics=metrics.text if runs else "Not measured, or not since its results changed.\n",
        dataset=about.get("dataset", _UNKNOWN),
        images=manifest.get("images", _UNKNOWN),
        settings="\n".join(_describe(NETWORK.stage, settings)) if settings else _UNKNOWN,
        code="; ".join(restricted) or "mmsegmentation, Apache 2.0, and this project, MIT",
        initial=manifest.get("initial_weights", {}).get("source", "none" if settings else _UNKNOWN),
        clip=about.get("pretrained", _UNKNOWN),
    )


def _find_runs(folder: Path, best: bool) -> list[MeasuredRun]:
    """Returns the measured predictions of a network, the latest of each split."""
    file, found = folder.parents[1] / METRICS, {}
    for run in read_runs([file] if file.is_file() else [])[0]:
        network = run.figures.get("made_from", {}).get(NETWORK.stage, [""])[-1]
        is_best = run.configuration.get("checkpoint") == "best"
        if (run.stage, network, is_best) == (PREDICTIONS.stage, folder.name, best):
            found[run.split] = run
    return [*found.values()]


def _row(run: MeasuredRun) -> list[str]:
    test = flatten({"test": run.configuration.get("test", {})})
    notes = [*(f"{name}={describe_setting(value)}" for name, value in test.items()), *run.notes()]
    return [run.split, str(run.images), percent(run.value("miou")), "; ".join(notes)]


def _describe(stage: str, settings: Mapping[str, Any]) -> list[str]:
    """Returns the settings of a stage as text, and those of the stages before it."""
    names = [kind.stage for kind in reversed(kinds())]
    before = [name for name in names if isinstance(settings.get(name), Mapping)]
    own = flatten({name: value for name, value in settings.items() if name not in before})
    words = [
        f"{k}={describe_setting(v)}" for k, v in own.items() if last_part(k) not in _IDENTITIES
    ]
    lines = [line for name in before for line in _describe(name, settings[name])]
    return [fill(f"{stage}: {' '.join(words)}", 100, subsequent_indent="    "), *lines]
