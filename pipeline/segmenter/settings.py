"""The settings of a segmenter: those that change its weights, and those that change predictions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from pipeline.clip.device import AUTO, PRECISIONS
from pipeline.configuration.settings import key_facts, setting
from pipeline.datasets.settings import CrfOptions
from pipeline.errors import UserError, shown

MAX_SIZE_DIVISOR = 1024
"""Sides of images are padded to a multiple of at most so many pixels."""

_training = partial(setting, changes="nothing", stage="train")

OF_CLIP, PUBLISHED = "clip", "published"
"""Values of ``segmenter.pretrained``: the run's own CLIP, and what ``segmenter.backbone`` names."""

GUIDED, STRIDE = "tokens", 4
"""The decoder whose logits the image guides, and the pixels a side from one of them to the next."""

_GUIDED_ALGORITHM = 1  # of its weights; a larger one trains them anew
_LARGEST_SCALE = 100

SINGLE_SCALE, MULTI_SCALE, CRF = "single_scale", "multi_scale", "crf"


@dataclass
class TestSettings:
    """Settings of the segmentation in the stage ``predict``.

    Attributes:
        scales: factors by which an image is resized; the softmax is averaged over them.
        flip: whether to average over the mirror image as well.
        crf: constants of the CRF that refines the probabilities; null leaves the CRF out.
        precision: the precision of the backbone, as in ``runtime.precision``; the rest computes in
            fp32.
    """

    __test__ = False  # pytest would take it for tests

    scales: list[float] = setting([1.0], above=0, at_most=_LARGEST_SCALE, lengths=range(1, 100))
    flip: bool = False
    crf: CrfOptions | None = None
    precision: str = setting("fp32", choices=(*PRECISIONS, AUTO))

    @property
    def steps(self) -> list[str]:
        """The results there are of every image, the last of which is the prediction."""
        steps = [SINGLE_SCALE]
        if self.flip or list(self.scales) != [1]:
            steps.append(MULTI_SCALE)
        if self.crf is not None:
            steps.append(CRF)
        return steps


def check_scales(scales: Sequence[float]) -> None:
    """Raises a UserError unless there are factors by which to resize images, up to 100."""
    given = scales if isinstance(scales, Sequence) else ()
    if not given or not all(isinstance(s, int | float) and 0 < s <= _LARGEST_SCALE for s in given):
        numbers = f"numbers above 0, up to {_LARGEST_SCALE}"
        raise UserError(f"scales are {shown(scales)}: give {numbers}, as in 0.5 1.0 1.5")


@dataclass(kw_only=True)
class PredictionSettings:
    """Settings that change the predictions of a trained network.

    Attributes:
        checkpoint: the checkpoint that predicts: the last, or the best on a split with ground
            truth.
        test: how images are segmented.
    """

    checkpoint: str = setting("last", choices=("last", "best"), stage="predict")
    test: TestSettings = setting(TestSettings(), stage="predict")

    @property
    def prediction_facts(self) -> dict[str, Any]:
        """The settings on which predictions depend beside the weights."""
        return key_facts(PredictionSettings(checkpoint=self.checkpoint, test=self.test))


@dataclass(kw_only=True)
class SegmenterSettings(PredictionSettings):
    """The network and its training; presets and the data set give what has no default here.

    What this class adds to :class:`PredictionSettings` changes the weights, unless it is declared
    otherwise. Hence :attr:`training_facts` and :attr:`prediction_facts` need no list of names.

    Attributes:
        name: the network's name in tables.
        config: a config of mmsegmentation, by its path inside the package; another file, by its
            absolute path, is a program that runs.
        backbone: a network of timm that replaces the config's backbone; timm, timm_mlp and light
            take any, and frozen_vit any vision transformer, and the second backbones of CAMs.
        decoder: of the tokens of a frozen vision transformer: tokens, weclip, or linear; null for
            other networks.
        enlarge: the factor by which the patch grid of a decoder is finer: 1, 1.5 or 2.
        most_patches: a network with a decoder shrinks larger images to as many patches.
        freeze: whether the backbone keeps its initial weights, as it does with a decoder.
        pretrained: initial weights of the backbone: imagenet, none, or the path of a file; with a
            decoder clip (the run's own), published, or a file.
        repeat_corrected: how often an epoch samples an image of ``masks.corrections``.
        iterations: the number of steps of the optimiser.
        batch_size: images per iteration, over all GPUs.
        accumulate: parts into which a batch is split to save memory; gradients are accumulated.
        crop_size: side of the square crops, in pixels.
        scale_range: smallest and largest factor by which images are resized before cropping.
        photometric_distortion: whether to vary brightness, contrast, saturation and hue.
        optimizer: a class of torch.optim; null takes the optimiser of the config.
        learning_rate: the initial rate; null takes that of the config.
        learning_rate_from_scratch: the initial rate without pretrained weights; null takes
            ``learning_rate``.
        minimum_learning_rate: the rate at the end, as a share of the initial rate.
        power: exponent of the "poly" schedule.
        weight_decay: the weight decay; null takes that of the config.
        momentum: the momentum, for optimisers that have one.
        warmup_iterations: iterations of linear warm-up, at most a tenth of all.
        parameter_rules: the ``paramwise_cfg`` of mmengine: rates and decays of some layers.
        precision: the precision of the training: fp32, bf16, fp16 (GPU only), or auto, which is
            bf16 on CPUs with native bfloat16, and otherwise fp32.
        workers: processes that load images; 0 loads them in the process that trains.
        checkpoint_interval: iterations between checkpoints.
        validation_interval: iterations between measurements on a split that is not trained on, if
            it has masks; null measures nothing.
        size_divisor: sides of images are padded to multiples of this.
        overrides: changes to the config's ``model``.
    """

    name: str
    config: str = setting(file_values=r"\w[\w-]*(/\w[\w.-]*)+")
    backbone: str | None = None
    decoder: str | None = setting(None, choices=("tokens", "weclip", "linear"))
    enlarge: str = setting("1", choices=("1", "1.5", "2"))
    most_patches: int = setting(4096, at_least=1)
    freeze: bool = False
    pretrained: str | None = "imagenet"
    repeat_corrected: int = _training(
        4, at_least=1, at_most=1000, why="the key holds it only with corrected masks"
    )

    iterations: int = setting(at_least=1)
    batch_size: int = setting(at_least=1)
    accumulate: int = setting(1, at_least=1)
    crop_size: int = setting(at_least=1, at_most=16_384)
    scale_range: list[float] = setting([1.0, 1.0], above=0, at_most=100, lengths=(2,))
    photometric_distortion: bool = False

    optimizer: str | None
    learning_rate: float | None = setting(at_least=0)
    learning_rate_from_scratch: float | None = setting(None, at_least=0)
    minimum_learning_rate: float = setting(1e-4, at_least=0, at_most=1)
    power: float = setting(0.9, at_least=0)
    weight_decay: float | None = setting(at_least=0)
    momentum: float = setting(0.9, at_least=0, at_most=1)
    warmup_iterations: int = setting(0, at_least=0)
    parameter_rules: dict[str, Any] = setting({})

    precision: str = setting("fp32", choices=(*PRECISIONS, AUTO))
    workers: int = setting(
        0, at_least=0, at_most=1024, changes="nothing", why="samples depend on seed and iteration"
    )
    checkpoint_interval: int = setting(
        changes="nothing", why="checkpoints are copies of the weights", at_least=1
    )
    validation_interval: int | None = _training(
        None, at_least=1, why="the key holds it only with checkpoint=best"
    )

    size_divisor: int | None = setting(None, at_least=1, at_most=MAX_SIZE_DIVISOR)
    overrides: dict[str, Any] = setting({})

    @property
    def starts_from_scratch(self) -> bool:
        """Whether the backbone starts from random weights."""
        return self.pretrained in (None, "none")

    @property
    def training_facts(self) -> dict[str, Any]:
        """The settings on which the weights depend, as plain values for a cache key."""
        others = [declared.name for declared in fields(PredictionSettings)]
        others += ["most_patches"] * (self.decoder is None)  # other networks shrink no image
        guided = {"guided": _GUIDED_ALGORITHM} if self.decoder == GUIDED else {}
        return key_facts(replace(self, warmup_iterations=self.warmup), without=others) | guided

    @property
    def warmup(self) -> int:
        """The iterations of the warm-up, which is at most a tenth of the training."""
        return min(self.warmup_iterations, self.iterations // 10)


def side_divisor(patch_size: int | None, decoder: str | None) -> int | None:
    """Returns what the sides of images are multiples of, for a patch size, or none for none."""
    return math.lcm(patch_size, STRIDE) if patch_size and decoder == GUIDED else patch_size


def whole_patches(crop_size: int, divisor: int | None, usual: int) -> int:
    """Returns a side of crops that hold whole patches: the multiple next to that of the data set.

    The ``divisor`` is that of :func:`side_divisor`. Raises a UserError for any other side than the
    ``usual`` one that is not a multiple of it.
    """
    if not divisor or crop_size % divisor == 0:
        return crop_size
    if crop_size != usual:
        below = crop_size // divisor * divisor
        raise UserError(
            f"segmenter.crop_size={crop_size} is not a multiple of {divisor}, as this backbone and"
            f" decoder require: give {f'{below} or ' * (below > 0)}{below + divisor}"
        )
    return max(1, round(crop_size / divisor)) * divisor


@dataclass
class SelfTrainingSettings:
    """How predictions become tags and masks.

    Attributes:
        tag_region: the share of an image's pixels, those with the highest probability, whose mean
            is a class's score.
        tag_threshold: the score at which a class becomes a tag.
        confidence: pixels below this probability become 255.
        keep_tags: whether later rounds keep the tags of the first one; otherwise the segmenter
            gives them.
        refine: whether predictions pass the refiner of the first round's masks before they become
            masks: masks=crf, pamr or par.
    """

    tag_region: float = setting(0.002, above=0, at_most=1)
    tag_threshold: float = setting(0.5, at_least=0, at_most=1)
    confidence: float = setting(0.5, at_least=0, at_most=1)
    keep_tags: bool = True
    refine: bool = False
