"""The settings of CAMs that compare patches with names, and the base of those of dense methods.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from inspect import get_annotations
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipeline.clip.dimensions import Dimensions, block_window
from pipeline.clip.settings import OPEN_BORDER, CamOptions
from pipeline.configuration.registry import TEMPLATES, Method, complete_group, imported, register
from pipeline.configuration.settings import setting
from pipeline.datasets.regions import SLIC
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.clip.frozen import Resources
    from pipeline.clip.second import FrozenSecond

register_dense = partial(register, "dense")
"""The decorator by which a dense method is declared."""

REMAINDERS = ("stretch", "pad", "enlarge")
"""How pixels beside the last whole patch are treated: they are ignored, and similarities are
stretched over them; or zeros around the window complete the patches; or the window is enlarged to
whole patches (bicubic, without antialiasing)."""


@dataclass
class PassCamOptions(CamOptions):
    """Settings of all CAM methods that compare CLIP's patches with names.

    Attributes:
        templates: the set of prompt templates; "clip_es" is "a clean origami {}.".
        backgrounds: names that compete with the tags; null takes the backgrounds of the data set.
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
class DenseSettings(PassCamOptions):
    """The base of the settings of all dense methods, which are those of their CAMs.

    Attributes:
        temperature: the factor of cosine similarities in the softmax; null takes CLIP's.
    """

    temperature: float | None = setting(None, above=0)
    affinity: bool = False

    @property
    def shares_pass(self) -> bool:
        """Whether they can be computed in the pass that tags take, which reads no regions."""
        return getattr(self, "regions", SLIC) == SLIC

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses blocks that a CLIP does not have."""
        super().validate_for(clip, prefix)
        self.dense_method().hooks(clip)

    def build(self, resources: "Resources", learned: Path | None = None) -> Any:  # noqa: ANN401
        """Builds the CAMs of the method."""
        built = imported("pipeline.cams.dense:DenseCams.build")(self, resources)
        built.learned = learned
        return built

    def dense_method(
        self,
        quirks: SimpleNamespace | None = None,
        seconds: Mapping[str, "FrozenSecond"] = {},
        learned: Path | None = None,
    ) -> Any:  # noqa: ANN401  a DenseMethod
        """Builds the method itself, for CAMs, taggers and ``masks=dense``."""
        built = imported(self.method.build)(self, quirks)
        built.seconds, built.learned = seconds, learned
        return built


SHARED = frozenset(each.name for each in fields(DenseSettings))
"""The settings that are not a method's own, and that ``masks=dense`` does not read."""


def _choice_of_cams(method: Method) -> Method:
    """Returns a dense method as a choice of ``cams=``; a UserError if a setting's name is taken."""
    if taken := {*get_annotations(method.settings)} & {*dir(DenseSettings)}:
        raise UserError(
            f"{method.settings.__qualname__} has a setting {min(taken)}, which all CAMs have:"
            " rename it"
        )
    return replace(
        method,
        group="cams",
        family="dense",
        uses_clip=True,
        quirks=(OPEN_BORDER, *method.quirks),
        reads=("cam_names", "backgrounds"),
    )


complete_group("dense", _choice_of_cams)
