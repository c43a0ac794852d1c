"""Finds CLIP's weights, on this machine or where they are published, and how they were trained.

open_clip and Hugging Face's client are imported only for weights that a name stands for.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.clip.dimensions import SHIPPED, Normalisation, Pretraining
from pipeline.errors import NotDownloaded, UserError, command
from pipeline.files.download import Source
from pipeline.files.shipped import DEMO
from pipeline.files.text import given_path

_TIMEOUT = 20.0  # seconds without an answer from the network


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
            raise UserError(
                f"clip.pretrained={pretrained} needs the architecture: give clip.model=NAME too"
            )
        return Pretraining()
    from pipeline.clip.architectures import find_architecture

    quick_gelu = bool(find_architecture(model).get("quick_gelu"))
    if pretrained is None:
        return Pretraining(quick_gelu=quick_gelu)
    settings = _find(model, pretrained)
    normalisation = Normalisation(tuple(settings["mean"]), tuple(settings["std"]))
    return Pretraining(normalisation, quick_gelu or bool(settings.get("quick_gelu")))


def _find(model: str, pretrained: str | None) -> dict[str, Any]:
    from pipeline.clip.architectures import find_pretrained

    return find_pretrained(model, pretrained)


def resolve_checkpoint(model: str | None, pretrained: str | None, checkpoint: str | None) -> Path:
    """Returns the path of the weights: the given file, the demo's, or one that open_clip downloads.

    The arguments are those of :class:`pipeline.clip.settings.ClipSettings`. An unsuitable model is
    refused before anything is downloaded. Raises a UserError also if the file, the model or the
    weights do not exist, or the download fails.
    """
    find_pretraining(model, pretrained)
    if checkpoint is not None:
        path = given_path(checkpoint, "clip.checkpoint").absolute()
        if not path.is_file():
            raise UserError(
                f"clip.checkpoint={checkpoint} is not a file: give the path of the weights"
            )
        return path
    if model is None and pretrained == SHIPPED:
        return DEMO / "clip.safetensors"
    if model is None:
        raise UserError("clip.checkpoint is missing: give the weights, clip.checkpoint=PATH")
    import open_clip
    from huggingface_hub.utils import get_session

    entry = _find(model, pretrained)
    try:
        if not is_on_disk(model, pretrained, checkpoint):
            # Fails at once without a network; the clients of open_clip would try for a minute.
            get_session().head(_addresses(entry)[0], timeout=_TIMEOUT)
        return Path(open_clip.download_pretrained(entry))
    except Exception as error:  # urllib and the hub's client each raise errors of their own
        raise NotDownloaded(
            f"the weights of clip.model={model} clip.pretrained={pretrained} could not be"
            f" downloaded ({type(error).__name__}): run {command('download')} clip.model={model}"
            f" clip.pretrained={pretrained} --output . where there is a network, and give the path"
            " of the file here, clip.checkpoint=PATH"
        ) from error


def is_on_disk(model: str | None, pretrained: str | None, checkpoint: str | None) -> bool:
    """Tells, without the network, whether weights are here or would be downloaded.

    The arguments, and the UserError for an unknown name, are those of :func:`resolve_checkpoint`. A
    given file counts as here even if it is missing or damaged; loading it reports that.
    """
    if checkpoint is not None or model is None:
        return True
    from huggingface_hub import try_to_load_from_cache

    published = _find(model, pretrained)
    if "file" in published:
        return True
    if files := hub_files(published):
        return any(isinstance(try_to_load_from_cache(*file), str) for file in files)
    return (Path("~/.cache/clip").expanduser() / published["url"].rpartition("/")[2]).is_file()


def published_weights(model: str, pretrained: str | None) -> Source:
    """Returns where weights are published, without asking the network; a UserError if nowhere.

    OpenAI's own files are preferred to their copies, since their addresses hold their checksums.
    For a file on Hugging Face, see :func:`pipeline.files.hugging_face.with_checksum`.
    """
    entry = _find(model, pretrained)
    if "openaipublic" in entry.get("url", ""):
        path = PurePosixPath(entry["url"])
        return Source(path.name, (entry["url"],), None, "sha256", path.parent.name)
    urls = _addresses(entry)
    # On Hugging Face, all of them have the same name.
    return Source(f"{model}-{pretrained}{PurePosixPath(urls[0]).suffix}", urls)


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


def _addresses(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the URLs at which open_clip looks for weights."""
    from huggingface_hub import hf_hub_url

    files = hub_files(entry)
    return tuple(hf_hub_url(*file) for file in files) if files else (entry["url"],)
