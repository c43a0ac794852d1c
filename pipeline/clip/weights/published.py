"""Where weights that open_clip lists are published, and how they were trained.

open_clip and Hugging Face's client are imported only for weights that a name stands for.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.clip.dimensions import SHIPPED, Normalisation, Pretraining
from pipeline.errors import UserError, shown


def find_pretraining(model: str | None, pretrained: str | None) -> Pretraining:
    """Returns how weights were trained, whether open_clip downloads them or a file is given.

    It imports open_clip only if the answer needs it.

    If weights were trained with QuickGELU and the architecture's configuration lacks it, the
    weights decide; open_clip's own factory only warns. In the reverse case the architecture
    decides, since some weights do not mention their QuickGELU (roberta-ViT-B-32).

    Args:
        model: open_clip's name of the architecture; none for a file in OpenAI's format.
        pretrained: the name of the weights; none for unpublished weights, which are taken to use
            OpenAI's normalisation.

    Raises:
        UserError: the model or the weights are unknown, or the model is missing.
    """
    if model is None:
        if pretrained not in (None, SHIPPED):
            wrong = f"clip.pretrained={shown(pretrained)} needs the architecture"
            raise UserError(f"{wrong}: give clip.model=NAME too")
        return Pretraining()
    from pipeline.clip.architectures import find_architecture, find_pretrained

    quick_gelu = bool(find_architecture(model).get("quick_gelu"))
    if pretrained is None:
        return Pretraining(quick_gelu=quick_gelu)
    settings = find_pretrained(model, pretrained)
    normalisation = Normalisation(tuple(settings["mean"]), tuple(settings["std"]))
    return Pretraining(normalisation, quick_gelu or bool(settings.get("quick_gelu")))


def hub_files(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the repository and name of each file that weights may be on Hugging Face.

    If open_clip's ``entry`` names no file, these are open_clip's default names. A pickle may have
    been downloaded as safetensors.
    """
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

    repository, _, name = entry.get("hf_hub", "").rpartition("/")
    if not repository:
        return []
    safe = PurePosixPath(name).with_suffix(".safetensors").name if name else ""
    names = [name, safe] if name else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    return [(repository, each) for each in dict.fromkeys(names)]


def addresses_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the URLs at which open_clip looks for weights."""
    from huggingface_hub import hf_hub_url

    files = hub_files(entry)
    return tuple(hf_hub_url(*file) for file in files) if files else (entry["url"],)
