"""The checkpoints of a training: the last, from which it resumes, and the best."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner import Runner

from pipeline.clip.device import AUTO, PRECISIONS
from pipeline.errors import UserError, tell
from pipeline.files.archives import is_intact
from pipeline.files.atomic import Complete, fits, write_atomically
from pipeline.files.weight_files import read_weights_file
from pipeline.segmenter.distributed import process_rank
from pipeline.segmenter.openmmlab import StepHook

METRIC = "mIoU"
"""The metric that selects the best checkpoint: that of mmsegmentation's IoUMetric, in percent."""

CHECKPOINT = "iter_{}.pth"
_WITH_PRECISION = Complete(meta=Complete(segmenter=Complete(precision=str)))
_BEST = f"best_{METRIC}_{CHECKPOINT}"


def last_checkpoint(work_dir: Path) -> Path:
    """Returns the newest checkpoint; raises a UserError if there is none."""
    if found := checkpoints_in(work_dir):
        return max(found, key=iteration_of)
    raise UserError(f"{work_dir} holds no checkpoint of a segmenter: run stage=train first")


def best_checkpoint(work_dir: Path) -> Path:
    """Returns the checkpoint with the highest mIoU on the validation split, or raises a UserError.

    Ground truth selected it, so its predictions are not annotation-free.
    """
    if found := best_checkpoints(work_dir):
        return max(found, key=iteration_of)
    raise UserError(
        f"{work_dir} holds no best checkpoint, because nothing was measured during training: train"
        " with segmenter.checkpoint=best, segmenter.validation_interval=N and a split with masks"
        " that is not trained on, or take the last checkpoint"
    )


def resumable_checkpoint(work_dir: Path) -> Path | None:
    """Returns the newest intact checkpoint; one process names damaged ones and moves them away."""
    best = best_checkpoints(work_dir)
    newest_first = sorted(checkpoints_in(work_dir), key=iteration_of, reverse=True)
    for path in [*best, *newest_first]:
        if not is_intact(path):
            if not process_rank():
                aside = path.replace(f"{path}.damaged")
                tell(f"note: checkpoint {path} is damaged and is now {aside.name}")
        elif path not in best:
            return path
    return None


def forget(work_dir: Path) -> None:
    """Removes all from which a training would resume, the last one last, in case of a kill.

    After these it removes the best one. Damaged ones are named later, when a training begins.
    """
    best = filter(is_intact, best_checkpoints(work_dir))
    for path in [*sorted(checkpoints_in(work_dir), key=iteration_of), *best]:
        path.unlink()


def read_checkpoint(path: Path, device: str = "cpu") -> Any:  # noqa: ANN401
    """Reads a checkpoint onto a device, without running code from it.

    Raises a UserError if the file is damaged, or holds more than tensors and plain values.
    """
    # mmengine writes zip archives; PyTorch would read other formats by older, laxer readers.
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise UserError(f"checkpoint {path} is damaged or not a checkpoint: choose another file")
    try:
        content = read_weights_file(path, device)
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(
            f"checkpoint {path} is damaged or holds more than weights: choose another file"
        ) from error
    if not is_intact(path):  # PyTorch compares no checksum
        raise UserError(
            f"checkpoint {path} is damaged: choose another file, or run stage=train again, which"
            " makes it again"
        )
    return content


def precision_of(wanted: str, begun: Path | None) -> str:
    """Returns the precision of a training: of "auto", that of a checkpoint if it has ``begun``."""
    content = read_checkpoint(begun) if wanted == AUTO and begun is not None else None
    found = content["meta"]["segmenter"]["precision"] if fits(content, _WITH_PRECISION) else wanted
    return found if found in PRECISIONS else wanted


def complete_checkpoints(work_dir: Path) -> list[Path]:
    """Returns the checkpoints whose end is there; a file that was copied in part has none."""
    return [p for p in checkpoints_in(work_dir) if p.is_file() and zipfile.is_zipfile(p)]


def best_checkpoints(work_dir: Path) -> list[Path]:
    """Returns the best checkpoint, and an older one if a kill prevented its removal."""
    return checkpoints_in(work_dir, _BEST)


def checkpoints_in(work_dir: Path, name: str = CHECKPOINT) -> list[Path]:
    """Returns the files with the names of checkpoints, intact or not."""
    return [path for path in work_dir.glob(name.format("*")) if re.search(r"_\d+$", path.stem)]


def iteration_of(path: Path) -> int:
    """Returns the number of finished iterations, from a checkpoint's name."""
    return int(path.stem.rpartition("_")[2])


@register_backend("whole_files", force=True)
class WholeFiles(LocalBackend):
    """The local disk with atomic writes.

    mmengine's own writes in place: a kill or a full disk may truncate or destroy a checkpoint.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes; a full disk or a read-only folder is a UserError."""
        write_atomically(Path(filepath), obj)


class KeepCheckpoints(StepHook):
    """Keeps the last two checkpoints and the best one, of tensors and plain values only.

    mmengine removes the best checkpoint before it writes a better one, and removes files whose
    names it reads from a checkpoint. This hook removes a file after its replacement is written, and
    only checkpoints in the training's own folder. Its ``description`` is what a checkpoint says of
    its network, so that it needs no other file; ``settings`` are arguments of mmengine's hook.
    """

    def __init__(self, description: Mapping[str, Any], **settings: Any) -> None:  # noqa: ANN401
        super().__init__(by_epoch=False, backend_args={"backend": "whole_files"}, **settings)
        self._description = dict(description)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Adds the description and removes the curves.

        mmengine pickles curves, which the log has too, with methods that ``torch.load`` refuses.
        """
        checkpoint["meta"]["segmenter"] = self._description
        hub = checkpoint["message_hub"]
        # NumPy scalars, such as the best figure so far, become Python numbers.
        values = {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in hub["runtime_info"].items()
        }
        plain = {key: v for key, v in values.items() if type(v) in (str, int, float, list)}
        resumed = {key: value for key, value in hub["resumed_keys"].items() if key in plain}
        hub |= {"log_scalars": {}, "runtime_info": plain, "resumed_keys": resumed}

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float]) -> None:
        """Writes a checkpoint that is better than the best so far, then removes older ones."""
        # mmengine would remove it before the better one is written.
        before, self.best_ckpt_path = self.best_ckpt_path, None
        super().after_val_epoch(runner, metrics)
        self.best_ckpt_path = self.best_ckpt_path or before
        if self.best_ckpt_path is None or not is_main_process():
            return
        # Also without a better one: a kill may have prevented the removal. Only the name counts,
        # since the folder may have been moved.
        best = Path(runner.work_dir, Path(self.best_ckpt_path).name)
        for path in set(best_checkpoints(best.parent)) - {best} if best.is_file() else ():
            path.unlink(missing_ok=True)

    def save_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Writes a checkpoint and keeps the last of those before it."""
        folder, name = Path(runner.work_dir), self.filename_tmpl.format(step)
        self.last_ckpt = str(folder / name)  # mmengine writes it again if it is the best
        if is_main_process():
            # Before writing, so that the new file takes the disk space of the oldest.
            others = [path for path in complete_checkpoints(folder) if path.name != name]
            for path in sorted(others, key=iteration_of)[:-1]:
                path.unlink(missing_ok=True)
        runner.save_checkpoint(
            str(folder), name, meta=meta, by_epoch=False, backend_args=self.backend_args
        )
