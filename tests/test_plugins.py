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
from tests.plugins.colour_tagger import ColourOptions
from tests.small_runs import Finished, folder_options
from tests.tiers import large_except

MODULES = ("colour_tagger", "colour_cams", "superpixels")
PLUGINS = f"plugins=[{','.join(f'tests.plugins.{name}' for name in MODULES)}]"


METHODS = "tags=colour", "cams=channel", "masks=superpixels"


@pytest.fixture
def arguments(photographs: Path, tmp_path: Path) -> list[str]:
    """A run on five photographs by three methods of one's own; CLIP has nothing to do."""
    own = PLUGINS, *METHODS, "dataset.classes=[red,green,blue]", f"output_dir={tmp_path / 'out'}"
    return folder_options(photographs, "/no/such/weights.pt", *own)


@pytest.fixture
def without_plugins(arguments: list[str]) -> list[str]:
    return [each for each in arguments if each not in (PLUGINS, *METHODS)]


def computed(finished: Finished) -> dict[str, int]:
    assert finished.code == 0, finished.errors
    rows = [line.split() for line in finished.output.splitlines() if "computed now" in line]
    return {row[0]: int(row[4]) for row in rows}


@pytest.fixture
def forgotten(monkeypatch, request):
    """Forgets a method after the test that registers it: forgotten(group, name)."""
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(plugins, "_PLUGINS", set(plugins._PLUGINS))

    def forget(group, name):
        repo = ConfigStore.instance().repo
        request.addfinalizer(lambda: repo.get(group, {}).pop(f"{name}.yaml", None))

    return forget


def test_methods_outside_the_package_have_all_that_ours_have(
    run_stage, run_tool, arguments, tmp_path
):
    stages, out = "stage=[tags,cams,masks]", tmp_path / "out"
    planned = run_stage(*arguments, stages, "dry_run=true")
    assert planned.code == 0 and not out.exists()
    assert planned.output.count("all") >= 3 and "next: python" in planned.output
    assert PLUGINS in planned.output.splitlines()[-1]

    assert computed(run_stage(*arguments, stages)) == {"tags": 5, "cams": 5, "masks": 5}
    assert computed(run_stage(*arguments, stages)) == {"tags": 0, "cams": 0, "masks": 0}
    scores = np.load(out / "all" / "tags" / "latest" / "scores.npz")
    assert scores["scores"].shape == (5, 3) and (scores["scores"] > 0.2).any()

    # A setting is part of the key, and of that of no stage before.
    keys = {stage: (out / "all" / stage / "latest").resolve() for stage in ("tags", "cams")}
    again = computed(run_stage(*arguments, stages, "cams.cell_size=8"))
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


def test_a_file_of_settings_names_no_code(run_stage, without_plugins, tmp_path):
    preset = tmp_path / "configs" / "experiment" / "mine.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text("# @package _global_\nplugins: [tests.plugins.colour_tagger]\n")
    folder = ["--config-dir", str(preset.parents[1]), "experiment=mine"]
    finished = run_stage(*folder, *without_plugins, "stage=tags")
    assert finished.code == 2 and "cannot name code: give plugins=… " in finished.errors
    # It may choose a method and set it.
    preset.write_text(
        "# @package _global_\ndefaults: [{override /tags: colour}]\ntags: {gain: 0.5}\n"
    )
    finished = run_stage(*folder, PLUGINS, *without_plugins, "stage=tags")
    assert computed(finished) == {"tags": 5}


@pytest.fixture
def with_preset(forgotten, tmp_path, monkeypatch):
    """Writes a plug-in with a quirk and a preset: with_preset(text), and returns its argument."""
    forgotten("tags", "preset")

    def write(preset: str | None) -> str:
        source = (REPOSITORY / "tests/plugins/colour_tagger.py").read_text()
        declared = 'quirks=(Quirk("dim", "dims"),), presets=("experiment/theirs",)'
        source = source.replace('"colour", ColourOptions', f'"preset", ColourOptions, {declared}')
        source = source.replace("import register", "import Quirk, register")
        (tmp_path / "preset_tagger.py").write_text(source)
        if preset is not None:
            path = tmp_path / "configs" / "experiment" / "theirs.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# @package _global_\n{preset}\n")
        sys.modules.pop("preset_tagger", None)
        return "plugins=[preset_tagger]"

    monkeypatch.syspath_prepend(str(tmp_path))
    return write


def test_a_preset_of_a_plugin_is_data(with_preset, run_stage, arguments):
    given = [*without_methods(arguments), "experiment=theirs", "stage=tags", "dry_run=true"]
    plugins = with_preset(
        "defaults: [{override /tags: preset}]\ntags: {gain: 0.5}\nexecutor: {name: x}"
    )
    wrong = run_stage(plugins, *given)
    assert wrong.code == 2 and "there is no executor x" in wrong.errors
    with_preset("defaults: [{override /tags: preset}]\nplugins: [evil]")
    wrong = run_stage(plugins, *given)
    assert wrong.code == 2 and "cannot name code" in wrong.errors
    with_preset("defaults: [{override /tags: preset}]\ntags: {gain: 0.5}\ncompat: {dim: false}")
    finished = run_stage(plugins, *given, "--cfg", "job")
    assert finished.code == 0, finished.errors
    assert "gain: 0.5" in finished.output and "dim: false" in finished.output
    released = [*without_methods(arguments), "tags=preset", "compat=released"]
    assert "dim: true" in run_stage(plugins, *released, "--cfg", "job").output


def test_a_method_may_be_declared_where_there_is_no_file(forgotten):
    forgotten("tags", "cell")  # as in a notebook, or behind python -c
    settings = make_dataclass("Cell", [], bases=(ColourOptions,), namespace={"__module__": "cell"})
    register("tags", "cell", settings)(lambda options, resources: None)
    assert compose(["tags=cell"]).tags.gain == 1


def test_what_a_plugin_declares_is_checked(with_preset, run_stage, arguments, forgotten):
    forgotten("cams", "another")
    missing = run_stage(with_preset(None), *without_methods(arguments), "tags=preset")
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
    try:
        assert found in str(look_up())
    finally:
        registry.TEMPLATES.update(sets)


def test_installed_packages_offer_methods_by_an_entry_point(tmp_path, monkeypatch, forgotten):
    forgotten("tags", "installed")
    (tmp_path / "installed_tagger.py").write_text(
        "from dataclasses import dataclass\n"
        "from pipeline.configuration.registry import register\n"
        "from pipeline.tags.tagger import ScoredTagOptions, Tagger\n"
        "@dataclass\nclass Options(ScoredTagOptions):\n    pass\n"
        "@register('tags', 'installed', Options)\nclass Installed(Tagger):\n    pass\n"
    )
    about = tmp_path / "installed_tagger-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-tagger\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[annotation_free_segmentation]\ninstalled = installed_tagger\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "installed_tagger", raising=False)
    search = importlib.metadata.entry_points.__wrapped__
    monkeypatch.setattr("importlib.metadata.entry_points", search)
    import_plugins([])
    config = read_config(compose(["dataset=demo", "tags=installed"]))
    assert type(config.tags).__module__ == "installed_tagger"


def without_methods(arguments: list[str]) -> list[str]:
    """Returns the arguments that choose images, CLIP and output directory."""
    return [a for a in arguments if a.startswith(("dataset", "clip", "output_dir"))]


@pytest.fixture
def registered(forgotten):
    """Registers a method for the time of a test: registered(group, name, **fields of settings)."""

    def add(group, name, *bases, **given):
        defaults = [(key, type(value), field(default=value)) for key, value in given.items()]
        options = make_dataclass("Options", defaults, bases=bases)
        register(group, name, options)(lambda options, resources: None)
        forgotten(group, name)

    return add


def test_a_method_has_a_group_and_a_name_that_is_free(registered):
    registered("tag", "colours", ScoredTagOptions)
    with pytest.raises(UserError, match="group tag: did you mean tags?"):
        compose([])


def test_a_method_that_computes_nothing_is_named(forgotten, run_stage, arguments):
    for group, base, settings in (
        ("tags", Tagger, ScoredTagOptions),
        ("cams", CamMethod, CamOptions),
    ):
        forgotten(group, "empty")
        method = type("Empty", (base,), {"__init__": lambda self, options, resources: None})
        options = make_dataclass("EmptyOptions", [], bases=(settings,))
        register(group, "empty", options)(method)
        given = [f"{group}=empty", f"stage=[tags,{group}]"]
        finished = run_stage(PLUGINS, "tags=colour", *without_methods(arguments), *given)
        assert finished.code == 2 and "Empty has no method " in finished.errors


def test_help_on_settings_of_a_plugin_in_any_order(registered, run_tool):
    registered("tags", "bare", ScoredTagOptions, gain=2.0)
    for words in (["help", "tags=bare", PLUGINS], [PLUGINS, "tags=bare", "help"]):
        finished = run_tool("run_stage.py", *words)
        assert finished.code == 0 and "tags.gain=2" in finished.output
        assert "Options(" not in finished.output, "a dataclass without a docstring"


def test_a_method_does_not_take_the_name_of_a_preset(registered):
    registered("masks", "argmax", MaskOptions)
    with pytest.raises(UserError, match="masks=argmax, .*argmax.yaml"):
        compose([])


def test_a_method_has_the_settings_that_its_stage_reads(registered, arguments):
    registered("tags", "hiding", TagOptions)
    config = read_config(compose([*without_methods(arguments), "tags=hiding"]))
    with pytest.raises(UserError, match="tags=hiding, .*ScoredTagOptions"):
        Pipeline.open(config).stages(["tags"])


def test_a_setting_may_be_a_choice_of_python(registered, arguments):
    registered("tags", "hiding", ScoredTagOptions, colour=Enum("Colour", "RED BLUE").RED)

    def key(*more):
        config = read_config(compose([*without_methods(arguments), "tags=hiding", *more]))
        return Pipeline.open(config).stages(["tags"])[0].key

    assert key() == key("tags.colour=RED") != key("tags.colour=BLUE")
    with pytest.raises(UserError, match="^tags.colour"):
        key("tags.colour=GREEN")


@pytest.mark.parametrize("name", ["longest_side", "classes", "code"])
def test_a_setting_does_not_hide_another_part_of_the_key(name, registered, arguments):
    """Two facts of one name would be one entry of the key, so that a change could go unseen."""
    registered("tags", "hiding", ScoredTagOptions, **{name: 1})
    given = compose([*without_methods(arguments), "tags=hiding", f"tags.{name}=2"])
    (stage,) = Pipeline.open(read_config(given)).stages(["tags"])[:1]
    with pytest.raises(UserError, match=f"a method has a setting {name}, .* rename the setting"):
        _ = stage.key


def test_the_class_names_are_part_of_the_key(arguments):
    """A method may read all of the vocabulary, so a change of any name computes anew."""

    def keys(*more: str) -> list[tuple[str, str]]:
        import_plugins(take_plugins(arguments)[0])
        config = read_config(compose([*take_plugins(arguments)[1], *more]))
        steps = Pipeline.open(config).stages(["tags", "cams", "masks"])
        return [(step.key, step.own_key) for step in steps]

    for change in ("dataset.classes=[blue,green,red]", "dataset.backgrounds=[sky]"):
        for before, after in zip(keys(), keys(change), strict=True):
            assert before[0] != after[0] and before[1] != after[1]


def test_a_plugin_that_fails_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_tagger.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"imported \(ZeroDivisionError"):
        import_plugins(["broken_tagger"])
    (tmp_path / "broken_tagger.py").write_text("raise SystemExit(7)  # edited\n")
    with pytest.raises(UserError, match=r"cannot be imported \(SystemExit: 7"):
        import_plugins(["broken_tagger"])


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
def test_an_exception_of_a_plugin_names_its_line(
    executor, forgotten, without_plugins, run_stage, tmp_path, monkeypatch
):
    forgotten("tags", "failing")
    file = tmp_path / "failing_tagger.py"
    file.write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # of workers, which start anew
    get_reusable_executor().shutdown(kill_workers=True)
    sys.modules.pop("failing_tagger", None)
    options = "plugins=[failing_tagger]", "tags=failing", "stage=tags", f"executor={executor}"
    finished = run_stage(*without_plugins, *options)
    line = FAILING.splitlines().index(next(t for t in FAILING.splitlines() if "last line" in t)) + 1
    assert finished.code == 2 and finished.errors.count("\n") == 1
    assert finished.errors.startswith(f"error: {file}, line {line}: LinAlgError: Singular matrix")
    assert "tags=failing failed on image " in finished.errors
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    again = run_stage(*options)
    # Which image fails first is a matter of processes.
    assert again.code == 2 and finished.errors.partition("tags=failing")[0] in again.errors
    assert "Traceback" in again.errors and "linalg.py" in again.errors


def test_an_edited_plugin_has_another_key(forgotten, arguments, tmp_path, monkeypatch):
    forgotten("tags", "edited")
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        (REPOSITORY / "tests/plugins/colour_tagger.py").read_text().replace('"colour"', '"edited"')
    )

    def key(text):
        (tmp_path / "edited_tagger.py").write_text(text)
        sys.modules.pop("edited_tagger", None)
        registry.source_of.cache_clear()
        import_plugins(["edited_tagger"])
        config = read_config(compose([*without_methods(arguments), "tags=edited"]))
        return Pipeline.open(config).stages(["tags"])[0].key

    assert key(source) == key(source) != key(f"{source}\n")


def test_an_edited_template_set_gives_other_keys(forgotten, tmp_path, monkeypatch):
    """Whatever method of ours chooses it, and through the sets that it names."""
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (REPOSITORY / "tests/plugins/colour_tagger.py").read_text()
    source = source.replace('"colour", ColourOptions', '"one", ColourOptions, templates=SCANS')
    source = source.replace("@dataclass", "SCANS = {'scans': ('a scan of {}',)}\n\n\n@dataclass")
    source += "\nclass More(ColourOptions):\n    pass\n\n"
    source += "both = {'both': ('scans', 'imagenet')}\n"
    source += "register('tags', 'two', More, templates=both)(ColourTagger)\n"
    for method, name in (("one", "scans"), ("two", "both")):
        forgotten("tags", method)
        monkeypatch.setitem(registry.TEMPLATES, name, ())
        del registry.TEMPLATES[name]

    def keys(text: str, templates: str) -> list[tuple[str, str, object]]:
        (tmp_path / "templates_tagger.py").write_text(text)
        sys.modules.pop("templates_tagger", None)
        import_plugins(["templates_tagger"])
        given = ["dataset=demo", "tags=tagclip", "masks=dense", "cams=value_path"]
        given += [f"{group}.templates={templates}" for group in ("tags", "cams", "masks")]
        stages = Pipeline.open(read_config(compose(given))).stages(["tags", "cams", "masks"])
        return [(each.key, each.own_key, each.own_settings()["templates"]) for each in stages]

    edited = source.replace("a scan of {}", "a {} on paper")
    for templates, prompts in (("scans", []), ("both", ["imagenet"])):
        before, again, after = (keys(text, templates) for text in (source, source, edited))
        assert before == again
        for one, other in zip(before, after, strict=True):
            assert one[0] != other[0] and one[1] != other[1]
            assert other[2] == ["a {} on paper", *prompts]
    assert keys(source, "tagclip")[0][2] == "tagclip", "one of ours"


def test_an_edit_of_what_a_plugin_names_gives_another_key(tmp_path, monkeypatch):
    """The module that computes need not be imported for it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    computing = tmp_path / "computing_tagger.py"
    build = f"{computing.stem}:Tagger"
    method = registry.Method("tags", "named", ColourOptions, build)

    def source(text):
        computing.write_text(text)
        registry.source_of.cache_clear()
        return method.key_facts["method_source"]

    assert source("Tagger = 1\n") == source("Tagger = 1\n") != source("Tagger = 2\n")
    assert computing.stem not in sys.modules
    computing.unlink()
    registry.source_of.cache_clear()
    assert method.key_facts["method_source"], "of its settings alone"


def test_contents_that_cannot_be_read_are_named(registered, arguments):
    def contents(self, vocabulary):
        return {"read": Path("no/such/file").read_text()}

    registered("tags", "reading", type("Reading", (ScoredTagOptions,), {"contents": contents}))
    config = read_config(compose([*without_methods(arguments), "tags=reading"]))
    with pytest.raises(UserError, match="no/such/file: No such file or"):
        _ = Pipeline.open(config).stages(["tags"])[0].key


def test_plugins_are_taken_from_the_command_line():
    assert take_plugins(["plugins=[a,b.c]", "stage=tags"]) == (["a", "b.c"], ["stage=tags"])
    assert take_plugins(["+plugins=a"]) == (["a"], [])


def test_python_takes_any_tagger_that_scores():
    labeller = Labeller(
        ["red", "green", "blue"],
        clip="demo",
        plugins=["tests.plugins.colour_tagger", "tests.plugins.colour_cams"],
        overrides=["tags=colour", "cams=channel", "masks=argmax"],
    )
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0] = 255
    labelling = labeller(image)
    assert labelling.names == ("red",)
    assert (labelling.mask[:, :24] == 1).all() and (labelling.mask[:, 40:] == 0).all()


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
    assert computed(run_stage(*arguments, stages, "executor=processes")) == expected
    assert computed(run_stage(*arguments, "stage=boxes")) == {"boxes": 0}
    folder = tmp_path / "out" / "all" / "boxes" / "latest"
    assert json.loads((folder / "a.json").read_text())
    (folder / "a.json").write_text("damaged")
    assert computed(run_stage(*arguments, "stage=boxes")) == {"boxes": 1}
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
