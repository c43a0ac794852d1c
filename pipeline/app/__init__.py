"""The page in a browser: names are tried on photographs and on a folder, and a run is corrected."""

from pathlib import Path

from pipeline.errors import UserError

# Without -P, a package called pipeline in the run's folder would run in place of this one.
RUN = ("-P", "-m", "pipeline", "app", "--started")
"""Python's arguments for a run, before the app's folder and the command to run."""

LOG, ENDED = "run.log", "run.json"
"""The files with a run's output and exit code."""

BEGUN, NOT_COMPARED = "begun", "no comparison"
"""What a run prints when it holds the lock, and where its results cannot be compared."""


def own_folder(output: Path, name: str = ".app") -> Path:
    """Returns the app's folder in an output directory, whose lock a run that it starts holds."""
    own = output / name
    if own.is_symlink() or (own.exists() and not own.is_dir()):
        raise UserError(f"{own} is a file or a link, where the app requires a folder: remove it")
    return own
