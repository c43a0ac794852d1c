"""``cams=file``: imported CAMs, which need neither tags nor CLIP."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.cams.stage import CamStage
from pipeline.clip.dimensions import patch_grid
from pipeline.engine.sample import Sample, find_file
from pipeline.engine.stage import Computed, Decoded, Folders, Item
from pipeline.errors import ImageError, NoEntry, UserError
from pipeline.files.fingerprints import fingerprint_file
from pipeline.files.shipped import CONVERT_CAMS
from pipeline.files.text import given_folder, given_path, last_names


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedCams(CamStage):
    """CAMs that are taken from files.

    The contents of an image's file are part of its inputs.
    """

    batch_size = None  # reading files keeps one core busy

    @property
    def note(self) -> str:
        """The folder that the CAMs are from."""
        return f"CAMs of {last_names(self.options.path, 'cams.path')}"

    def check(self) -> None:
        """Refuses a folder of CAM files that does not exist."""
        given_folder(self.options.path, "cams.path", "<id>.npz")

    @cached_property
    def _path(self) -> Path:
        return given_path(self.options.path, "cams.path").absolute()

    def item(self, sample: Sample, folders: Folders) -> Item:
        """Returns an image with its file; a NoEntry without it.

        Raises a UserError if there is no folder, or only a file of CLIP-ES.
        """
        try:
            path = find_file(self._path, sample.id, "CAMs", ".npz")
        except NoEntry:
            self.check()
            with suppress(NoEntry):
                pickled = find_file(self._path, sample.id, "CAMs", ".npy")
                raise UserError(
                    f"{pickled} is a pickle, which could run code, and cams=file reads .npz:"
                    f" convert the folder with {CONVERT_CAMS}"
                ) from None
            raise
        return super().item(sample, folders).reading({"given": fingerprint_file(path)}, path)

    def compute(self, images: Decoded, model: Callable[[], Any]) -> Computed:
        """Reads CAMs and brings them to a grid."""
        from pipeline.cams.cam_files import read_cam_file  # imports PyTorch

        for item, image in images:
            grid = patch_grid(*image.shape[:2], self.options.cell_size)
            try:
                cams = read_cam_file(item.given, item.size, grid, self.resources.num_classes)
            except ImageError as error:
                yield item, error
            else:
                yield item, {self.name: self.cams_file(item.sample.id, cams)}
