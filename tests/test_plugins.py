"""Methods and stages of one's own, which lie outside the package."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import sys
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from joblib.externals.loky import get_reusable_executor
from skimage.measure import regionprops

from pipeline import Labeller
from pipeline.cams.method import CamMethod, CamOptions
from pipeline.configuration import plugins, registry
from pipeline.configuration.hydra import take_plugins
from pipeline.configuration.plugins import import_plugins
from pipeline.configuration.registry import (
    Quirk,
    expand_templates,
    find_method,
    label_of,
    methods,
    quirks,
    register,
)
from pipeline.dense.settings import DenseSettings
from pipeline.engine.stage import Item, Output, PerImage
from pipeline.errors import UserError
from pipeline.files.label_images import read_labels
from pipeline.masks.refiner import MaskOptions
from pipeline.stages import builder, pipeline
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import Pipeline
from pipeline.tags.tagger import ScoredTagOptions, Tagger, TagOptions
from tests import REPOSITORY
from tests.plugins import colour_cams, colour_tagger, superpixels
from tests.plugins.colour_tagger import ColourOptions
from tests.small_runs import folder_options
from tests.tiers import large_except

MODULES = [module.__name__ for module in (colour_tagger, colour_cams, superpixels)]
PLUGINS = f"plugins=[{','.join(MODULES)}]"
METHODS = "tags=colour", "cams=channel", "masks=superpixels"


@pytest.fixture(autouse=True)
def what_a_test_registers_is_forgotten(monkeypatch):
    assert methods()  # which imports ours
    store, known = ConfigStore.instance(), set(plugins._PLUGINS)
    groups = {k: dict(v) if isinstance(v, dict) else v for k, v in store.repo.items()}
    monkeypatch.setattr(store, "repo", groups)
    monkeypatch.setattr(plugins, "_PLUGINS", known)
    with patch.dict(registry._METHODS), patch.dict(registry.TEMPLATES):
        yield


@pytest.fixture
def without_methods(photographs: Path, tmp_path: Path) -> list[str]:
    """A run on five photographs; CLIP has nothing to do."""
    own = "dataset.classes=[red,green,blue]", f"output_dir={tmp_path / 'out'}"
    given = folder_options(photographs, "/no/such/weights.pt", *own)
    return [each for each in given if not each.startswith("tags.")]


@pytest.fixture
def arguments(without_methods: list[str]) -> list[str]:
    """A run by three methods of one's own."""
    return [PLUGINS, *METHODS, *without_methods]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module, which is then imported anew: write(name, text); returns its path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name: str, text: str) -> Path:
        (path := tmp_path / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
        registry.source_of.cache_clear()
        return path

    return write


def tagger(name: str, declared: str = "") -> str:
    """Returns the source of the colour tagger by another name, which declares more."""
    source = (REPOSITORY / "tests/plugins/colour_tagger.py").read_text()
    source = source.replace("import register", "import Quirk, register")
    return source.replace('"colour", ColourOptions', f'"{name}", ColourOptions{declared}')


def add(group: str, name: str, *bases: type, **given: object) -> None:
    """Registers a method with these fields of settings."""
    defaults = [(key, type(value), field(default=value)) for key, value in given.items()]
    options = make_dataclass("Options", defaults, bases=bases)
    register(group, name, options)(lambda options, resources: None)


def stages_of(*given: str, commands: tuple[str, ...] = ("tags",)) -> list:
    return Pipeline.open(read_config(compose(["dataset=demo", *given]))).stages([*commands])


# A tagger, a CAM method and a refiner


def test_methods_outside_the_package_have_all_that_ours_have(
    run_stage, run_tool, arguments, tmp_path
):
    stages, out = "stage=[tags,cams,masks]", tmp_path / "out"
    planned = run_stage(*arguments, stages, "dry_run=true")
    assert planned.code == 0 and not out.exists()
    assert planned.output.count("all") >= 3 and "next: python" in planned.output
    assert PLUGINS in planned.output.splitlines()[-1]

    assert run_stage(*arguments, stages).computed == {"tags": 5, "cams": 5, "masks": 5}
    assert run_stage(*arguments, stages).computed == {"tags": 0, "cams": 0, "masks": 0}
    scores = np.load(out / "all" / "tags" / "latest" / "scores.npz")
    assert scores["scores"].shape == (5, 3) and (scores["scores"] > 0.2).any()

    # A setting is part of the key, and of that of no stage before.
    keys = {stage: (out / "all" / stage / "latest").resolve() for stage in ("tags", "cams")}
    again = run_stage(*arguments, stages, "cams.cell_size=8").computed
    assert again == {"tags": 0, "cams": 5, "masks": 5}
    assert (out / "all" / "tags" / "latest").resolve() == keys["tags"]
    assert (out / "all" / "cams" / "latest").resolve() != keys["cams"]
    manifest = json.loads((keys["tags"] / "manifest.json").read_text())["configuration"]
    assert manifest["code"] == "tests.plugins.colour_tagger.ColourTagger"
    assert manifest["method_algorithm"] == 1 and manifest["gain"] == 1

    # Tables and the report name them.
    assert run_stage(*arguments, "stage=report").code == 0
    assert "colour" in (out / "report.html").read_text(encoding="utf-8")
    tables = run_tool("make_tables.py", out, "--output", tmp_path / "tables.md")
    assert tables.code == 0, tables.errors
    status = run_stage("stage=status", f"output_dir={out}")
    assert "colour" in status.output and "superpixels" in status.output


def test_figures_of_such_methods_name_them_and_no_clip(run_stage, tmp_path):
    given = [PLUGINS, "dataset=demo", "dataset.limit=2", "tags=colour", "stage=[tags,evaluate]"]
    assert run_stage(*given, f"output_dir={tmp_path}").code == 0
    # Fewer images take the place of more, and the run tells it.
    fewer = run_stage(*given, f"output_dir={tmp_path}", "dataset.limit=1")
    assert fewer.code == 0 and "metrics of 1 images replace those of 2: tags" in fewer.errors
    for run in json.loads((tmp_path / "metrics.json").read_text())["runs"]:
        assert (run["about"]["tags"], run["about"]["clip"]) == ("colour", "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("tags.gian=2", "there is no setting tags.gian: did you mean tags.gain?"),
        ("tags.gain=0", "tags.gain=0.0 is out of range: give a number above 0"),
        ("tags=colours", "there is no tags=colours: did you mean colour?"),
        ("plugins=[no.such.module]", "plugins=no.such.module: there is no module no"),
        ("plugins=5", "plugins=5 is not a list of modules"),
    ],
)
def test_mistakes_are_answered_with_the_nearest(wrong, message, run_stage, arguments):
    finished = run_stage(*arguments, wrong, "stage=tags")
    assert finished.code == 2 and message in finished.errors
    assert finished.errors.count("\n") == 1


def test_python_takes_any_tagger_that_scores():
    given = {"plugins": MODULES[:2], "overrides": ["tags=colour", "cams=channel", "masks=argmax"]}
    labeller = Labeller(["red", "green", "blue"], clip="demo", **given)
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0] = 255
    labelling = labeller(image)
    assert labelling.names == ("red",)
    assert (labelling.mask[:, :24] == 1).all() and (labelling.mask[:, 40:] == 0).all()


FAILING = """
import numpy as np
from tests.plugins.colour_tagger import ColourOptions, ColourTagger
from pipeline.configuration.registry import Quirk, register

class FailingOptions(ColourOptions):
    pass

@register("tags", "failing", FailingOptions)
class FailingTagger(ColourTagger):
    def scores(self, image):
        return self.invert(np.zeros((2, 2)))

    def invert(self, matrix):
        return np.linalg.inv(matrix)  # the last line of its own
"""


@pytest.mark.parametrize("executor", large_except(["local"], ["local", "processes"]))
def test_an_exception_names_its_line(
    executor, write, without_methods, run_stage, tmp_path, monkeypatch
):
    file = write("failing_tagger", FAILING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of workers, which start anew
    get_reusable_executor().shutdown(kill_workers=True)
    options = "plugins=[failing_tagger]", "tags=failing", "stage=tags", f"executor={executor}"
    finished = run_stage(*without_methods, *options)
    line = len(FAILING.splitlines())
    assert finished.code == 2 and finished.errors.count("\n") == 1
    assert finished.errors.startswith(f"error: {file}, line {line}: LinAlgError: Singular matrix")
    assert "tags=failing failed on image " in finished.errors
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    again = run_stage(*without_methods, *options)
    # Which image fails first is a matter of processes.
    assert again.code == 2 and finished.errors.partition("tags=failing")[0] in again.errors
    assert "Traceback" in again.errors and "linalg.py" in again.errors


# Where they come from


def test_plugins_are_taken_from_the_command_line():
    assert take_plugins(["plugins=[a,b.c]", "stage=tags"]) == (["a", "b.c"], ["stage=tags"])
    assert take_plugins(["+plugins=a"]) == (["a"], [])


def test_a_file_of_settings_names_no_code(run_stage, without_methods, tmp_path):
    preset = tmp_path / "configs" / "experiment" / "mine.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\nplugins: [tests.plugins.colour_tagger]\n")
    given = ["--config-dir", str(preset.parents[1]), "experiment=mine", *without_methods]
    finished = run_stage(*given, "stage=tags")
    assert finished.code == 2 and "cannot name code: give plugins=… " in finished.errors
    # It may choose a method and set it.
    chosen = "defaults: [{override /tags: colour}]\ntags: {gain: 0.5}\n"
    preset.write_text(f"# @package _global_\n{chosen}")
    assert run_stage(*given, PLUGINS, "stage=tags").computed == {"tags": 5}


def test_installed_packages_offer_methods_by_an_entry_point(tmp_path, monkeypatch, write):
    write("installed_tagger", tagger("installed"))
    about = tmp_path / "installed_tagger-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-tagger\nVersion: 1.0\n")
    entry = "[annotation_free_segmentation]\ninstalled = installed_tagger\n"
    (about / "entry_points.txt").write_text(entry)
    search = importlib.metadata.entry_points.__wrapped__
    monkeypatch.setattr("importlib.metadata.entry_points", search)
    import_plugins([])
    config = read_config(compose(["dataset=demo", "tags=installed"]))
    assert type(config.tags).__module__ == "installed_tagger"


def test_a_method_may_be_declared_where_there_is_no_file():
    namespace = {"__module__": "cell"}  # as in a notebook, or behind python -c
    settings = make_dataclass("Cell", [], bases=(ColourOptions,), namespace=namespace)
    register("tags", "cell", settings)(lambda options, resources: None)
    assert compose(["tags=cell"]).tags.gain == 1


def test_a_module_that_fails_is_named(write):
    for text, why in (
        ("1 / 0", r"imported \(ZeroDivisionError"),
        ("raise SystemExit(7)", r"cannot be imported \(SystemExit: 7"),
    ):
        write("broken_tagger", text)
        with pytest.raises(UserError, match=why):
            import_plugins(["broken_tagger"])


@pytest.mark.parametrize(
    ("look_up", "found"),
    [
        (partial(find_method, "dense", "sclip"), "SCLIP"),
        (partial(label_of, "tags", "piaa"), "PIAA"),
        (partial(expand_templates, "piaa", ()), "{}"),
        (quirks, "open_border"),
    ],
)
def test_what_belongs_to_the_package_is_imported_where_it_is_looked_up(monkeypatch, look_up, found):
    assert methods()
    ours, sets = registry._METHODS, {**registry.TEMPLATES}
    monkeypatch.setattr(registry, "_METHODS", {})
    registry.TEMPLATES.clear()

    def import_ours() -> None:
        registry._METHODS.update(ours)
        registry.TEMPLATES.update(sets)

    monkeypatch.setattr(registry, "_import_ours", import_ours)
    assert found in str(look_up())


# What a method declares


@pytest.fixture
def with_preset(write, tmp_path):
    """Writes a plug-in with a quirk and a preset: with_preset(text), and returns its argument."""

    def with_preset(preset: str | None) -> str:
        declared = ', quirks=(Quirk("dim", "dims"),), presets=("experiment/theirs",)'
        write("preset_tagger", tagger("preset", declared))
        if preset is not None:
            path = tmp_path / "configs" / "experiment" / "theirs.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            chosen = "defaults: [{override /tags: preset}]"
            path.write_text(f"# @package _global_\n{chosen}\n{preset}\n")
        return "plugins=[preset_tagger]"

    return with_preset


def test_its_preset_is_data(with_preset, run_stage, without_methods):
    given = [*without_methods, "experiment=theirs", "stage=tags", "dry_run=true"]
    for preset, why in (
        ("tags: {gain: 0.5}\nexecutor: {name: x}", "there is no executor x"),
        ("plugins: [evil]", "cannot name code"),
    ):
        wrong = run_stage(with_preset(preset), *given)
        assert wrong.code == 2 and why in wrong.errors
    plugin = with_preset("tags: {gain: 0.5}\ncompat: {dim: false}")
    finished = run_stage(plugin, *given, "--cfg", "job")
    assert finished.code == 0, finished.errors
    assert "gain: 0.5" in finished.output and "dim: false" in finished.output
    released = [*without_methods, "tags=preset", "compat=released"]
    assert "dim: true" in run_stage(plugin, *released, "--cfg", "job").output


def test_what_it_declares_is_checked(with_preset, run_stage, without_methods):
    missing = run_stage(with_preset(None), *without_methods, "tags=preset")
    assert missing.code == 2 and "has no experiment/theirs.yaml: add the file" in missing.errors

    @dataclass
    class Other(ColourOptions):
        pass

    def refused(why: str, choice: str = "tags=another", settings: type = Other, **declared) -> None:
        with pytest.raises(UserError, match=why):
            register(*choice.split("="), settings, **declared)(lambda options, resources: None)

    refused("tags=colour, which .*ColourTagger is already", "tags=colour")
    refused("give tags=another its own dataclass", settings=ColourOptions)
    refused("declares a quirk exif, but that name is taken", quirks=(Quirk("exif", "ignored"),))
    refused("quirk a, but", quirks=(Quirk("a", "one"), Quirk("a", "two")))
    refused("declares a template set imagenet, but", templates={"imagenet": ("a {}",)})
    for prompts in ("a {}", (), ("no braces",), ("{} {}",), ("{0}",), ("mine",)):
        refused("set mine is not a tuple of prompts", templates={"mine": prompts})
    for preset in ("../configs/experiment/x", "/experiment/x", "nogroup/x", "experiment/**/x"):
        refused("give GROUP/NAME", presets=(preset,))
    refused("presets= is not a tuple", presets="experiment/x")
    clash = make_dataclass("Clash", [("affinity", float, 2.0)], bases=(DenseSettings,))
    refused("Clash has a setting affinity, which all CAMs have", "dense=another", clash)
    for name in ("name", "class", "a b", "__reduce__", ""):
        with pytest.raises(UserError, match="cannot be a quirk"):
            Quirk(name, "meaning")


@pytest.mark.parametrize(
    ("choice", "base", "why"),
    [
        ("tag=colours", ScoredTagOptions, "group tag: did you mean tags?"),
        ("masks=argmax", MaskOptions, "masks=argmax, .*argmax.yaml"),
        ("tags=hiding", TagOptions, "tags=hiding, .*ScoredTagOptions"),
    ],
)
def test_it_has_a_group_a_name_that_is_free_and_the_settings_of_its_stage(choice, base, why):
    add(*choice.split("="), base)
    with pytest.raises(UserError, match=why):
        stages_of("tags=hiding")


def test_a_method_that_computes_nothing_is_named(run_stage, without_methods):
    for group, base, settings in (
        ("tags", Tagger, ScoredTagOptions),
        ("cams", CamMethod, CamOptions),
    ):
        method = type("Empty", (base,), {"__init__": lambda self, options, resources: None})
        options = make_dataclass("EmptyOptions", [], bases=(settings,))
        register(group, "empty", options)(method)
        given = ["tags=colour", f"{group}=empty", f"stage=[tags,{group}]"]
        finished = run_stage(PLUGINS, *without_methods, *given)
        assert finished.code == 2 and "Empty has no method " in finished.errors


# Its settings, and the keys of its results


def test_help_on_settings_in_any_order(run_tool):
    add("tags", "bare", ScoredTagOptions, gain=2.0)
    for words in (["help", "tags=bare", PLUGINS], [PLUGINS, "tags=bare", "help"]):
        finished = run_tool("run_stage.py", *words)
        assert finished.code == 0 and "tags.gain=2" in finished.output
        assert "Options(" not in finished.output, "a dataclass without a docstring"


def test_a_setting_may_be_a_choice_of_python():
    add("tags", "hiding", ScoredTagOptions, colour=Enum("Colour", "RED BLUE").RED)
    default, red, blue = (
        stages_of("tags=hiding", *given)[0].key
        for given in ([], ["tags.colour=RED"], ["tags.colour=BLUE"])
    )
    assert default == red != blue
    with pytest.raises(UserError, match="^tags.colour"):
        stages_of("tags=hiding", "tags.colour=GREEN")


@pytest.mark.parametrize("name", ["longest_side", "classes", "code"])
def test_a_setting_does_not_hide_another_part_of_the_key(name):
    """Two facts of one name would be one entry of the key, so that a change could go unseen."""
    add("tags", "hiding", ScoredTagOptions, **{name: 1})
    stage = stages_of("tags=hiding", f"tags.{name}=2")[0]
    with pytest.raises(UserError, match=f"a method has a setting {name}, .* rename the setting"):
        _ = stage.key


def test_contents_that_cannot_be_read_are_named():
    def contents(self, vocabulary):
        return {"read": Path("no/such/file").read_text()}

    add("tags", "reading", type("Reading", (ScoredTagOptions,), {"contents": contents}))
    with pytest.raises(UserError, match="no/such/file: No such file or"):
        _ = stages_of("tags=reading")[0].key


def test_the_class_names_are_part_of_the_key():
    """A method may read all of the vocabulary, so a change of any name computes anew."""

    def keys(*more: str) -> list[tuple[str, str]]:
        steps = stages_of(*METHODS, *more, commands=("tags", "cams", "masks"))
        return [(step.key, step.own_key) for step in steps]

    for change in ("dataset.classes=[disc,square,triangle,moon]", "dataset.backgrounds=[sky]"):
        for before, after in zip(keys(), keys(change), strict=True):
            assert before[0] != after[0] and before[1] != after[1]


def test_an_edited_module_has_another_key(write):
    def key(text):
        write("edited_tagger", text)
        import_plugins(["edited_tagger"])
        return stages_of("tags=edited")[0].key

    source = tagger("edited")
    assert key(source) == key(source) != key(f"{source}\n")


def test_an_edited_template_set_gives_other_keys(write):
    """Whatever method of ours chooses it, and through the sets that it names."""
    source = tagger("one", ", templates=SCANS")
    source = source.replace("@dataclass", "SCANS = {'scans': ('a scan of {}',)}\n\n\n@dataclass")
    source += "\nclass More(ColourOptions):\n    pass\n\n"
    source += "both = {'both': ('scans', 'imagenet')}\n"
    source += "register('tags', 'two', More, templates=both)(ColourTagger)\n"

    def keys(text: str, templates: str) -> list[tuple[str, str, object]]:
        write("templates_tagger", text)
        import_plugins(["templates_tagger"])
        given = ["tags=tagclip", "masks=dense", "cams=value_path"]
        given += [f"{group}.templates={templates}" for group in ("tags", "cams", "masks")]
        stages = stages_of(*given, commands=("tags", "cams", "masks"))
        return [(each.key, each.own_key, each.own_settings()["templates"]) for each in stages]

    edited = source.replace("a scan of {}", "a {} on paper")
    for templates, prompts in (("scans", []), ("both", ["imagenet"])):
        before, again, after = (keys(text, templates) for text in (source, source, edited))
        assert before == again
        for one, other in zip(before, after, strict=True):
            assert one[0] != other[0] and one[1] != other[1]
            assert other[2] == ["a {} on paper", *prompts]
    assert keys(source, "tagclip")[0][2] == "tagclip", "one of ours"


def test_an_edit_of_what_a_plugin_names_gives_another_key(write):
    """The module that computes need not be imported for it."""
    method = registry.Method("tags", "named", ColourOptions, "computing_tagger:Tagger")

    def source(text):
        write("computing_tagger", text)
        return method.key_facts["method_source"]

    assert source("Tagger = 1\n") == source("Tagger = 1\n") != source("Tagger = 2\n")
    assert "computing_tagger" not in sys.modules
    write("computing_tagger", "").unlink()
    assert method.key_facts["method_source"], "of its settings alone"


# A stage


@dataclass(frozen=True, kw_only=True, eq=False)
class Boxes(PerImage):
    """The bounding boxes of a mask's labels, as JSON."""

    name = command = "boxes"
    reads_images = False

    def own_settings(self) -> dict:
        return {}

    def item(self, sample, folders) -> Item:
        read = {"masks": folders["masks"].result_of(sample.id)}
        return super().item(sample, folders).reading(read, folders["masks"].path)

    def compute(self, images, model):
        for item, _ in images:
            labels = read_labels(item.given / f"{item.sample.id}.png")
            boxes = {int(region.label): list(region.bbox) for region in regionprops(labels)}
            files = {f"{item.sample.id}.json": json.dumps(boxes).encode()}
            yield item, {"boxes": Output(files)}


def test_a_stage_is_a_class_and_a_line(run_stage, arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(
        builder.PER_SPLIT,
        "boxes",
        lambda own, split, before: Boxes(
            split=split, reader=own.reader, before={"masks": before["masks"]}
        ),
    )
    monkeypatch.setattr(pipeline, "COMMANDS", (*pipeline.COMMANDS, "boxes"))
    stages = "stage=[tags,cams,masks,boxes]"
    assert "boxes" in run_stage(*arguments, stages, "dry_run=true").output
    expected = {"tags": 5, "cams": 5, "masks": 5, "boxes": 5}
    assert run_stage(*arguments, stages, "executor=processes").computed == expected
    assert run_stage(*arguments, "stage=boxes").computed == {"boxes": 0}
    folder = tmp_path / "out" / "all" / "boxes" / "latest"
    assert json.loads((folder / "a.json").read_text())
    (folder / "a.json").write_text("damaged")
    assert run_stage(*arguments, "stage=boxes").computed == {"boxes": 1}
    assert "boxes" in run_stage("stage=status", f"output_dir={tmp_path / 'out'}").output


def test_the_engine_knows_no_stage_by_its_name():
    """Nor any method: no code of these rooms holds one of their words, but ``kinds.py``."""
    words = {*pipeline.COMMANDS, "segmenter", "predictions", "clip", "crf", "tagclip", "clip_es"}
    package, rooms = REPOSITORY / "pipeline", ("configuration", "engine")
    for path in (path for room in rooms for path in (package / room).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        explained = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                known = words & set(re.findall(r"(?<!--)\b\w+", node.value))  # nor options of git
                is_there = path.name == "kinds.py"
                assert id(node) in explained or is_there or not known, (path.name, node.value)
