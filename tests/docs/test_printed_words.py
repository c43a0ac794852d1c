"""Settings, values, options, files and packages that messages and help texts name are there.

They are read from the source (``printed.py``), where a value stands for any.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.configuration.hydra import choices
from pipeline.configuration.registry import methods
from pipeline.configuration.settings import declared_settings
from pipeline.errors import UserError
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import parse_stages
from tests import REPOSITORY
from tests.docs.printed import Form, examples, options, texts
from tests.docs.test_commands import FOLDER_RUN, settings_and_arguments_exist
from tests.docs.workspace import words_of_each

_METAVAR = re.compile(r"[{…$%]|^$|^\[?[A-Z_0-9]+\]?$|\.\.\.")
_OVERRIDE = re.compile(
    r"(?<![\w./{}$\-\[<\"'=(])(\{[^{}]*\}(?:\.[a-z_]+)+|(?:\+\+)?[a-z_]+(?:\.[a-z_0-9]+)*)"
    r"=(\[[^\]]*\]|\{[^{}]*\}|'[^']*'|[^\s,;:)`}\]\"'?]*)"
)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+(?![\w-])")
_FILE = re.compile(r"(?<!--output )\b(?:tools/\w+\.py|docs/[\w-]+\.md|requirements\.txt)")
_PACKAGES = re.compile(r"pip install ((?:(?:--?[a-z-]+|'[^']+'|[\w.-]+)(?: |$|(?=[,;:)])))+)")
OTHERS = {"differentiable", "default", "checkpoint", "classes", "backgrounds", "keep", "blocks"}
OTHERS |= {"output", "attention", "precision", "neighbours", "which", "plugins", "x", "y", "key"}
OTHERS |= {"file", "proxy", "type", "id", "max", "class", "role"}
"""Arguments of functions, and parts of addresses and pages, which look like settings."""
FOREIGN = {"--ipc", "--editable", "--no-build-isolation", "--cfg"}
"""Options of docker and pip, and that of ``run_stage.py``, which any message may name."""
INSTALLED = {"opencv-python-headless", "opencv-python", "cython", "setuptools", "wheel"}
"""Packages that only other packages require."""


FILES = (".txt", ".csv", ".html", ".json", ".safetensors")
"""Ends of names of files, which begin as settings do."""


def messages() -> list[Form]:
    """Texts without those of a file for another program, other files' own keys, and what went."""
    skipped = ("pipeline/exchange/formats/label_images.py", "pipeline/datasets/sources.yaml")
    forms = [form for form in texts() if form.file not in skipped]
    went = "configuration/removed_"
    return [replace(f, text=f.text.partition(": ")[2]) if went in f.file else f for f in forms]


def unknown_settings(form: Form, known_keys: set[str]) -> list[str]:
    text = re.sub(r"(?<=\{)[^{}]+(?=\})", "", form.text)
    groups = {*choices(), *(known.partition(".")[0] for known in known_keys)}
    given = [match[1] for match in _OVERRIDE.finditer(text)]
    named = rf"(?<![\w./{{}}$'\-])((?:{'|'.join(groups)})(?:\.[a-z_0-9]+)+)(?![\w(/=]|\.\w)"
    given += [key for key in re.findall(named, text) if not key.endswith(FILES)]
    return [
        key
        for key in given
        if not any(known.endswith(key.removeprefix("{}")) for known in known_keys if key[0] == "{")
        and key not in {*known_keys, *groups, *OTHERS}
        and not any(part in key for part in (".overrides.", ".cluster."))
    ] + [key for key in given if ".overrides." in key and not key.startswith("++")]


def test_settings_within_messages_exist(known_keys):
    wrong = [
        f"{k} in {form.place}" for form in messages() for k in unknown_settings(form, known_keys)
    ]
    assert not wrong, "\n".join(wrong)


def values_in(form: Form) -> set[tuple[str, str]]:
    """Returns the settings and values that a message spells out."""
    if form.file.endswith("published.yaml"):  # commands of tables, which are typed
        return set()
    found = ((key, value.rstrip(".")) for key, value in _OVERRIDE.findall(form.text))
    return {(k, v) for k, v in found if k not in OTHERS and not _METAVAR.search(v)}


def refusal(key: str, value: str, known_keys: set[str]) -> str:
    """Returns why no choice that has a key takes a value, "" if one does."""
    if key.startswith("{"):
        having = sorted(known for known in known_keys if known.endswith(key.partition("}")[2]))
        refusals = [refusal(known, value, known_keys) for known in having]
        return next(iter(refusals), "no such setting") if all(refusals) else ""
    group, said = key.lstrip("+").partition(".")[0], ""
    names = [m.name for m in methods(group) if f"{key}." in keys_of(m.settings, group)]
    names = names or choices().get(group, ())
    for chosen in ([], *([f"{group}={name}"] for name in sorted(names) if "." in key)):
        try:
            if key == "stage" and value != "status":
                parse_stages(value.strip("[]").split(","))
            else:
                read_config(compose([*chosen, f"{key}={value}"]))
        except UserError as error:
            if "is missing: give it" in str(error):  # such as dataset.root
                return ""
            said = said or str(error)
        else:
            return ""
    return said


def keys_of(settings: type, group: str) -> str:
    return " ".join(f"{declared.key}." for declared in declared_settings(settings, group))


def test_values_within_messages_are_allowed(known_keys):
    places = {given: form.place for form in messages() for given in values_in(form)}
    found = {place: refusal(*given, known_keys) for given, place in sorted(places.items())}
    wrong = [f"{said}: {place}" for place, said in found.items() if said]
    assert not wrong, "\n".join(wrong)


def unknown_words(form: Form) -> list[str]:
    """Returns the options, files and packages that a message names, and that are not there."""
    declared = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    own = options().get(form.file.replace(".txt", ".py"))
    known = set().union(*options().values()) if own is None else own
    known |= FOREIGN | options()["pipeline/commands/command_line.py"]
    names = [name for name in _OPTION.findall(form.text) if name not in known]
    names += [name for name in _FILE.findall(form.text) if not (REPOSITORY / name).is_file()]
    for words in _PACKAGES.findall(form.text):
        bare = re.sub(r"[<>=].*?(?=['\s])", "", words.replace("requirements.txt", ""))
        for name in re.findall(r"(?<![\w-])[a-z][\w-]+", bare):
            is_declared = re.search(rf'"{name}[\["<>=;]', declared) is not None
            names += [] if is_declared or name in INSTALLED else [name]
    extras = re.findall(r"\.\[(\w+)\]", form.text)
    return names + [name for name in extras if f"\n{name} = [" not in declared]


def test_options_files_and_packages_within_messages_exist():
    # Pages have variables of CSS, which look like options.
    forms = [form for form in messages() if not form.file.endswith((".html", ".js"))]
    wrong = [f"{word} in {form.place}" for form in forms for word in unknown_words(form)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "text",
    [
        *("give tags.min_scor=0", "raise tags.min_scor.", "choose clasp=vit_b16, or none"),
        *("give {prefix}.croof=null", "choose masks=crff", "give tags.standardise=[clas]"),
        *("with tags.alpha=two {more}", "run stage=tagz first", "run stage=[tags,maskz] first"),
        *("leave --imagez out", "run python tools/predct.py", "run pip install gradioo, or none"),
        "or segmenter.overrides.backbone.type=ResNet",
        *("install '.[ap]'", "see docs/add-a-methd.md", "give {prefix}.reidentify=maybe"),
    ],
)
def test_a_wrong_word_in_a_message_would_be_found(text, known_keys):
    form = Form("pipeline/commands/export.py", 1, text)
    refused = [said for given in values_in(form) if (said := refusal(*given, known_keys))]
    assert unknown_settings(form, known_keys) or unknown_words(form) or refused


STANDS_FOR = {
    "URL": "https://127.0.0.1/a.zip",
    "{{ file }}": "model.onnx",
    "help KEY": "help seed",
    " [OPTION] [stage=STAGE] KEY=VALUE …": " stage=tags seed=1",
}


EXAMPLES = sorted({form.text for form in examples()})


@pytest.fixture(scope="module")
def words() -> dict[str, list[str]]:
    """Example → its words, as the shell hands them over."""
    lines = EXAMPLES
    for word, value in STANDS_FOR.items():
        lines = [line.replace(word, value) for line in lines]
    return dict(zip(EXAMPLES, words_of_each(lines), strict=True))


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_is_accepted(line, words, tmp_path, monkeypatch):
    """What ``--help`` shows: its settings compose, and its tool has its options."""
    if len(words[line]) > 2:  # the others are headings
        settings_and_arguments_exist("--help", words[line], tmp_path, monkeypatch)
    assert (REPOSITORY / words[line][1]).is_file(), line


FOLDER = "outputs/folder"
IN_WORKSPACE = {
    "…": "dataset=folder dataset.root=PHOTOS dataset.classes=[cat,person,cup]",
    "outputs/voc2012/train": f"{FOLDER}/all",
    "--checkpoint DIR": f"--checkpoint {FOLDER}/segmenter/latest",
    "pets/": "",
    "compare.py outputs/folder": "compare.py outputs/demo",  # with one list of classes
    "/data/results other/metrics.json": f"outputs {FOLDER}/metrics.json",
    "--output docs/": "--output ",
    "--ids a/b c": "--ids holiday/img_17 img_18",
    "SAM3_MASKS": "TWO",
}
"""Names in examples → what is there."""
REFUSED = {
    "--splits report": "no combination was measured on each",
}
"""Words of examples that need results of hours → what is said without these."""


@pytest.mark.large
def test_examples_are_typed_one_after_the_other(type_command, tmp_path):
    """Those of the app, the benchmark and the demo's training, which take long, are accepted."""
    assert type_command(FOLDER_RUN).code == 0
    for name in ("first", "second"):
        shutil.copytree(tmp_path / FOLDER, tmp_path / "outputs" / name, symlinks=True)
    shutil.copy(tmp_path / FOLDER / "segmenter/latest/iter_2.pth", tmp_path / "iter_20000.pth")
    for name in ("one.jpg", "two.png"):
        Image.open(tmp_path / "photograph.jpg").save(tmp_path / name)
    for path in (tmp_path / "PHOTOS").rglob("*.*"):
        labels = np.arange(3, dtype=np.uint8).repeat(32)[: Image.open(path).width]
        target = tmp_path / "TWO" / path.relative_to(tmp_path / "PHOTOS").with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.tile(labels, (Image.open(path).height, 1))).save(target)
    typed = {form.text: form.file for form in examples()}
    # Stages and exports come first, as others read what they write.
    order = ("run_stage.py …", "pets/|{{ file", "py (?!dataset|stage|experiment|-m)")
    for line in sorted(typed, key=lambda line: [bool(re.search(each, line)) for each in order]):
        if line.count(" ") < 2 or "tools" in typed[line] or "app.py" in line or "[OPTION]" in line:
            continue
        for words, value in {**IN_WORKSPACE, **STANDS_FOR}.items():
            line = line.replace(words, value)
        if "3c1d0a52b7e9" in line:
            masks = tmp_path / "outputs/demo/val/masks"
            others = {p.name for p in masks.iterdir()} - {
                "latest",
                (masks / "latest").resolve().name,
            }
            line = line.replace("3c1d0a52b7e9", min(others))
        line += " --dry-run" * ("download.py" in line and "--list" not in line)
        line += " --yes" * ("clean.py" in line and "--dry" not in line)
        done, refused = type_command(line), [s for words, s in REFUSED.items() if words in line]
        assert done.code == 2 * bool(refused), f"{line}\n{done.output[-800:]}{done.errors[-800:]}"
        assert all(said in done.errors for said in refused)
