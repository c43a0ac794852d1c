"""mmengine's Runner, without console output and with files that hold no code; the training loop."""

import json
import logging
import random
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import master_only
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from torch import nn

from pipeline.errors import UserError
from pipeline.files.atomic import MENDABLE, cannot_write, write_atomically
from pipeline.segmenter.architecture import MISFITS
from pipeline.segmenter.checkpoints import iteration_of, read_checkpoint
from pipeline.segmenter.openmmlab import InitialisedRunner, StartedLoop

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Listener:
    """What is called in the first process of a training.

    Attributes:
        iteration: with each iteration from 1, the number of all of them, and the loss.
        background: with an iteration early in the training, if the network predicts nothing but
            background then.
    """

    iteration: Callable[[int, int, float], None] | None = None
    background: Callable[[int], None] | None = None


class QuietRunner(InitialisedRunner):
    """A runner without console output that writes its configuration as JSON.

    Args:
        initialise: sets the initial weights of the model; none where a training is resumed.
        listener: what it calls.
        look_at: the iteration after which the listener is told of a network that predicts
            background alone; 0 for none.
        **settings: arguments of mmengine's Runner. The loader starts at the first iteration to do.
    """

    def __init__(
        self,
        *,
        initialise: Callable[[], None] | None,
        listener: Listener,
        look_at: int,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        self.initialise, self.listener, self.look_at = initialise, listener, look_at
        self._log_files: list[logging.Handler] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about how mmengine calls torch
                super().__init__(**settings)
        except BaseException:
            self.close()
            raise

    def build_logger(self, log_level: int | str = "INFO") -> MMLogger:
        """Builds a logger that writes to its file only."""
        logger = super().build_logger(log_level)
        logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
        for handler in logger.handlers:
            handler.handleError = _raise  # the default prints a traceback and continues
        self._log_files = logger.handlers
        return logger

    def resume(self, filename: str, *_: object, **__: object) -> None:
        """Resumes from a checkpoint; unlike mmengine's method it runs no code from it.

        Raises a UserError unless it is a complete checkpoint of this training, of weights alone.
        """
        try:
            checkpoint = read_checkpoint(Path(filename), get_device())
            iteration = checkpoint["meta"]["iter"]
            if iteration != iteration_of(Path(filename)):
                raise ValueError("it belongs to another iteration")
            model = self.model.module if is_model_wrapper(self.model) else self.model
            model.load_state_dict(checkpoint["state_dict"])
            self.train_loop.set_iteration(iteration)
            self.message_hub.load_state_dict(checkpoint["message_hub"])
            self.optim_wrapper.load_state_dict(checkpoint["optimizer"])
            for scheduler, state in zip(self.param_schedulers, checkpoint["param_schedulers"]):
                scheduler.load_state_dict(state)
        except (UserError, *MISFITS) as error:
            raise UserError(
                f"checkpoint {filename} is damaged or not a checkpoint of this training: delete it"
                " to resume from the previous one"
            ) from error

    @master_only
    def dump_config(self) -> None:
        """Writes the configuration as JSON, once."""
        # Unlike mmengine's Python dump, JSON cannot run code when it is read.
        text = json.dumps(self.cfg.to_dict(), indent=1)
        write_atomically(Path(self.work_dir) / CONFIG_FILE, text)

    def close(self) -> None:
        """Closes the logs, which mmengine keeps open until the process ends."""
        # The error that ended the training matters more than the last lines of a log.
        if hasattr(self, "visualizer"):
            with suppress(OSError):
                self.visualizer.close()
        while self._log_files:
            with suppress(OSError):
                self._log_files.pop().close()


def _raise(record: logging.LogRecord) -> NoReturn:
    """Ends the training when a log cannot be written, as for any other file."""
    raise


@contextmanager
def explain_faults(work_dir: Path) -> Iterator[None]:
    """Turns faults of the disk and of processes that load images into errors with a remedy."""
    # TensorBoard's thread would print a traceback if its file cannot be written. It also raises the
    # error in the main thread, which ends the training.
    previous = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not _is_mendable(arguments.exc_value):
            previous(arguments)

    threading.excepthook = hook
    try:
        yield
    except UserError as error:
        # A process that loads images sends a traceback, which ends in our sentence.
        line = str(error).strip().splitlines()[-1]
        raise UserError(line.removeprefix("pipeline.errors.UserError: ")) from error
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if _is_mendable(cause):
                raise cannot_write(cause.filename or work_dir, cause) from error
            # PyTorch raises this at any point of the training when a process ends.
            if isinstance(cause, RuntimeError) and str(cause).startswith("DataLoader worker"):
                raise UserError(
                    "a process that loads images was killed, probably because memory or shared"
                    " memory (/dev/shm) ran out: lower segmenter.workers, and run the same"
                    " command again to resume from the last checkpoint"
                ) from error
            cause = cause.__cause__ or cause.__context__
        raise
    finally:
        threading.excepthook = previous


def _is_mendable(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in MENDABLE


@LOOPS.register_module()
class BatchInPartsLoop(StartedLoop):
    """A training loop in which an iteration is a step of the optimiser, on a batch in parts.

    mmengine counts each part: schedule, checkpoints and ``iterations`` would depend on the split.
    """

    def run(self) -> nn.Module:
        """Trains to the last iteration."""
        runner, wrapper = self.runner, self.runner.optim_wrapper
        parts = runner.cfg.optim_wrapper.accumulative_counts
        wrapper.initialize_count_status(runner.model, self.iter * parts, self.max_iters * parts)
        runner.call_hook("before_train")
        # Checkpoints are written before they are measured. A kill in between would lose the figure,
        # and perhaps the best checkpoint.
        if self.iter:
            self._validate()
        runner.call_hook("before_train_epoch")
        for batch in islice(self.dataloader_iterator, self.max_iters - self.iter):
            runner.model.train()
            self.run_iter(batch)
            is_due = self.iter == runner.look_at and runner.listener.background is not None
            if is_due and not predicts_objects(runner.model, batch):
                runner.listener.background(self.iter)
            self._validate()
        runner.call_hook("after_train_epoch")
        runner.call_hook("after_train")
        return runner.model

    def _validate(self) -> None:
        """Measures the network if its turn has come."""
        due = self.iter % self.val_interval == 0 or self.iter == self.max_iters
        if due and self.runner.val_loop is not None:
            self.runner.val_loop.run()

    def run_iter(self, data_batch: Mapping[str, list]) -> None:
        """Makes one step on a batch; losses are means over the parts.

        Raises a UserError if the loss is not finite. No checkpoint with it is written.
        """
        runner, wrapper = self.runner, self.runner.optim_wrapper
        # mmengine does not resume random states; this seeds what is random in a network, such as
        # dropout. The leading 1 makes these streams differ from those of the samples.
        rank = [runner.rank] if runner.rank else []
        sequence = np.random.SeedSequence([1, runner.seed, self.iter, *rank])
        state = sequence.generate_state(4)
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
        np.random.seed(state)
        random.seed(state.tobytes())
        batch = {"batch_idx": self.iter, "data_batch": data_batch}
        runner.call_hook("before_train_iter", **batch)
        count = runner.cfg.optim_wrapper.accumulative_counts
        size = len(data_batch["inputs"]) // count
        sums: dict[str, torch.Tensor] = {}
        for start in range(0, size * count, size):
            part = {key: values[start : start + size] for key, values in data_batch.items()}
            for name, value in runner.model.train_step(part, optim_wrapper=wrapper).items():
                sums[name] = sums.get(name, 0) + value
        outputs = {name: total / count for name, total in sums.items()}
        loss = outputs["loss"].item()
        if not np.isfinite(loss):
            ids = [str(sample.metainfo.get("img_id")) for sample in data_batch["data_samples"]]
            raise UserError(
                f"the loss became {loss} at iteration {self.iter + 1} (images {', '.join(ids)}):"
                " lower segmenter.learning_rate and start again"
            )
        runner.call_hook("after_train_iter", **batch, outputs=outputs)
        self.set_iteration(self.iter + 1)
        if runner.listener.iteration is not None:
            runner.listener.iteration(self.iter, self.max_iters, loss)


def predicts_objects(model: nn.Module, batch: Mapping[str, list]) -> bool:
    """Tells whether a network predicts anything but background in a batch; changes nothing."""
    model = model.module if is_model_wrapper(model) else model
    model.eval()  # the loop turns it back before the next iteration
    with torch.no_grad():
        data = model.data_preprocessor(batch, True)  # which pads to one size
        metas = [sample.metainfo for sample in data["data_samples"]]
        return bool(model.encode_decode(data["inputs"], metas).argmax(1).any())
