"""Composes the configuration with Hydra, and turns its errors into sentences."""

import importlib
import re
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from omegaconf.resolvers import oc

from pipeline.configuration.registry import COMPAT, methods, quirks
from pipeline.configuration.removed import REMOVED_KEYS
from pipeline.errors import UserError, check_choice, command, did_you_mean, nearest, shown
from pipeline.files.shipped import CONFIGS

PLUGINS = "plugins"

DEFAULTS = "dataclass_defaults"
"""Hydra's name of the configuration that ``configs/config.yaml`` begins with."""

_OPEN = (".overrides.", ".cluster.")
"""Groups that take more settings than they have: the arguments of another library."""

DEFAULT_CHOICES: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("default_choices.yaml").read_text(encoding="utf-8")
)
"""Group → what its choice "default" becomes: by the choice of another, usually, and for some."""

_WORD = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^][(){},]+""")
"""A text in quotes, or a word, of a list or of several values."""

_INVALID = (OverflowError, RecursionError, ValueError, yaml.YAMLError)
COMPOSING = (HydraException, OmegaConfBaseException, *_INVALID)
"""Errors of Hydra and OmegaConf for a configuration that cannot be composed."""


def register_groups() -> None:
    """Makes every registered method a choice of its group for Hydra, and its quirks keys of compat.

    Raises a UserError if the name of a method is that of a preset, or there is no such group.
    """
    importlib.import_module("pipeline.stages.config")  # stores the defaults; slow to import
    store = ConfigStore.instance()
    groups = [g for g in dict.fromkeys(m.group for m in methods()) if (CONFIGS / g).is_dir()]
    for method in methods():
        code, group = method.code, method.group
        check_choice(f"{code} is a method of a group {shown(group)}", group, groups)
        if (preset := CONFIGS / method.group / f"{method.name}.yaml").is_file():
            raise UserError(
                f"{code} wants to be {group}={method.name}, which {preset} is"
                " already: choose another name"
            )
        stored = store.repo.get(group, {}).get(f"{method.name}.yaml")
        if stored is None or OmegaConf.get_type(stored.node) is not method.settings:
            store.store(group=group, name=method.name, node=method.settings)
    for choice in COMPAT:
        values = {name: getattr(quirk, choice) for name, quirk in quirks().items()}
        store.store(group="compat", name=choice, node={"name": choice, **values})
    with open_dict(defaults_of_all := store.repo[f"{DEFAULTS}.yaml"].node):
        values = {name: quirk.clean for name, quirk in quirks().items()}
        defaults_of_all.compat = {"name": "", **values}


def shipped_choices() -> dict[str, set[str]]:
    """Returns group → its choices that come with the package, and the methods of plug-ins.

    Files whose names begin with ``_`` are what presets build on, and no choices.
    """
    stored, found = ConfigStore.instance().repo, {"compat": {*COMPAT}}
    for group in (path.name for path in CONFIGS.iterdir() if path.is_dir()):
        files = [path.name for path in (CONFIGS / group).glob("[!_]*.yaml")]
        found[group] = {name.removesuffix(".yaml") for name in (*files, *stored.get(group, ()))}
    for method in methods():
        found.setdefault(method.group, set()).add(method.name)
    return found


def choices() -> dict[str, set[str]]:
    """Returns group → its choices, with the presets of plug-ins."""
    found = shipped_choices()
    for path in _presets_of_plugins():
        if not path.stem.startswith("_"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return found


def _presets_of_plugins() -> list[Path]:
    return [path for method in methods() if not method.is_ours for path in method.preset_files]


def preset_folders() -> list[Path]:
    """Returns plug-ins' folders of presets; a UserError if one is not there, or its name taken."""
    taken = {}
    for path in _presets_of_plugins():
        name = f"{path.parent.name}/{path.name}"
        ours, other = CONFIGS / name, taken.setdefault(name, path)
        if other != path or ours.exists():
            other = ours if ours.exists() else other
            raise UserError(f"{path} has the name of {other}: rename the file")
    return [*dict.fromkeys(path.parents[1] for path in taken.values())]


def take_plugins(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the modules that ``plugins=[…]`` names, and the other arguments.

    Only the command line can name code; in a file, ``plugins`` is refused. Raises a UserError
    unless it names a list of words.
    """
    names: list[str] = []
    others = []
    for argument in arguments:
        if not re.match(rf"\+*{PLUGINS}=", argument):
            others.append(argument)
            continue
        try:
            value = OverridesParser.create().parse_override(argument).value()
        except HydraException as error:
            raise UserError(explain(error)) from error
        given = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str) and name for name in given):
            raise UserError(f"{shown(argument)} is not a list of modules: give plugins=[NAME]")
        names += given
    return names, others


def for_hydra(overrides: Sequence[str]) -> list[str]:
    """Returns overrides that Hydra's grammar can read: values that it cannot read are quoted.

    A list that the shell split at its spaces is joined. Raises a UserError if an argument is not
    KEY=VALUE or cannot be read in quotes either, or a group is given what is not a choice.
    """
    parser, rest, read = OverridesParser.create(), deque(overrides), []
    while rest:
        text = rest.popleft()
        while "=[" in text and text.count("[") > text.count("]") and rest:
            text += f" {rest.popleft()}"
        if not re.match("[^=]+=|~", text):
            whole = shlex.quote(" ".join([*read[-1:], text]))
            hint = f"quote a value that has spaces, {whole}" if read else "give, say, seed=1"
            raise UserError(f"{shown(text)} is not KEY=VALUE: {hint}")
        # As it is, then with each value of a list in quotes, and as one text.
        key, _, value = text.partition("=")
        values = [_quoted(each.strip()) for each in value[1:-1].split(",")]
        is_list = value.startswith("[") and value.endswith("]")
        as_list = [f"{key}=[{','.join(values)}]"] if is_list else []
        for form in (text, *as_list, f"{key}={_quoted(value)}"):
            try:
                override = parser.parse_override(form)
            except (HydraException, ValueError):
                continue
            value, group = override.value(), override.key_or_group
            is_choice = override.is_sweep_override() or isinstance(value, str | list)
            is_group = group == "compat" or (CONFIGS / group).is_dir()
            if override.type is OverrideType.CHANGE and is_group and not is_choice:
                raise UserError(f"{shown(text)} is not a choice: give the name of one")
            read.append(form)
            break
        else:
            raise UserError(f"{shown(text)} cannot be read: quote its value, as in KEY='VALUE'")
    if (quoted := [*map(_quote_numbers, read)]) != read:
        # By those overrides that choose what comes with the package.
        shipped = {f"{group}={name}" for group, names in choices().items() for name in names}
        composed = OmegaConf.to_container(compose_config([t for t in read if t in shipped]))
        return [q if _holds_text(q, composed) else text for q, text in zip(quoted, read)]
    return read


def _quote_numbers(override: str) -> str:
    """Returns an override with those numbers in quotes that Hydra rewrites, as 1e3 to 1000.0."""

    def quote(found: re.Match) -> str:
        before, word = re.fullmatch(r"(.*: |)(.*)", found[0].strip(), re.DOTALL).groups()
        for kind in (int, float):
            with suppress(ValueError):
                return found[0] if str(kind(word)) == word else f"{before}{_quoted(word)}"
        return found[0]

    key, equals, value = override.partition("=")
    return f"{key}{equals}{_WORD.sub(quote, value)}"


def _holds_text(override: str, composed: object) -> bool:
    """Tells whether the key of an override holds text, or a list of it, as names of folders."""
    for part in override.lstrip("+").partition("=")[0].split("."):
        composed = composed.get(part, 0) if isinstance(composed, dict) else 0
    if isinstance(composed, list):
        return not any(isinstance(value, int | float) for value in composed)
    return composed is None or isinstance(composed, str)


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Returns the configuration that the command line would compose from these overrides.

    Raises a UserError for an unknown key or choice, and a value of another type.
    """
    with composing() as (compose, _):
        config = compose(for_hydra(overrides))
    with open_dict(config):
        del config["hydra"]
    return config


@contextmanager
def composing(
    folder: Path | None = None,
) -> Iterator[tuple[Callable[[Sequence[str]], DictConfig], Callable[..., list[Override]]]]:
    """Yields what composes a configuration, with ``hydra``, and what parses overrides.

    Files in a ``folder`` of a user's own, and presets of plug-ins, stand beside ours. They cannot
    read the environment: a secret must not come into a report, nor choose a file. Raises a
    UserError if the folder is not there, or the name of a file in it is taken.
    """
    register_groups()
    if folder is not None and not folder.is_dir():
        raise UserError(
            f"--config-dir {folder} is not a folder: give one with experiment/NAME.yaml"
        )
    # This may happen inside another program of Hydra's, or while an error of ours is explained.
    shared = GlobalHydra.instance()
    before, shared.hydra = shared.hydra, None
    folders = [*([] if folder is None else [folder.absolute()]), *preset_folders()]
    # Hydra would read such a file in place of a method, an executor or the defaults.
    stored = ConfigStore.instance().repo
    names = [f"{group}/{name}" for group in shipped_choices() for name in stored.get(group, ())]
    for file in (each / name for each in folders for name in (f"{DEFAULTS}.yaml", *names)):
        if file.exists():
            raise UserError(f"{file} has a name that is taken: rename the file")
    paths = ",".join(_quoted(f"file://{each}") for each in folders)
    more = [f"hydra.searchpath=[{paths}]"] if folders else []

    def compose(read: Sequence[str]) -> DictConfig:
        try:
            config = hydra.compose("config", [*more, *read], return_hydra_config=True)
            chosen = OmegaConf.select(config, "hydra.runtime.choices") or {}
            for group, (other, usual, special) in DEFAULT_CHOICES.items():
                if chosen.get(group) == "default":
                    read = [*read, f"{group}={special.get(chosen[other], usual)}"]
                    config = hydra.compose("config", [*more, *read], return_hydra_config=True)
        except (*COMPOSING, AssertionError) as error:
            raise UserError(explain(error)) from error
        except (AttributeError, KeyError) as error:  # for a file that spoils Hydra's own settings
            wrong = f"a file of settings spoils hydra ({error}): leave its settings out"
            raise UserError(wrong) from error
        for text in read:  # such as cams.affinity=2, of which OmegaConf makes true
            key, _, value = text.lstrip("+").partition("=")
            is_number = re.fullmatch(r"[-+]?\d+", value) and int(value) not in (0, 1)
            if is_number and isinstance(OmegaConf.select(config, key), bool):
                raise UserError(f"{key}={shown(value)} is neither true nor false: give one of them")
        return config

    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            if folders:
                OmegaConf.clear_resolver("oc.env")
            loader = GlobalHydra.instance().config_loader()
            yield compose, OverridesParser.create(config_loader=loader).parse_overrides
    finally:
        GlobalHydra.instance().hydra = before
        if folders:
            OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _sentence(key: str, error: OmegaConfBaseException) -> str:
    """Returns what is wrong with the value of a key."""
    if type(error).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        return no_such_setting(key, error)
    text = " ".join(map(shown, str(error).splitlines()[0].split()))
    if "is not Optional" in text or "Incompatible value 'None'" in text:
        return f"{key} is missing: give it, {key}=…"
    if match := re.match(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text):
        wanted = {"Integer": "an integer", "Float": "a number"}
        return f"{key}={shown(match[1])} is not {wanted.get(match[2], match[2])}"
    if match := re.match(r"Value '(.*)' is not a valid bool", text):
        hint = did_you_mean(match[1], ("true", "false"))
        return f"{key}={shown(match[1])} is neither true nor false: {hint}give one of them"
    if "is not a ListConfig, list or tuple" in text:
        return f"{key} is not a list: give {key}=[…]"
    return f"{key}: {text}"


def no_such_setting(key: str, error: BaseException | None, known: Sequence[str] = ()) -> str:
    """Returns a sentence on an unknown setting, whose nearest is in its group or is known."""
    if any(group in key for group in _OPEN):
        return f"there is no setting {key}: give +{key}=… to add it"
    missing = getattr(error, "full_key", None) or key
    if missing in REMOVED_KEYS:
        return f"there is no setting {missing} any more: {REMOVED_KEYS[missing]}"
    key = missing if key.startswith(missing) else key  # masks.slick of masks.slick.beta
    group, _, _ = key.rpartition(".")
    names = getattr(error, "parent_node", None) or ()
    own = [f"{group}.{name}".lstrip(".") for name in names]
    known = [*own, *known]
    if key in known:  # another choice of its group has it
        return f"{key} is not a setting of this choice of {key.partition('.')[0]}: leave it out"
    hint = nearest(key, known, own)
    return f"there is no setting {key}: {hint}{command()} --cfg job shows them all"


def explain(error: Exception) -> str:
    """Returns an error of Hydra or OmegaConf as one sentence with the remedy."""
    text = " ".join(map(shown, str(error).split()))
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is missing: give it, {error.full_key}=…"
    if isinstance(error, AssertionError):  # OmegaConf's, for a setting below one that is null
        return f"{text or 'a setting'} is inside one that is null: leave it out"
    if isinstance(error, RecursionError):
        return "the configuration is nested too deeply: give flatter values"
    if isinstance(error, yaml.YAMLError):
        return f"{text}: correct the file"
    cause = error.__cause__
    if not text and isinstance(cause, Exception):  # Hydra's, around one of OmegaConf's
        return explain(cause)
    match = re.match(r"Error merging override ([^=]+)=", text)
    if match and isinstance(cause, OmegaConfBaseException):
        return _sentence(match[1].lstrip("+~"), cause)
    if match := re.search(r"Could not override '([^']+)'", text):
        declared = importlib.import_module("pipeline.stages.config").all_settings()
        return no_such_setting(match[1], cause, [each.key for each in declared])
    if match := re.search(r"Missing mandatory value: (\S+)", text):  # of an interpolation
        return f"{match[1]} is missing: give it, {match[1]}=…"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return _sentence(error.full_key, error)
    choices = r"Could not find '(\w+)/([^']*)' Available options in '\w+': (.*?) Config search"
    if match := re.search(choices, text):
        group, choice, known = match.groups()
        # Without those that others build on.
        names = [n for n in known.split() if n != "default" and not n.startswith("_")]
        own = ", or give plugins=[MODULE] for your own method" * bool(methods(group))
        hint = nearest(choice, names)
        return f"there is no {group}={choice}: {hint}choose from {', '.join(names)}{own}"
    preset = r"In '([^']+)': ConfigKeyError raised while composing config: .* full_key: (\S+)"
    if match := re.search(preset, text):
        if match[2] in REMOVED_KEYS:
            return f"{match[1]}: {no_such_setting(match[2], None)}"
        chosen = match[2].partition(".")[0]
        return f"{match[1]} sets {match[2]}, which this choice of {chosen} lacks: choose another"
    reason, _, key = text.partition(" See https://hydra.cc")[0].partition(" full_key: ")
    return f"{key.split()[0]}: {reason}" if key else reason or type(error).__name__
