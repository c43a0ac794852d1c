"""The environment of the processes that this one starts, itself or through a library."""

import os

from pipeline.files.shipped import HOME

_SEARCHED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
_SPIN_COUNT = "10000"  # turns in which a thread of OpenMP waits before it sleeps: docs/speed.md


def protect_children() -> None:
    """Keeps the processes that this one starts from running code of their working directory.

    It changes the environment of this process, which libraries pass on to the processes they start.
    Entries of search paths that mean that directory are removed, and relative ones become absolute.
    Jobs of a batch system then need the path of a checkout, which is added. Waiting threads of
    OpenMP soon sleep, unless the user chose otherwise; here too, if torch is imported later.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
    found = {name: searched(name) for name in _SEARCHED if name in os.environ}
    if (HOME / "pipeline").is_dir():
        found["PYTHONPATH"] = [*found.get("PYTHONPATH", ()), str(HOME)]
    os.environ |= {name: os.pathsep.join(dict.fromkeys(each)) for name, each in found.items()}


def searched(name: str) -> list[str]:
    """Returns the folders of a search path, as absolute paths, without empty entries.

    Other names of the working directory, such as ".", go too, but for plug-ins in PYTHONPATH.
    """
    entries = filter(None, os.environ.get(name, "").split(os.pathsep))
    kept = (e for e in entries if name == "PYTHONPATH" or os.path.normpath(e) != os.curdir)
    return [*map(os.path.abspath, kept)]
