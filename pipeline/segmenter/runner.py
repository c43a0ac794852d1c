"""mmengine's Runner as this project uses it: quiet, on any device, without code in its files."""

from __future__ import annotations

import importlib.util
import json
import logging
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import mmengine.device.utils as mmengine_device
import torch
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from pipeline.errors import UserError
from pipeline.files.atomic import write_atomically
from pipeline.segmenter.checkpoints import METRIC, iteration_of, read_checkpoint
from pipeline.segmenter.keeping import KeepCheckpoints

CONFIG_FILE = "config.json"
_LOG_INTERVAL = 50
# What mmengine and PyTorch raise for parts of a checkpoint that are not there or do not fit.
_UNFIT = (
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)


class QuietRunner(Runner):
    """A runner that keeps the console clear and dumps its configuration as JSON."""

    def __init__(self, *, initialise: Callable[[], None] | None, **settings: Any) -> None:  # noqa: ANN401
        """Builds everything that trains.

        Args:
            initialise: gives the model its first weights, before a checkpoint may replace them.
            **settings: of mmengine's Runner.
        """
        self._initialise = initialise
        self._log_files: list[logging.Handler] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # mmengine's, of how it calls torch itself
                super().__init__(**settings)
        except BaseException:
            self.close()
            raise

    def _init_model_weights(self) -> None:
        # mmengine would draw weights over those that were read from a file.
        if self._initialise is not None:
            self._initialise()

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:  # noqa: ANN401
        """Builds a logger that writes to its file alone."""
        logger = super().build_logger(*args, **kwargs)
        logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
        for handler in logger.handlers:
            handler.handleError = _pass_on  # the default prints a traceback and goes on
        self._log_files = logger.handlers
        return logger

    def load_checkpoint(
        self,
        filename: str,
        map_location: str = "cpu",
        strict: bool = True,
        revise_keys: Sequence = (),
    ) -> dict[str, Any]:
        """Loads a checkpoint of the same network, whatever PyTorch's defaults for files are.

        Raises:
            UserError: it is damaged, holds more than weights, or is another network's.
        """
        try:
            checkpoint = read_checkpoint(Path(filename), map_location)
            if checkpoint["meta"]["iter"] != iteration_of(Path(filename)):
                raise ValueError("it is another iteration's")
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
            model = self.model.module if is_model_wrapper(self.model) else self.model
            model.load_state_dict(checkpoint["state_dict"])
        except (UserError, *_UNFIT) as error:
            raise _cannot_resume(filename) from error
        self._has_loaded = True
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Goes on from a checkpoint.

        Raises:
            UserError: it is no whole checkpoint of this training.
        """
        try:
            super().resume(filename, *args, **kwargs)
        except _UNFIT as error:
            raise _cannot_resume(filename) from error

    @master_only
    def dump_config(self) -> None:
        """Writes the configuration as JSON, once."""
        # JSON, unlike mmengine's Python dump, cannot run code when it is read.
        text = json.dumps(self.cfg.to_dict(), indent=1)
        write_atomically(Path(self.work_dir) / CONFIG_FILE, text)

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
        # What ended the training matters more than the last lines about it.
        if hasattr(self, "visualizer"):
            with suppress(OSError):
                self.visualizer.close()
        while self._log_files:
            with suppress(OSError):
                self._log_files.pop().close()


def _cannot_resume(filename: str) -> UserError:
    return UserError(
        f"checkpoint {filename} is damaged or no checkpoint of this training: delete it to go on"
        " from the one before"
    )


def _pass_on(record: logging.LogRecord) -> NoReturn:
    """Has a log that cannot be written end the training in a sentence, as all other files do."""
    raise


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
            "type": KeepCheckpoints.__name__,
            "interval": int(settings["checkpoint_interval"]),
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
