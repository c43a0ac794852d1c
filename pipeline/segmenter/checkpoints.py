"""The checkpoints of a training: the last, by which it goes on, and the best."""

from __future__ import annotations

import zipfile
from pathlib import Path

from pipeline.errors import UserError

METRIC = "mIoU"
"""What the best checkpoint has most of, in percent, as mmsegmentation's IoUMetric counts it."""

CHECKPOINT = "iter_{}.pth"
_BEST = f"best_{METRIC}_{CHECKPOINT}"


def is_finished(work_dir: Path, iterations: int) -> bool:
    """Tells whether ``work_dir`` holds the complete checkpoint of the last iteration."""
    return work_dir / CHECKPOINT.format(iterations) in complete_checkpoints(work_dir)


def last_checkpoint(work_dir: Path) -> Path:
    """Returns the newest complete checkpoint.

    mmengine's own marker ``last_checkpoint`` is not consulted: it can be cut short by a kill.

    Raises:
        UserError: there is none.
    """
    checkpoints = complete_checkpoints(work_dir)
    if not checkpoints:
        raise UserError(f"{work_dir} holds no checkpoint of a segmenter: run stage=train first")
    return max(checkpoints, key=iteration_of)


def best_checkpoint(work_dir: Path) -> Path:
    """Returns the checkpoint that was best on the validation split while it trained.

    The ground truth chose it, so that what it predicts is not free of annotation.

    Raises:
        UserError: there is none.
    """
    checkpoints = complete_checkpoints(work_dir, _BEST)
    if not checkpoints:
        raise UserError(
            f"{work_dir} holds no best checkpoint, since nothing was measured while it trained:"
            " train with segmenter.validation_interval, or take the last checkpoint"
        )
    return max(checkpoints, key=iteration_of)


def complete_checkpoints(work_dir: Path, name: str = CHECKPOINT) -> list[Path]:
    """Returns the checkpoints that were written to their end."""
    # A zip archive's directory is written last, so that a truncated file has none.
    found = work_dir.glob(name.format("*"))
    return [path for path in found if _number(path).isdigit() and zipfile.is_zipfile(path)]


def _number(path: Path) -> str:
    return path.stem.rpartition("_")[2]


def iteration_of(path: Path) -> int:
    """Returns the number of finished iterations, which is part of a checkpoint's name."""
    return int(_number(path))
