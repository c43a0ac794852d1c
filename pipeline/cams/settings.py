"""The settings of the CAM methods that use CLIP, and the form of dense methods as CAMs.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache

from omegaconf import MISSING

from pipeline.cams.method import CamOptions
from pipeline.clip.dimensions import Dimensions, block_window
from pipeline.clip.settings import OPEN_BORDER
from pipeline.datasets.regions import SLIC
from pipeline.dense.settings import DenseSettings
from pipeline.engine.registry import TEMPLATES, Method, derive_forms, register
from pipeline.engine.settings import setting
from pipeline.errors import UserError


@dataclass
class PassCamOptions(CamOptions):
    """Settings of all CAM methods that compare CLIP's patches with names.

    Attributes:
        templates: the set of templates; "clip_es" is "a clean origami {}.".
        backgrounds: competitors of the tags; none takes the backgrounds of the data set.
        affinity: whether the class-aware attention-based affinity of CLIP-ES refines the CAMs.
        affinity_blocks: first and last block of Ā. A number above 0 counts from 1; 0 and below are
            offsets from the last block, which is 0.
        box_threshold: φ, the share of a CAM's peak that opens a box of the affinity.
    """

    templates: str = setting("clip_es", choices=TEMPLATES)
    backgrounds: list[str] | None = None
    affinity: bool = True
    affinity_blocks: list[int] = setting([-7, -1], at_least=-99, at_most=99, lengths=(2,))
    box_threshold: float = setting(0.4, at_least=0, at_most=1)

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses blocks that a CLIP does not have."""
        block_window(f"{prefix}.affinity_blocks", self.affinity_blocks, clip.depth)


@dataclass
class DenseCamOptions(PassCamOptions):
    """Settings of the CAMs of all dense methods.

    Attributes:
        temperature: the factor of cosine similarities in the softmax; none takes CLIP's own.
        affinity: whether the class-aware attention-based affinity of CLIP-ES refines the CAMs.
    """

    temperature: float | None = setting(None, above=0)
    affinity: bool = False

    @property
    def shares_pass(self) -> bool:
        """Whether they can be computed in the pass that tags take, which reads no regions."""
        return getattr(self, "regions", SLIC) == SLIC

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses blocks that a CLIP does not have."""
        from pipeline.dense.method import build_method

        super().validate_for(clip, prefix)
        build_method(self).hooks(clip)

    def __reduce__(self) -> tuple[Callable, tuple]:
        # A worker makes the class as well.
        return _form_with, (self.method.base.settings, vars(self))


@cache
def cam_form(settings: type[DenseSettings]) -> type[DenseCamOptions]:
    """Returns the dataclass of a dense method's settings and of those of its CAMs.

    Raises:
        UserError: a setting has the name of one of the CAMs.
    """
    if taken := {each.name for each in fields(settings)} & {*dir(DenseCamOptions)}:
        raise UserError(
            f"{settings.__qualname__} has a setting {min(taken)}, which all CAMs have: rename it"
        )
    name = f"{settings.__name__.removesuffix('Settings')}CamOptions"
    about = {"__doc__": settings.__doc__, "__module__": settings.__module__}
    return dataclass(type(name, (settings, DenseCamOptions), about))


def _form_with(settings: type[DenseSettings], values: dict[str, object]) -> DenseCamOptions:
    return cam_form(settings)(**values)


def _register_form(method: Method) -> None:
    """Makes a dense method a choice of ``cams=``."""
    form = cam_form(method.settings)
    declared = replace(
        method,
        group="cams",
        settings=form,
        uses_clip=True,
        quirks=(OPEN_BORDER, *method.quirks),
        reads=("cam_names", "backgrounds"),
        code=f"{__name__}.{form.__name__}.build",
        base=method,
    )
    declared("pipeline.cams.dense:DenseCams.build")


derive_forms("dense", _register_form)


@dataclass
class CamFileOptions(CamOptions):
    """``cams=file``: CAMs in the format of CLIP-ES and IRN, ``<path>/<id>.npy``.

    Attributes:
        path: the folder.
        cell_size: finer CAMs are averaged over squares of this many pixels. 16 is the patch grid of
            a ViT-B/16, whose masks are 2 points of mIoU worse on the demo.
    """

    path: str = MISSING
    cell_size: int = setting(4, at_least=1)


register("cams", "file", CamFileOptions, is_stage=True, reads=())(
    "pipeline.cams.imported:ImportedCams"
)
