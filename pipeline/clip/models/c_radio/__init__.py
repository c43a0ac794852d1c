"""C-RADIO v3 with an adaptor to SigLIP 2 (NVIDIA; Heinrich et al., CVPR 2025, 2412.07679).

Its image tower alone is a second backbone of the same name.
"""

from pipeline.clip.dimensions import Dimensions
from pipeline.clip.image_text import Release, register_release
from pipeline.clip.models import dino
from pipeline.clip.second import register_second


class AdaptorDimensions(Dimensions):
    """Those of an image tower whose tokens a language adaptor turns into embeddings."""

    has_adaptor = True


_TEXT = "https://huggingface.co/timm/ViT-gopt-16-SigLIP2-384/resolve/main"

for _size, _file, _depth, *_heads in (
    ("b", "c-radio_v3-b_half", 12, 12, 64),
    ("l", "c-radio-v3_l_half", 24, 16, 64),
    ("h", "c-radio-v3_h_half", 32, 16, 80),
):
    _hub = f"https://huggingface.co/nvidia/C-RADIOv3-{_size.upper()}/resolve/main"
    register_release(
        Release(
            name=f"c_radio_v3_{_size}16",
            module=__name__,
            build="pipeline.clip.models.c_radio.model:build",
            files={
                "image": (f"{_hub}/{_file}.pth.tar", f"{_hub}/model.safetensors"),
                "config": (f"{_hub}/config.json",),  # beside model.safetensors
                "head": (),  # beside a file of timm
                "text": (f"{_TEXT}/open_clip_model.safetensors",),
                "tokenizer": (f"{_TEXT}/tokenizer.json",),
            },
            optional=("config", "head"),
            dimensions=AdaptorDimensions(_depth, 16, 512),
            heads=_heads[0],
            head_width=_heads[1],
            text_heads=16,
            packages=("tokenizers",),
        )
    )
    register_second(
        __name__,
        f"c_radio_v3_{_size}16",
        f"{_hub}/{_file}.pth.tar",
        build=f"{__name__}.model:build_alone",
        kind=dino.__name__,  # whose tokens are read by the same methods
        dimensions=Dimensions(_depth, 16, 512),
        heads=_heads[0],
        head_width=_heads[1],
    )
