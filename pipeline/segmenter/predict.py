"""Segments images with a trained network."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import UserError
from pipeline.segmenter.mmseg import build_model, import_mmseg
from pipeline.segmenter.train import last_checkpoint


class Segmenter:
    """A trained network with its classes.

    Args:
        model: a segmentor of mmsegmentation.
        class_names: n+1 names, "background" first.
        palette: n+1 colours, RGB in [0, 255].
        device: where to compute.
    """

    def __init__(
        self,
        model: nn.Module,
        class_names: tuple[str, ...],
        palette: tuple[tuple[int, int, int], ...],
        device: str = "cpu",
    ) -> None:
        self.class_names = class_names
        self.palette = palette
        self._device = device
        self._model = model.to(device).eval()

    @classmethod
    def from_run(cls, path: Path, device: str = "cpu") -> Segmenter:
        """Reads a checkpoint, which holds its own architecture, classes and palette.

        Args:
            path: a checkpoint of :func:`pipeline.segmenter.train.train`, or its directory, of
                which the newest complete one is taken.
            device: where to compute.

        Raises:
            UserError: there is no such checkpoint, or it is damaged or not one of ours.
        """
        path = Path(path)
        path = last_checkpoint(path) if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"checkpoint {path} does not exist: give a trained segmenter's file")
        checkpoint = _load(path)
        try:
            described = checkpoint["meta"]["segmenter"]
            names, palette = described["class_names"], described["palette"]
            architecture, weights = described["model"], checkpoint["state_dict"]
        except (KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"checkpoint {path} is not a segmenter of stage=train: choose another file"
            ) from error
        model = build_model(_without_initial_weights(architecture))
        try:
            model.load_state_dict(weights)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise UserError(
                f"checkpoint {path} does not fit the network that it describes: train it anew"
            ) from error
        return cls(model, tuple(names), tuple(tuple(colour) for colour in palette), device)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Labels every pixel.

        Args:
            image: H×W×3 uint8, RGB.

        Returns:
            H×W uint8; 0 is the background, k+1 the k-th class.
        """
        return self.logits(image).argmax(axis=0).astype(np.uint8)

    @torch.inference_mode()
    def logits(self, image: np.ndarray) -> np.ndarray:
        """Computes the scores before the softmax, from the whole image at its own size.

        Args:
            image: H×W×3 uint8, RGB.

        Returns:
            (n+1)×H×W float32.
        """
        import_mmseg()
        from mmseg.structures import SegDataSample

        height, width = image.shape[:2]
        bgr = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)))
        batch = {"inputs": [bgr], "data_samples": [SegDataSample()]}
        # Normalises, and pads right and below where the network needs whole strides.
        inputs = self._model.data_preprocessor(batch, training=False)["inputs"]
        size = tuple(inputs.shape[2:])
        meta = {"ori_shape": (height, width), "img_shape": size, "pad_shape": size}
        scores = self._model.encode_decode(inputs, [meta])
        if scores.shape[2:] != inputs.shape[2:]:
            scores = functional.interpolate(
                scores, size, mode="bilinear", align_corners=self._model.align_corners
            )
        return scores[0, :, :height, :width].float().cpu().numpy()


def _load(path: Path) -> dict[str, Any]:
    # mmengine's files are zip archives; anything else would reach older, laxer readers.
    if not zipfile.is_zipfile(path):
        raise UserError(f"checkpoint {path} is damaged or not a checkpoint: choose another file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, KeyError, ValueError) as error:
        raise UserError(
            f"checkpoint {path} is damaged or holds more than weights: choose another file"
        ) from error


def _without_initial_weights(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the file that training started from, which need not exist any longer."""
    backbone = {k: v for k, v in architecture["backbone"].items() if k != "init_cfg"}
    return {**architecture, "backbone": backbone}
