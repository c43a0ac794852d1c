"""Segments images with a trained segmenter: palette PNG and overlay.

python tools/predict.py --checkpoint outputs/folder/segmenter/latest PHOTOS     a folder
python tools/predict.py --checkpoint iter_20000.pth one.jpg two.png --crf       files, with the CRF
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.commands.console import run_tool

if __name__ == "__main__":
    run_tool("predict")
