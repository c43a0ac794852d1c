"""The models of ``clip.model``: CLIPs of open_clip, registered ones, and transformers' CLIPs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.clip.dimensions import SHIPPED, Dimensions, Pretraining, read_dimensions
from pipeline.clip.image_text import Release, releases
from pipeline.clip.origin import Checkpoint, OfParts, Origin
from pipeline.clip.published import (
    find_pretraining,
    is_on_disk,
    published_weights,
    resolve_checkpoint,
)
from pipeline.engine.registry import imported, source_of
from pipeline.errors import UserError, shown
from pipeline.files.download import Source

if TYPE_CHECKING:
    import torch

    from pipeline.clip.architectures import ClipModel
    from pipeline.clip.hub_folder import FolderConfig
    from pipeline.clip.image_text import ImageTextModel

    Tokenizer = Callable[[list[str]], torch.Tensor]

_REPOSITORY = re.compile(r"hf:[\w.-]+/[\w.-]+")


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
