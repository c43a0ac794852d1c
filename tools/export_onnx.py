"""Writes a trained segmenter as an ONNX file; see --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.command_line import answer
from pipeline.commands.export_onnx import run

if __name__ == "__main__":
    answer(run)
