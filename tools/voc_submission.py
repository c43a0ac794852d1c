"""Packs predictions for the evaluation server of PASCAL VOC 2012; see --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.command_line import answer
from pipeline.commands.voc_submission import run

if __name__ == "__main__":
    answer(run)
