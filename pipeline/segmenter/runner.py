"""mmengine's Runner as this project uses it: quiet, on any device, without code in its files."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import mmengine.device.utils as mmengine_device
import torch
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from torch import nn

from pipeline.segmenter.checkpoints import METRIC

CONFIG_FILE = "config.json"
_LOG_INTERVAL = 50


class QuietRunner(Runner):
    """A runner that keeps the console clear and dumps its configuration as JSON."""

    def __init__(self, *, initialise: Callable[[], None] | None, **settings: Any) -> None:  # noqa: ANN401
        """Builds everything that trains.

        Args:
            initialise: gives the model its first weights, before a checkpoint may replace them.
            **settings: of mmengine's Runner.
        """
        self._initialise = initialise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mmengine's, of how it calls torch itself
            super().__init__(**settings)

    def _init_model_weights(self) -> None:
        # mmengine would draw weights over those that were read from a file.
        if self._initialise is not None:
            self._initialise()

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:  # noqa: ANN401
        """Builds a logger that writes to its file alone."""
        logger = super().build_logger(*args, **kwargs)
        logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
        return logger

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> dict | None:  # noqa: ANN401
        """Loads a checkpoint without the line that mmengine prints."""
        with redirect_stdout(io.StringIO()):
            return super().load_checkpoint(*args, **kwargs)

    @master_only
    def dump_config(self) -> None:
        """Writes the configuration as JSON, once."""
        # JSON, unlike mmengine's Python dump, cannot run code when it is read.
        target = Path(self.work_dir) / CONFIG_FILE
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(self.cfg.to_dict(), indent=1), encoding="utf-8")
        partial.replace(target)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Shares gradients among the processes, where there are several."""
        if self.distributed:
            model_wrapper_cfg = {
                "type": "MMDistributedDataParallel",
                "device_ids": None,  # the model is on its device; a CPU has no number
                "broadcast_buffers": False,
                # Some backbones of timm end in layers that no feature map comes from.
                "find_unused_parameters": True,
            }
        return super().wrap_model(model_wrapper_cfg, model)

    def close(self) -> None:
        """Closes the logs; mmengine keeps them open for the life of the process."""
        self.visualizer.close()
        for handler in self.logger.handlers:
            handler.close()
        self.logger.handlers = []


def configure_curves(work_dir: Path) -> dict[str, Any]:
    """Curves as lines of JSON and, where TensorBoard is installed, for it."""
    backends = [{"type": "LocalVisBackend"}]
    if importlib.util.find_spec("tensorboard") is not None:
        backends.append({"type": "TensorboardVisBackend"})
    # mmengine keeps visualisers by name, too.
    name = f"segmenter-{uuid.uuid4().hex}"
    return {"type": "Visualizer", "name": name, "vis_backends": backends, "save_dir": str(work_dir)}


def configure_hooks(settings: Mapping[str, Any], *, validates: bool) -> dict[str, Any]:
    """Returns how often a training is logged and kept."""
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
            **({"save_best": METRIC, "rule": "greater"} if validates else {}),
        },
        "sampler_seed": None,
    }


def configure_environment(device: str) -> dict[str, Any]:
    """Returns what mmengine may set for the whole process."""
    return {
        "cudnn_benchmark": device.startswith("cuda"),
        # Naming the present method keeps mmengine from changing it for the whole process.
        "mp_cfg": {"mp_start_method": torch.multiprocessing.get_start_method()},
    }


@contextmanager
def only_device(device: str) -> Iterator[None]:
    """Has mmengine use this device; on its own it takes a GPU wherever there is one."""
    previous = mmengine_device.DEVICE
    mmengine_device.DEVICE = device
    try:
        yield
    finally:
        mmengine_device.DEVICE = previous
