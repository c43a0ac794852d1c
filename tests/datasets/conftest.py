"""One miniature of every data set; tests that damage one take a copy of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.datasets import miniature_coco, miniatures


@pytest.fixture(scope="session")
def voc2007(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``VOCdevkit`` with VOC2007."""
    return miniatures.build_voc2007(tmp_path_factory.mktemp("voc2007"))


@pytest.fixture(scope="session")
def voc2012(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``VOC2012`` as the devkit has it."""
    return miniatures.build_voc2012(tmp_path_factory.mktemp("voc2012"))


@pytest.fixture(scope="session")
def voc2012_augmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``VOC2012`` with ``SegmentationClassAug``."""
    return miniatures.build_voc2012(tmp_path_factory.mktemp("augmented"), augmented=True)


@pytest.fixture(scope="session")
def sbd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``benchmark_RELEASE``."""
    return miniatures.build_sbd(tmp_path_factory.mktemp("sbd"))


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO 2017's validation images and instances."""
    return miniature_coco.build_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="session")
def cocostuff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO-Stuff's validation images and pixel maps."""
    return miniature_coco.build_cocostuff(tmp_path_factory.mktemp("cocostuff"))


@pytest.fixture(scope="session")
def ade20k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds ADEChallengeData2016."""
    return miniatures.build_ade20k(tmp_path_factory.mktemp("ade20k"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where masks are kept that are not there as we use them."""
    return tmp_path / "cache"
