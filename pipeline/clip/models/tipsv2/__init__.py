"""TIPSv2: patches aligned with text (Google DeepMind, github.com/google-deepmind/tips)."""

from functools import partial

from pipeline.clip.dimensions import Dimensions, Normalisation
from pipeline.clip.image_text import Release, register_release
from pipeline.configuration.registry import TEMPLATES

TEMPLATES["tips"] = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
    "a photo of many {}.",
    "a photo of {}s.",
)

_ADDRESS = "https://huggingface.co/google/{}/resolve/main/{}"

for _name, _depth, _heads in (("tipsv2_b14", 12, 12), ("tipsv2_l14", 24, 16)):
    _address = partial(_ADDRESS.format, _name.replace("_", "-"))
    register_release(
        Release(
            name=_name,
            module=__name__,
            build="pipeline.clip.models.tipsv2.model:build",
            files={
                "weights": (_address("model.safetensors"),),
                "tokenizer": (_address("tokenizer.model"), _address("tokenizer.json")),
            },
            dimensions=Dimensions(_depth, 14, 448),
            heads=_heads,
            text_heads=_heads,
            registers=1,
            normalisation=Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
            packages=("sentencepiece", "tokenizers"),
        )
    )
