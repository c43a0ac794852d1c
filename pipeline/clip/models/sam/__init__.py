"""SAM's image encoder as a second backbone (Kirillov et al., ICCV 2023, arXiv 2304.02643)."""

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.image_text import Release
from pipeline.clip.models.dinov2 import IMAGENET
from pipeline.clip.second import register_second

register_second(
    Release(
        name="sam_vit_b",
        module=__name__,
        build="pipeline.clip.models.sam.model:build",
        files={
            "weights": ("https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",)
        },
        dimensions=Dimensions(12, 16, 1024),
        heads=12,
        normalisation=IMAGENET,
    )
)

register_second(
    Release(
        name="",  # whatever a file holds
        what="SAM's image encoder",
        module=__name__,
        build="pipeline.clip.models.sam.model:build",
        about="pipeline.clip.models.sam.model:read_about",
        files={"weights": ("",)},
        normalisation=IMAGENET,
    )
)
