"""Whether CLIP's weights are on this machine, without any access to the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from pipeline.clip.architectures import find_pretrained


def is_on_disk(clip: Mapping[str, Any]) -> bool:
    """Tells whether the weights of the ``clip`` configuration are here or would be downloaded.

    A file given as ``clip.checkpoint`` counts as here even if it is missing or damaged; loading it
    reports that.

    Raises:
        UserError: the model has no weights of that name.
    """
    if clip["checkpoint"] is not None or clip["model"] is None:
        return True
    published = find_pretrained(clip["model"], clip["pretrained"])
    if "file" in published:
        return True
    if hub := published.get("hf_hub"):
        repository, _, name = hub.rpartition("/")
        alternative = PurePosixPath(name).with_suffix(".safetensors").name if name else ""
        names = [alternative, name] if name else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
        return any(isinstance(try_to_load_from_cache(repository, n), str) for n in names)
    return (Path("~/.cache/clip").expanduser() / published["url"].rpartition("/")[2]).is_file()
