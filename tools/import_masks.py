"""Turns masks of other programs into palette PNGs with this pipeline's labels; see --help.

python tools/import_masks.py MASKS --classes cat,dog,person --output masks
python tools/import_masks.py MASKS --classes names.txt --colours labelmap.txt --output masks
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.command_line import answer
from pipeline.commands.import_masks import run

if __name__ == "__main__":
    answer(run, "interrupted: the files written so far are complete")
