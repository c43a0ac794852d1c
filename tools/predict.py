"""Segments images with a trained segmenter: palette PNG and overlay.

python tools/predict.py --checkpoint outputs/folder/segmenter/latest PHOTOS     a folder
python tools/predict.py --checkpoint iter_20000.pth one.jpg two.png --crf       files, with the CRF
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130

if __name__ == "__main__":
    # Processes for the CRF read this file too, and do without.
    from pipeline.segmenter.command import run

    try:
        run(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted: what was written so far is whole", file=sys.stderr)
        sys.exit(INTERRUPTED)
