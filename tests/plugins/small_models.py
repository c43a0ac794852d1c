"""Image-text models of small dimensions: a file that registers them is all that a model takes."""

from dataclasses import replace

from pipeline.clip.image_text import register_release, releases

for _name, _depth, _patch in (
    ("tipsv2_b14", 3, 14),
    ("talk2dino_b14", 3, 14),
    ("dinotxt_l14", 5, 14),
    ("dinotxt3_l16", 5, 16),
    ("c_radio_v3_b16", 3, 16),
):
    _release = releases()[_name]
    register_release(
        replace(
            _release,
            name=f"small_{_name}",
            module=__name__,
            dimensions=type(_release.dimensions)(_depth, _patch, 4 * _patch),
            heads=2,
            text_heads=2,
            head_width=8,
            text_clip="a ViT of width 64, patch 16 and 4 blocks",
        )
    )
