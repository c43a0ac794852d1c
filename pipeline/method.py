"""The method of a configuration: its models, and how each stage does images with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import keys
from pipeline.cams import from_files
from pipeline.cams import stage as cams_stage
from pipeline.cams.clip_es import CamSettings, ClipEs
from pipeline.cams.stage import MapsAlongsideTags
from pipeline.clip.architectures import ClipModel, find_training
from pipeline.clip.checkpoint import load_clip, resolve_checkpoint
from pipeline.clip.device import choose_batches, choose_device, choose_precision, keep_freed_memory
from pipeline.clip.encoder import ClipEncoder
from pipeline.clip.text import TEMPLATES, TEXT_ALGORITHM, load_tokenizer, name_embeddings
from pipeline.datasets.sample import ImageReader
from pipeline.datasets.vocabulary import Names, Vocabulary
from pipeline.engine.folder import ResultFolder
from pipeline.engine.store import Store
from pipeline.files.fingerprints import fingerprint, fingerprint_file
from pipeline.masks import stage as masks_stage
from pipeline.masks.crf import CrfSettings
from pipeline.segmenter import self_training
from pipeline.segmenter import stage as segmenter_stage
from pipeline.segmenter.self_training import Probabilities, SelfTrainingSettings
from pipeline.segmenter.testing import Testing
from pipeline.sweep import Work
from pipeline.tags import stage as tags_stage
from pipeline.tags.baseline import GlobalClip
from pipeline.tags.scored import Scorer
from pipeline.tags.tagclip import TagClip, TagClipSettings


class Method:
    """What does images, in this process or in a worker's; a model is loaded when it is needed.

    Attributes:
        config: the whole configuration, as plain dictionaries.
        vocabulary: the class names.
        device: name of the device for torch.
        precision: of CLIP's image tower.
        batches: how much is done at a time.
        reader: decodes images.
        testing: how a segmenter segments images.
        workers: processes and threads beside a model.
    """

    def __init__(self, config: Mapping[str, Any], vocabulary: Vocabulary, store: Store):
        """Loads nothing yet.

        Args:
            config: the whole configuration, as plain dictionaries.
            vocabulary: the class names.
            store: keeps the embeddings of the names.

        Raises:
            UserError: the device, the precision or a setting of testing cannot be used.
        """
        self.config = config
        self.vocabulary = vocabulary
        self._store = store
        runtime = config["runtime"]
        self.workers = runtime["workers"] or torch.multiprocessing.cpu_count()
        self.device = choose_device(runtime["device"])
        if torch.device(self.device).type == "cpu":
            keep_freed_memory()
        self.precision = choose_precision(runtime["precision"], self.device)
        self.batches = choose_batches(runtime, self.device)
        self.testing = Testing.from_settings(config["segmenter"]["test"])
        self.reader = ImageReader(
            apply_exif=not config["compat"]["exif"],
            max_pixels=config["dataset"]["max_pixels"],
            longest_side=config["images"]["longest_side"],
        )

    # What each stage does

    def tagging(self, tags: ResultFolder, cams: ResultFolder | None = None) -> Work:
        """Returns how images are tagged, and mapped alongside where ``cams`` is given."""
        settings = self.config["tags"]
        alongside = cams and MapsAlongsideTags(cams, self.build_clip_es)
        return tags_stage.tagging(
            [tags, cams] if cams else [tags],
            scorer=self.build_scorer,
            read=self.reader,
            variants=self.variants,
            alpha=settings["alpha"],
            min_score=settings["min_score"],
            workers=self.workers,
            most_ahead=self.batches.waiting,
            most_unwritten=self.batches.images,
            alongside=alongside,
        )

    @property
    def variants(self) -> Sequence[str]:
        """The rows of the ablation that are scored as well."""
        tags = self.config["tags"]
        return tags.get("variants", ()) if tags["method"] == "tagclip" else ()

    def mapping(self, cams: ResultFolder) -> Work:
        """Returns how the maps of images are computed, each of which is given with its tags."""
        return cams_stage.mapping(
            cams,
            method=self.build_clip_es,
            read=self.reader,
            workers=self.workers,
            most_ahead=self.batches.waiting,
            most_unwritten=self.batches.images,
        )

    def importing(self, cams: ResultFolder, maps: Path) -> Work:
        """Returns how the maps of images are taken from the files in the folder ``maps``."""
        return from_files.importing(
            cams,
            maps,
            read=self.reader,
            cell_size=self.config["cams"]["cell_size"],
            class_count=len(self.vocabulary.classes),
            workers=self.workers,
        )

    def masking(self, masks: ResultFolder, cams: Path) -> Work:
        """Returns how masks are computed from the maps in the folder ``cams``."""
        settings, compat = self.config["masks"], self.config["compat"]
        crf = settings["crf"]
        return masks_stage.masking(
            masks,
            cams,
            self.vocabulary.palette,
            read=self.reader,
            crf=crf and CrfSettings(**crf, bgr=compat["crf_bgr"], fp16=compat["crf_fp16"]),
            confidence=settings["confidence"],
            keep_probability=bool(settings.get("keep_probability")),
            beta=settings["beta"],
            workers=self.workers,
        )

    def predicting(self, predictions: ResultFolder, trained: Path) -> Work:
        """Returns how the segmenter in the folder ``trained`` segments images."""
        return segmenter_stage.predicting(
            predictions,
            trained,
            self.vocabulary.palette,
            read=self.reader,
            device=self.device,
            testing=self.testing,
            checkpoint=self.config["segmenter"]["checkpoint"],
            workers=self.workers,
        )

    def relabelling(self, masks: ResultFolder, tags: ResultFolder, trained: Path) -> Work:
        """Returns how the segmenter in ``trained`` tags and labels images for the next round.

        Where tags are kept, an image is given with those of the first round.
        """
        return self_training.relabelling(
            tags,
            masks,
            self.vocabulary.palette,
            segmenter=partial(self._build_probabilities, trained),
            read=self.reader,
            settings=self.self_training,
        )

    @property
    def self_training(self) -> SelfTrainingSettings:
        """How a segmenter's predictions become tags and masks."""
        keep = bool(self.config["masks"].get("keep_probability"))
        return SelfTrainingSettings(**self.config["self_training"], keep_probability=keep)

    # Models

    @cached_property
    def checkpoint(self) -> Path:
        """The file of CLIP's weights."""
        clip = self.config["clip"]
        return resolve_checkpoint(clip["model"], clip["pretrained"], clip["checkpoint"])

    @cached_property
    def clip(self) -> ClipModel:
        """The whole CLIP on its device."""
        path = self.checkpoint
        settings = self.config["clip"]
        return load_clip(path, settings["model"], settings["pretrained"]).to(self.device)

    @cached_property
    def encoder(self) -> ClipEncoder:
        """CLIP's image tower."""
        settings = self.config["clip"]
        return ClipEncoder(
            self.clip,
            position_fp16=self.config["compat"]["position_fp16"],
            normalisation=find_training(settings["model"], settings["pretrained"]).normalisation,
            precision=self.precision,
            max_patches=self.config["images"]["most_patches"],
        )

    def embed(self, names: Names, backgrounds: tuple[str, ...], templates: str) -> torch.Tensor:
        """Returns embeddings of classes and then backgrounds, C×E on the device; kept on disk.

        Args:
            names: what CLIP reads for each class.
            backgrounds: names of what is no class.
            templates: the name of a template set.
        """
        every = names + tuple((name,) for name in backgrounds)
        model, prompts = self.config["clip"]["model"], TEMPLATES[templates]

        def make() -> np.ndarray:
            tokenizer = load_tokenizer(model)
            return name_embeddings(self.clip, tokenizer, every, prompts).cpu().numpy()

        clip = keys.clip_configuration(self.config, fingerprint_file(self.checkpoint))
        key = fingerprint(
            TEXT_ALGORITHM, clip["weights"], model, clip.get("quick_gelu"), every, prompts
        )
        # A copy of torch's own: the last digits of products depend on how their factors are aligned
        # in memory, and NumPy's are aligned anyhow.
        return torch.from_numpy(self._store.array("text", key, make)).clone().to(self.device)

    def build_scorer(self) -> Scorer:
        """Builds what scores the classes of images: TagCLIP, or CLIP's class token."""
        tags, compat, vocabulary = self.config["tags"], self.config["compat"], self.vocabulary
        text = self.embed(vocabulary.tag_names, vocabulary.backgrounds, tags["templates"])
        count = len(vocabulary.classes)
        if tags["method"] == "clip":
            return GlobalClip(self.encoder, text, count, self.batches.images)
        settings = TagClipSettings(
            attention_blocks=tags["attention_blocks"],
            votes=tags["votes"],
            alpha=tags["alpha"],
            reidentify=tags["reidentify"],
            squeeze=tags["squeeze"],
            batch_size=self.batches.images,
            crop_batch_size=self.batches.crops,
            max_waiting=self.batches.waiting,
            open_border=compat["open_border"],
            cwr_stop=compat["cwr_stop"],
        )
        return TagClip(self.encoder, text, count, settings)

    def build_clip_es(self) -> ClipEs:
        """Builds what computes class activation maps."""
        cams, vocabulary = self.config["cams"], self.vocabulary
        settings = CamSettings(
            affinity_blocks=cams["affinity_blocks"],
            box_threshold=cams["box_threshold"],
            batch_size=self.batches.images,
            max_waiting=self.batches.waiting,
            open_border=self.config["compat"]["open_border"],
        )
        backgrounds = keys.cam_backgrounds(self.config, vocabulary)
        text = self.embed(vocabulary.cam_names, backgrounds, cams["templates"])
        count = len(vocabulary.classes)
        return ClipEs(self.encoder, text[:count], text[count:], settings)

    def _build_probabilities(self, trained: Path) -> Probabilities:
        """Builds what segments images with a trained network."""
        from pipeline.segmenter.predict import Segmenter

        segmenter = Segmenter.from_run(trained, self.device)
        test = self.testing
        return lambda image: segmenter.probabilities(image, test.scales, test.flip)
