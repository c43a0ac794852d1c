"""Imports what registers methods: folders of the package, and the modules of plug-ins."""

import importlib
import importlib.metadata
from collections.abc import Iterable
from pkgutil import iter_modules

from pipeline.configuration.registry import MODELS, methods
from pipeline.errors import UserError, shown

ENTRY_POINTS = "annotation_free_segmentation"
"""The group of entry points by which installed packages offer methods."""

_PLUGINS: set[str] = set()  # modules that registered methods, perhaps of other modules


def import_methods(package: str) -> None:
    """Imports the folders of a package; each holds a method, which it registers."""
    for found in iter_modules(importlib.import_module(package).__path__, f"{package}."):
        if found.ispkg:
            importlib.import_module(found.name)


def import_plugins(names: Iterable[str]) -> None:
    """Imports modules that register methods, and those of installed packages.

    The names are of modules on Python's search path, such as ``my_package.my_tagger``. Raises a
    UserError if one is not there, cannot be imported, or registers no method.
    """
    for name in dict.fromkeys(names):
        before = len(methods()) + len(MODELS)
        _import(name, f"plugins={shown(name)}")
        owners = [f"{module}." for method in methods() for module in method.modules]
        is_new = len(methods()) + len(MODELS) > before
        if is_new or any(owner.startswith(f"{name}.") for owner in owners):
            _PLUGINS.add(name)
        elif name not in _PLUGINS:
            raise UserError(
                f"plugins={shown(name)} registers no method and no model: name"
                " a module that does, see docs/add-a-method.md"
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
