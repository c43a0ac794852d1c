"""The checkpoints of a training: the last, from which it resumes, and the best."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.files.weight_files import read_weights_file

METRIC = "mIoU"
"""The metric that selects the best checkpoint: that of mmsegmentation's IoUMetric, in percent."""

CHECKPOINT = "iter_{}.pth"
_BEST = f"best_{METRIC}_{CHECKPOINT}"


def is_finished(work_dir: Path, iterations: int) -> bool:
    """Tells whether ``work_dir`` holds the complete checkpoint of the last iteration."""
    return work_dir / CHECKPOINT.format(iterations) in complete_checkpoints(work_dir)


def last_checkpoint(work_dir: Path) -> Path:
    """Returns the newest complete checkpoint.

    mmengine's marker ``last_checkpoint`` is not used, because a kill can truncate it.

    Raises:
        UserError: there is none.
    """
    checkpoints = complete_checkpoints(work_dir)
    if not checkpoints:
        raise UserError(f"{work_dir} holds no checkpoint of a segmenter: run stage=train first")
    return max(checkpoints, key=iteration_of)


def best_checkpoint(work_dir: Path) -> Path:
    """Returns the checkpoint with the highest mIoU on the validation split.

    Ground truth selected it, so its predictions are not annotation-free.

    Raises:
        UserError: there is none.
    """
    checkpoints = best_checkpoints(work_dir)
    if not checkpoints:
        raise UserError(
            f"{work_dir} holds no best checkpoint, because nothing was measured during training:"
            " train with segmenter.validation_interval, or take the last checkpoint"
        )
    return max(checkpoints, key=iteration_of)


def read_checkpoint(path: Path, device: str = "cpu") -> Any:  # noqa: ANN401
    """Reads a checkpoint without running code from it.

    Args:
        path: the file.
        device: the device for the tensors.

    Raises:
        UserError: the file is damaged, or holds more than tensors and plain values.
    """
    # mmengine writes zip archives; PyTorch would read other formats by older, laxer readers.
    if not zipfile.is_zipfile(path):
        raise UserError(f"checkpoint {path} is damaged or not a checkpoint: choose another file")
    try:
        return read_weights_file(path, device)
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(
            f"checkpoint {path} is damaged or holds more than weights: choose another file"
        ) from error


def complete_checkpoints(work_dir: Path, name: str = CHECKPOINT) -> list[Path]:
    """Returns the complete checkpoints."""
    # A file that was copied in part lacks the zip directory, which is at its end.
    paths = work_dir.glob(name.format("*"))
    return [path for path in paths if _number(path).isdigit() and zipfile.is_zipfile(path)]


def best_checkpoints(work_dir: Path) -> list[Path]:
    """Returns the best checkpoint, and an older one if a kill prevented its removal."""
    return complete_checkpoints(work_dir, _BEST)


def _number(path: Path) -> str:
    return path.stem.rpartition("_")[2]


def iteration_of(path: Path) -> int:
    """Returns the number of finished iterations, from a checkpoint's name."""
    return int(_number(path))
