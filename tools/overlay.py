"""Paints tags, CAMs, masks or predictions over their photographs, with a legend.

python tools/overlay.py outputs/folder/all/masks/latest --images PHOTOS             a PNG an image
python tools/overlay.py outputs/folder/all/cams/latest --images PHOTOS --sheet      contact sheets
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.command_line import answer
from pipeline.commands.overlay import run

if __name__ == "__main__":
    answer(run, "interrupted: what was written so far is whole")
