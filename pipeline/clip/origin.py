"""Where the files of an image-text model come from, and what is known before they are read."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.clip.dimensions import SHIPPED, Dimensions, Pretraining, read_dimensions
from pipeline.clip.image_text import Release, releases
from pipeline.clip.published import (
    find_pretraining,
    is_on_disk,
    published_weights,
    resolve_checkpoint,
)
from pipeline.engine.registry import imported, source_of
from pipeline.errors import NotDownloaded, UserError, command, shown
from pipeline.files.download import Source, source_at
from pipeline.files.text import given_path

if TYPE_CHECKING:
    import torch

    from pipeline.clip.architectures import ClipModel
    from pipeline.clip.hub_folder import FolderConfig
    from pipeline.clip.image_text import ImageTextModel

    Tokenizer = Callable[[list[str]], torch.Tensor]

_REPOSITORY = re.compile(r"hf:[\w.-]+/[\w.-]+")

Checkpoint = str | tuple[tuple[str, str], ...] | None
"""A file of weights, a folder, or the file of each part of a model: its name and path."""


def hashable(given: Any) -> Checkpoint:  # noqa: ANN401  ``clip.checkpoint``
    """Returns ``clip.checkpoint`` so that it can be compared; a UserError if it is of another kind.

    It is the path of a file or a folder, or a mapping from each part of a model to its file.
    """
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping) and all(isinstance(p, str) for e in given.items() for p in e):
        return tuple(sorted(given.items()))
    raise UserError(
        f"clip.checkpoint={shown(given)} is no path: give a file, a folder, or a file for each part"
    )


def find_origin(model: str | None, pretrained: str | None, checkpoint: Checkpoint) -> Origin:
    """Returns where a model comes from; the arguments are the settings below ``clip``."""
    if release := releases().get(model or ""):
        return OfRelease(release, checkpoint)
    is_folder = model is None and isinstance(checkpoint, str) and Path(checkpoint).is_dir()
    if is_folder or _REPOSITORY.fullmatch(model or ""):
        return OfFolder(model, checkpoint)
    if isinstance(checkpoint, tuple):
        raise UserError(
            f"clip.checkpoint names several files, but clip.model={model} has one: give its path"
        )
    return OfOpenClip(model, pretrained, checkpoint)


def of_clip(clip: ClipModel, pretraining: Pretraining, tokenizer: Tokenizer) -> ImageTextModel:
    """Returns what is asked of a CLIP of open_clip's form."""
    from pipeline.clip.image_text import ImageTextModel
    from pipeline.clip.image_tower import ImageTower
    from pipeline.clip.text import class_embeddings

    embed_names = partial(class_embeddings, clip, tokenizer)
    return ImageTextModel(ImageTower.of(clip, pretraining.normalisation), embed_names)


class Origin(ABC):
    """Where a model comes from; the files are read, or downloaded, when they are needed.

    Attributes:
        lacks: see :class:`~pipeline.clip.image_text.Release`.
    """

    lacks: Sequence[str] = ()
    source = ""  # the fingerprint of the code of a plug-in

    @property
    @abstractmethod
    def pretraining(self) -> Pretraining:
        """How it was trained."""

    @property
    @abstractmethod
    def dimensions(self) -> Dimensions | None:
        """Those of its image tower; none if nothing tells them before a download.

        A UserError tells that the files hold another architecture.
        """

    @property
    @abstractmethod
    def is_on_disk(self) -> bool:
        """Whether its files are on this machine."""

    @abstractmethod
    def files(self) -> Mapping[str, Path]:
        """Returns the file of each part, which is downloaded if need be."""

    @abstractmethod
    def published(self) -> Mapping[str, Source]:
        """Returns where each part is published, without asking the network."""

    @abstractmethod
    def load(self, device: str) -> ImageTextModel:
        """Reads the files; a UserError tells that one is damaged or of another model."""


@dataclass(frozen=True)
class OfOpenClip(Origin):
    """A CLIP of open_clip's own form, or in OpenAI's format."""

    model: str | None
    pretrained: str | None
    checkpoint: str | None

    @property
    def pretraining(self) -> Pretraining:
        """How it was trained, see :func:`~pipeline.clip.published.find_pretraining`."""
        return find_pretraining(self.model, self.pretrained)

    @property
    def dimensions(self) -> Dimensions:
        """Those of its image tower; a UserError if the file holds another architecture."""
        if self.model is None and self.pretrained == SHIPPED and self.checkpoint is None:
            return read_dimensions(self.files()["weights"])
        import torch

        from pipeline.clip.checkpoint import build_by_name, load_clip

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
        """Whether its weights are on this machine."""
        return is_on_disk(self.model, self.pretrained, self.checkpoint)

    def files(self) -> Mapping[str, Path]:
        """Returns the file of its weights."""
        return {"weights": resolve_checkpoint(self.model, self.pretrained, self.checkpoint)}

    def published(self) -> Mapping[str, Source]:
        """Returns where its weights are published."""
        return {"weights": published_weights(self.model, self.pretrained)}

    def load(self, device: str) -> ImageTextModel:
        """Reads the weights."""
        from pipeline.clip.checkpoint import load_clip
        from pipeline.clip.text import load_tokenizer

        clip = load_clip(self.files()["weights"], self.model, self.pretrained).to(device)

        def tokenize(prompts: list[str]) -> torch.Tensor:
            return load_tokenizer(self.model)(prompts)

        return of_clip(clip, self.pretraining, tokenize)


class OfParts(Origin):
    """A model of several files, which are published or given.

    Attributes:
        name: the value of ``clip.model``.
        checkpoint: that of ``clip.checkpoint``.
        addresses: those of each part; of several, any one will do.
        optional: the parts that a model may lack.
    """

    name: str | None
    checkpoint: Checkpoint
    addresses: Mapping[str, Sequence[str]]
    optional: Sequence[str] = ()

    @cached_property
    def is_on_disk(self) -> bool:
        """Whether its files are on this machine; given ones count as here."""
        if self.checkpoint is not None:
            return True
        from pipeline.files.hugging_face import find_cached

        required = self.addresses.keys() - {*self.optional}
        return all(any(map(find_cached, self.addresses[part])) for part in required)

    def files(self) -> dict[str, Path]:
        """Returns the file of each part that there is.

        Raises:
            UserError: a given file is missing.
            NotDownloaded: a published one cannot be downloaded.
        """
        given = {part: self._file(part, urls) for part, urls in self.addresses.items()}
        return {part: path for part, path in given.items() if path is not None}

    def published(self) -> Mapping[str, Source]:
        """Returns where each part is published."""
        return {part: source_at(urls[0]) for part, urls in self.addresses.items()}

    def _file(self, part: str, urls: Sequence[str]) -> Path | None:
        if self.checkpoint is not None:
            return self._given(part, [PurePosixPath(urlsplit(url).path).name for url in urls])
        from huggingface_hub.errors import EntryNotFoundError

        from pipeline.files.hugging_face import fetch_to_cache, find_cached

        if cached := next(filter(None, map(find_cached, urls)), None):
            return cached
        if part in self.optional and self.is_on_disk:
            return None
        try:
            return fetch_to_cache(urls[0])
        except Exception as error:  # the hub's client raises many types
            if part in self.optional and isinstance(error, EntryNotFoundError):
                return None
            raise NotDownloaded(
                f"{urls[0]} could not be downloaded ({type(error).__name__}): run"
                f" {command('download')} clip.model={self.name} --output DIR where there is a"
                " network, and give clip.checkpoint=DIR here"
            ) from error

    def _given(self, part: str, names: Sequence[str]) -> Path | None:
        """Returns the file of a part that ``clip.checkpoint`` names, itself or by its folder."""
        if isinstance(self.checkpoint, tuple):
            given = dict(self.checkpoint)
            if unknown := given.keys() ^ self.addresses.keys() - {*self.optional}:
                parts = ", ".join(f"{name}: PATH" for name in self.addresses)
                raise UserError(
                    f"clip.checkpoint has {' and '.join(unknown)} too many or too few: give"
                    f" {{{parts}}}, or a folder"
                )
            paths = [given_path(given[part], f"clip.checkpoint.{part}")] if part in given else []
        else:
            paths = [given_path(self.checkpoint, "clip.checkpoint") / name for name in names]
        if found := next((path.absolute() for path in paths if path.is_file()), None):
            return found
        if part in self.optional:
            return None
        raise UserError(
            f"{' or '.join(map(str, paths))} is missing: give the folder of"
            f" {f'clip.model={self.name}' if self.name else 'the model'} as clip.checkpoint"
        )


@dataclass(frozen=True)
class OfRelease(OfParts):
    """A registered model."""

    release: Release
    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        """The value of ``clip.model``."""
        return self.release.name

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        """Those of each part."""
        return self.release.files

    @property
    def lacks(self) -> Sequence[str]:
        """What methods may need and the model has not."""
        return self.release.lacks

    @property
    def source(self) -> str:
        """The fingerprint of a plug-in's code."""
        module = self.release.build.partition(":")[0]
        return "" if module.startswith("pipeline.") else source_of(module)

    @property
    def pretraining(self) -> Pretraining:
        """How it was trained; a UserError names a package that the model requires."""
        missing = [name for name in self.release.packages if find_spec(name) is None]
        if missing:
            raise UserError(
                f"clip.model={self.name} requires {' and '.join(missing)}: pip install"
                f" {' '.join(missing)}"
            )
        return Pretraining(self.release.normalisation, quick_gelu=False)

    @property
    def dimensions(self) -> Dimensions:
        """Those of its image tower."""
        return self.release.dimensions

    def load(self, device: str) -> ImageTextModel:
        """Reads the files; a UserError tells that they are of another model."""
        files, release = self.files(), self.release
        try:
            model = imported(release.build)(release, files, device)
            depth = len(model.image.blocks)
            if depth != release.dimensions.depth:
                raise ValueError(f"{depth} blocks instead of {release.dimensions.depth}")
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{' and '.join(map(str, files.values()))} do not hold clip.model={release.name}"
                f" ({shown(reason)}): give that model's files"
            ) from error
        return model


_HUB_FILES = {
    "config": "config.json",
    "weights": "model.safetensors",
    "pixels": "preprocessor_config.json",
    "tokenizer": "tokenizer.json",
}


@dataclass(frozen=True)
class OfFolder(OfParts):
    """A CLIP in the layout of transformers: a repository of Hugging Face, or a folder."""

    name: str | None
    checkpoint: Checkpoint
    optional: Sequence[str] = ("pixels", "tokenizer")

    @property
    def addresses(self) -> Mapping[str, Sequence[str]]:
        """Those of each part."""
        place = f"https://huggingface.co/{(self.name or '').removeprefix('hf:')}/resolve/main"
        return {part: (f"{place}/{name}",) for part, name in _HUB_FILES.items()}

    @property
    def pretraining(self) -> Pretraining:
        """How it was trained."""
        return self._config.pretraining

    @property
    def dimensions(self) -> Dimensions | None:
        """Those of its image tower; none before its files are here."""
        return self._config.dimensions if self.is_on_disk else None

    @cached_property
    def _config(self) -> FolderConfig:
        from pipeline.clip.hub_folder import FolderConfig

        files = self.files()
        return FolderConfig(files["config"], files.get("pixels"))

    def load(self, device: str) -> ImageTextModel:
        """Reads the files."""
        files, config = self.files(), self._config
        clip = config.build(files["weights"], device)
        return of_clip(clip, self.pretraining, config.tokenizer(files.get("tokenizer")))
