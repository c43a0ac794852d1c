"""Turns masks of other programs into palette PNGs with this pipeline's labels; see --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.command_line import answer
from pipeline.commands.import_masks import run

if __name__ == "__main__":
    answer(run, "interrupted: the files written so far are complete")
