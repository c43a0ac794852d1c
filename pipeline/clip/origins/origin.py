"""Where the files of an image-text model come from, and what is known before they are read.

:class:`OfRelease` and :class:`~pipeline.clip.origins.open_clip_origin.OfOpenClip` answer the same
questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.clip.dimensions import Dimensions, Pretraining
from pipeline.clip.image_text import ImageTextModel, Release, releases
from pipeline.clip.origins.open_clip_origin import OfOpenClip
from pipeline.configuration.registry import imported, source_of
from pipeline.errors import NotDownloaded, UserError, command, shown
from pipeline.files.download import Source, source_at
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.files.text import given_path

if TYPE_CHECKING:
    from pipeline.clip.image_tower import ImageTower

Checkpoint = str | tuple[tuple[str, str], ...] | None
"""A file of weights, a folder, or the file of each part of a model: its name and path."""

_MISSHAPEN = (
    *(AssertionError, AttributeError, ArithmeticError, LookupError),
    *(RuntimeError, TypeError, ValueError),
)
"""Errors of torch and open_clip for weights and dimensions that do not fit."""


def hashable(given: Any) -> Checkpoint:  # noqa: ANN401  ``clip.checkpoint``
    """Returns ``clip.checkpoint`` as a hashable value; a UserError if it is not a path."""
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping) and all(isinstance(p, str) for e in given.items() for p in e):
        return tuple(sorted(given.items()))
    raise UserError(
        f"clip.checkpoint={shown(given)} is not a path: give a file, a folder, or a file for each"
        " part"
    )


def find_origin(model: str | None, pretrained: str | None, checkpoint: Checkpoint) -> Origin:
    """Returns where a model comes from; the arguments are the settings below ``clip``."""
    release = releases().get(model or "")
    is_folder = model is None and isinstance(checkpoint, str)
    is_folder = is_folder and given_path(checkpoint, "clip.checkpoint").is_dir()
    if is_folder or (model or "").startswith("hf:"):
        from pipeline.clip.origins.hub_folder import release_of

        release = release_of(model)
    if release:
        if pretrained is not None:
            what = f"clip.model={model}" if model else f"clip.checkpoint={checkpoint}"
            raise UserError(f"{what} has no weights called {pretrained}: give clip.pretrained=null")
        return OfRelease(release, checkpoint)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", model or ""):
        raise UserError(
            f"clip.model={model} lacks hf: before its repository: give clip.model=hf:{model}"
        )
    if isinstance(checkpoint, tuple):
        what = f"clip.model={model}" if model else "a CLIP without clip.model"
        raise UserError(f"clip.checkpoint names several files, but {what} has one: give its path")
    return OfOpenClip(model, pretrained, checkpoint)


@dataclass(frozen=True)
class OfRelease:
    """A model of several files, which are published or given.

    Attributes:
        release: what is published.
        checkpoint: the setting ``checkpoint``.
        settings: those that name the model, and the checkpoint.
    """

    release: Release
    checkpoint: Checkpoint
    settings: tuple[str, str] = ("clip.model", "clip.checkpoint")

    @property
    def has_whole_image(self) -> bool:
        """Whether it embeds whole images."""
        return self.release.has_whole_image

    @property
    def joins_patches(self) -> bool:
        """Whether patches meet other embeddings of names than whole images."""
        return self.release.joins_patches

    @property
    def source(self) -> str:
        """The fingerprint of a plug-in's code, and of what no file of the model tells."""
        release = self.release
        modules = {release.module, release.build.partition(":")[0]}
        code = [source_of(m) for m in sorted(modules) if not m.startswith("pipeline.")]
        about = release.dimensions or ()
        return fingerprint(*code, release.heads, release.text_heads, release.align_corners, *about)

    @cached_property
    def _about(self) -> tuple[Dimensions, Pretraining]:
        release = self.release
        if missing := [name for name in release.packages if find_spec(name) is None]:
            raise UserError(
                f"{self.settings[0]}={release.name} requires {' and '.join(missing)}: install the"
                f" extra backbones, or run pip install {' '.join(missing)}"
            )
        if release.about:
            files = self.files()
            with self._refuse_misshapen(files):
                return imported(release.about)(files)
        return release.dimensions, Pretraining(release.normalisation, quick_gelu=False)

    @property
    def pretraining(self) -> Pretraining:
        """How it was trained; a UserError names a package that the model requires."""
        return self._about[1]

    @property
    def dimensions(self) -> Dimensions | None:
        """Those of its image tower; none if its files tell them, and are not here."""
        return self._about[0] if self.is_on_disk or not self.release.about else None

    @property
    def is_on_disk(self) -> bool:
        """Whether its files are on this machine; given ones count as here."""
        if self.checkpoint is not None:
            return True
        from pipeline.files.hugging_face import find_cached

        required = self.release.files.keys() - {*self.release.optional}
        return all(any(map(find_cached, self.release.files[part])) for part in required)

    def published(self) -> Mapping[str, Source]:
        """Returns where each part is published, offline; a UserError if it is given on request."""
        from pipeline.files.hugging_face import on_mirror

        optional, found, terms = self.release.optional, {}, self.release.terms
        if terms:
            what, key = f"{self.settings[0]}={self.release.name}", self.settings[1]
            raise UserError(f"{what} is given on request at {terms}: give its file as {key}=PATH")
        for part, given in self.release.files.items():
            if not (urls := tuple(map(on_mirror, given))):
                continue
            found[part] = replace(source_at(urls[0]), urls=urls, is_optional=part in optional)
        return found

    def files(self) -> dict[str, Path]:
        """Returns the file of each part that there is; a UserError if one is missing."""
        find = self._published if self.checkpoint is None else self._given
        # Optional parts come first, so that they were asked for where the others are here.
        parts = sorted(self.release.files, key=lambda part: part not in self.release.optional)
        found = {part: find(part, self.release.files[part]) for part in parts}
        return {part: path for part, path in found.items() if path is not None}

    def _published(self, part: str, urls: Sequence[str]) -> Path | None:
        from pipeline.files.hugging_face import fetch_to_cache, find_cached

        if cached := next(filter(None, map(find_cached, urls)), None):
            return cached
        published = self.published()  # refuses what is not public
        is_optional = part in self.release.optional
        if is_optional and self.is_on_disk:
            return None
        try:
            fetched = next(filter(None, map(fetch_to_cache, urls)), None)
            if fetched is None and not is_optional:
                raise FileNotFoundError(urls[0])
            return fetched
        except Exception as error:  # the hub's client raises many types
            raise NotDownloaded(
                f"{urls[0]} could not be downloaded ({type(error).__name__}): run"
                f" {command('download')} {' '.join(each.urls[0] for each in published.values())}"
                f" --output DIR where there is a network, and give {self.settings[1]}=DIR here"
            ) from error

    def _given(self, part: str, urls: Sequence[str]) -> Path | None:
        """Returns the file of a part that ``checkpoint`` names, itself or by its folder."""
        parts, name, (model, key) = self.release.files.keys(), self.release.name, self.settings
        if isinstance(self.checkpoint, tuple):
            given = dict(self.checkpoint)
            wrong = [f"has no part {other}" for other in given if other not in parts]
            if lacking := [p for p in parts if p not in given and p not in self.release.optional]:
                wrong.append(f"lacks {' and '.join(lacking)}")
            if wrong:
                raise UserError(
                    f"{key} {' and '.join(wrong)}: give"
                    f" {{{', '.join(f'{part}: PATH' for part in parts)}}}, or a folder"
                )
            paths = [given_path(given[part], f"{key}.{part}")] if part in given else []
        else:
            given = given_path(self.checkpoint, key)
            paths = [given / PurePosixPath(urlsplit(url).path).name for url in urls]
            if len(parts) == 1 and not given.is_dir():
                paths = [given]
        if found := next((path.absolute() for path in paths if path.is_file()), None):
            return found
        if part in self.release.optional:
            return None
        raise UserError(
            f"{' or '.join(map(str, paths))} is missing: give the folder of"
            f" {f'{model}={name}' if name else 'the model'} as {key}"
        )

    def load(self, device: str) -> ImageTextModel | ImageTower:
        """Reads the files; a UserError tells that they are of another model."""
        files, release = self.files(), self.release
        with self._refuse_misshapen(files):
            model = imported(release.build)(release, files, device)
            tower = model.image if isinstance(model, ImageTextModel) else model
            depth, blocks = self._about[0].depth, len(tower.blocks)
            if depth != blocks:
                raise ValueError(f"{blocks} blocks instead of {depth}")
        return model

    @contextmanager
    def _refuse_misshapen(self, files: Mapping[str, Path]) -> Iterator[None]:
        """Turns errors of what is read or built into one that names the files."""
        try:
            yield
        except _MISSHAPEN as error:
            name, verb = self.release.name, "does" if len(files) == 1 else "do"
            what = f"{self.settings[0]}={name}" if name else self.release.what
            raise UserError(
                f"{' and '.join(map(str, files.values()))} {verb} not hold {what}"
                f" ({shown(' '.join(str(error).split()))}): give that model's files"
            ) from error


Origin = OfOpenClip | OfRelease


def refuse_changed(files: Mapping[str, Path], weights: str) -> None:
    """Raises a UserError unless a model's files still have a fingerprint."""
    if fingerprint_files(files) != weights:
        raise UserError(
            f"{', '.join(map(str, files.values()))} does not hold the weights that the run began"
            " with: run the same command again, and give all workers the same file"
        )


def fingerprint_files(files: Mapping[str, Path]) -> str:
    """Returns the fingerprint of the contents of a model's files; of a single one, its own."""
    found = [fingerprint_file(files[part]) for part in sorted(files)]
    return found[0] if len(found) == 1 else fingerprint(*found)
