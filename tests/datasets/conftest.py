"""One miniature of every data set; tests that damage one take a copy of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets import miniature_coco, miniatures


def _built(build: Callable[..., Path], **more: object) -> Callable:
    """Returns a fixture that builds a data set once, in a folder of its own."""

    @pytest.fixture(scope="session")
    def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
        return build(tmp_path_factory.mktemp(build.__name__), **more)

    return root


voc2007 = _built(miniatures.build_voc2007)  # ``VOCdevkit`` with VOC2007
voc2012 = _built(miniatures.build_voc2012)  # ``VOC2012`` as the devkit has it
voc2012_augmented = _built(miniatures.build_voc2012, augmented=True)  # SegmentationClassAug
sbd = _built(miniatures.build_sbd)  # ``benchmark_RELEASE``
coco = _built(miniature_coco.build_coco)  # COCO 2017's validation images and instances
cocostuff = _built(miniature_coco.build_cocostuff)  # its validation images and pixel maps
ade20k = _built(miniatures.build_ade20k)  # the folder that holds ADEChallengeData2016
context = _built(miniatures.build_context)  # ``VOC2010`` of Pascal Context
cityscapes = _built(miniatures.build_cityscapes)  # the folder of leftImg8bit and gtFine
