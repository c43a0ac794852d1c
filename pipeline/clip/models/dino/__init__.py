"""DINO: vision transformers trained on images alone, as second backbones.

DINO: Caron et al., ICCV 2021, arXiv 2104.14294. DINOv2 with registers: Darcet et al., ICLR 2024,
arXiv 2309.16588.
"""

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.image_text import Release
from pipeline.clip.models.dinov2 import DINOV2_B14, IMAGENET
from pipeline.clip.second import register_second
from pipeline.files.shipped import DEMO

_META = "https://dl.fbaipublicfiles.com/dino"
_BUILD = "pipeline.clip.models.dino.model:build"

for _name, _file, _heads, _patch in (
    ("dino_vitb8", "dino_vitbase8_pretrain", 12, 8),
    ("dino_vitb16", "dino_vitbase16_pretrain", 12, 16),
    ("dino_vits8", "dino_deitsmall8_pretrain", 6, 8),
    ("dino_vits16", "dino_deitsmall16_pretrain", 6, 16),
):
    register_second(
        Release(
            name=_name,
            module=__name__,
            build=_BUILD,
            files={"weights": (f"{_META}/{_file}/{_file}.pth",)},
            dimensions=Dimensions(12, _patch, 224),
            heads=_heads,
            registers=0,
            normalisation=IMAGENET,
        )
    )

register_second(
    Release(
        name="dinov2_vitb14_reg",
        module=__name__,
        build=_BUILD,
        files={"weights": (DINOV2_B14,)},
        dimensions=Dimensions(12, 14, 518),
        heads=12,
        registers=4,
        normalisation=IMAGENET,
    )
)

register_second(
    Release(
        name="demo",
        module=__name__,
        build=_BUILD,
        files={"weights": ("",)},
        dimensions=Dimensions(6, 8, 224),
        heads=3,
        registers=0,
        normalisation=IMAGENET,
    ),
    DEMO / "second.safetensors",
)

register_second(
    Release(
        name="",  # whatever a file holds
        what="a vision transformer in DINO's layout",
        module=__name__,
        build=_BUILD,
        about="pipeline.clip.models.dino.model:read_about",
        files={"weights": ("",)},
        normalisation=IMAGENET,
    )
)
