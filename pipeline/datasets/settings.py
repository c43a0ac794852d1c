"""The ``dataset`` group of the configuration: what every data set has.

What a reader needs beyond that is in a subclass. Nothing here imports NumPy, so that a command that
reads no image starts at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipeline.configuration.settings import setting
from pipeline.errors import check_choice, shown

GROUND_TRUTH = "evaluation reads it; labels and masks that a stage uses are part of its inputs"
"""Why settings of the ground truth are not part of a cache key."""

SELECTION = "it selects images, and each image has its own entry"
"""Why settings that select images are not part of a cache key."""

_ground_truth = partial(setting, changes="figures", why=GROUND_TRUTH)
_selection = partial(setting, changes="images", why=SELECTION)
_reading = partial(setting, changes="images", why="what is read is part of each image's input")
_testing = partial(setting, stage="predict")


RENDERED = ("demo", "demo_crowded")
"""The data sets of drawn scenes."""


@dataclass(kw_only=True)
class VocabularySettings:
    """Class names, and the names that CLIP reads for them.

    The fields are untyped because each takes several forms, and because OmegaConf would turn what
    YAML reads as false ("no") into the name "False". :mod:`pipeline.datasets.vocabulary` parses
    them.

    Attributes:
        classes: a list of names, the path of a text file with one name per line, or the path of a
            YAML file with ``classes`` and perhaps ``backgrounds``. An entry of a list is a name, or
            a mapping with ``name`` and any of ``names`` (the names that CLIP reads; their
            embeddings are averaged), ``cam_names`` (the same for CAMs) and ``parent``.
        tag_names: the names that CLIP reads when tagging, one name or a list for each class; null
            takes those of ``classes``.
        cam_names: the names that CLIP reads for CAMs; null takes those for tagging.
        parents: a parent or null for each class, as a list; null takes those of ``classes``.
        backgrounds: a name or a list of names of what is not a class, which absorb probability.
            Names of classes are removed from it.
    """

    classes: Any = setting(is_path=True)
    tag_names: Any = None
    cam_names: Any = setting(None, stage="cams")
    parents: Any = setting(None, changes="figures", why="only evaluation groups classes by parent")
    backgrounds: Any = setting([])


@dataclass(kw_only=True)
class AnnotationSettings:
    """How files of other programs are read as masks (docs/import.md).

    Attributes:
        values: the value of each class in palette and grey PNGs; null for k+1. 0 is the background
            unless a class has it. Pixels of other values are ignored.
        colours: a table of the colours in coloured PNGs, one colour and name per line; null takes
            PASCAL VOC's colours.
        palette: whether the "index" or the "colour" of a pixel counts in palette PNGs.
        join: class → further names in the files, one or a list, that count as this class.
        min_score: the pixels of instances with a lower score are ignored.
    """

    values: list[int] | None = _reading(None, at_least=0, at_most=65_535)
    colours: str | None = _reading(None, is_path=True)
    palette: str = _reading("index", choices=("index", "colour"))
    join: Any = _reading(None)  # untyped, since Hydra would add to a mapping and take no new key
    min_score: float = _reading(0.0, at_least=0, at_most=1)


@dataclass(kw_only=True)
class CrfOptions:
    """The dense CRF's constants (docs/method.md, section 4); the defaults are CLIP-ES's.

    The compiled kernel takes the first six in this order. pydensecrf ends the process where a
    standard deviation is far below a pixel or a grey level.

    Attributes:
        iterations: the number of iterations of mean-field inference.
        gaussian_sxy: the standard deviation of the smoothness kernel, in pixels.
        gaussian_compat: the weight of the smoothness kernel.
        bilateral_sxy: the standard deviation of the appearance kernel, in pixels.
        bilateral_srgb: the standard deviation of the appearance kernel in colour, from 0 to 255.
        bilateral_compat: the weight of the appearance kernel.
        min_probability: labels that are nowhere the best, and have this probability nowhere, are
            left out, which saves time; 0 keeps all.
    """

    iterations: int = setting(10, at_least=0, at_most=1000)
    gaussian_sxy: float = setting(1, at_least=0.01, at_most=1e6)
    gaussian_compat: float = setting(3, at_least=0, at_most=1e6)
    bilateral_sxy: float = setting(67, at_least=0.01, at_most=1e6)
    bilateral_srgb: float = setting(3, at_least=0.01, at_most=1e6)
    bilateral_compat: float = setting(4, at_least=0, at_most=1e6)
    min_probability: float = setting(0, at_least=0, at_most=1)


@dataclass(kw_only=True)
class TrainingSettings:
    """How segmenters are trained and tested on a data set, the defaults of ``segmenter``.

    The defaults here are the usual ones for pseudo masks of VOC.

    Attributes:
        pretrained: initial weights of the backbone, as ``segmenter.pretrained``.
        iterations: the number of steps of the optimiser.
        frozen_iterations: the same where only a decoder learns, by default as many.
        batch_size: images per iteration, over all GPUs.
        crop_size: side of the square crops, in pixels.
        scale_range: smallest and largest factor by which images are resized before cropping.
        checkpoint_interval: iterations between checkpoints.
        validation_interval: iterations between measurements; null measures nothing.
        test_scales: scales of an image over which predictions are averaged.
        test_flip: whether predictions are also averaged over the mirrored image.
        test_crf: the CRF that refines the averaged probabilities; null leaves it out.
    """

    pretrained: str | None = "imagenet"
    iterations: int = setting(20000, at_least=1)
    frozen_iterations: int = setting("${.iterations}", at_least=1)
    batch_size: int = setting(10, at_least=1)
    crop_size: int = setting(321, at_least=1, at_most=16_384)
    scale_range: list[float] = setting([0.5, 1.5], above=0, at_most=100, lengths=(2,))
    checkpoint_interval: int = setting(
        1000, at_least=1, changes="nothing", why="checkpoints do not change the training"
    )
    validation_interval: int | None = setting(
        2000, at_least=1, changes="nothing", why="measuring does not change the training"
    )
    test_scales: list[float] = _testing(
        [0.5, 0.75, 1.0, 1.25, 1.5], above=0, at_most=100, lengths=range(1, 100)
    )
    test_flip: bool = _testing(True)
    test_crf: CrfOptions | None = _testing(CrfOptions())


@dataclass(kw_only=True)
class DatasetSettings(VocabularySettings, AnnotationSettings):
    """Settings of all data sets.

    Attributes:
        name: the data set, which chooses the reader.
        root: the folder of the images.
        split: a split or a list of splits to work on; null takes ``default_splits``, or all.
        default_splits: the splits that a run works on unless ``split`` is given.
        report_split: the split whose metrics are compared, and on which the experiments of the
            leaderboard run; null if there is only one.
        limit: the first N images of each split; null for all.
        image_list: a file whose lines begin with an image id; only these images are used.
        labels: a file with the classes of images: ``.csv``, COCO's ``.json`` or TagCLIP's format.
        masks: a folder with ground-truth masks, ``<id>.png``, or another form of annotations.
        values: the value of each class in ``masks`` and in ``labels``; null for k+1 in masks and k
            in labels.
        ignore_background: whether background pixels of the ground truth are ignored, for methods
            that give every pixel a class.
        max_pixels: width × height; larger images are refused before they are decoded.
        training: the defaults of ``segmenter``.
    """

    name: str = _selection()
    root: str = _selection(is_path=True)
    split: Any = _selection(None)
    default_splits: list[str] = _selection([])
    report_split: str | None = _selection("val")
    limit: int | None = _selection(None, at_least=1)
    image_list: str | None = _selection(None, is_path=True)
    labels: str | None = _ground_truth(None, is_path=True)
    masks: str | None = _ground_truth(None, is_path=True)
    values: list[int] | None = _ground_truth(None, at_least=0, at_most=255)
    ignore_background: bool = _ground_truth(False)
    max_pixels: int | None = _selection(105_000_000, at_least=1)
    training: TrainingSettings = setting(
        TrainingSettings(), changes="nothing", why="segmenter refers to it", stage="train"
    )


def split_names(split: object) -> list[str]:
    """Returns the names in ``dataset.split``, which is a name, a list of names, or null."""
    if split is None:
        return []
    return [str(name) for name in (split if isinstance(split, list | tuple) else [split])]


def splits_of_run(settings: DatasetSettings, splits: Iterable[str]) -> list[str]:
    """Returns ``dataset.split``, else those of ``dataset.default_splits`` that exist, else all.

    Raises a UserError if the data set does not have one of the splits.
    """
    available = list(splits)  # to ask the splits themselves for one would read it
    defaults = [split for split in settings.default_splits if split in available]
    chosen = split_names(settings.split) or defaults or available
    for split in chosen:
        check_choice(f"there is no split {shown(split)}", split, available)
    return chosen


@dataclass(kw_only=True)
class BenchmarkSettings(DatasetSettings):
    """Settings of data sets that are read in the layout in which they are distributed.

    Attributes:
        guide: the heading in ``docs/data-sets.md`` below which the download is described.
        splits: split → its name in the data set's files.
        train_split: the split that the segmenter is trained on.
    """

    guide: str = setting(changes="nothing", why="error messages point to it")
    splits: dict[str, str] = _selection()
    train_split: str = _selection("train")


@dataclass(kw_only=True)
class LabelMapSettings(BenchmarkSettings):
    """Settings of data sets whose masks hold a value for each class.

    Attributes:
        values: the value of each class.
        other_values: whether pixels of other values, such as 255, are "ignored" or "background".
    """

    values: list[int] = _ground_truth(at_least=0, at_most=255)
    other_values: str = _ground_truth("ignored", choices=("ignored", "background"))


@dataclass(kw_only=True)
class VocSettings(BenchmarkSettings):
    """PASCAL VOC.

    Attributes:
        devkit: the name of the folder that holds ``JPEGImages``, as distributed.
        image_set: the folder of the lists, "Segmentation" or "Main".
        mask_folders: the folders of masks; the first that has an image's mask is used.
        sbd_root: the folder of the Semantic Boundaries Dataset, for ``train_aug``; null for none.
        label_source: the image labels: the classes in the masks, or the objects in ``Annotations``.
        difficult: whether objects that are marked as difficult count, with "xml".
        annotated_as: the names of the classes in ``Annotations``; null if they are ``classes``.
    """

    devkit: str = _selection()
    image_set: str = _selection("Segmentation")
    mask_folders: list[str] = _ground_truth(["SegmentationClass", "SegmentationClassAug"])
    sbd_root: str | None = _selection(None, is_path=True)
    label_source: str = _ground_truth("masks", choices=("masks", "xml"))
    difficult: bool = _ground_truth(True)
    annotated_as: list[str] | None = _ground_truth(None)


@dataclass(kw_only=True)
class ContextSettings(VocSettings):
    """Pascal Context, on the images of VOC 2010.

    Attributes:
        annotations: the JSON file of all masks; null takes the PNGs in ``mask_folders``, or else
            ``trainval_merged.json`` beside ``JPEGImages``.
    """

    annotations: str | None = _ground_truth(None, is_path=True)


@dataclass(kw_only=True)
class CocoSettings(BenchmarkSettings):
    """COCO 2014 and 2017.

    Attributes:
        only_annotated: whether images without an instance are left out, as in the lists of the
            published methods.
        annotated_as: the names of the classes in the annotations; null if they are ``classes``.
    """

    only_annotated: bool = _selection(True)
    annotated_as: list[str] | None = _ground_truth(None)
