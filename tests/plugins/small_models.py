"""Image-text models of small dimensions: a file that registers them is all that a model takes."""

from dataclasses import replace

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.image_text import register_release, releases

for _name, _depth in (("tipsv2_b14", 3), ("talk2dino_b14", 3), ("dinotxt_l14", 5)):
    register_release(
        replace(
            releases()[_name],
            name=f"small_{_name}",
            module=__name__,
            dimensions=Dimensions(_depth, 14, 56),
            heads=2,
            text_heads=2,
            head_width=8,
            text_clip="a ViT of width 64, patch 16 and 4 blocks",
        )
    )
