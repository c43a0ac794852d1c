"""DINO: vision transformers trained on images alone, as second backbones.

DINO: Caron et al., ICCV 2021, arXiv 2104.14294. DINOv2 with registers: Darcet et al., ICLR 2024,
arXiv 2309.16588.
"""

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.models.dinov2 import DINOV2_B14, IMAGENET
from pipeline.clip.second import register_second
from pipeline.files.shipped import DEMO

_address = "https://dl.fbaipublicfiles.com/dino/{0}/{0}.pth".format

for _name, _url, _dimensions, _heads, _registers in (
    ("dino_vitb8", _address("dino_vitbase8_pretrain"), Dimensions(12, 8, 224), 12, 0),
    ("dino_vitb16", _address("dino_vitbase16_pretrain"), Dimensions(12, 16, 224), 12, 0),
    ("dino_vits8", _address("dino_deitsmall8_pretrain"), Dimensions(12, 8, 224), 6, 0),
    ("dino_vits16", _address("dino_deitsmall16_pretrain"), Dimensions(12, 16, 224), 6, 0),
    ("dinov2_vitb14_reg", DINOV2_B14, Dimensions(12, 14, 518), 12, 4),
    ("demo", "", Dimensions(6, 8, 224), 3, 0),
):
    register_second(
        __name__,
        _name,
        _url,
        DEMO / "second.safetensors" if _name == "demo" else None,
        dimensions=_dimensions,
        heads=_heads,
        registers=_registers,
        normalisation=IMAGENET,
    )

# Whatever a file holds.
register_second(__name__, what="a vision transformer in DINO's layout", normalisation=IMAGENET)
