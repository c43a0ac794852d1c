"""Where CLIP's published weights are, for those who download them and for error messages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import get_session
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from pipeline.clip.architectures import find_pretrained
from pipeline.errors import UserError, command
from pipeline.files.download import Source

_TIMEOUT = 20.0  # seconds without an answer from the network


def published_weights(model: str, pretrained: str | None) -> Source:
    """Returns where weights are published, without asking the network.

    OpenAI's own files are preferred to their copies, since their addresses hold their checksums.
    For a file on Hugging Face, see :func:`pipeline.files.hugging_face.with_checksum`.

    Raises:
        UserError: open_clip does not list these weights.
    """
    entry = find_pretrained(model, pretrained)
    if "openaipublic" in entry.get("url", ""):
        path = PurePosixPath(entry["url"])
        return Source(path.name, (entry["url"],), None, "sha256", path.parent.name)
    urls = _addresses(entry)
    # On Hugging Face, all of them have the same name.
    return Source(f"{model}-{pretrained}{PurePosixPath(urls[0]).suffix}", urls)


def hub_files(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the repository and name of each file that weights may be on Hugging Face.

    Args:
        entry: what open_clip lists of the weights. Without a name, its own names are meant; a
            pickle may have been downloaded as safetensors.
    """
    repository, _, name = entry.get("hf_hub", "").rpartition("/")
    if not repository:
        return []
    safe = PurePosixPath(name).with_suffix(".safetensors").name if name else ""
    names = [name, safe] if name else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    return [(repository, each) for each in dict.fromkeys(names)]


def _addresses(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the URLs at which open_clip looks for weights."""
    files = hub_files(entry)
    return tuple(hf_hub_url(*file) for file in files) if files else (entry["url"],)


def check_network(model: str, pretrained: str | None) -> None:
    """Asks the host of published weights once; open_clip's clients would try for a minute.

    Raises:
        Exception: whatever the client raises if the host cannot be reached.
    """
    entry = find_pretrained(model, pretrained)
    if "file" not in entry:
        get_session().head(_addresses(entry)[0], timeout=_TIMEOUT)


def not_downloaded(model: str, pretrained: str | None, error: Exception) -> UserError:
    """Returns the error that says where published weights can be had instead."""
    source = published_weights(model, pretrained)
    return UserError(
        f"the weights of clip.model={model} clip.pretrained={pretrained} could not be downloaded"
        f" ({type(error).__name__}): where there is a network, run {command('download')}"
        f" clip.model={model} clip.pretrained={pretrained}, or download {source.name} from"
        f" {source.urls[0]}; then give its path here, clip.checkpoint={source.name}"
    )
