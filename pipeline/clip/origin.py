"""Where the files of an image-text model come from, and what is known before they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from pipeline.engine.registry import imported
from pipeline.errors import NotDownloaded, UserError, command, shown
from pipeline.files.download import Source, source_at
from pipeline.files.text import given_path

if TYPE_CHECKING:
    from pipeline.clip.image_text import ImageTextModel

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
    if isinstance(checkpoint, tuple):
        raise UserError(
            f"clip.checkpoint names several files, but clip.model={model} has one: give its path"
        )
    return OfOpenClip(model, pretrained, checkpoint)


class Origin(ABC):
    """Where a model comes from; the files are read, or downloaded, when they are needed."""

    @property
    @abstractmethod
    def pretraining(self) -> Pretraining:
        """How it was trained."""

    @property
    @abstractmethod
    def dimensions(self) -> Dimensions:
        """Those of its image tower; a UserError if the files hold another architecture."""

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
        from pipeline.clip.image_text import ImageTextModel
        from pipeline.clip.image_tower import ImageTower
        from pipeline.clip.text import class_embeddings, load_tokenizer

        clip = load_clip(self.files()["weights"], self.model, self.pretrained).to(device)

        def embed_names(*given: object) -> object:
            return class_embeddings(clip, load_tokenizer(self.model), *given)

        return ImageTextModel(ImageTower.of(clip, self.pretraining.normalisation), embed_names)


@dataclass(frozen=True)
class OfRelease(Origin):
    """A registered model; its files are published, or given."""

    release: Release
    checkpoint: Checkpoint

    @property
    def pretraining(self) -> Pretraining:
        """How it was trained."""
        return Pretraining(self.release.normalisation, quick_gelu=False)

    @property
    def dimensions(self) -> Dimensions:
        """Those of its image tower."""
        return self.release.dimensions

    @cached_property
    def is_on_disk(self) -> bool:
        """Whether its files are on this machine; a given file counts as here."""
        if self.checkpoint is not None:
            return True
        from pipeline.files.hugging_face import find_cached

        return all(any(map(find_cached, urls)) for urls in self.release.files.values())

    def files(self) -> Mapping[str, Path]:
        """Returns the file of each part.

        Raises:
            UserError: a given file is missing, or a package that the model requires.
            NotDownloaded: a published one cannot be downloaded.
        """
        self._refuse_missing_packages()
        if self.checkpoint is not None:
            return {part: self._given(part, urls) for part, urls in self.release.files.items()}
        from pipeline.files.hugging_face import fetch_to_cache, find_cached

        found = {}
        for part, urls in self.release.files.items():
            cached = next(filter(None, map(find_cached, urls)), None)
            try:
                found[part] = cached or fetch_to_cache(urls[0])
            except Exception as error:  # the hub's client raises many types
                raise NotDownloaded(
                    f"{urls[0]} could not be downloaded ({type(error).__name__}): run"
                    f" {command('download')} clip.model={self.release.name} --output DIR where"
                    " there is a network, and give clip.checkpoint=DIR here"
                ) from error
        return found

    def _given(self, part: str, urls: Sequence[str]) -> Path:
        """Returns the file of a part, as ``clip.checkpoint`` names it or its folder."""
        given, names = self.checkpoint, [PurePosixPath(urlsplit(url).path).name for url in urls]
        if isinstance(given, tuple):
            given = dict(given)
            if given.keys() != self.release.files.keys():
                parts = ", ".join(f"{name}: PATH" for name in self.release.files)
                raise UserError(
                    f"clip.checkpoint names {', '.join(given)}: give a folder, or {{{parts}}}"
                )
            path = given_path(given[part], f"clip.checkpoint.{part}").absolute()
            if not path.is_file():
                raise UserError(f"clip.checkpoint.{part}={given[part]} is not a file: correct it")
            return path
        folder = given_path(given, "clip.checkpoint").absolute()
        if path := next((p for p in map(folder.joinpath, names) if p.is_file()), None):
            return path
        raise UserError(
            f"clip.checkpoint={given} is not a folder with {' or '.join(names)}: give that of"
            f" clip.model={self.release.name}"
        )

    def _refuse_missing_packages(self) -> None:
        missing = [name for name in self.release.packages if find_spec(name) is None]
        if missing:
            raise UserError(
                f"clip.model={self.release.name} requires {' and '.join(missing)}: pip install"
                f" {' '.join(missing)}"
            )

    def published(self) -> Mapping[str, Source]:
        """Returns where each part is published."""
        return {part: source_at(urls[0]) for part, urls in self.release.files.items()}

    def load(self, device: str) -> ImageTextModel:
        """Reads the files; a UserError tells which is of another model."""
        files, release = self.files(), self.release
        try:
            model = imported(release.build)(release, files, device)
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{', '.join(map(str, files.values()))} do not hold clip.model={release.name}"
                f" ({shown(reason)}): give that model's files"
            ) from error
        depth = len(model.image.blocks)
        if depth != release.dimensions.depth:
            raise UserError(
                f"{files} hold {depth} blocks, and clip.model={release.name} has"
                f" {release.dimensions.depth}: give that model's files"
            )
        return model
