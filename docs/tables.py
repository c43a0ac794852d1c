"""Writes the generated tables of docs/, from configurations, published figures and kept results.

``python -m docs.tables`` puts each table between its marks, ``<!-- generated: NAME -->`` and
``<!-- end -->``. A test finds a page whose tables are out of date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from docs.networks import networks_table
from pipeline.clip.settings import SecondSettings
from pipeline.configuration.registry import methods
from pipeline.files.shipped import CONFIGS
from pipeline.report.tables.published import PUBLISHED, Figure, PublishedTable, load_published

DOCS = Path(__file__).parent
PAGES = (DOCS / "presets.md", DOCS / "published-results.md", DOCS / "experiments.md")

_SECTION = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MEASURES = {"map": "mAP", "miou": "mIoU", "miou_union": "`miou_union`"}
_GENERATORS = {"sam2_masks": "SAM 2", "entityseg_masks": "EntitySeg"}
_WINDOW = 224  # pixels: the native size of ViT-B/16


@dataclass(frozen=True)
class Preset:
    """An experiment.

    Attributes:
        name: of ``experiment=``.
        choices: group → what it chooses, for the groups that it names.
        settings: what it sets beside, nested.
    """

    name: str
    choices: dict[str, str]
    settings: dict[str, Any]

    @property
    def data(self) -> str:
        """The data set and the split."""
        split = self.settings["dataset"]["split"]
        split = " and ".join(split) if isinstance(split, list) else split
        if fit := self.settings.get("tags", {}).get("fit_split"):
            split = f"{split}, learned from {fit}"
        return f"`{self.choices['dataset']}`, {split}"

    def chosen(self, group: str) -> str:
        """Returns the choice of a group as code; "" if no stage of the preset reads it."""
        stages = self.settings["stage"]
        stage = "train" if group == "segmenter" else group
        read = stages == "all" or stage in stages
        return f"`{self.choices[group]}`" if read and group in self.choices else ""


@cache
def read_preset(name: str) -> Preset:
    """Reads an experiment, and those that it builds on."""
    content = yaml.safe_load((CONFIGS / "experiment" / f"{name}.yaml").read_text("utf-8"))
    choices: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for each in content.pop("defaults"):
        if isinstance(each, dict):
            choices |= {key.rpartition("/")[2]: value for key, value in each.items()}
        elif each != "_self_":
            base = read_preset(each)
            choices |= base.choices
            settings |= base.settings
    for key, value in content.items():
        nested = isinstance(value, dict)
        settings[key] = {**settings.get(key, {}), **value} if nested else value
    return Preset(name, choices, settings)


def published_presets() -> list[Preset]:
    """Returns the experiments with the constants of a publication, by name."""
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    names = set(content["without_figures"])
    names |= {f.experiment for table in load_published() for f in table.figures}
    for table in load_published():
        names |= {name for row in table.rows for name in row.experiments.values()}
    return [read_preset(name) for name in sorted(names - {""})]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table; an empty cell of it is a dash."""
    rule = ["---:" if name.endswith("%") else "---" for name in header]
    lines = [" | ".join(cell or "–" for cell in row) for row in (header, rule, *rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def dense_table() -> str:
    """Returns the presets of ``masks=dense``, with those of equal constants in one row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for preset in published_presets():
        if preset.choices.get("masks") != "dense":
            continue
        cams = {k: v for k, v in preset.settings.get("cams", {}).items() if k != "regions"}
        sizes = {f"images.{key}": v for key, v in preset.settings.get("images", {}).items()}
        given = dict(preset.settings["masks"])
        names = given.pop("names", "classes")
        window, stride = given.pop("window", _WINDOW), given.pop("stride", None)
        cells = (
            preset.choices["cams"],
            "the classes" if names == "classes" else names.split("_")[0],
            str(given.pop("short_side", 336)),
            f"{window} / {stride or window // 2}" if window else "whole image",
            str(given.pop("temperature", "")),
            str(given.pop("min_probability", "")),
            ", ".join(f"`{key}={_plain(value)}`" for key, value in (given | cams | sizes).items()),
        )
        rows.setdefault(cells, []).append(f"`{preset.name}`")
    header = ("experiment=", "cams=", "names", "short side", "window / stride", "factor", "min. p")
    return markdown(
        (*header, "further settings"),
        [(", ".join(names), f"`{cells[0]}`", *cells[1:]) for cells, names in rows.items()],
    )


def stages_table() -> str:
    """Returns the other published experiments: their data and choices."""
    rows = []
    for preset in published_presets():
        if preset.choices.get("masks") != "dense":
            groups = [preset.chosen(group) for group in ("tags", "cams", "masks")]
            rows.append((f"`{preset.name}`", preset.data, *groups, preset.chosen("segmenter")))
    return markdown(("experiment=", "data", "tags=", "cams=", "masks=", "segmenter="), rows)


def choices_table() -> str:
    """Returns the choices that are a method with other constants."""
    rows = []
    for group in ("tags", "cams", "masks"):
        for path in sorted((CONFIGS / group).glob("*.yaml")):
            if path.stem.endswith("_demo"):
                continue
            given = yaml.safe_load(path.read_text("utf-8"))
            method = given.pop("defaults")[0]
            constants = ", ".join(f"`{key}={_plain(v)}`" for key, v in _flat(given).items())
            rows.append((f"`{group}={path.stem}`", f"`{group}={method}`", constants or "the same"))
    return markdown(("choice", "method", "constants that differ from its defaults"), rows)


def published_table() -> str:
    """Returns the published figures that a preset reproduces, and what a run of it needs."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for table in load_published():
        for figure in table.figures:
            if name := _preset_of(table, figure):
                measured = _measured(table, figure)
                place = (f"`{name}`", figure.row.method, measured, _needs(read_preset(name)))
                again = figure.row.rerun.get(figure.column.name)
                value = f"{figure.value}" + (f" ({again})" if again is not None else "")
                rows.setdefault(place, []).append(value)
    first = [*dict.fromkeys(place[0] for place in rows)]
    rows = dict(sorted(rows.items(), key=lambda item: first.index(item[0][0])))
    return markdown(
        ("experiment=", "reproduces", "measure", "published, %", "a run needs"),
        [(*place[:3], " / ".join(values), place[3]) for place, values in rows.items()],
    )


def _preset_of(table: PublishedTable, figure: Figure) -> str:
    """Returns the experiment that measures a figure; "" if none does."""
    if table.name == "released_tags":
        # Precision and recall come from the run whose command stands at F1.
        prefix = figure.column.name.rpartition("_")[0]
        commands = (c.command for c in table.columns if c.name.startswith(prefix) and c.command)
        return next(commands).split()[0].removeprefix("experiment=")
    return figure.experiment


def _measured(table: PublishedTable, figure: Figure) -> str:
    split = figure.column.label if figure.column.level else figure.column.split.label
    if table.name == "released_tags":
        return f"precision / recall / F1 of tags, {split}"
    stage = {"cams": "CAMs", "masks": "masks", "predictions": "network", "tags": "tags"}
    measure = _MEASURES[figure.column.metric]
    return f"{measure} of {stage[figure.stage or 'tags']}, {split}"


def _needs(preset: Preset) -> str:
    """Returns data, weights and further files that a run of a preset reads."""
    needed = [preset.data, f"`clip={preset.choices['clip']}`"]
    method, cams = _chosen_cams(preset)
    models = _second_backbones().get(method, {}) | {
        k: v for k, v in cams.items() if k.endswith("second.model")
    }
    needed += [f"`cams.{key}={model}`" for key, model in models.items()]
    if regions := _GENERATORS.get(cams.get("regions", "")):
        needed.append(f"{regions}'s masks (`cams.regions`)")
    if "bank.root" in cams:
        needed.append("a bank of COCO's train2017 (`cams.bank.root`, `cams.bank.regions`)")
    if network := preset.chosen("segmenter"):
        needed.append(f"training of {network}")
    return "; ".join(filter(None, needed))


def _chosen_cams(preset: Preset) -> tuple[str, dict[str, Any]]:
    """Returns the CAM method of a preset, and what differs from its defaults, by dotted keys."""
    method = preset.choices.get("cams", "")
    given = _flat(preset.settings.get("cams", {}))
    path = CONFIGS / "cams" / f"{method}.yaml"
    if path.is_file():
        chosen = yaml.safe_load(path.read_text("utf-8"))
        method, given = chosen.pop("defaults")[0], _flat(chosen) | given
    return method, given


@cache
def _second_backbones() -> dict[str, dict[str, str | None]]:
    """Returns a CAM method → the settings that choose its second backbones → their defaults."""
    found = {}
    for method in methods():
        if method.group == "cams":
            parts = vars(method.settings()).items()
            chosen = {name: part for name, part in parts if isinstance(part, SecondSettings)}
            found[method.name] = {f"{name}.model": part.model for name, part in chosen.items()}
    return found


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def _plain(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...").removesuffix(".0")


TABLES: dict[str, Callable[[], str]] = {
    "choices": choices_table,
    "dense": dense_table,
    "networks": lambda: markdown(*networks_table()),
    "published": published_table,
    "stages": stages_table,
}
"""The name in a page's mark → what returns the table."""


def fill(text: str) -> str:
    """Returns a page with its generated tables up to date."""
    return _SECTION.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def outdated() -> Iterator[tuple[Path, str]]:
    """Yields the pages whose tables are out of date, and what they should hold."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            yield page, filled


if __name__ == "__main__":
    for path, content in outdated():
        path.write_text(content, encoding="utf-8")
        print(path.name)
