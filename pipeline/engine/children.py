"""What the processes that this one starts, itself or through a library, find where they start."""

import os

from pipeline.files.shipped import HOME

_SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")


def protect_children() -> None:
    """Has the processes that this one starts run no code of the folder in which they start.

    This process's variables change, which a library passes on to what it starts, whatever it takes.
    Empty entries of search paths, which mean that folder, go; relative ones become absolute. Since
    Python no longer searches the folder, jobs of a batch system are told where a checkout lies.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    found = {name: searched(name) for name in _SEARCHED if name in os.environ}
    if (HOME / "pipeline").is_dir():
        found["PYTHONPATH"] = [*found.get("PYTHONPATH", ()), str(HOME)]
    os.environ |= {name: os.pathsep.join(dict.fromkeys(each)) for name, each in found.items()}


def searched(name: str) -> list[str]:
    """Returns the folders of a search path, as absolute paths, without empty entries."""
    return [*map(os.path.abspath, filter(None, os.environ.get(name, "").split(os.pathsep)))]
