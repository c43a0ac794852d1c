"""mmengine's Runner: without console output, on any device, with files that hold no code."""

from __future__ import annotations

import importlib.util
import json
import logging
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
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
from pipeline.segmenter.settings import SegmenterSettings

CONFIG_FILE = "config.json"
_LOG_INTERVAL = 50
# What mmengine and PyTorch raise for parts of a checkpoint that are missing or do not fit.
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
    """A runner without console output that writes its configuration as JSON."""

    def __init__(self, *, initialise: Callable[[], None] | None, **settings: Any) -> None:  # noqa: ANN401
        """Builds everything that a training needs.

        Args:
            initialise: sets the initial weights of the model; none when a training is resumed.
            **settings: arguments of mmengine's Runner.
        """
        self._initialise = initialise
        self._log_files: list[logging.Handler] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about how mmengine calls torch
                super().__init__(**settings)
        except BaseException:
            self.close()
            raise

    def _init_model_weights(self) -> None:
        # mmengine would replace weights read from a file by random ones.
        if self._initialise is not None:
            self._initialise()

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:  # noqa: ANN401
        """Builds a logger that writes to its file only."""
        logger = super().build_logger(*args, **kwargs)
        logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
        for handler in logger.handlers:
            handler.handleError = _raise  # the default prints a traceback and continues
        self._log_files = logger.handlers
        return logger

    def load_checkpoint(
        self,
        filename: str,
        map_location: str = "cpu",
        strict: bool = True,
        revise_keys: Sequence = (),
    ) -> dict[str, Any]:
        """Loads a checkpoint of the same network.

        Raises:
            UserError: it is damaged, holds more than weights, or belongs to another network.
        """
        try:
            checkpoint = read_checkpoint(Path(filename), map_location)
            if checkpoint["meta"]["iter"] != iteration_of(Path(filename)):
                raise ValueError("it belongs to another iteration")
            self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
            model = self.model.module if is_model_wrapper(self.model) else self.model
            model.load_state_dict(checkpoint["state_dict"])
        except (UserError, *_UNFIT) as error:
            raise _cannot_resume(filename) from error
        self._has_loaded = True
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Resumes from a checkpoint.

        Raises:
            UserError: it is not a complete checkpoint of this training.
        """
        try:
            super().resume(filename, *args, **kwargs)
        except _UNFIT as error:
            raise _cannot_resume(filename) from error

    @master_only
    def dump_config(self) -> None:
        """Writes the configuration as JSON, once."""
        # Unlike mmengine's Python dump, JSON cannot run code when it is read.
        text = json.dumps(self.cfg.to_dict(), indent=1)
        write_atomically(Path(self.work_dir) / CONFIG_FILE, text)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Averages gradients over the processes, if there are several."""
        if self.distributed:
            model_wrapper_cfg = {
                "type": "MMDistributedDataParallel",
                "device_ids": None,  # the model is already on its device; a CPU has no id
                "broadcast_buffers": False,
                # Some backbones of timm end in layers that no feature map uses.
                "find_unused_parameters": True,
            }
        return super().wrap_model(model_wrapper_cfg, model)

    def close(self) -> None:
        """Closes the logs, which mmengine keeps open until the process ends."""
        # The error that ended the training matters more than the last lines of a log.
        if hasattr(self, "visualizer"):
            with suppress(OSError):
                self.visualizer.close()
        while self._log_files:
            with suppress(OSError):
                self._log_files.pop().close()


def _cannot_resume(filename: str) -> UserError:
    return UserError(
        f"checkpoint {filename} is damaged or not a checkpoint of this training: delete it to"
        " resume from the previous one"
    )


def _raise(record: logging.LogRecord) -> NoReturn:
    """Ends the training when a log cannot be written, as for any other file."""
    raise


def configure_curves(work_dir: Path) -> dict[str, Any]:
    """Returns a visualiser that writes JSON lines and, if it is installed, TensorBoard's format."""
    backends = [{"type": "LocalVisBackend"}]
    if importlib.util.find_spec("tensorboard") is not None:
        backends.append({"type": "TensorboardVisBackend"})
    # mmengine keeps visualisers by name until the process ends.
    name = f"segmenter-{uuid.uuid4().hex}"
    return {"type": "Visualizer", "name": name, "vis_backends": backends, "save_dir": str(work_dir)}


def configure_hooks(settings: SegmenterSettings, *, validates: bool) -> dict[str, Any]:
    """Returns the hooks that write logs and checkpoints."""
    return {
        "logger": {
            "type": "LoggerHook",
            "interval": _LOG_INTERVAL,
            "log_metric_by_epoch": False,
        },
        "checkpoint": {
            "type": KeepCheckpoints.__name__,
            "interval": settings.checkpoint_interval,
            **({"save_best": METRIC, "rule": "greater"} if validates else {}),
        },
        "sampler_seed": None,
    }


def configure_environment(device: str) -> dict[str, Any]:
    """Returns mmengine's settings for the whole process."""
    return {
        "cudnn_benchmark": device.startswith("cuda"),
        # mmengine would change the start method; naming the current one prevents it.
        "mp_cfg": {"mp_start_method": torch.multiprocessing.get_start_method()},
    }


@contextmanager
def only_device(device: str) -> Iterator[None]:
    """Makes mmengine use this device; by default it uses a GPU if there is one."""
    previous = mmengine_device.DEVICE
    mmengine_device.DEVICE = device
    try:
        yield
    finally:
        mmengine_device.DEVICE = previous
