"""SAM's image encoder as a second backbone (Kirillov et al., ICCV 2023, arXiv 2304.02643)."""

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.models.dino import IMAGENET
from pipeline.clip.second import register_second

register_second(
    __name__,
    "sam_vit_b",
    "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
    dimensions=Dimensions(12, 16, 1024),
    heads=12,
    normalisation=IMAGENET,
)

# Whatever a file holds.
register_second(__name__, what="SAM's image encoder", normalisation=IMAGENET)
