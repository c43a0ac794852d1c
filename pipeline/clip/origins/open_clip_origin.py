"""The origin of a CLIP of open_clip's form; see :mod:`pipeline.clip.origins.origin`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.clip.dimensions import SHIPPED, Dimensions, Pretraining, read_dimensions
from pipeline.clip.weights.published import addresses_of, find_pretraining, hub_files
from pipeline.errors import NotDownloaded, UserError, command
from pipeline.files.download import Source, source_at
from pipeline.files.shipped import DEMO
from pipeline.files.text import given_path

if TYPE_CHECKING:
    from pipeline.clip.image_text import ImageTextModel

_TIMEOUT = 20.0  # seconds without an answer from the network


@dataclass(frozen=True)
class OfOpenClip:
    """A CLIP of open_clip's own form, or in OpenAI's format.

    Attributes:
        model: as in :class:`~pipeline.clip.settings.ClipSettings`, like the next two.
        has_whole_image: see :class:`~pipeline.clip.image_text.Release`, as of ``joins_patches``.
        source: see :class:`~pipeline.clip.origins.origin.OfRelease`.
    """

    model: str | None
    pretrained: str | None
    checkpoint: str | None

    has_whole_image: bool = True
    joins_patches: bool = False
    source: str = ""

    @property
    def pretraining(self) -> Pretraining:
        """How it was trained."""
        return find_pretraining(self.model, self.pretrained)

    @property
    def dimensions(self) -> Dimensions:
        """Those of its image tower; a UserError if the file holds another architecture."""
        if self._is_shipped:
            return read_dimensions(self.files()["weights"])
        import torch

        from pipeline.clip.weights.checkpoint import build_by_name, load_clip

        if self.is_on_disk:
            path = self.files()["weights"]
            visual = load_clip(path, self.model, self.pretrained, device="meta").visual
        else:
            with torch.device("meta"):
                visual = build_by_name(self.model).visual
        depth = len(visual.transformer.resblocks)
        return Dimensions(depth, visual.patch_size[0], visual.image_size[0])

    @property
    def is_on_disk(self) -> bool:
        """Whether its weights are on this machine, or would be downloaded; without the network.

        A given file counts as here even if it is missing or damaged; loading it reports that.
        Raises a UserError if open_clip knows no such weights.
        """
        if self.checkpoint is not None or self.model is None:
            return True
        from huggingface_hub import try_to_load_from_cache

        entry = self._entry
        if "file" in entry:
            return True
        if files := hub_files(entry):
            return any(isinstance(try_to_load_from_cache(*file), str) for file in files)
        return (Path("~/.cache/clip").expanduser() / entry["url"].rpartition("/")[2]).is_file()

    def files(self) -> Mapping[str, Path]:
        """Returns the file of its weights: the given one, the demo's, or one that is downloaded.

        An unsuitable model is refused before anything is downloaded. Raises a UserError also if the
        file, the model or the weights do not exist, or the download fails.
        """
        model, pretrained, checkpoint = self.model, self.pretrained, self.checkpoint
        find_pretraining(model, pretrained)
        if checkpoint is not None:
            if not (path := given_path(checkpoint, "clip.checkpoint").absolute()).is_file():
                raise UserError(
                    f"clip.checkpoint={checkpoint} is not a file: give the path of the weights"
                )
            return {"weights": path}
        if self._is_shipped:
            return {"weights": DEMO / "clip.safetensors"}
        if model is None:
            raise UserError("clip.checkpoint is missing: give the weights, clip.checkpoint=PATH")
        import open_clip
        from huggingface_hub.utils import get_session

        try:
            if not self.is_on_disk:
                # Fails at once without a network; the clients of open_clip would try for a minute.
                get_session().head(addresses_of(self._entry)[0], timeout=_TIMEOUT)
            return {"weights": Path(open_clip.download_pretrained(self._entry))}
        except Exception as error:  # urllib and the hub's client each raise errors of their own
            raise NotDownloaded(
                f"the weights of clip.model={model} clip.pretrained={pretrained} could not be"
                f" downloaded ({type(error).__name__}): run {command('download')}"
                f" clip.model={model} clip.pretrained={pretrained} --output . where there is a"
                " network, and give the path of the file here, clip.checkpoint=PATH"
            ) from error

    def published(self) -> Mapping[str, Source]:
        """Returns where its weights are published, without asking the network.

        OpenAI's own files are preferred to their copies, since their addresses hold their
        checksums. For a file on Hugging Face, see
        :func:`pipeline.files.hugging_face.with_checksum`. Raises a UserError if they are nowhere.
        """
        entry = self._entry
        if "openaipublic" in entry.get("url", ""):
            return {"weights": source_at(entry["url"])}
        urls = addresses_of(entry)
        # On Hugging Face, all of them have the same name.
        name = f"{self.model}-{self.pretrained}{PurePosixPath(urls[0]).suffix}"
        return {"weights": Source(name, urls)}

    def load(self, device: str) -> ImageTextModel:
        """Reads the weights."""
        from pipeline.clip.text import load_tokenizer, of_clip
        from pipeline.clip.weights.checkpoint import load_clip

        clip = load_clip(self.files()["weights"], self.model, self.pretrained).to(device)
        # The tokenizer is loaded when it is needed.
        return of_clip(
            clip, self.pretraining.normalisation, lambda p: load_tokenizer(self.model)(p)
        )

    @property
    def _is_shipped(self) -> bool:
        return self.model is None and self.pretrained == SHIPPED and self.checkpoint is None

    @property
    def _entry(self) -> dict[str, Any]:
        from pipeline.clip.architectures import find_pretrained

        return find_pretrained(self.model, self.pretrained)
