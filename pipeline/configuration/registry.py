"""Methods by the names that ``tags=``, ``cams=`` and ``masks=`` choose, and all that they declare.

A method is registered with the dataclass of its settings, wherever its module lies:

    @register("tags", "colour", ColourSettings, label="Mean colour")
    class ColourTagger: ...

Whatever the rest of the package says or does for one method follows from its declaration. The type
of the settings is the choice, so that settings lead to their method. What computes may be named, as
"module:attribute"; it is then imported when it is used, and PyTorch with it.
"""

import importlib
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from pipeline.errors import UserError, check_choice, shown
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.files.shipped import CONFIGS

Build = TypeVar("Build", bound=Callable[..., Any] | str)

COMPAT = ("released", "clean")
"""The choices of ``compat=``: the quirks of released code, and what the papers say."""


@dataclass(frozen=True)
class Quirk:
    """A deviation of released code from its paper, which ``compat.<name>`` switches.

    Attributes:
        name: its key in ``compat``.
        meaning: a sentence, without its full stop.
        released: its value with ``compat=released``.
        clean: its value with ``compat=clean``.

    Raises:
        UserError: the name cannot be a key, or a value is not a bool.
    """

    name: str
    meaning: str
    released: bool = True
    clean: bool = False

    def __post_init__(self) -> None:
        is_word = re.fullmatch(r"[a-z][a-z0-9_]*", self.name) and not iskeyword(self.name)
        if not is_word or self.name == "name" or {type(self.released), type(self.clean)} != {bool}:
            raise UserError(
                f"{shown(self)} cannot be a quirk: give a name of lower-case letters and"
                " underscores that Python does not reserve, and True or False"
            )


@dataclass(frozen=True)
class Method:
    """A method of a group; called with what computes it, it becomes a choice.

    Attributes:
        group: "tags", "cams" or "masks"; or "dense", whose methods are a choice of "cams".
        name: the choice.
        settings: the dataclass of its settings.
        build: a class or function that takes the settings and the
            :class:`~pipeline.clip.frozen.Resources` that the method declares, or the name of one;
            or a stage that replaces the group's default.
        label: what tables call it; by default its name.
        algorithm: raised when the same settings give another result than before.
        is_stage: whether the name is that of such a stage.
        uses_clip: whether it applies CLIP to images.
        quirks: the quirks that it reads.
        templates: sets of prompt templates by their names, for any method. A prompt has one ``{}``;
            a word without it is the name of a set whose prompts stand in its place.
        presets: its files of settings, such as "experiment/colours" or "tags/colours_*". Ours lie
            in ``configs/``, those of a plug-in in the folder ``configs`` beside its module.
        variants: further results that it can return: name → the words for it in tables.
        learns: makes the :class:`~pipeline.engine.learned.Learned` of a split, which ``build`` then
            takes as well, ``learned`` being its folder; or the name of what makes it; none if
            nothing is learned.
        batch_of: returns, from the settings and the quirks, the size of the batch on which
            each result depends, or 0; none if images are always independent.
        on_gpu: whether a GPU, where there is one, computes it although it does not apply CLIP.
        reads: the parts of the vocabulary that its results depend on; all of them unless declared.
        source: the publication that describes it, for ``help``.
        code: what keys call what computes it; by default its qualified name.
        family: the group that it was registered in, if that is a part of its own.
    """

    group: str
    name: str
    settings: type
    build: Callable[..., Any] | str = ""
    label: str = ""
    algorithm: int = 1
    is_stage: bool = False
    uses_clip: bool = False
    quirks: Sequence[Quirk] = ()
    templates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    presets: Sequence[str] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    learns: Callable[..., Any] | str | None = None
    batch_of: Callable[..., int] | None = None
    on_gpu: bool = False
    reads: Sequence[str] = ("classes", "tag_names", "cam_names", "backgrounds")
    source: str = ""
    code: str = ""
    family: str = ""

    def __call__(self, build: Build) -> Build:
        """Makes the method a choice of its group; raises a UserError if a name is taken."""
        code = build if isinstance(build, str) else f"{build.__module__}.{build.__qualname__}"
        complete = _COMPLETE.get(self.group, lambda method: method)
        method = complete(replace(self, build=build, code=self.code or code.replace(":", ".")))
        _refuse_what_is_taken(method)
        _METHODS[method.group, method.name] = _BY_SETTINGS[method.settings] = method
        TEMPLATES.update(method.templates)
        return build

    @property
    def is_ours(self) -> bool:
        """Whether it comes with the package, and not from a plug-in."""
        return self.settings.__module__.startswith("pipeline.")

    @property
    def preset_files(self) -> list[Path]:
        """The files of its presets; raises a UserError if a plug-in lacks one that it declares."""
        module, found = self.settings.__module__, []
        file = getattr(sys.modules.get(module), "__file__", module)  # a notebook's has none
        folder = CONFIGS if self.is_ours else Path(file).with_name("configs")
        for name in self.presets:
            if not (files := sorted(folder.glob(f"{name}.yaml"))):
                raise UserError(f"{self.code}: {folder} has no {name}.yaml: add the file")
            found += files
        return found

    @property
    def key_facts(self) -> dict[str, Any]:
        """What identifies the method in a cache key; of a plug-in, its files as well."""
        facts = {"method": self.name, "code": self.code, "method_algorithm": self.algorithm}
        if self.is_ours:
            return facts
        return {**facts, "method_source": "-".join(filter(None, map(source_of, self.modules)))}

    @property
    def modules(self) -> list[str]:
        """The names of the modules of a plug-in that declare and compute it."""
        named = self.build.partition(":")[0] if isinstance(self.build, str) else ""
        found = dict.fromkeys([self.settings.__module__, named or self.build.__module__])
        return [module for module in found if not module.startswith("pipeline.")]

    @property
    def stage(self) -> type | None:
        """The stage that is built instead of the group's default."""
        is_stage = self.is_stage or getattr(self.build, "is_stage", False)
        return imported(self.build) if is_stage else None


register = Method
"""The decorator by which a method is declared; see :class:`Method`."""


def imported(given: Callable[..., Any] | str) -> Callable[..., Any]:
    """Returns what a method gives in full, or by the name "module:attribute"."""
    return resolve_name(given) if isinstance(given, str) else given


def module_files(module: str) -> list[Path]:
    """Returns the file of a module, or all files of a package, as far as it has any."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module not in sys.modules:  # one that is imported when it is needed
        with suppress(ImportError):
            file = getattr(find_spec(module), "origin", None)
    path = Path(file) if file else None
    if path is not None and path.name == "__init__.py":
        return sorted(path.parent.rglob("*.py"))
    return [path] if path else []


@cache
def source_of(module: str) -> str:
    """Returns the fingerprint of the files of a module; "" if it has none."""
    files = [*map(fingerprint_file, module_files(module))]
    return files[0] if len(files) == 1 else fingerprint(*files) if files else ""


TEMPLATES: dict[str, Sequence[str]] = {}
"""The sets of prompt templates that methods declare, by their names in the configuration."""


def expand_templates(name: str, whole: Collection[str]) -> list[str]:
    """Returns the prompts of a template set; of those sets that are to stay ``whole``, the name."""
    _import_ours()
    if name in whole or name not in TEMPLATES:
        return [name]
    return [prompt for each in TEMPLATES[name] for prompt in expand_templates(each, whole)]


def templates_in_key(name: str | None) -> str | list[str] | None:
    """Returns the prompts of a set if a plug-in declared it; a set of ours keeps its name."""
    theirs = {each for m in _METHODS.values() if not m.is_ours for each in m.templates}
    return expand_templates(name, TEMPLATES.keys() - theirs) if name in theirs else name


MODELS: dict[str, Any] = {}
"""Image-text models by the value of ``clip.model``; see :mod:`pipeline.clip.image_text`."""

CORE_QUIRKS: dict[str, Quirk] = {}
"""The quirks of what all methods are built on, by their names."""

_import_ours = partial(importlib.import_module, "pipeline.stages.methods")
_METHODS: dict[tuple[str, str], Method] = {}
_BY_SETTINGS: dict[type, Method] = {}
_COMPLETE: dict[str, Callable[[Method], Method]] = {}


def complete_group(group: str, complete: Callable[[Method], Method]) -> None:
    """Has the methods that are registered in a group completed to choices of another one."""
    _COMPLETE[group] = complete


def _refuse_what_is_taken(method: Method) -> None:
    code, choice = method.code, f"{method.group}={method.name}"
    # One of the same name and code is itself, reloaded.
    others = [m for m in _METHODS.values() if (m.name, m.code) != (method.name, method.code)]
    for other in others:
        if (other.group, other.name) == (method.group, method.name):
            raise UserError(
                f"{code} wants to be {choice}, which {other.code} is already: choose another name"
            )
        if other.settings is method.settings:
            raise UserError(
                f"{code} shares the settings of {other.code}: give {choice} its own dataclass"
            )
    for trait in ("quirks", "presets", "reads"):
        if not isinstance(getattr(method, trait), tuple | list):
            raise UserError(f"{code}: {trait}= is not a tuple: give {trait}=(…,)")
    known = CORE_QUIRKS | {quirk.name: quirk for other in others for quirk in other.quirks}
    names = [quirk.name for quirk in method.quirks]
    for quirk in method.quirks:
        is_taken = quirk.name in CORE_QUIRKS or known.get(quirk.name, quirk) != quirk
        if is_taken or names.count(quirk.name) > 1:
            raise UserError(
                f"{code} declares a quirk {quirk.name}, but that name is taken: rename the quirk"
            )
    reloaded = _METHODS.get((method.group, method.name))
    sets = {**TEMPLATES, **(method.templates if reloaded else {})}
    for name, given in method.templates.items():
        if sets.get(name, given) != given:
            raise UserError(
                f"{code} declares a template set {name}, but that name is taken: rename the set"
            )
        prompts = given if isinstance(given, tuple | list) else ()
        if not prompts or not all(p in TEMPLATES or str(p).count("{}") == 1 for p in prompts):
            raise UserError(
                f"{code}: template set {name} is not a tuple of prompts, each with one {{}}, or of"
                " names of other sets: correct it"
            )
    for pattern in method.presets:
        group, _, file = pattern.partition("/")
        if not (CONFIGS / group).is_dir() or not re.fullmatch(r"[\w*-]+", file):
            raise UserError(
                f"{code} declares a preset {shown(pattern)}: give GROUP/NAME, as in experiment/mine"
            )


def methods(group: str = "") -> list[Method]:
    """Returns the methods of a group, or of a family, or all."""
    _import_ours()
    return [m for m in _METHODS.values() if group in ("", m.group, m.family)]


def find_method(group: str, name: str) -> Method:
    """Returns the method of a group with a name; raises a UserError if there is none."""
    known = {method.name: method for method in methods(group)}
    check_choice(f"there is no {group} method {shown(name)}", name, known)
    return known[name]


def label_of(group: str, name: str) -> str:
    """Returns what tables call a method; its name, too, where the method is not registered."""
    return next((m.label for m in methods(group) if m.name == name), "") or name


def method_of(settings: object) -> Method:
    """Returns the method that settings choose: their type leads to it."""
    return _BY_SETTINGS[type(settings)]


def quirks(*groups: str) -> dict[str, Quirk]:
    """Returns all quirks by their names, or those of some groups.

    Those of what all methods are built on are always there, and come first.
    """
    known = [method for method in methods() if not groups or method.group in groups]
    return CORE_QUIRKS | {quirk.name: quirk for method in known for quirk in method.quirks}
