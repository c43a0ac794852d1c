"""Settings, values, options, files and packages that messages and help texts name are there.

They are read from the source (``printed.py``), where a value stands for any.
"""

from __future__ import annotations

import re

import pytest

from pipeline.configuration.hydra import choices
from pipeline.configuration.registry import methods
from pipeline.configuration.settings import declared_settings
from pipeline.errors import UserError
from pipeline.stages.config import compose, read_config
from pipeline.stages.pipeline import parse_stages
from tests import REPOSITORY
from tests.docs.printed import Form, examples, options, texts
from tests.docs.test_commands import settings_and_arguments_exist

_METAVAR = re.compile(r"[{…$%]|^$|^\[?[A-Z_0-9]+\]?$|\.\.\.")
_OVERRIDE = re.compile(
    r"(?<![\w./{}$\-\[<\"'=(])(\{[^{}]*\}(?:\.[a-z_]+)+|[a-z_]+(?:\.[a-z_0-9]+)*)"
    r"=(\[[^\]]*\]|\{[^{}]*\}|'[^']*'|[^\s,;:)`}\]\"'?]*)"
)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+(?![\w-])")
_FILE = re.compile(r"(?<!--output )\b(?:tools/\w+\.py|docs/[\w-]+\.md|requirements\.txt)")
_PACKAGES = re.compile(r"pip install ((?:(?:--?[a-z-]+|'[^']+'|[\w.-]+)(?: |$))+)")
OTHERS = {"differentiable", "default", "checkpoint", "classes", "backgrounds", "keep", "blocks"}
OTHERS |= {"output", "attention", "precision", "neighbours", "which", "plugins", "x", "y", "key"}
OTHERS |= {"file", "proxy", "type", "id", "max", "class", "role"}
"""Arguments of functions, and parts of addresses and pages, which look like settings."""
FOREIGN = {"--ipc", "--editable", "--no-build-isolation", "--cfg"}
"""Options of docker and pip, and that of ``run_stage.py``, which any message may name."""
INSTALLED = {"opencv-python-headless", "opencv-python", "cython", "setuptools", "wheel"}
"""Packages that are no requirements of ours, but of these."""


def messages() -> list[Form]:
    """Texts without those of a file for another program, and without other files' own keys."""
    skipped = ("pipeline/exchange/formats/label_images.py", "pipeline/datasets/sources.yaml")
    return [form for form in texts() if form.file not in skipped]


def test_settings_within_messages_exist(known_keys):
    groups, wrong = choices().keys(), []
    bare = re.compile(rf"(?<![\w./{{}}$'\-])((?:{'|'.join(groups)})(?:\.[a-z_0-9]+)+)(?![\w(/=.])")
    for form in messages():
        text = re.sub(r"(?<=\{)[^{}]+(?=\})", "", form.text)
        if form.file.endswith("removed_keys.yaml"):
            text = text.partition(":")[2]
        for match in _OVERRIDE.finditer(text):
            key = match[1]
            if key.startswith("{"):
                is_known = any(known.endswith(key.partition("}")[2]) for known in known_keys)
            else:
                open_group = any(part in key for part in (".overrides.", ".cluster."))
                is_known = key in known_keys or key in groups or key in OTHERS or open_group
            wrong += [f"{key}= in {form.place}"] * (not is_known)
        for key in bare.findall(text):
            is_file = key.rpartition(".")[2] in ("txt", "csv", "html", "json", "safetensors")
            wrong += [f"{key} in {form.place}"] * (not is_file and key not in known_keys)
    assert not wrong, "\n".join(wrong)


def values() -> dict[tuple[str, str], Form]:
    """Setting and value, as messages spell them out → a message."""
    found = {}
    for form in messages():
        if form.file.endswith("published.yaml"):  # commands of tables, which are typed
            continue
        for key, value in _OVERRIDE.findall(form.text):
            if key not in OTHERS and not _METAVAR.search(value.rstrip(".")):
                found[key, value.rstrip(".")] = form
    return found


def test_values_within_messages_are_allowed(known_keys):
    wrong = []
    for (key, value), form in values().items():
        suffix = key.partition("}")[2] if key.startswith("{") else ""
        keys = [k for k in sorted(known_keys) if k.endswith(suffix)] if suffix else [key]
        refusals = [refusal(k, value) for k in keys]
        wrong += [f"{form.place}: {refusals[0]}"] * all(refusals)
    assert not wrong, "\n".join(wrong)


def refusal(key: str, value: str) -> str:
    """Returns why no choice that has a key takes a value, "" if one does."""
    if key == "stage":
        stages = value.strip("[]").split(",")
        return "" if stages == ["status"] or parse_stages(stages) else "no stage"
    group, said = key.partition(".")[0], ""
    names = [m.name for m in methods(group) if f"{key}." in keys_of(m.settings, group)]
    names = names or choices().get(group, ())
    for chosen in ([], *([f"{group}={name}"] for name in sorted(names) if "." in key)):
        try:
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


def test_options_files_and_packages_within_messages_exist():
    declared = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    shared, every = options()["pipeline/commands/command_line.py"], set().union(*options().values())
    wrong = []
    for form in messages():
        if form.file.endswith((".html", ".js")):
            continue  # they have variables of CSS
        own = options().get(form.file.replace(".txt", ".py"))
        known = (every if own is None else own | shared) | FOREIGN
        names = [name for name in _OPTION.findall(form.text) if name not in known]
        names += [n for n in _FILE.findall(form.text) if not (REPOSITORY / n).is_file()]
        for words in _PACKAGES.findall(form.text):
            for word in re.findall(
                r"(?<![\w-])[a-z][\w-]+", re.sub(r"[<>=].*?(?=['\s])", "", words)
            ):
                is_known = re.search(rf'"{word}[\["<>=;]', declared) or word in INSTALLED
                names += [] if is_known or word in ("requirements", "txt") else [f"package {word}"]
        names += [e for e in re.findall(r"\.\[(\w+)\]", form.text) if f"\n{e} = [" not in declared]
        wrong += [f"{name} in {form.place}" for name in names]
    assert not wrong, "\n".join(wrong)


STANDS_FOR = {
    "URL": "https://127.0.0.1/a.zip",
    "{{ file }}": "a.onnx",
    "… ": "",
    "help KEY": "help seed",
    " [OPTION] [stage=STAGE] KEY=VALUE …": " stage=tags seed=1",
}


@pytest.mark.parametrize("line", sorted({form.text for form in examples()}))
def test_an_example_is_accepted(line, tmp_path, monkeypatch):
    """What ``--help`` shows: its settings compose, and its tool has its options."""
    for words, value in STANDS_FOR.items():
        line = line.replace(words, value)
    if line.count(" ") > 1:  # the others are headings
        settings_and_arguments_exist("--help", line, tmp_path, monkeypatch)
    assert (REPOSITORY / line.split()[1]).is_file(), line
