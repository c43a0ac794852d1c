"""How a training's files are kept: whole or not at all, and never the last one lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from pipeline.files.atomic import write_atomically
from pipeline.segmenter.checkpoints import (
    best_checkpoints,
    complete_checkpoints,
    iteration_of,
)

WHOLE_FILES = "whole_files"
"""mmengine's name for :class:`WholeFiles`, as in ``backend_args``."""

_KEPT_BESIDE_THE_LAST = 1


@register_backend(WHOLE_FILES, force=True)
class WholeFiles(LocalBackend):
    """The local disk, on which a file appears whole or not at all.

    mmengine's own backend writes in place, so that a kill or a full disk leaves half a checkpoint
    where a whole one may have been.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Writes bytes.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        write_atomically(Path(filepath), obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Writes text.

        Raises:
            UserError: the disk is full or the folder cannot be written to.
        """
        write_atomically(Path(filepath), obj.encode(encoding))


@HOOKS.register_module(force=True)
class KeepCheckpoints(CheckpointHook):
    """Keeps the last two checkpoints and the best one.

    mmengine removes the best before it writes a better one, and removes what a checkpoint names:
    here a file goes when there is another in its place, and none goes but checkpoints in the
    training's own folder.
    """

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        """Takes the settings of mmengine's hook, but for where and how files are written."""
        super().__init__(by_epoch=False, backend_args={"backend": WHOLE_FILES}, **settings)

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float]) -> None:
        """Keeps a checkpoint that is better than the best so far, then removes that."""
        # What mmengine does not know of it cannot remove too early.
        before, self.best_ckpt_path = self.best_ckpt_path, None
        super().after_val_epoch(runner, metrics)
        if self.best_ckpt_path is None:
            self.best_ckpt_path = before
        elif is_main_process():
            best = Path(self.best_ckpt_path)
            _remove(path for path in best_checkpoints(best.parent) if path != best)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        folder, name = Path(runner.work_dir), self.filename_tmpl.format(step)
        self.last_ckpt = str(folder / name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        if is_main_process():
            # Before another is written, which takes the room of the oldest; the newest stays.
            others = [path for path in complete_checkpoints(folder) if path.name != name]
            _remove(sorted(others, key=iteration_of)[:-_KEPT_BESIDE_THE_LAST])
        runner.save_checkpoint(
            str(folder), name, meta=meta, by_epoch=False, backend_args=self.backend_args
        )
        if is_main_process():
            write_atomically(folder / "last_checkpoint", self.last_ckpt)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
