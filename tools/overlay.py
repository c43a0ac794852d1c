"""Paints tags, CAMs, masks or predictions over their photographs, with a legend.

python tools/overlay.py outputs/folder/all/masks/latest --images PHOTOS
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.console import run_tool

if __name__ == "__main__":
    run_tool("overlay")
