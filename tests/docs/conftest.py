"""The settings that there are, and a folder in which commands are typed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pipeline.configuration.registry import methods
from pipeline.stages.config import all_settings, compose
from tests import REPOSITORY
from tests.docs.workspace import build_workspace, stand_in, words_of
from tests.small_runs import Finished


@pytest.fixture(scope="module")
def known_keys() -> set[str]:
    """Every key that there is, with any data set and with choices that bring keys of their own."""
    keys: set[str] = set()
    for name in sorted((REPOSITORY / "configs" / "dataset").glob("*.yaml")):
        GlobalHydra.instance().clear()
        config = compose([f"dataset={name.stem}", "executor=slurm"])
        keys |= set(keys_below(OmegaConf.to_container(config)))
    for method in methods():
        settings = OmegaConf.to_container(OmegaConf.structured(method.settings))
        keys |= set(keys_below({method.group: settings}))
    return keys | {declared.key for declared in all_settings()}  # of what is null by default, too


def keys_below(node: dict, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_below(value, f"{prefix}{key}.")


@pytest.fixture
def type_command(run_tool, tiny_checkpoint, monkeypatch, tmp_path) -> Callable[[str], Finished]:
    """Types a command line in a workspace and returns how it ended."""
    workspace = build_workspace(tmp_path)
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(str(workspace))  # as PYTHONPATH on add-a-method.md

    def type_it(line: str):
        _, program, *arguments = words_of(line)
        if program == "tools/run_stage.py":
            arguments = stand_in(arguments, tiny_checkpoint)
        GlobalHydra.instance().clear()
        return run_tool(Path(program).name, *arguments)

    return type_it
