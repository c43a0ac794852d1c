"""Methods by the names that ``tags=``, ``cams=`` and ``masks=`` choose.

A method is registered with the dataclass of its settings, wherever its module lies:

    @register("tags", "colour", ColourSettings)
    class ColourTagger: ...

The type of the settings is the choice, so that settings lead to their method. What computes may be
named, as "module:attribute"; it is then imported when it is used, and PyTorch with it.
"""

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

from pipeline.errors import UserError, shown
from pipeline.files.fingerprints import fingerprint_file

Build = TypeVar("Build", bound=Callable[..., Any] | str)

ENTRY_POINTS = "annotation_free_segmentation"
"""The group of entry points by which installed packages offer methods."""


@dataclass(frozen=True)
class Method:
    """A method of a group.

    Attributes:
        group: "tags", "cams" or "masks".
        name: the choice.
        settings: the dataclass of its settings.
        build: a class or function that takes the settings and the
            :class:`~pipeline.clip.frozen.Resources` that the method declares, or the name of one;
            or a stage that replaces the group's default.
        is_stage: whether the name is that of such a stage.
        algorithm: raised when the same settings give another result than before.
        uses_clip: whether it applies CLIP to images.
        quirks: the keys of ``compat`` that it reads.
        variants: further results that it can return, by name.
        shares_pass: whether it takes part in a pass that tags and CAMs share.
        learns: makes the :class:`~pipeline.engine.learned.Learned` of a split, which ``build`` then
            takes as well, ``learned`` being its folder; or the name of what makes it; none if
            nothing is learned.
        batch: returns, from the settings and the quirks, the size of the batch on which
            each result depends, or 0; none if images are always independent.
        reads: the parts of the vocabulary that its results depend on; all of them unless declared.
        source: the publication that describes it, for its page in the documentation.
        section: the heading in docs/algorithms.md of what it computes.
    """

    group: str
    name: str
    settings: type
    build: Callable[..., Any] | str
    algorithm: int = 1
    is_stage: bool = False
    uses_clip: bool = False
    quirks: Sequence[str] = ()
    variants: Sequence[str] = ()
    shares_pass: bool = False
    learns: Callable[..., Any] | str | None = None
    batch: Callable[..., int] | None = None
    reads: Sequence[str] = ("classes", "tag_names", "cam_names", "backgrounds")
    source: str = ""
    section: str = ""

    @property
    def code(self) -> str:
        """The qualified name of what computes it."""
        if isinstance(self.build, str):
            return self.build.replace(":", ".")
        return f"{self.build.__module__}.{self.build.__qualname__}"

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the method in a cache key; of a plug-in, its files as well."""
        is_ours = self.code.startswith("pipeline.")
        build = self.build
        module = build.partition(":")[0] if isinstance(build, str) else build.__module__
        sources = map(_source_of, dict.fromkeys([self.settings.__module__, module]))
        source = {} if is_ours else {"method_source": "-".join(filter(None, sources))}
        facts = {"method": self.name, "code": self.code, "method_algorithm": self.algorithm}
        return facts | source

    @property
    def stage(self) -> type | None:
        """The stage that is built instead of the group's default."""
        if self.is_stage:
            return imported(self.build)
        from pipeline.engine.stage import Stage  # which imports NumPy

        is_stage = isinstance(self.build, type) and issubclass(self.build, Stage)
        return self.build if is_stage else None


def imported(given: Callable[..., Any] | str) -> Callable[..., Any]:
    """Returns what a method gives in full, or by the name "module:attribute"."""
    return resolve_name(given) if isinstance(given, str) else given


@cache
def _source_of(module: str) -> str:
    """Returns the fingerprint of the file of a module; "" if it has none."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if module not in sys.modules:  # one that is imported when it is needed
        with suppress(ImportError):
            file = getattr(find_spec(module), "origin", None)
    return fingerprint_file(Path(file)) if file else ""


_METHODS: dict[tuple[str, str], Method] = {}
_PLUGINS: set[str] = set()  # modules that registered methods, perhaps of other modules


def register(group: str, name: str, settings: type, **traits: Any) -> Callable[[Build], Build]:  # noqa: ANN401
    """Makes a method a choice of its group; the arguments are attributes of :class:`Method`.

    Raises:
        UserError: the name is taken, or the settings belong to another method.
    """

    def decorate(build: Build) -> Build:
        method = Method(group, name, settings, build, **traits)
        for other in _METHODS.values():
            is_same = (other.name, other.code) == (name, method.code)  # reloaded
            if not is_same and (other.group, other.name) == (group, name):
                raise UserError(
                    f"{method.code} wants to be {group}={name}, which"
                    f" {other.code} is already: choose another name"
                )
            if not is_same and other.settings is settings:
                raise UserError(
                    f"{method.code} shares the settings of {other.code}: give"
                    f" {group}={name} a dataclass of its own"
                )
        _METHODS[group, name] = method
        return build

    return decorate


def methods() -> list[Method]:
    """Returns all methods."""
    return list(_METHODS.values())


def method_of(settings: Any) -> Method:  # noqa: ANN401
    """Returns the method that settings belong to."""
    return next(method for method in _METHODS.values() if method.settings is type(settings))


def import_plugins(names: Iterable[str]) -> None:
    """Imports modules that register methods, and those of installed packages.

    The names are of modules on Python's search path, such as ``my_package.my_tagger``.

    Raises:
        UserError: there is no such module, it cannot be imported, or it registers no method.
    """
    for name in dict.fromkeys(names):
        before = len(_METHODS)
        _import(name, f"plugins={shown(name)}")
        owners = [method.code for method in methods()]
        if len(_METHODS) > before or any(code.startswith(f"{name}.") for code in owners):
            _PLUGINS.add(name)
        elif name not in _PLUGINS:
            raise UserError(
                f"plugins={shown(name)} registers no method: name a module that does, see"
                " docs/add-a-method.md"
            )
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _import(entry.module, f"the plug-in {entry.name} of an installed package")


def _import(name: str, what: str) -> None:
    try:
        importlib.import_module(name)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what}: there is no module {error.name}: install its package, or add its folder to"
            " PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the module raises while it is imported
        reason = shown(f"{type(error).__name__}: {error}")
        raise UserError(f"{what} cannot be imported ({reason}): correct the module") from error
