"""Where the files of an image-text model come from, and what is known before they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.clip.dimensions import Dimensions, Pretraining
from pipeline.errors import NotDownloaded, UserError, command, shown
from pipeline.files.download import Source, source_at
from pipeline.files.text import given_path

if TYPE_CHECKING:
    import torch

    from pipeline.clip.image_text import ImageTextModel

    Tokenizer = Callable[[list[str]], torch.Tensor]

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
