"""Takes every preset from the download to the table, offline and on miniatures: ``make presets``.

    python -m tests.presets [NAME...]

The data sets have their official layouts, and weights lie where a download puts them. Each preset
of ``experiment=`` and each network of ``segmenter=`` is run on two images, with three iterations of
training, and then served from the cache alone; each image-text model of ``clip=`` is planned in its
full size. A line tells of each. A name, such as "clip=vit_l14", chooses one.
"""

from __future__ import annotations

import json
import os
import re
import resource
import runpy
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np

from pipeline.commands import composition
from pipeline.configuration.registry import methods
from pipeline.engine.sample import Dataset
from pipeline.files.label_images import read_labels
from pipeline.report.tables.published import published_experiments
from pipeline.stages.config import METHODS, Config, read_config
from pipeline.stages.pipeline import requested_stages
from tests import REPOSITORY
from tests.datasets import miniature_coco, miniatures
from tests.processes import Forks
from tests.small_runs import artefacts

CONFIGS, TOOLS = REPOSITORY / "configs", REPOSITORY / "tools"
NETWORK = ("experiment_name=networks", "dataset=voc2012", "dataset.split=[train,val]")
NETWORK += ("masks=ground_truth", "stage=[masks,train,predict,evaluate]")
NEEDED = {"mmsegmentation": ["segmenter.config=fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py"]}
NEEDED["frozen_vit"] = ["segmenter.backbone=dino_vits8"]  # Talk2DINO has the usual one's file
SHORT = ("segmenter.iterations=3", "segmenter.batch_size=2", "dataset.training.crop_size=97")
WEIGHTS = "tests.published_weights"
PRELOADED = (
    *(f"pipeline.commands.{name}" for name in ("running", "download", "make_tables")),
    "pipeline.commands.export_onnx",
    *(f"pipeline.segmenter.{name}" for name in ("train", "weight_sources", "export")),
    *("pipeline.report.page.stage", "pipeline.exchange.model_card", "onnxscript"),
    *("pipeline.segmenter.mmseg:import_mmseg", "tests.segmenter.tiny_training:shorten_logs"),
    *(WEIGHTS, "tests.presets"),
)


@dataclass(frozen=True)
class Preset:
    """A preset with one value of each swept key.

    Attributes:
        name: how it is chosen.
        words: what a run is given besides data and folders.
        config: what these stand for.
        stages: those that it asks for.
        facts: the methods, data set, image-text model and network that it uses, as settings.
    """

    name: str
    words: tuple[str, ...]
    config: Config
    stages: list[str]
    facts: frozenset[str]


def described(*words: str, known: Collection[str] = ()) -> Preset:
    """Returns what a command line stands for; of a study, a job with methods that are not known."""
    unknown = {f"{method.group}={method.name}" for method in methods()} - {*known}

    def choose(*values: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(next(filter(unknown.__contains__, v), v[0]) for v in values)]

    with patch.object(composition, "product", choose):
        [(composed, job)] = composition.compose_jobs([*words, "dataset.root=unused"])
    config = read_config(composed)
    stages, facts = requested_stages(config), {f"dataset={config.dataset.name}"}
    reads = [stage for stage in stages if stage in METHODS]
    reads += ["cams"] if "masks" in stages and config.masks.method.name == "dense" else []
    chosen = [getattr(config, stage).method for stage in reads]
    facts |= {f"{method.group}={method.name}" for method in chosen}
    facts |= {f"clip={config.clip.name}" for method in chosen if method.uses_clip}
    facts |= {f"segmenter={config.segmenter.name}"} if "train" in stages else set()
    given = tuple(word for word in job if not word.startswith("dataset.root=")) or words
    return Preset(words[0], given, config, stages, frozenset(facts))


def every_preset() -> list[Preset]:
    """Returns all of them, each study with methods that no preset before it has."""
    networks, experiments, clips = (
        {
            path.stem: path.read_text(encoding="utf-8")
            for path in sorted(CONFIGS.glob(f"{group}/[!_]*"))
        }
        for group in ("segmenter", "experiment", "clip")
    )
    del networks["default"]
    # The study of all combinations comes last.
    order = sorted(experiments, key=lambda n: ("sweeper" not in experiments[n], n), reverse=True)
    commands = [(f"segmenter={name}", *NETWORK, *NEEDED.get(name, ())) for name in networks]
    commands += [(f"experiment={name}",) for name in order]
    found: list[Preset] = []
    for words in commands:
        found.append(described(*words, known=[fact for each in found for fact in each.facts]))
    whole = described("experiment=leaderboard_clip")
    for name in clips.keys() - {"demo", "file", "hugging_face"}:
        words = (f"clip={name}", "experiment=leaderboard_clip")
        found.append(replace(whole, name=words[0], words=words, facts=frozenset()))
    return found


def cover(presets: Sequence[Preset]) -> list[Preset]:
    """Returns few presets that use everything that all of them use."""
    chosen, missing = [], frozenset().union(*(each.facts for each in presets))
    while missing:
        chosen.append(max(presets, key=lambda each: len(each.facts & missing)))
        missing -= chosen[-1].facts
    return chosen


# What a preset needs, and has to show


def write_regions(path: Path, size: tuple[int, int]) -> None:
    """Writes a grid of regions of an image, as files of mask generators have them."""
    rows, columns = np.indices(size) // 24
    miniatures.write_labels(path, (8 * rows + columns).astype(np.uint8))


class Miniatures:
    """The data sets below a folder; beside them weights, regions, and the pictures of a bank."""

    def __init__(self, folder: Path):
        self.folder, self.caches = folder / "sets", folder / "caches"
        for split in ("train2014", "val2014", "train2017", "val2017"):
            coco = miniature_coco.build_coco(self.folder, split)
            miniature_coco.build_cocostuff(self.folder, split)
        self.roots = dict.fromkeys(("coco2014", "coco2017", "cocostuff", "coco_object"), coco)
        self.roots["voc2007"] = miniatures.build_voc2007(self.folder / "older")
        self.roots["ade20k"] = miniatures.build_ade20k(self.folder)
        self.roots["voc2012"] = self.roots["voc20"] = miniatures.build_voc2012(self.folder)
        context = miniatures.build_context(self.folder, as_json=True)
        self.roots |= {"context60": context, "context59": context}
        self.roots["cityscapes"] = miniatures.build_cityscapes(self.folder)
        self.augmented = miniatures.build_voc2012(self.folder / "augmented", augmented=True)
        self.sbd = miniatures.build_sbd(self.folder)
        self.before = miniatures.contents(self.folder)
        for name in ("voc2012", "ade20k", "cocostuff", "context60", "cityscapes"):
            for sample in miniatures.load(name, self.roots[name]).splits["val"]:
                for generator in ("sam2_masks", "entityseg_masks"):
                    regions = folder / generator / f"{sample.id}.png"
                    write_regions(regions, sample.mask.read().shape)
        for number in range(2):
            miniatures.write_photograph(folder / "bank_pictures" / f"{number}.jpg", number)
            regions = folder / "bank_masks" / f"{number}.png"
            write_regions(regions, miniatures.size_of(number))

    def settings(self, preset: Preset) -> dict[str, Path]:
        """Returns the settings that name the files of a preset's data set; none if it is drawn."""
        name = preset.config.dataset.name
        if preset.name == "experiment=cls_seg_voc2012_segmenter":
            return {"root": self.augmented}
        found = {"root": self.roots[name]} if name in self.roots else {}
        return found | ({"sbd_root": self.sbd} if name == "voc2012" else {})


def check_figures(preset: Preset, out: Path, data: Mapping[str, Path]) -> None:
    """Fails unless two images are measured for each stage, and masks as their files have it."""
    found = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["latest"]
    wanted = {stage.replace("predict", "predictions") for stage in preset.stages}
    wanted -= {"train", "evaluate", "report"}
    wanted -= {"masks"} if "masks=ground_truth" in preset.words else set()
    assert found.keys() == wanted, f"measured are {sorted(found)}"
    for stage, splits in found.items():
        for split, figures in splits.items():
            assert figures["images"] == 2, f"{figures['images']} images of {stage}"
            if data and stage in ("masks", "predictions"):
                dataset = miniatures.load(preset.config.dataset.name, **data)
                check_masks(figures, out / split / stage / "latest", dataset, split)


def check_masks(figures: dict, folder: Path, dataset: Dataset, split: str) -> None:
    """Fails unless the figures of masks are those of the files in a folder, label for label."""
    folder = folder / ".unfiltered" if (folder / ".unfiltered").is_dir() else folder
    samples = [s for s in dataset.splits[split] if (folder / f"{s.id}.png").is_file()]
    predictions = [read_labels(folder / f"{sample.id}.png").ravel() for sample in samples]
    names, levels = dataset.vocabulary, figures.get("levels", ())
    for level, of in [(figures, names.classes), *((level, names.parents) for level in levels)]:
        numbers = np.full(256, 255)
        numbers[: len(of) + 1] = [0, *([*level["per_class"]].index(name) for name in of)]
        truth = numbers[np.concatenate([sample.mask.read().ravel() for sample in samples])]
        masks = numbers[np.concatenate(predictions)]
        expected = []
        for label in range(len(level["per_class"])):
            inside, found = truth == label, (masks == label) & (truth != 255)
            iou = (inside & found).sum() / max((inside | found).sum(), 1)
            expected.append(iou if inside.any() else np.nan)
        ious = np.array([each["iou"] for each in level["per_class"].values()], float)
        assert np.allclose(ious, expected, equal_nan=True), f"IoU {ious}, not {expected}"
        assert np.isclose(level["miou"], np.nanmean(expected)), f"mIoU {level['miou']}"


def run_tool(*words: str) -> None:
    """Runs a tool, and ends this process without the seconds that Python takes to tidy up."""
    sys.argv, code = [*words], 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@dataclass(frozen=True)
class Trial:
    """A preset on its way, in a folder of its own."""

    preset: Preset
    folder: Path
    data: Miniatures
    forks: Forks
    exports: bool = True

    def use(self, tool: str, *words: object, first: Sequence = (), log: str = "") -> str:
        """Uses a tool, and returns what it printed; fails unless it succeeds."""
        calls = [*first, ["tests.presets:run_tool", TOOLS / f"{tool}.py", *map(str, words)]]
        run = self.forks.call(*calls, output=self.folder / f"{log or tool}.txt")
        assert run.wait() == 0, f"{log or tool} ended with {run.wait()}: {run.output[-600:]}"
        return run.output

    def go_through(self) -> None:
        """Fails where a step does not do what it should."""
        preset, settings = self.preset, self.data.settings(self.preset)
        empty = [f"dataset.{key}={self.folder}" for key in settings]
        granted = [[f"{WEIGHTS}:grant"]]
        offered = self.use("download", *preset.words, *empty, "--dry-run", first=granted)
        is_named = str(self.folder) in offered or "is for registered users" in offered
        assert not empty or is_named, "no archive is offered"
        clips = {fact for fact in preset.facts if fact.startswith("clip=")} - {"clip=demo"}
        assert not clips or ", missing\n" in offered, "no weights are offered"
        given = [*preset.words, *(f"dataset.{key}={path}" for key, path in settings.items())]
        given += [f"output_dir={self.folder / 'out'}", "dataset.limit=2", "runtime.workers=1"]
        (self.plan_whole if preset.name.startswith("clip=") else self.run_twice)(given)
        assert miniatures.contents(self.data.folder) == self.data.before, "the data have changed"

    def run_twice(self, given: list[str]) -> None:
        """Runs what a command line says, then serves it from the cache; exports a network."""
        first, out = [[f"{WEIGHTS}:use_small_models", self.data.caches]], self.folder / "out"
        made = [[f"{WEIGHTS}:place_backbone", *given]] if "train" in self.preset.stages else []
        given += SHORT if made else ()
        planned = self.use("run_stage", *given, "dry_run=true", first=first + made, log="plan")
        assert "downloads" not in planned and not out.exists(), "something is missing, or written"
        self.use("run_stage", *given, first=first, log="run")
        check_figures(self.preset, out, self.data.settings(self.preset))
        name = self.preset.config.experiment_name
        tables = {"leaderboard": ["--leaderboard"], **dict.fromkeys(published_experiments(), [])}
        table = tables.get(name, ["--study", name])
        assert "2 images" in self.use("make_tables", *table, out), "no table has the run"
        before = artefacts(out)
        again = self.use("run_stage", *given, first=first, log="again")
        assert {*re.findall(r"(\d+) computed now", again)} == {"0"}, "not all of it was cached"
        assert artefacts(out) == before, "results have changed"
        if self.exports and self.preset.name.startswith("segmenter="):
            size = "--output", out / "network.onnx", "--size", 64, 96
            self.use("export_onnx", "--checkpoint", out / "segmenter" / "latest", *size)

    def plan_whole(self, given: list[str]) -> None:
        """Plans a run with an image-text model in its full size, and builds it without values."""
        name, folder = self.preset.name.partition("=")[2], self.folder / "whole"
        self.forks.call([f"{WEIGHTS}:write_whole", name, folder]).wait()
        files = [f"{path.stem}: {path}" for path in sorted(folder.iterdir())]
        whole = f"{{{','.join(files)}}}" if len(files) > 1 else files[0].partition(" ")[2]
        first, given = [[f"{WEIGHTS}:load_whole", name, folder]], [*given, "dry_run=true"]
        planned = self.use("run_stage", *given, f"clip.checkpoint={whole}", first=first, log="plan")
        assert "downloads" not in planned, "weights are missing"


def go_through(
    presets: Sequence[Preset], folder: Path, jobs: int = 2, exports: bool = True
) -> dict[str, str]:
    """Goes through presets, some at a time; prints a line for each, and returns what fell, why."""
    data, fallen = Miniatures(folder), {}
    nowhere = dict.fromkeys(("HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"), str(folder / "nowhere"))
    about = {"folder": folder, "cwd": folder, "HF_HUB_OFFLINE": "1", **nowhere}
    processes = [Forks(*PRELOADED, **about) for _ in range(jobs)]
    processes[0].call([f"{WEIGHTS}:write_small_models", data.caches]).wait()
    longest_first = iter(sorted(presets, key=lambda preset: "train" not in preset.stages))

    def work(forks: Forks) -> None:
        for preset in longest_first:  # which all threads share
            own, began = folder / "results" / preset.name.replace("=", "_"), time.monotonic()
            own.mkdir(parents=True)
            try:
                Trial(preset, own, data, forks, exports).go_through()
            except Exception as error:
                is_expected = isinstance(error, AssertionError)
                fallen[preset.name] = str(error) if is_expected else repr(error)
            took, fell = time.monotonic() - began, "  fell" if preset.name in fallen else ""
            print(f"{preset.name:45}{took:7.1f} s{fell}", flush=True)
            shutil.rmtree(own)
        forks.close()

    with ThreadPoolExecutor(jobs) as threads:
        [*threads.map(work, processes)]
    return fallen


def main(names: Sequence[str]) -> int:
    """Runs the command line; returns the exit code."""
    began, presets = time.monotonic(), every_preset()
    if unknown := {*names} - {preset.name for preset in presets}:
        sys.exit(f"there is no {' nor '.join(unknown)}: give names such as clip=vit_l14")
    presets = [preset for preset in presets if not names or preset.name in names]
    with TemporaryDirectory(prefix="presets-") as folder:
        fallen = go_through(presets, Path(folder))
    used = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    print(f"{len(presets)} presets, {time.monotonic() - began:.0f} s, of processors {used:.0f} s")
    for name, why in sorted(fallen.items()):
        print(f"\n{name} fell: {why}")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
