"""The complete configuration as typed settings; ``configuration/`` declares and composes them."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.clip.settings import ClipSettings, ImageSettings, RuntimeSettings, compat_settings
from pipeline.configuration.hydra import (
    COMPOSING,
    DEFAULTS,
    compose_config,
    explain,
    no_such_setting,
)
from pipeline.configuration.registry import find_method, methods
from pipeline.configuration.removed import REMOVED_WORDS
from pipeline.configuration.settings import (
    REQUIRED,
    Declared,
    check,
    declared_settings,
    defaults,
    rule_of,
    setting,
)
from pipeline.datasets import READERS, settings_of
from pipeline.datasets.settings import DatasetSettings
from pipeline.engine.executors import DaskSettings, ExecutorSettings, WorkerSettings
from pipeline.engine.kinds import groups
from pipeline.errors import UserError, check_choice, shown
from pipeline.files.atomic import Complete, fits
from pipeline.files.text import given_path, read_text
from pipeline.report.page.settings import ReportSettings
from pipeline.segmenter.settings import SegmenterSettings, SelfTrainingSettings

compose = compose_config
"""Composes a configuration, by all methods that come with the package."""

EXECUTORS = {"local": ExecutorSettings, "processes": WorkerSettings, "dask": DaskSettings}

METHODS = groups()
"""The groups whose choices are methods."""

CONFIG = "config.yaml"
"""The file in the output directory with the configuration of the last run there."""

_MAX_BYTES = 1 << 18  # of the file; YAML of this size takes seconds to read

_RECORDED = Complete(
    dataset=Complete(name=str),
    tags=Complete(absent_as_zero=bool),
    cams=Complete(background_betas=[int | float | None]),
)
"""What is read again of the configuration of a run."""

_RUN = "run"
"""The key of what is recorded beside the configuration."""

_RUNNABLE = Complete(
    {_RUN: Complete(directory=str, command=str)}
    | {group: Complete(method=str) for group in METHODS}
)
"""What is read, besides the settings themselves, to run it again."""

_SHOWN = "it chooses what is done and shown, not how"
_NEW = "a new folder has no results yet"


@dataclass
class Config:
    """The whole configuration: a field for each group, and the keys at the root.

    Attributes:
        stage: a stage, a list of stages, "all", or "status".
        experiment_name: the name of the run in tables; presets of ``experiment`` set it.
        output_dir: the folder of the results.
        dry_run: whether to show what would be computed, and compute nothing.
        rounds: the number of rounds of training; after the first, masks are predictions of the
            previous segmenter.
        seed: the seed of the segmenter's training; the stages before it are deterministic.
    """

    dataset: Any
    images: ImageSettings
    runtime: RuntimeSettings
    executor: Any
    clip: ClipSettings
    compat: Any
    tags: Any
    cams: Any
    masks: Any
    segmenter: SegmenterSettings
    self_training: SelfTrainingSettings
    report: ReportSettings
    stage: Any = setting("all", changes="nothing", why=_SHOWN)
    experiment_name: str | None = setting(None, changes="nothing", why=_SHOWN)
    output_dir: str = setting("outputs/${dataset.name}", changes="nothing", why=_NEW, stage="tags")
    dry_run: bool = setting(False, changes="nothing", why=_SHOWN)
    rounds: int = setting(1, at_least=1, changes="nothing", why="earlier rounds stay as they are")
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)


def _register_defaults() -> None:
    """Gives every configuration the defaults of the dataclasses.

    ``configs/config.yaml`` begins with those of the keys that every run has. Each executor is a
    choice of its group, as each method is.
    """
    groups = {name: kind for name, kind in get_type_hints(Config).items() if is_dataclass(kind)}
    groups["dataset"] = DatasetSettings  # to which the readers add
    del groups["clip"]  # whose files give every key: some of them require clip.checkpoint
    root = {key: default for key, default in defaults(Config).items() if default != REQUIRED}
    store = ConfigStore.instance()
    store.store(DEFAULTS, root | {group: defaults(kind) for group, kind in groups.items()})
    for name, kind in EXECUTORS.items():
        store.store(group="executor", name=name, node=defaults(kind))


_register_defaults()


def all_settings() -> list[Declared]:
    """Returns every setting of every choice."""
    groups = [("", Config), ("compat", compat_settings())]
    groups += [("executor", settings) for settings in EXECUTORS.values()]
    groups += [("dataset", settings) for _, settings in READERS.values()]
    groups += [(group, method.settings) for group in METHODS for method in methods(group)]
    return [each for group, settings in groups for each in declared_settings(settings, group)]


def read_config(composed: DictConfig) -> Config:
    """Returns a composed configuration as typed settings, after all checks.

    Raises a UserError for an unknown key, and a value of another type or outside its range.
    """
    for group in [f.name for f in fields(Config) if f.default is f.default_factory is MISSING]:
        is_there = OmegaConf.is_dict(composed.get(group))
        if not is_there or (group in METHODS and OmegaConf.get_type(composed, group) is dict):
            raise UserError(f"{group} is missing: give a choice or its settings, and not null")
    for word, instead in REMOVED_WORDS.items():
        key, _, value = word.partition("=")
        if value and OmegaConf.select(composed, key) == value:
            raise UserError(f"{word} was removed: {instead}")
    try:
        plain = OmegaConf.to_object(composed)  # in which the settings of methods are typed
        executor = plain["executor"]["name"]
        check_choice(f"there is no executor {shown(executor)}", executor, EXECUTORS)
        kinds = {"executor": EXECUTORS[executor], "compat": compat_settings()}
        kinds["dataset"] = settings_of(plain["dataset"]["name"])
        try:
            typed = {group: _typed(plain[group], kind, group) for group, kind in kinds.items()}
            config = _typed(plain | typed, Config)
        except TypeError:
            merged = OmegaConf.unsafe_merge(OmegaConf.structured(Config), kinds, plain)
            config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, AssertionError) as error:
        raise UserError(explain(error)) from error
    check(config)
    return config


def _typed(value: Any, kind: Any, key: str = "") -> Any:  # noqa: ANN401
    """Returns a plain value as a type; a TypeError says that OmegaConf, which is slow, has to."""
    inner, found = get_args(kind), type(value)
    if inner[1:] == (NoneType,):
        return value if value is None else _typed(value, inner[0], key)
    if is_dataclass(kind) and found is dict:
        hints = get_type_hints(kind)
        return kind(**{n: _typed(each, hints.get(n), f"{key}.{n}") for n, each in value.items()})
    if is_dataclass(value):  # settings of a method, which take any key that is given with +
        known = [f"{key}.{each.name}".lstrip(".") for each in fields(value)]
        for name, each in vars(value).items():
            if (full := f"{key}.{name}".lstrip(".")) not in known:
                raise UserError(no_such_setting(full, None, known))
            _typed(each, Any, full)
    if get_origin(kind) is found is list:
        return [_typed(each, inner[0], key) for each in value]
    if get_origin(kind) is found is dict:
        return {_typed(n, inner[0]): _typed(each, inner[1], key) for n, each in value.items()}
    if kind is bool and found is int and value not in (0, 1):  # OmegaConf would take it for true
        raise UserError(f"{key.lstrip('.')}={shown(value)} is neither true nor false: give one")
    if kind not in (Any, found) and (kind, found) != (float, int) or "${" in str(value):
        raise TypeError(kind)
    with suppress(OverflowError):
        return float(value) if kind is float else value
    raise UserError(f"{key.lstrip('.')}={shown(value)} is too large: give a smaller number")


# config.yaml


def record(config: Config, command: str = "") -> str:
    """Returns a configuration as YAML, with the methods that it chooses, and where it was run.

    Paths of the data set are absolute, since the file may be read elsewhere.
    """
    plain = {**asdict(config), _RUN: {"directory": str(Path.cwd()), "command": command}}
    for group in METHODS:
        plain[group] = {"method": getattr(config, group).method.name, **plain[group]}
    for declared in fields(config.dataset):
        name, given = declared.name, plain["dataset"][declared.name]
        if rule_of(declared).is_path and isinstance(given, str):
            plain["dataset"][name] = str(given_path(given, f"dataset.{name}").absolute())
    return OmegaConf.to_yaml(OmegaConf.create(plain))


def read_record(folder: Path) -> tuple[DatasetSettings, dict[str, Any]]:
    """Returns the data set of the last run in an output directory, and settings of measurements.

    These are "background_betas" of the CAMs, at least one, and "absent_as_zero" of the mAP.

    The file may be another person's: it is data, which can name neither code nor a variable of the
    environment. No list of images is taken from it. Raises a UserError if it is missing or damaged,
    or holds a value that cannot be used.
    """
    with _explained(folder):
        plain = _read_plain(folder, _RECORDED)
        given = {**plain["dataset"], "image_list": None}
        typed = OmegaConf.structured(settings_of(given["name"]))
        settings = OmegaConf.to_object(OmegaConf.merge(typed, given))
    check(settings, "dataset")
    betas = plain["cams"]["background_betas"] or [None]
    return settings, {"background_betas": betas, "absent_as_zero": plain["tags"]["absent_as_zero"]}


def read_run(folder: Path) -> tuple[DictConfig, Path, str]:
    """Returns the configuration of the last run in an output directory, to run it again.

    Also returns its working directory and its command line. The file is data, as for
    :func:`read_record`, which :func:`read_config` checks. A UserError if it is missing or damaged.
    """
    with _explained(folder):
        plain = _read_plain(folder, _RUNNABLE)
        run = plain.pop(_RUN)
        for group in METHODS:
            typed = OmegaConf.structured(find_method(group, plain[group].pop("method")).settings)
            plain[group] = OmegaConf.merge(typed, plain[group])
        return OmegaConf.create(plain), Path(run["directory"]), run["command"]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except COMPOSING as error:
        raise UserError(f"{folder / CONFIG}: {explain(error)}") from error


def _read_plain(folder: Path, shape: Complete) -> dict[str, Any]:
    """Returns what a run recorded, if it has a shape; nothing in it is looked up elsewhere."""
    path, remedy = folder / CONFIG, "run a stage there again, which writes it"
    other = UserError(f"{path} is not as runs write it: {remedy}")
    text = read_text(path, str(path), remedy, _MAX_BYTES)
    is_mapping = isinstance(yaml.compose(text), yaml.MappingNode)  # refuses what is too deep
    if not is_mapping or any(isinstance(e, yaml.AliasEvent) for e in yaml.parse(text)):
        raise other  # a few lines of aliases expand to gigabytes
    plain = OmegaConf.to_container(OmegaConf.create(text))
    if "${" in repr(plain) or not fits(plain, shape):
        raise other
    return plain
