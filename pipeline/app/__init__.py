"""The page in a browser: names are tried on photographs and on a folder, and a run is corrected."""

from pathlib import Path

from pipeline.errors import UserError


def own_folder(output: Path, name: str = ".app") -> Path:
    """Returns the app's folder in an output directory, whose lock a run that it starts holds."""
    own = output / name
    if own.is_symlink():
        raise UserError(f"{own} is a link, which nothing is written through: remove it")
    if own.exists() and not own.is_dir():
        raise UserError(f"{own} is not a folder, which the app requires there: remove it")
    own.mkdir(exist_ok=True)
    return own
