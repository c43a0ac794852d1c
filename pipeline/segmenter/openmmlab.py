"""Private APIs of OpenMMLab, and differences between its two families.

mmsegmentation 1.2.2 with mmengine and mmcv-lite, and its maintained fork, the packages onedl-…,
have the same import names. Where they differ, what a module holds decides, not the name of a
package. No other module uses names of theirs that begin with an underscore, replaces their globals,
or reads the files of their wheels.
"""

import importlib.util
import sys
import types
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import mmengine.device.utils as mmengine_device
import mmengine.utils.dl_utils.misc as mmengine_layers
import torch
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from pipeline.errors import UserError

_COMPILED_OPS = "mmcv._ext"
# mmengine looks for them with pkgutil.find_loader, which Python 3.14 does not have.
mmengine_layers.pkgutil = types.SimpleNamespace(find_loader=importlib.util.find_spec)


class _CompiledOpsStandIn(types.ModuleType):
    """Has every operator by name; calling one raises an error with the remedy."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: object, **kwargs: object) -> None:
            raise UserError(
                f"this segmenter.config needs mmcv's compiled operator {name}: install the full"
                " mmcv in place of mmcv-lite, or choose another segmenter.config"
            )

        return missing


@contextmanager
def importable() -> Iterator[None]:
    """Makes mmsegmentation importable without compiled operators and without output.

    mmsegmentation 1.2.2 imports the compiled operators of mmcv, even for networks that use none of
    them. The fork goes without them, but then some networks that need only mmcv's Python code,
    such as PointRend, fail when they are used. Therefore a stand-in replaces missing operators
    during the import of either. It is removed again, because mmengine later tests for ``mmcv._ext``
    to find out whether there are operators. The fork prints which optional packages it misses.

    Both import timm, for one backbone, which takes longer than they do: see :func:`provide_timm`.
    Their heads sort the logits of every pixel for the log, which takes a tenth of a training on a
    CPU, and waits for a GPU: they are given :func:`pixel_accuracy`.
    """
    # Our heads import mmsegmentation while it is being imported.
    is_there = _COMPILED_OPS in sys.modules
    stand_in_needed = not is_there and importlib.util.find_spec(_COMPILED_OPS) is None
    if stand_in_needed:
        sys.modules[_COMPILED_OPS] = _CompiledOpsStandIn(_COMPILED_OPS)
    if hides_timm := "timm" not in sys.modules:
        sys.modules["timm"] = None  # as if it were not installed
    try:
        with redirect_stdout(None):
            yield
        from mmseg.models.decode_heads import decode_head

        decode_head.accuracy = pixel_accuracy
    finally:
        if stand_in_needed:
            sys.modules.pop(_COMPILED_OPS, None)
        if hides_timm:
            del sys.modules["timm"]


def provide_timm() -> types.ModuleType:
    """Imports timm, and gives it to mmsegmentation's ``TIMMBackbone``."""
    import timm
    from mmseg.models.backbones import timm_backbone

    timm_backbone.timm = timm
    return timm


def pixel_accuracy(
    logits: torch.Tensor, labels: torch.Tensor, ignore_index: int | None = None
) -> torch.Tensor:
    """Computes the pixel accuracy that heads write into the log, without sorting the classes.

    Of logits, N×C×…, and labels, N×… int64, it returns percent, of shape 1; 100 if no pixel counts,
    as mmsegmentation has it. If several classes have the highest logit, each of them is right.
    """
    counts = torch.ones_like(labels, dtype=torch.bool)
    if ignore_index is not None:
        counts = labels != ignore_index
    known = counts & (labels < logits.shape[1])
    chosen = logits.gather(1, labels.where(known, 0)[:, None])[:, 0]
    right = (chosen >= logits.amax(1)) & known
    tiny = torch.finfo(torch.float32).eps
    return (right.sum().float() + tiny)[None] * (100 / (counts.sum() + tiny))


def shipped(path: str) -> Path:
    """Returns where a file or folder lies that mmsegmentation's wheel installs beside its code."""
    return Path(importlib.util.find_spec("mmseg").origin).parent / ".mim" / path


def swaps_channels(preprocessor: nn.Module) -> bool:
    """Tells whether a network's preprocessor turns BGR into RGB."""
    name = "channel_conversion"
    return bool(getattr(preprocessor, name if hasattr(preprocessor, name) else f"_{name}"))


@contextmanager
def only_device(device: str) -> Iterator[None]:
    """Makes mmengine use this device; by default it uses a GPU if there is one."""
    previous = mmengine_device.DEVICE
    mmengine_device.DEVICE = device
    try:
        yield
    finally:
        mmengine_device.DEVICE = previous


class InitialisedRunner(Runner):
    """A runner whose initial weights a function sets; mmengine would draw those of a file anew."""

    initialise: Callable[[], None] | None
    """Sets the initial weights; none where a checkpoint holds later ones."""

    def _init_model_weights(self) -> None:
        if self.initialise is not None:
            self.initialise()


class StartedLoop(IterBasedTrainLoop):
    """A training loop whose loader has started, and whose iteration can be set."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        # The fork starts the loader when the first batch is due. A loader draws a number from
        # torch's generator, which here is drawn before the initial weights, in both families.
        if start := getattr(self.dataloader_iterator, "_ensure_iterator", None):
            start()

    def set_iteration(self, iteration: int) -> None:
        """Sets the number of finished iterations."""
        self._iter = iteration


class StepHook(CheckpointHook):
    """A checkpoint hook that leaves writing a checkpoint to :meth:`save_step`."""

    @abstractmethod
    def save_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        """Writes the checkpoint of an iteration, and removes those that it replaces."""

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        self.save_step(runner, step, meta)
