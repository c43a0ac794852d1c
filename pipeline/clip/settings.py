"""The settings of CLIP, of the machine, of methods, and of the quirks of released code.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.clip.device import ATTENTIONS, AUTO, PRECISIONS
from pipeline.clip.dimensions import Dimensions
from pipeline.configuration.registry import (
    CORE_QUIRKS,
    TEMPLATES,
    Quirk,
    imported,
    method_of,
    quirks,
)
from pipeline.configuration.settings import Settings, declared_settings, setting
from pipeline.datasets.vocabulary import Vocabulary

if TYPE_CHECKING:
    from pipeline.clip.frozen import Resources

_ROUNDING = "results differ only by rounding"
_SPEED = "results do not depend on it"
_CONTENTS = "the key holds the fingerprint of its contents"

TEMPLATES["imagenet"] = ("{}",)  # the 80 prompts of CLIP, which open_clip has


@dataclass
class ClipSettings:
    """The CLIP; presets give its settings.

    Attributes:
        name: its name in tables.
        model: open_clip's name of the architecture; null reads it from the checkpoint.
        pretrained: open_clip's name of the weights, which also decides how pixels are normalised.
        checkpoint: a file of weights, in place of a download; for a model with several files, their
            folder, or a mapping from each part to its file.
    """

    name: str = setting("", changes="nothing", why="the model and its weights are in the key")
    model: str | None = None
    pretrained: str | None = None
    checkpoint: Any = setting(None, changes="nothing", why=_CONTENTS, stage="tags")


@dataclass
class SecondSettings:
    """The choice of a second backbone.

    Attributes:
        model: the name of the second backbone; null reads it from the checkpoint, if there is one:
            a vision transformer in DINO's layout with heads of 64 channels, or SAM's encoder.
        checkpoint: a file of weights, in place of a download.
    """

    model: str | None = None
    checkpoint: str | None = setting(None, changes="nothing", why=_CONTENTS, stage="cams")


@dataclass
class ImageSettings:
    """The sizes at which images are processed.

    Attributes:
        longest_side: the longest side, in pixels, at which masks and predictions are computed; null
            for no limit.
        most_patches: the most patches that CLIP processes of an image. Larger images are shrunk,
            which bounds memory and time. An image of 640×480 pixels has 1,200 patches of 16×16; no
            image of VOC or COCO has 4,096.
    """

    longest_side: int | None = setting(None, at_least=1)
    most_patches: int = setting(4096, at_least=1)


@dataclass
class RuntimeSettings:
    """How the machine is used; results differ at most by rounding, except for the precision.

    Attributes:
        device: the device: "cpu", "cuda", "cuda:1", …; "auto" takes a GPU if there is one.
        precision: the precision of CLIP's image tower. "fp16" requires a GPU; "auto" is "bf16" on
            CPUs with native bfloat16, and otherwise "fp32".
        attention: how CLIP's image tower computes attention on a CPU. "auto" takes "fused" if the
            CPU has AMX and there is a C++ compiler, and otherwise "by_head".
        workers: the number of processes and threads that work beside the model; null takes the
            number of cores.
        batch_size: the number of images that CLIP processes together; null takes 1 on a CPU and 16
            on a GPU.
        crop_batch_size: the number of crops that CWR classifies together; null takes 4 on a CPU and
            64 on a GPU.
        threads: the number of threads of PyTorch in this process; null leaves the choice to
            PyTorch.
        one_pass: whether processes compute masks while the model computes the tags and CAMs of the
            next images; null does so with a GPU.
        wait: seconds to wait for another run that writes to the same folder.
        max_failures: how many images may fail before a run ends with exit code 2: a number, or a
            share below 1; null takes 10 images or 1%, whichever is more, but not all.
    """

    device: str = setting("auto", changes="rounding", why=_ROUNDING)
    precision: str = setting("fp32", choices=(*PRECISIONS, AUTO))
    attention: str = setting("auto", choices=ATTENTIONS, changes="rounding", why=_ROUNDING)
    workers: int | None = setting(None, at_least=1, at_most=1024, changes="nothing", why=_SPEED)
    batch_size: int | None = setting(None, at_least=1, changes="rounding", why=_ROUNDING)
    crop_batch_size: int | None = setting(None, at_least=1, changes="rounding", why=_ROUNDING)
    threads: int | None = setting(None, at_least=1, at_most=1024, changes="rounding", why=_ROUNDING)
    one_pass: bool | None = setting(None, changes="nothing", why=_SPEED)
    wait: float = setting(0, at_least=0, changes="nothing", why=_SPEED)
    max_failures: float | None = setting(None, at_least=0, changes="nothing", why=_SPEED)


OPEN_BORDER = Quirk(
    "open_border", "a box that touches the bottom or right border loses its last row or column"
)
"""The quirk of :func:`pipeline.clip.compute.boxes.bounding_box`."""

CORE_QUIRKS["exif"] = Quirk("exif", "the EXIF orientation of an image is ignored")
CORE_QUIRKS["position_fp16"] = Quirk(
    "position_fp16", "the interpolated position embedding is rounded to float16"
)

_COMPAT = """Which quirks of the released code are kept; see docs/method.md.

A quirk is in the keys of the methods that declare it, and ``exif`` in those of all stages that read
images.

Attributes:
    name: what tables call the choice."""


def compat_settings() -> type:
    """Returns the dataclass of the group ``compat``: a switch for each quirk that is declared."""
    declared = [
        ("name", str, setting("", changes="nothing", why="each quirk is in the key")),
        *((name, bool, quirk.clean) for name, quirk in quirks().items()),
    ]
    meanings = (f"\n    {name}: {quirk.meaning}." for name, quirk in quirks().items())
    members = {
        "__doc__": "".join([_COMPAT, *meanings]),
        # Another process makes the class as well.
        "__reduce__": lambda compat: (_compat_with, (vars(compat),)),
    }
    return make_dataclass("Quirks", declared, namespace=members)


def _compat_with(values: Mapping[str, Any]) -> object:
    compat = compat_settings()()
    vars(compat).update(values)  # with the quirks of a plug-in that is not there
    return compat


@dataclass
class MethodOptions(Settings):
    """The base of the settings of all methods, which override what they need."""

    shares_pass = False
    """Whether it takes part in a pass of the backbone that tags and CAMs share."""

    learns_from: ClassVar[str | None] = None
    """The split whose pictures CAMs learn from, if they learn."""
    folders: ClassVar[Mapping[str, str]] = {}
    """Folders of further pictures that it learns from, by the names of their splits."""
    refit = False
    """Whether it learns again after what it learned from has changed."""

    method = property(method_of, doc="The method that these settings choose.")

    def build(self, resources: "Resources", **learned: Path) -> Any:  # noqa: ANN401
        """Builds what computes: a tagger, CAMs or a refiner."""
        return imported(self.method.build)(self, resources, **learned)

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses, by a UserError, settings that do not suit a CLIP, such as blocks it lacks."""

    def without_whole_image(self, prefix: str) -> str:
        """Returns the settings that need no embedding of a whole image; "" if these do not."""
        return ""

    def without_effect(self, prefix: str) -> Iterable[str]:
        """Returns a sentence on each setting that was given and changes nothing."""
        return ()

    @classmethod
    def usual_second(cls, name: str) -> str:
        """Returns the model of the default of a field with a second backbone."""
        last = name.rpartition(".")[2]  # the same wherever it stands
        [declared] = [each for each in fields(cls) if each.name == last]
        return declared.default_factory().model

    @classmethod
    def needs_more(cls) -> bool:
        """Tells whether the method needs more than any CLIP is, such as a second backbone."""
        return any(each.type is SecondSettings for each in declared_settings(cls))

    def seconds(self) -> dict[str, SecondSettings]:
        """Returns the second backbones that these settings use, by the names of their fields."""
        found = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: value for name, value in found if isinstance(value, SecondSettings)}

    def contents(self, vocabulary: Vocabulary) -> Mapping[str, Any]:
        """Returns what the key holds besides the settings, such as the contents of their files."""
        return {}


@dataclass
class CamOptions(MethodOptions):
    """Settings of all choices of ``cams=``.

    Attributes:
        background_betas: β of the background when CAMs are measured, (1 − max cam)^β; of several,
            the one with the highest mIoU counts.
    """

    background_betas: list[float | None] = setting(
        [1],
        above=0,
        lengths=range(1, 100),
        changes="figures",
        why="CAMs are measured with it, not made",
    )
