"""The settings of imported CAMs; those of CAM methods that use CLIP stand in ``dense``."""

from dataclasses import dataclass

from omegaconf import MISSING

from pipeline.clip.settings import CamOptions
from pipeline.configuration.registry import register
from pipeline.configuration.settings import setting


@dataclass
class CamFileOptions(CamOptions):
    """``cams=file``: CAMs in files, ``<path>/<id>.npz``, as the stage ``cams`` stores them.

    Attributes:
        path: the folder of the CAMs.
        cell_size: finer CAMs are averaged over squares of this many pixels. 16 is the patch grid of
            a ViT-B/16, whose masks are 2 points of mIoU worse on the demo.
    """

    path: str = setting(MISSING, is_path=True)
    cell_size: int = setting(4, at_least=1)


register("cams", "file", CamFileOptions, is_stage=True, reads=("classes",))(
    "pipeline.cams.imported:ImportedCams"
)
