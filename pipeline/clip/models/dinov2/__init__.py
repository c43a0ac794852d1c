"""DINOv2 with registers, aligned with text afterwards.

Talk2DINO: Barsellotti et al., ICCV 2025, arXiv 2411.19331. dino.txt: Jose et al., CVPR 2025, arXiv
2412.16334.
"""

from pipeline.clip.dimensions import Dimensions, Normalisation
from pipeline.clip.image_text import Release, register_release
from pipeline.clip.models.tipsv2 import TEMPLATES

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

TEMPLATES["talk2dino"] = TEMPLATES["tips"][:7]
TEMPLATES["dinotxt"] = ("photo of {}",)

_META = "https://dl.fbaipublicfiles.com/dinov2"
DINOV2_B14 = f"{_META}/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth"
_CLIP_B16 = (
    "https://openaipublic.azureedge.net/clip/models/"
    "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt"
)
_TALK2DINO = "https://raw.githubusercontent.com/lorebianchi98/Talk2DINO/main/weights"
_DINOTXT = f"{_META}/dinov2_vitl14/dinov2_vitl14_reg4_dinotxt_tet1280d20h24l"

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
            "image": (f"{_META}/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth",),
            "text": (f"{_DINOTXT}_text_encoder.pth",),
            "head": (f"{_DINOTXT}_vision_head.pth",),
        },
        dimensions=Dimensions(26, 14, 224),
        heads=16,
        text_heads=20,
        registers=4,
        normalisation=IMAGENET,
    )
)
