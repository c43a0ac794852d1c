"""Trains a segmenter on pseudo masks; an interrupted training resumes where it stopped."""

import importlib.util
import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.clip.device import is_cpu
from pipeline.configuration.settings import plain
from pipeline.engine.sample import ImageReader, Sample
from pipeline.errors import UserError, tell
from pipeline.files.atomic import write_atomically
from pipeline.segmenter import checkpoints
from pipeline.segmenter.architecture import check_sizes, licence_notes
from pipeline.segmenter.data import TrainingPair
from pipeline.segmenter.distributed import join, local_device, process_count, process_rank
from pipeline.segmenter.limits import Limits
from pipeline.segmenter.mmseg import build_config, build_model, in_mmseg
from pipeline.segmenter.openmmlab import only_device
from pipeline.segmenter.optimization import arrange_for_cpu
from pipeline.segmenter.pretrained import load_pretrained
from pipeline.segmenter.runner import Listener, QuietRunner, explain_faults
from pipeline.segmenter.samples import Labelled, PseudoLabelled, build_loader, positions
from pipeline.segmenter.settings import OF_CLIP, SegmenterSettings
from pipeline.segmenter.validation import measurements

if TYPE_CHECKING:
    from pipeline.clip.image_tower import ImageTower

INITIAL_WEIGHTS = "initial_weights.json"
"""Describes the pretrained weights of the backbone; not written without them."""

LOG_INTERVAL = 50
"""Iterations between lines of the log."""


@dataclass(frozen=True)
class Task:
    """A training: what a network learns, and from what.

    Attributes:
        settings: how it learns.
        pairs: images and masks. Call :func:`pipeline.segmenter.data.check_pairs` first.
        class_names: n names without the background.
        palette: n+1 colours, RGB in [0, 255], the background's first.
        seed: not negative.
        device: "cpu", "cuda", "cuda:1"…
        read: decodes the images.
        tower: loads a frozen vision transformer; none for other networks, and for those of timm.
        about_tower: the name of the tower and its weights, and their licence.
        validation: images with ground truth on which the network is measured every
            ``settings.validation_interval`` iterations. The best checkpoint is kept; no weight
            depends on the measurement.
    """

    settings: SegmenterSettings
    pairs: Sequence[TrainingPair]
    class_names: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    seed: int
    device: str = "cpu"
    read: ImageReader = ImageReader()
    tower: "Callable[[], ImageTower] | None" = None
    about_tower: tuple[str, str] | None = (OF_CLIP, "not known")
    validation: Sequence[Sample] = ()


def train(task: Task, folder: Path, listener: Listener = Listener()) -> Path:  # noqa: B008
    """Trains with mmengine's Runner, from the last checkpoint in a folder if there is one.

    Returns the checkpoint of the last iteration. On a CPU with the same number of threads, the
    weights depend neither on interruptions nor on ``settings.workers``. Every process that torchrun
    started calls this with the same arguments. The folder receives the configuration, checkpoints
    and logs of one training.

    Raises:
        UserError: there are no pairs, a setting cannot be used, the pretrained weights do not fit,
            an image cannot be read, a loss is not finite, the disk is full or read-only, or a
            process that loads images was killed.
    """
    if not task.pairs:
        raise UserError("there is no image to train on: run stage=masks, or correct what failed")
    device = local_device(task.device)
    processes = process_count()
    join(device)  # the first process has prepared the folder
    resume_from = checkpoints.resumable_checkpoint(folder)
    # It may have begun on a machine where "auto" was another precision.
    precision = checkpoints.precision_of(task.settings.precision, resume_from)
    settings = replace(task.settings, precision=precision)
    tower = task.tower and task.tower()
    config = _configure(task, settings, device, processes, tower)
    metainfo = {"classes": config.class_names, "palette": config.palette}
    limits = Limits.of(config.model.test_cfg.limits)
    labelled = Labelled(task.validation, task.read, metainfo, limits)
    is_measured = bool(settings.validation_interval and len(labelled))
    iterations = settings.iterations
    start = checkpoints.iteration_of(resume_from) if resume_from else 0
    if start == iterations and not is_measured:
        return resume_from  # else its last measurement may be missing
    if start > iterations:
        raise UserError(
            f"{folder} holds a training of {start} iterations, more than"
            f" segmenter.iterations={iterations}: delete it to train anew"
        )

    # Modules draw random weights when they are built, before the runner seeds anything.
    torch.manual_seed(task.seed)
    model = build_model(config.model)
    check_sizes(model, settings)
    if settings.freeze or settings.decoder:
        freeze(model.backbone)
    if resume_from is None and not process_rank():
        _note_licences(config, model, settings, is_measured)
    _check_parts(model, settings, processes, device)
    if is_cpu(device):
        arrange_for_cpu(model)

    samples = PseudoLabelled(task.pairs, settings, task.seed, metainfo, task.read, limits)
    indices = positions(settings.batch_size, start, iterations, process_rank(), processes)
    share = settings.batch_size // processes
    if tower is not None:
        load = partial(model.backbone.load_tower, tower, *task.about_tower)
    else:
        load = partial(
            load_pretrained,
            model.backbone,
            settings.pretrained,
            model=config.model,
            source=config.pretrained_source,
        )
    # A sound network predicts objects after this share of its training; from scratch, after 0.2.
    interval = settings.checkpoint_interval
    first = min(interval * ceil(0.3 * iterations / interval), iterations)
    # mmengine keeps loggers, visualisers and counters by name until the process ends.
    name = f"segmenter-{uuid.uuid4().hex}"
    measured = measurements(model, labelled, settings.workers) if is_measured else {}
    with explain_faults(folder), only_device(device), in_mmseg():
        folder.mkdir(parents=True, exist_ok=True)
        runner = QuietRunner(
            initialise=None if resume_from else partial(_initialise, model, load, folder, device),
            listener=Listener() if process_rank() else listener,
            look_at=first if first >= LOG_INTERVAL else 0,
            model=model,
            work_dir=str(folder),
            train_dataloader=build_loader(samples, indices, share, settings.workers),
            train_cfg=config.train_cfg,
            optim_wrapper=config.optim_wrapper,
            param_scheduler=config.param_scheduler,
            **measured,
            default_hooks=_hooks(config, interval, is_measured),
            visualizer=_visualizer(name, folder),
            load_from=str(resume_from) if resume_from else None,
            resume=resume_from is not None,
            launcher="pytorch" if processes > 1 else "none",
            env_cfg={
                "cudnn_benchmark": device.startswith("cuda"),
                # mmengine would change the start method; naming the current one prevents it.
                "mp_cfg": {"mp_start_method": torch.multiprocessing.get_start_method()},
            },
            log_processor={"by_epoch": False},
            default_scope="mmseg",
            randomness=config.randomness,
            experiment_name=name,
            cfg=config,
        )
        try:
            runner.train()
        finally:
            runner.close()
    barrier()  # until the first process has written the last checkpoint
    return checkpoints.last_checkpoint(folder)


def _configure(
    task: Task,
    settings: SegmenterSettings,
    device: str,
    processes: int,
    tower: "ImageTower | None",
) -> Config:
    """Returns the configuration of a training, with what its network is told of images and CRF."""
    config = build_config(
        settings,
        task.class_names,
        task.palette,
        task.seed,
        device=device,
        processes=processes,
        tower=tower,
    )
    config.model.test_cfg.limits.longest_side = task.read.longest_side
    config.model.test_cfg.crf = plain(settings.test.crf)
    # What mmsegmentation's own tools segment images with; decoded as by ``task.read``.
    color_type = "color" if task.read.apply_exif else "color_ignore_orientation"
    config.test_pipeline = [
        {"type": "LoadImageFromFile", "imdecode_backend": "pillow", "color_type": color_type},
        {"type": "PackSegInputs"},
    ]
    return config


def _note_licences(
    config: Config, model: nn.Module, settings: SegmenterSettings, is_measured: bool
) -> None:
    """Notes whose terms apply to the network, and to the checkpoints of a frozen backbone."""
    for note in licence_notes(config.model):
        tell(f"note: {note}")
    if settings.freeze or settings.decoder:
        size = sum(p.numel() * p.element_size() for p in model.backbone.parameters()) / 1e6
        kept = "the last two and the best" if is_measured else "the last two"
        tell(
            f"note: each checkpoint ({kept} are kept) holds the frozen backbone, {size:.0f} MB, to"
            " which the terms of its weights apply: see docs/licences.md"
        )


def _hooks(config: Config, interval: int, is_measured: bool) -> dict[str, Any]:
    """Returns what the runner is told of logs and checkpoints."""
    description = {key: config.to_dict()[key] for key in ("model", "class_names", "palette")}
    description["precision"] = config.settings.precision
    best = {"save_best": checkpoints.METRIC, "rule": "greater"} if is_measured else {}
    return {
        "logger": {"type": "LoggerHook", "interval": LOG_INTERVAL, "log_metric_by_epoch": False},
        "checkpoint": checkpoints.KeepCheckpoints(description, interval=interval, **best),
        "sampler_seed": None,
    }


def _visualizer(name: str, folder: Path) -> dict[str, Any]:
    """Returns what the runner is told of curves."""
    curves = ["LocalVisBackend"]
    if importlib.util.find_spec("tensorboard") is not None:
        curves.append("TensorboardVisBackend")
    return {
        "type": "Visualizer",
        "name": name,
        "vis_backends": [{"type": backend} for backend in curves],
        "save_dir": str(folder),
    }


def _check_parts(
    model: nn.Module, settings: SegmenterSettings, processes: int, device: str
) -> None:
    """Refuses that batch norm, unless it is frozen, sees a single image at a time."""
    synchronised = processes if torch.device(device).type == "cuda" else 1
    parts = processes * settings.accumulate // synchronised
    norms = [m for m in model.train().modules() if isinstance(m, _BatchNorm)]
    if settings.batch_size // parts < 2 and any(norm.training for norm in norms):
        raise UserError(
            f"segmenter.batch_size={settings.batch_size} in {parts} parts leaves a single image in"
            " each, but batch norm needs several: raise it, or lower segmenter.accumulate or the"
            " number of processes"
        )


def freeze(backbone: nn.Module) -> None:
    """Has a backbone learn nothing, not even the statistics of its batch norms."""
    backbone.requires_grad_(requires_grad=False).eval()
    backbone.train = lambda _=True: backbone


def _initialise(model: nn.Module, load: Callable[[], Any], work_dir: Path, device: str) -> None:
    """Initialises a network at random, and loads the weights that its backbone starts from."""
    # Random numbers are drawn in the order of memory, which on a GPU is this one.
    model.to(memory_format=torch.contiguous_format)
    model.init_weights()
    initial = load()
    if is_cpu(device):
        model.to(memory_format=torch.channels_last)
    if initial is not None and not process_rank():
        text = json.dumps({"is": str(initial), **asdict(initial)}, indent=1)
        write_atomically(work_dir / INITIAL_WEIGHTS, text)
