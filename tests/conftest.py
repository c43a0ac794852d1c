"""A tiny encoder, a tiny data set, and the released code's golden outputs where they are there."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.metadata
import os
import random
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests import IN_CI, NOT_HERE, REPOSITORY, SHARED
from tests.small_runs import Finished, copy_results, draw_photograph, folder_options

if TYPE_CHECKING:  # the process that only distributes the tests need not wait for it
    from open_clip.model import CLIP

    from pipeline.clip.encoder import ClipEncoder

pytest_plugins = ["tests.costs"]
CHANGED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONSAFEPATH", "GOMP_SPINCOUNT")
ENVIRONMENT = {name: os.environ.get(name) for name in CHANGED}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what ``make soak`` and ``make versions`` ask for."""
    parser.addoption("--shuffle", metavar="SEED", help="run the files of tests in another order")
    parser.addoption("--soak", action="store_true", help="repeat every fault as often as make soak")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Runs the files from the last to the first.

    Those of whole runs are among the last; at the end they would leave the other process idle.
    """
    items.sort(key=lambda item: item.path, reverse=True)
    if (seed := config.getoption("--shuffle")) is not None:  # which every process of xdist shares
        items.sort(key=lambda item: random.Random(f"{seed} {item.path}").random())


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leaves what takes very long to ``make soak``."""
    if item.get_closest_marker("soak") and not item.config.getoption("--soak"):
        pytest.skip("make soak does it")


def pytest_collection_finish() -> None:
    """Has Python's collector look at what tests make, and not at what they import."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # rarely: a run leaves little behind
    gc.enable()
    atexit.register(gc.unfreeze)  # else libraries complain at the end of what they see alive


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tells in CI what was skipped, a line for each reason; what this processor lacks, last."""
    skipped: dict[tuple[bool, str], list[str]] = {}
    for report in terminalreporter.getreports("skipped") if IN_CI else ():
        reason = report.longrepr[2].removeprefix("Skipped: ")
        files = skipped.setdefault((reason.startswith(NOT_HERE), reason), [])
        files.append(report.nodeid.partition("::")[0])
    for is_not_here, lines in groupby(sorted(skipped.items()), lambda line: line[0][0]):
        terminalreporter.section(NOT_HERE if is_not_here else "skipped")
        for (_, reason), files in lines:
            where = ", ".join(sorted({*files}))
            reason = reason.removeprefix(f"{NOT_HERE}: ")
            terminalreporter.write_line(f"{len(files)} skipped: {reason} ({where})")


@pytest.fixture
def figures_are_current(monkeypatch):
    """Takes figures that a test wrote by hand, without results, for those of current ones."""
    monkeypatch.setattr("pipeline.evaluation.currency.Currency.remark", lambda *_: "")


@pytest.fixture(autouse=True, scope="session")
def configurations_are_composed_once() -> None:
    """Spares each run most of what Hydra takes."""
    from tests.compositions import remember_compositions

    remember_compositions()


@pytest.fixture(autouse=True, scope="session")
def what_stays_is_found_once() -> Iterator[None]:
    """Spares each run the search for plug-ins, and the dimensions of an unchanged checkpoint."""
    from pipeline.clip.origins.open_clip_origin import OfOpenClip

    find = OfOpenClip.dimensions.fget
    found = functools.cache(lambda origin, *_: find(origin))

    def dimensions(origin: OfOpenClip) -> tuple[int, int, int]:
        if origin.checkpoint is None or not Path(origin.checkpoint).is_file():
            return find(origin)
        state = Path(origin.checkpoint).stat()
        return found(origin, state.st_ino, state.st_size, state.st_mtime_ns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OfOpenClip, "dimensions", property(dimensions))
        entries = functools.cache(importlib.metadata.entry_points)
        patch.setattr("importlib.metadata.entry_points", entries)
        yield


@pytest.fixture(autouse=True, scope="session")
def disks_are_not_waited_for() -> Iterator[None]:
    """Spares each run seconds; runs that are killed are processes of their own, which wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def garbage_of_a_run_is_collected() -> Iterator[None]:
    """A program begins with what it imported; here the garbage of earlier runs would stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.freeze", lambda: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def trainings_have_short_logs() -> None:
    """Spares each training seconds."""
    from tests.segmenter.tiny_training import shorten_logs

    shorten_logs()


@pytest.fixture(autouse=True, scope="session")
def working_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder to work in: a person has results and scenes in the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("working"))
        yield Path.cwd()


@pytest.fixture(autouse=True)
def processes_start_as_a_person_starts_them() -> Iterator[None]:
    """Undoes what a tool changed of the environment, which a test runs in this process."""
    _restore_environment()  # a fixture of a whole session may have run one
    yield
    _restore_environment()


def _restore_environment() -> None:
    for name, value in ENVIRONMENT.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def kills(request: pytest.FixtureRequest) -> int:
    """How often every stage is killed."""
    return 30 if request.config.getoption("--soak") else 1


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Finds reference data, or skips the test; in CI it fails where the others are there."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            is_missing = IN_CI and "SHARED_DATA" in os.environ
            (pytest.fail if is_missing else pytest.skip)(f"{name} of the shared data is not here")
        return SHARED / name

    return find


@pytest.fixture(scope="session")
def golden_folder(shared_data: Callable[[str], Path]) -> Path:
    """What the released code computes; a user does not have it."""
    return shared_data("golden")


@pytest.fixture(scope="session")
def voc_sample(shared_data: Callable[[str], Path]) -> Path:
    """Three images of VOC 2012 with masks; a user does not have them."""
    return shared_data("voc_sample")


@pytest.fixture(scope="module")
def ours_alone() -> Iterator[None]:
    """Hides the plug-ins that other tests have registered, as studies run all that there is."""
    from hydra.core.config_store import ConfigStore

    from pipeline.configuration import registry

    repo = ConfigStore.instance().repo
    assert registry.methods()  # which imports ours
    registered = registry._METHODS.items()
    with pytest.MonkeyPatch.context() as patch:
        ours = {key: method for key, method in registered if method.is_ours}
        for group, name in registry._METHODS.keys() - ours.keys():
            patch.delitem(repo.get(group, {}), f"{name}.yaml", raising=False)
        patch.setattr(registry, "_METHODS", ours)
        yield


@pytest.fixture(scope="session")
def tiny_clip() -> CLIP:
    """A CLIP with few random weights."""
    from tests.tiny_clip import build_tiny_clip

    return build_tiny_clip()


@pytest.fixture(scope="session")
def encoder(tiny_clip: CLIP) -> ClipEncoder:
    """The image tower of the tiny CLIP."""
    from pipeline.clip.encoder import ClipEncoder
    from pipeline.clip.image_tower import ImageTower

    return ClipEncoder(ImageTower.of(tiny_clip))


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_clip: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny CLIP as a file in OpenAI's naming."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("clip") / "tiny.safetensors"
    save_file({k: v.half().contiguous() for k, v in tiny_clip.state_dict().items()}, path)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with five images of two sizes, one of them in a sub-folder."""
    root = tmp_path / "photographs"
    (root / "holiday 2026").mkdir(parents=True)
    for index, name in enumerate(["a.jpg", "b.png", "c.webp", "d.jpeg", "holiday 2026/e f.jpg"]):
        height, width = (64, 96) if index % 2 else (90, 70)
        Image.fromarray(draw_photograph(index, height, width)).save(root / name)
    return root


@pytest.fixture
def arguments(photographs: Path, tiny_checkpoint: Path, tmp_path: Path) -> list[str]:
    """What a run on the photographs needs."""
    return folder_options(photographs, tiny_checkpoint, f"output_dir={tmp_path / 'out'}")


@pytest.fixture
def run_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Runs a file of ``tools/`` with arguments, in this process, to spare the imports."""

    def run(name: str, *arguments: object) -> Finished:
        tool = REPOSITORY / "tools" / name
        monkeypatch.setattr(sys, "argv", [f"tools/{tool.name}", *map(str, arguments)])
        code = 0
        try:
            # runpy would put the absolute path into sys.argv.
            names = {"__name__": "__main__", "__file__": str(tool)}
            exec(compile(tool.read_text(), str(tool), "exec"), names)
        except SystemExit as exit_:
            code = exit_.code or 0
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture
def run_stage(
    monkeypatch: pytest.MonkeyPatch, run_tool: Callable[..., Finished], working_folder: Path
) -> Callable[..., Finished]:
    """Runs ``tools/run_stage.py`` with arguments, in an empty folder."""

    from hydra.core.global_hydra import GlobalHydra

    def run(*arguments: object) -> Finished:
        monkeypatch.chdir(working_folder)
        GlobalHydra.instance().clear()
        return run_tool("run_stage.py", *arguments)

    return run


@pytest.fixture(scope="session")
def finished_runs() -> dict[tuple[str, ...], Path]:
    """What runs on the photographs were given beyond ``arguments`` → a copy of their results."""
    return {}


@pytest.fixture
def finish(run_stage, arguments, finished_runs, tmp_path_factory, tmp_path) -> Callable[..., Path]:
    """Returns an output directory after a run that several tests begin with, done or copied."""

    def finish(*more: str) -> Path:
        out = tmp_path / "out"
        if more in finished_runs:
            return copy_results(finished_runs[more], out)
        done = run_stage(*arguments, *more)
        assert done.code == 0, done.errors
        finished_runs[more] = copy_results(out, tmp_path_factory.mktemp("finished") / "out")
        return out

    return finish


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list:
    """Five images with masks to train a segmenter on."""
    from tests.segmenter.tiny_training import write_pairs

    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="session")
def undisturbed_training(
    tmp_path_factory: pytest.TempPathFactory, pairs: list
) -> Callable[..., tuple[Path, list]]:
    """Trains a segmenter, once for each change of its settings; returns its folder, and reports."""
    from tests.segmenter.tiny_training import tiny_settings, train_tiny

    @functools.cache
    def training(**changes: object) -> tuple[Path, list]:
        work_dir, reports = tmp_path_factory.mktemp("training"), []
        settings = tiny_settings(**changes)
        train_tiny(pairs, work_dir, settings, on_iteration=lambda *report: reports.append(report))
        return work_dir, reports

    return training


@pytest.fixture(scope="session")
def trained(undisturbed_training: Callable[..., tuple[Path, list]]) -> Path:
    """The folder of an undisturbed training."""
    return undisturbed_training()[0]


@pytest.fixture(scope="session")
def reports(undisturbed_training: Callable[..., tuple[Path, list]]) -> list[tuple[int, int, float]]:
    """Every iteration of an undisturbed training, their number, and the loss."""
    return undisturbed_training()[1]
