"""The settings of the CAM methods that use CLIP, and where they are computed.

Nothing here imports PyTorch, so that a command that computes nothing starts at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from pipeline.cams.method import CamOptions
from pipeline.clip.dimensions import Dimensions, block_window
from pipeline.clip.settings import TEMPLATES
from pipeline.dense.settings import DENSE_SETTINGS, DenseSettings
from pipeline.engine.registry import imported, register
from pipeline.engine.settings import setting
from pipeline.files.fingerprints import fingerprint

if TYPE_CHECKING:
    from pipeline.datasets.vocabulary import Vocabulary


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
class ClipEsOptions(PassCamOptions):
    """``cams=clip_es`` and its presets, the constants of CLIP-ES (CVPR 2023)."""


register(
    "cams",
    "clip_es",
    ClipEsOptions,
    uses_clip=True,
    quirks=("open_border",),
    shares_pass=True,
    reads=("cam_names", "backgrounds"),
    source="Lin et al., CLIP-ES, CVPR 2023, arXiv 2212.09506",
    section="3. CAMs: CLIP-ES",
)("pipeline.cams.clip_es:build_clip_es")


@dataclass
class ExcelOptions(PassCamOptions):
    """``cams=excel``: the training-free part of ExCEL (CVPR 2025).

    Attributes:
        affinity_blocks: first and last block of Ā, as offsets from the last block, which is 0.
        box_threshold: φ, the share of a CAM's peak that opens a box of the affinity.
        descriptors: a YAML or JSON file with sentences that describe each class, {class name:
            [sentences]}; without it classes are compared by their names alone.
        clusters: J, the number of attributes that the sentences are clustered into.
        kept: the share of attributes that count for a class, those most like it.
        blocks: the number of last blocks that have the second path.
        size: side in pixels of the square that images are squashed to; none keeps their own grid.
    """

    affinity_blocks: list[int] = setting([-5, 0], at_least=-99, at_most=99, lengths=(2,))
    box_threshold: float = setting(0.79, at_least=0, at_most=1)
    descriptors: str | None = setting(
        None, changes="nothing", why="the fingerprint of its sentences is in the key"
    )
    clusters: int = setting(112, at_least=1)
    kept: float = setting(0.9, above=0, at_most=1)
    blocks: int = setting(5, at_least=1)
    size: int | None = setting(None, at_least=1)

    def without_effect(self, prefix: str) -> Iterator[str]:
        """Yields a note on each setting that was given and changes nothing."""
        for name in ("clusters", "kept"):
            if self.descriptors is None and getattr(self, name) != getattr(type(self), name):
                yield f"{prefix}.{name} has no effect without {prefix}.descriptors"

    def contents(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns what the file of sentences holds, for the key."""
        if self.descriptors is None:
            return {}
        from pipeline.cams.excel_text import read_descriptors  # imports PyTorch

        found = read_descriptors(self.descriptors, vocabulary.classes, self.clusters)
        return {"sentences": fingerprint(found)}


register(
    "cams",
    "excel",
    ExcelOptions,
    uses_clip=True,
    quirks=("open_border", "imagenet_norm", "token_norm", "head_sum"),
    reads=("cam_names", "backgrounds"),
    source="Yang et al., ExCEL, CVPR 2025, arXiv 2503.20826",
    section="ExCEL",
)("pipeline.cams.excel:build_excel")


@dataclass
class DenseCamOptions(PassCamOptions):
    """Settings of the CAMs of all dense methods.

    Attributes:
        temperature: the factor of cosine similarities in the softmax; none takes CLIP's own.
        affinity: whether the class-aware attention-based affinity of CLIP-ES refines the CAMs.
    """

    temperature: float | None = setting(None, above=0)
    affinity: bool = False

    def validate_for(self, clip: Dimensions, prefix: str) -> None:
        """Refuses blocks that a CLIP does not have."""
        from pipeline.dense.method import build_method  # imports PyTorch

        super().validate_for(clip, prefix)
        build_method(self).hooks(clip)


def register_dense_cams(
    method: type[DenseSettings], module: str | None = None
) -> type[DenseCamOptions]:
    """Makes a dense method a choice of ``cams=``; returns the dataclass of its settings there.

    Args:
        method: the dense method, or its settings.
        module: receives the dataclass as an attribute, where a worker's pickle finds it; the module
            of the method unless given.
    """
    module = module or method.__module__
    name = f"{method.__name__.removesuffix('Settings')}CamOptions"

    def build(options: Any, resources: Any) -> Any:  # noqa: ANN401
        return imported("pipeline.cams.dense:build_dense_cams")(options, resources)

    build.__module__, build.__qualname__ = module, f"{name}.build"
    members = {"__doc__": method.__doc__, "__module__": module, "build": staticmethod(build)}
    options = dataclass(type(name, (method, DenseCamOptions), members))
    register(
        "cams",
        method.name,
        options,
        uses_clip=True,
        quirks=("open_border",),
        shares_pass=True,
        reads=("cam_names", "backgrounds"),
        source=method.source,
        section="Dense methods",
    )(build)
    setattr(sys.modules[module], name, options)
    return options


for _settings in [*DENSE_SETTINGS.values()]:
    register_dense_cams(_settings, __name__)


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
