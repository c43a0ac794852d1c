"""The files that come with the package: configurations, worlds of scenes, demo weights.

In a checkout they lie beside ``pipeline/``, else inside it, whatever the working directory is.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]

HOME = _PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent
"""The folder that holds ``configs`` and ``data``."""

CONFIGS = HOME / "configs"
DATA = HOME / "data"
DEMO = DATA / "demo"
PROGRAM = HOME / "examples" / "segment.py"
"""Segments a photograph with an exported network, without this package."""

CONVERT_CAMS = HOME / "examples" / "convert_cams.py"
"""Converts pickled CAMs of CLIP-ES and IRN to files that ``cams=file`` reads."""

DATA_GUIDE = HOME / "docs" / "data-sets.md"
"""How to get each data set."""
