"""DINOv2 with registers and DINOv3, aligned with text afterwards.

Talk2DINO: Barsellotti et al., ICCV 2025, arXiv 2411.19331. dino.txt: Jose et al., CVPR 2025, arXiv
2412.16334.
"""

from pipeline.clip.dimensions import Dimensions, DimensionsWithHead
from pipeline.clip.image_text import Release, register_release
from pipeline.clip.models.dino import DINOV2, DINOV2_B14, DINOV3, IMAGENET
from pipeline.clip.models.tipsv2 import TEMPLATES

TEMPLATES["talk2dino"] = TEMPLATES["tips"][:7]
TEMPLATES["dinotxt"] = ("photo of {}",)

_CLIP_B16 = (
    "https://openaipublic.azureedge.net/clip/models/"
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt"
)
_TALK2DINO = "https://raw.githubusercontent.com/lorebianchi98/Talk2DINO/main/weights"
_DINOTXT = f"{DINOV2}/dinov2_vitl14/dinov2_vitl14_reg4_dinotxt_tet1280d20h24l"

_DINOTXT3 = "https://dl.fbaipublicfiles.com/dinov3/dinov3_vitl16/dinov3_vitl16"

register_release(
    Release(
        name="talk2dino_b14",
        module=__name__,
        build="pipeline.clip.models.dinov2.talk2dino:build",
        files={
            "image": (DINOV2_B14,),
            "text": (_CLIP_B16,),
            "head": (f"{_TALK2DINO}/vitb_mlp_infonce.pth",),
        },
        dimensions=Dimensions(12, 14, 448),
        heads=12,
        text_heads=8,
        registers=4,
        text_clip="a ViT of width 768, patch 16 and 12 blocks",
        normalisation=IMAGENET,
        has_whole_image=False,
    )
)

register_release(
    Release(
        name="dinotxt_l14",
        module=__name__,
        build="pipeline.clip.models.dinov2.dinotxt:build",
        files={
            "image": (f"{DINOV2}/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth",),
            "text": (f"{_DINOTXT}_text_encoder.pth",),
            "head": (f"{_DINOTXT}_vision_head.pth",),
        },
        dimensions=DimensionsWithHead(26, 14, 224),
        heads=16,
        text_heads=20,
        registers=4,
        joins_patches=True,
        normalisation=IMAGENET,
    )
)

register_release(
    Release(
        name="dinotxt3_l16",
        module=__name__,
        build="pipeline.clip.models.dinov2.dinotxt:build_of_dinov3",
        files={
            "image": (f"{_DINOTXT3}_pretrain_lvd1689m-8aa4cbdd.pth",),
            "head": (f"{_DINOTXT3}_dinotxt_vision_head_and_text_encoder-a442d8f5.pth",),
        },
        dimensions=DimensionsWithHead(26, 16, 224),
        heads=16,
        text_heads=20,
        joins_patches=True,
        **DINOV3,
    )
)
