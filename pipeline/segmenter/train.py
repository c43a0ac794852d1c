"""Trains a segmenter on pseudo masks; an interrupted training goes on where it stopped."""

from __future__ import annotations

import json
import logging
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mmengine.device.utils as mmengine_device
import torch
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from pipeline.errors import UserError
from pipeline.segmenter.architecture import check_pretrained
from pipeline.segmenter.hooks import (
    DescribeCheckpoint,
    ReportProgress,
    SeedIteration,
    StopAtNonFiniteLoss,
)
from pipeline.segmenter.mmseg import build_config, build_model
from pipeline.segmenter.pairs import TrainingPair, check_pairs
from pipeline.segmenter.samples import PseudoLabelled, build_loader

__all__ = ["TrainingPair", "check_pairs", "is_finished", "last_checkpoint", "train"]

CONFIG_FILE = "config.json"
_CHECKPOINT = "iter_{}.pth"
_LOG_INTERVAL = 50


def train(
    settings: Mapping[str, Any],
    pairs: Sequence[TrainingPair],
    class_names: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
    work_dir: Path,
    seed: int,
    device: str = "cpu",
    workers: int = 0,
    on_iteration: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Trains with mmengine's Runner, from the last checkpoint in ``work_dir`` if there is one.

    On the CPU, with an equal number of threads, the weights do not depend on interruptions or on
    ``workers``.

    Args:
        settings: see :func:`pipeline.segmenter.mmseg.build_config`; further ``apply_exif``
            and ``longest_side``, see :class:`pipeline.datasets.sample.ImageReader`.
        pairs: images and masks; see :func:`check_pairs`, which is not called here.
        class_names: n names without the background.
        palette: n+1 colours, RGB in [0, 255], the background's first.
        work_dir: receives the configuration, checkpoints and logs; one training per directory.
        seed: not negative.
        device: "cpu", "cuda", "cuda:1"…
        workers: processes that load images; 0 loads in this one.
        on_iteration: called with (iteration from 1, all iterations, loss).

    Returns:
        The checkpoint of the last iteration.

    Raises:
        UserError: there are no pairs, a setting cannot be used, the pretrained weights do not fit,
            an image cannot be read, or a loss is not finite.
    """
    if not pairs:
        raise UserError("there are no masks to train on: run stage=masks first")
    config = build_config(settings, class_names, palette, seed)
    iterations = int(settings["iterations"])
    if is_finished(work_dir, iterations):
        return last_checkpoint(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    resume_from = last_checkpoint(work_dir) if _complete_checkpoints(work_dir) else None
    start = _iteration_of(resume_from) if resume_from else 0
    if start > iterations:
        raise UserError(
            f"{work_dir} holds a training of {start} iterations, more than"
            f" segmenter.iterations={iterations}: delete it to train anew"
        )

    # Modules draw weights when they are built, before the runner seeds anything.
    torch.manual_seed(seed)
    model = build_model(config.model)
    if settings.get("pretrained") and not start:
        check_pretrained(model.backbone, Path(settings["pretrained"]))
    description = {key: config.to_dict()[key] for key in ("model", "class_names", "palette")}
    metainfo = {"classes": config.class_names, "palette": config.palette}
    with _only_device(device):
        runner = _QuietRunner(
            model=model,
            work_dir=str(work_dir),
            train_dataloader=build_loader(
                PseudoLabelled(pairs, settings, seed, metainfo),
                int(settings["batch_size"]),
                start,
                iterations,
                workers,
            ),
            train_cfg=config.train_cfg,
            optim_wrapper=config.optim_wrapper,
            param_scheduler=config.param_scheduler,
            default_hooks=_default_hooks(settings),
            custom_hooks=[
                SeedIteration(seed),
                StopAtNonFiniteLoss(),
                DescribeCheckpoint(description),
                *([ReportProgress(on_iteration)] if on_iteration else []),
            ],
            load_from=str(resume_from) if resume_from else None,
            resume=resume_from is not None,
            env_cfg=_environment(device),
            log_processor={"by_epoch": False},
            default_scope="mmseg",
            randomness=config.randomness,
            # mmengine keeps its loggers and counters by name, for the life of the process.
            experiment_name=f"segmenter-{uuid.uuid4().hex}",
            cfg=config,
        )
        try:
            runner.train()
        except UserError as error:
            raise UserError(_one_sentence(error)) from error
        finally:
            runner.close_log()
    return last_checkpoint(work_dir)


def is_finished(work_dir: Path, iterations: int) -> bool:
    """Tells whether ``work_dir`` holds the complete checkpoint of the last iteration."""
    return work_dir / _CHECKPOINT.format(iterations) in _complete_checkpoints(work_dir)


def last_checkpoint(work_dir: Path) -> Path:
    """Returns the newest complete checkpoint.

    mmengine's own marker ``last_checkpoint`` is not consulted: it can be cut short by a kill.

    Raises:
        UserError: there is none.
    """
    checkpoints = _complete_checkpoints(work_dir)
    if not checkpoints:
        raise UserError(f"{work_dir} holds no checkpoint of a segmenter: run stage=train first")
    return max(checkpoints, key=_iteration_of)


def _complete_checkpoints(work_dir: Path) -> list[Path]:
    # A zip archive's directory is written last, so that a truncated file has none.
    found = work_dir.glob(_CHECKPOINT.format("*"))
    return [path for path in found if _number(path).isdigit() and zipfile.is_zipfile(path)]


def _number(path: Path) -> str:
    return path.stem.removeprefix("iter_")


def _iteration_of(path: Path) -> int:
    return int(_number(path))


class _QuietRunner(Runner):
    """A runner that keeps the console clear and dumps its configuration as JSON."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:  # noqa: ANN401
        logger = super().build_logger(*args, **kwargs)
        logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
        return logger

    def dump_config(self) -> None:
        # JSON, unlike mmengine's Python dump, cannot run code when it is read.
        target = Path(self.work_dir) / CONFIG_FILE
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(self.cfg.to_dict(), indent=1), encoding="utf-8")
        partial.replace(target)

    def close_log(self) -> None:
        for handler in self.logger.handlers:
            handler.close()
        self.logger.handlers = []


def _default_hooks(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "logger": {
            "type": "LoggerHook",
            "interval": _LOG_INTERVAL,
            "log_metric_by_epoch": False,
        },
        "checkpoint": {
            "type": "CheckpointHook",
            "by_epoch": False,
            "interval": int(settings["checkpoint_interval"]),
            # The older one goes before the newer one is written: with 1, a kill loses both.
            "max_keep_ckpts": 2,
        },
        "sampler_seed": None,
    }


def _environment(device: str) -> dict[str, Any]:
    return {
        "cudnn_benchmark": device.startswith("cuda"),
        # Naming the present method keeps mmengine from changing it for the whole process.
        "mp_cfg": {"mp_start_method": torch.multiprocessing.get_start_method()},
    }


@contextmanager
def _only_device(device: str) -> Iterator[None]:
    """Has mmengine use this device; on its own it takes a GPU wherever there is one."""
    previous = mmengine_device.DEVICE
    mmengine_device.DEVICE = device
    try:
        yield
    finally:
        mmengine_device.DEVICE = previous


def _one_sentence(error: UserError) -> str:
    """Takes our sentence out of the traceback that a loading process sends along."""
    return str(error).strip().splitlines()[-1].removeprefix("pipeline.errors.UserError: ")
