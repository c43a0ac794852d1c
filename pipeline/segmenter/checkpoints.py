"""The checkpoints of a training: the last, by which it goes on, and the best."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.weight_files import read_weights_file

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
    checkpoints = best_checkpoints(work_dir)
    if not checkpoints:
        raise UserError(
            f"{work_dir} holds no best checkpoint, since nothing was measured while it trained:"
            " train with segmenter.validation_interval, or take the last checkpoint"
        )
    return max(checkpoints, key=iteration_of)


def read_checkpoint(path: Path, device: str = "cpu") -> Any:  # noqa: ANN401
    """Reads a checkpoint; nothing that it holds is run.

    Args:
        path: the file.
        device: where tensors go.

    Raises:
        UserError: it is damaged, or holds more than tensors and plain values.
    """
    # mmengine's files are zip archives; anything else would reach older, laxer readers.
    if not zipfile.is_zipfile(path):
        raise UserError(f"checkpoint {path} is damaged or not a checkpoint: choose another file")
    try:
        return read_weights_file(path, device)
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(
            f"checkpoint {path} is damaged or holds more than weights: choose another file"
        ) from error


def complete_checkpoints(work_dir: Path, name: str = CHECKPOINT) -> list[Path]:
    """Returns the checkpoints that were written to their end."""
    # Ours appear whole; of one that was copied in part the directory, which ends it, is missing.
    found = work_dir.glob(name.format("*"))
    return [path for path in found if _number(path).isdigit() and zipfile.is_zipfile(path)]


def best_checkpoints(work_dir: Path) -> list[Path]:
    """Returns the best checkpoint; two where a kill kept the older one from being removed."""
    return complete_checkpoints(work_dir, _BEST)


def _number(path: Path) -> str:
    return path.stem.rpartition("_")[2]


def iteration_of(path: Path) -> int:
    """Returns the number of finished iterations, which is part of a checkpoint's name."""
    return int(_number(path))
