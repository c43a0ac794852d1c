"""DINO: vision transformers trained on images alone, as second backbones.

DINO: Caron et al., ICCV 2021, arXiv 2104.14294. DINOv2 with registers: Darcet et al., ICLR 2024,
arXiv 2309.16588. DINOv3: Siméoni et al., arXiv 2508.10104.
"""

from pipeline.clip.dimensions import Dimensions, Normalisation
from pipeline.clip.second import register_second
from pipeline.files.shipped import DEMO

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

DINOV2 = "https://dl.fbaipublicfiles.com/dinov2"
DINOV2_B14 = f"{DINOV2}/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth"

_TERMS = "https://ai.meta.com/resources/models-and-libraries/dinov3-downloads"
DINOV3 = {"registers": 4, "terms": _TERMS, "normalisation": IMAGENET}
"""What all models of DINOv3 share."""

_B16 = Dimensions(12, 16, 224)
_v3 = "https://dl.fbaipublicfiles.com/dinov3/{0}/{0}_pretrain_lvd1689m-{1}.pth".format
_address = "https://dl.fbaipublicfiles.com/dino/{0}/{0}.pth".format

for _name, _url, _dimensions, _heads, _more in (
    ("dino_vitb8", _address("dino_vitbase8_pretrain"), Dimensions(12, 8, 224), 12, {}),
    ("dino_vitb16", _address("dino_vitbase16_pretrain"), _B16, 12, {}),
    ("dino_vits8", _address("dino_deitsmall8_pretrain"), Dimensions(12, 8, 224), 6, {}),
    ("dino_vits16", _address("dino_deitsmall16_pretrain"), _B16, 6, {}),
    ("dinov2_vitb14_reg", DINOV2_B14, Dimensions(12, 14, 518), 12, {"registers": 4}),
    ("dinov3_vits16", _v3("dinov3_vits16", "08c60483"), _B16, 6, DINOV3),
    ("dinov3_vits16plus", _v3("dinov3_vits16plus", "4057cbaa"), _B16, 6, {**DINOV3, "gated": True}),
    ("dinov3_vitb16", _v3("dinov3_vitb16", "73cec8be"), _B16, 12, DINOV3),
    ("dinov3_vitl16", _v3("dinov3_vitl16", "8aa4cbdd"), Dimensions(24, 16, 224), 16, DINOV3),
    ("demo", "", Dimensions(6, 8, 224), 3, {}),
):
    register_second(
        __name__,
        _name,
        _url,
        DEMO / "second.safetensors" if _name == "demo" else None,
        dimensions=_dimensions,
        heads=_heads,
        **{"registers": 0, "normalisation": IMAGENET, **_more},
    )

# Whatever a file holds.
register_second(__name__, what="a vision transformer in DINO's layout", normalisation=IMAGENET)
