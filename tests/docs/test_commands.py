"""Every command of README and docs/ works: typed on stand-ins, or at least its settings compose.

``make docs-test``, which CI runs as well, types all of them; the suite types those of one page.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from pipeline.commands import download
from pipeline.commands.command_line import Parser
from pipeline.commands.settings_help import help_on
from pipeline.configuration.hydra import choices
from pipeline.stages.config import compose
from pipeline.stages.pipeline import parse_stages
from tests import REPOSITORY
from tests.docs.pages import MODES, PAGES, Block, read_blocks, read_prose
from tests.docs.workspace import (
    SCRATCH,
    TINY_LIGHT,
    TINY_TRAINING,
    stand_in,
    words_of,
)

EVERYTHING = os.environ.get("DOCS") == "all"
QUICK = ("add-a-method.md",)
BLOCKS = {page: read_blocks(page) for page in PAGES}
COMMANDS = [
    pytest.param(block, line, id=f"{block.place}+{number}")
    for blocks in BLOCKS.values()
    for block in blocks
    if block.language == "sh" and block.mode != "norun"
    for number, line in enumerate(block.commands)
]
RUN_STAGE = ["python", "tools/run_stage.py"]
FOLDER_RUN = (
    "python tools/run_stage.py dataset=folder dataset.root=PHOTOS"
    " 'dataset.classes=[cat,person,cup]' clip=vit_b16"
)


def runs(page: Path) -> list[Block]:
    return [block for block in BLOCKS[page] if block.mode == "run"]


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def test_every_block_says_what_is_done_with_it():
    for blocks in BLOCKS.values():
        for block in blocks:
            if block.language == "sh" or block.mode:
                assert block.language in ("sh", "python"), block.place
                assert block.mode in MODES, block.place
            if block.mode in ("norun", "compose"):
                assert block.options.get("reason"), f"{block.place}: say why it is not run"


@pytest.mark.large
@pytest.mark.parametrize(("block", "line"), COMMANDS)
def test_settings_and_arguments_exist(block: Block, line: str, tmp_path, monkeypatch):
    assert shlex.split(line)[0] == "python", f"{block.place}: say norun"
    settings_and_arguments_exist(block.place, words_of(line), tmp_path, monkeypatch)


def settings_and_arguments_exist(
    place: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composes the settings of a command line, or has its tool read its arguments, and no more."""
    _, program, *arguments = words
    assert (REPOSITORY / program).is_file(), program
    if program == RUN_STAGE[1]:
        folders = [own for own in arguments if own.startswith("--config-dir")]
        plugins = any(argument.startswith("plugins=") for argument in arguments)
        if arguments[:1] == ["help"] and not plugins:
            assert all(map(help_on, arguments[1:]))
        elif not {"help", "--help", "--cfg"} & set(arguments) and not folders and not plugins:
            composes(arguments)
        return
    if program == "tools/download.py":  # its settings are not parsed by argparse
        monkeypatch.chdir(tmp_path)
        download.run([*arguments, "--dry-run"])
        return
    parsed = []

    def stopping(read: Callable) -> Callable:
        def read_and_stop(self, *args, **kwargs):
            parsed.append(read(self, *args, **kwargs))
            raise KeyboardInterrupt

        return read_and_stop

    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(Parser, name, stopping(getattr(Parser, name)))
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / program), run_name="__main__")
    assert parsed and ended.value.code == 130, f"{place}: {words}"


def composes(arguments: list[str]) -> None:
    """Composes a configuration as the command line would; of a sweep, its first setting."""
    overrides = []
    for override in OverridesParser.create().parse_overrides(
        [argument for argument in arguments if argument not in ("-m", "--multirun")]
    ):
        text = override.input_line
        overrides.append(text.split(",")[0] if override.is_sweep_override() else text)
    config = compose(overrides)
    OmegaConf.to_container(config, resolve=True)
    if config.stage != "status":
        assert parse_stages(OmegaConf.to_container(config)["stage"])


SKETCHES = [
    pytest.param(line, id=f"{block.place}+{number}")
    for blocks in BLOCKS.values()
    for block in blocks
    if not block.language
    for number, line in enumerate(block.text.replace("\\\n", " ").splitlines())
    if line.startswith(" ".join(RUN_STAGE))
]
"""Commands of which a page leaves out a part (…), in blocks without an info string."""


@pytest.mark.parametrize("line", SKETCHES)
def test_what_a_sketched_command_says_exists(line: str):
    words = words_of(line.partition("…")[0])[2:]
    composes([word for word in words if "=" in word])


@pytest.mark.parametrize("line", ["", "--help", "help tags.min_score", "stage=status"])
def test_a_command_without_a_choice_is_typed_as_it_stands(line):
    assert stand_in(line.split(), Path("clip.pt")) == line.split()


@pytest.mark.parametrize("wrong", ["tags.alfa=1", "dataset=voc2013", "experiment=no_such"])
def test_a_wrong_setting_in_a_page_would_be_found(wrong):
    with pytest.raises(Exception, match="there is no"):
        composes([wrong])


@pytest.mark.parametrize("page", [page for page in PAGES if runs(page)], ids=name_of)
def test_the_commands_of_a_page_work_one_after_the_other(
    page, type_command, tiny_checkpoint, tmp_path
):
    if not EVERYTHING and page.name not in QUICK:
        pytest.skip("make docs-test types these")
    if any(block.options.get("needs") == "segmenter" for block in BLOCKS[page]):
        assert type_command(FOLDER_RUN).code == 0
    for block in BLOCKS[page]:
        if "file" in block.options:
            path = tmp_path / block.options["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        if block.mode != "run":
            continue
        if block.language == "python":
            run_python(block, tiny_checkpoint)
            continue
        for line in block.commands:
            finished = type_command(line)
            told = f"{block.place}: {line}\n{finished.output[-800:]}\n{finished.errors[-800:]}"
            assert finished.code == int(block.options.get("exit", 0)), told


def run_python(block: Block, checkpoint: Path) -> None:
    """Runs an example; a tiny CLIP and a short training stand in for those that take long."""
    standin = f'checkpoint="{checkpoint}"'
    if "overrides=" not in block.text:
        standin += ', overrides=["tags.min_score=0"]'  # a random CLIP is sure of nothing
    program = block.text.replace('clip="vit_b16"', standin)
    program = program.replace(
        "iterations=1000", f"overrides={[*TINY_TRAINING, SCRATCH, *TINY_LIGHT]}"
    )
    exec(compile(program, block.place, "exec"), {"__name__": "__main__"})


def test_a_page_names_no_file_of_the_repository_that_is_not_there():
    for page in PAGES:
        text = read_prose(page)
        for name in re.findall(r"`((?:pipeline|configs|tools|tests)/[\w./-]*)`", text):
            if name not in TO_BE_WRITTEN:
                assert (REPOSITORY / name).exists(), f"{page.name} names {name}"


TO_BE_WRITTEN = {"pipeline/datasets/tiles.py", "configs/dataset/tiles.yaml"}
"""What a page tells its reader to write."""


_SETTING = re.compile(r"^([a-z_]+(?:\.[a-z_]+)*)=(\S+)$")
_PLACEHOLDER = re.compile(r"…|[A-Z]{3,}|^N$|<|\.{3}")


@pytest.mark.large
def test_settings_within_the_text_exist(known_keys):
    seen = 0
    for page in PAGES:
        text = read_prose(page)
        for code in re.findall(r"`([^`]+)`", text):
            if code.startswith("make "):
                assert re.search(rf"^{code.split()[1]}:", MAKEFILE, re.MULTILINE), code
            for word in code.split():
                match = _SETTING.match(word)
                if match is None or _PLACEHOLDER.search(word):
                    continue
                seen += 1
                key, value = match.groups()
                if (REPOSITORY / "configs" / key).is_dir() and value != "null":
                    there = (REPOSITORY / "configs" / key / f"{value}.yaml").is_file()
                    there |= value in choices()[key]
                    assert there or value in OWN, f"{page.name}: {word}"
                else:
                    # A page may leave out the group that it has just named.
                    short = any(known.endswith(f".{key}") for known in known_keys)
                    assert key in known_keys or short or key in OTHERS, f"{page.name}: {word}"
    assert seen > 60


MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
OTHERS = {
    "clip",
    "keep",
    "checkpoint",
    "overrides",
    "value",
    "uses_clip",
    "algorithm",
    "plugins",
    "quirks",
    "reads",
    "batch_size",
    "multiprocessing_context",
}
"""Arguments of functions and tags, which look like settings."""
OWN = {"holiday", "tiles", "best_patches", "contrast", "keys", "majority", "glob(*)"}
"""Choices that a page has its reader write."""
