"""The environment of the processes that this one starts, itself or through a library."""

import os

from pipeline.files.shipped import HOME

_SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


def protect_children() -> None:
    """Keeps the processes that this one starts from running code of their working directory.

    It changes the environment of this process, which libraries pass on to the processes they start.
    Empty entries of search paths, which mean that directory, are removed, and relative ones become
    absolute. Jobs of a batch system then need the path of a checkout, which is added.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    found = {name: searched(name) for name in _SEARCHED if name in os.environ}
    if (HOME / "pipeline").is_dir():
        found["PYTHONPATH"] = [*found.get("PYTHONPATH", ()), str(HOME)]
    os.environ |= {name: os.pathsep.join(dict.fromkeys(each)) for name, each in found.items()}


def searched(name: str) -> list[str]:
    """Returns the folders of a search path, as absolute paths, without empty entries."""
    return [*map(os.path.abspath, filter(None, os.environ.get(name, "").split(os.pathsep)))]
