"""What the stage ``masks`` stores beside a mask, and what its key depends on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from pipeline import keys
from pipeline.cams.cams import Cams, encode_cams
from pipeline.datasets.sample import ImageReader, Sample
from pipeline.datasets.vocabulary import voc_palette
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.files.images import encode_png
from pipeline.files.label_images import read_labels
from pipeline.masks import stage as masks_stage
from pipeline.masks.crf import CrfSettings
from pipeline.masks.mask_files import PROBABILITY, UNFILTERED
from pipeline.masks.pseudo_mask import pseudo_mask
from pipeline.segmenter.pairs import TrainingPair, check_pairs
from tests.conftest import REPOSITORY, draw_photograph


@pytest.fixture
def maps(tmp_path):
    """Images, one of them without tags, and the folder of their maps."""
    samples, found = [], {}
    with Store(tmp_path / "maps").folder("all", "cams", {}) as cams:
        for index, image_id in enumerate(["a", "b c/d", "without tags"]):
            path = tmp_path / "images" / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encode_png(draw_photograph(index, 40, 60)))
            tags = np.array([0, 2] if index < 2 else [], np.int64)
            arrays = np.random.default_rng(index).random((len(tags), 5, 7))
            found[image_id] = Cams(tags, arrays.astype(np.float16), (40, 60))
            cams.write(image_id, "input", {f"{image_id}.npz": encode_cams(found[image_id])})
            samples.append(Sample(image_id, path))
    return samples, cams, found


def make_masks(folder, maps, **changes):
    samples, cams, _ = maps
    settings = {"crf": CrfSettings(), "confidence": 0.0, "beta": 1.0, "workers": 1, **changes}
    with folder:
        work = masks_stage.masking(
            folder, cams.path, voc_palette(4), read=ImageReader(), **settings
        )
        sweep(samples, work, input_key=partial(masks_stage.input_key, cams=cams))
        folder.finish([s.id for s in samples])
    return folder.path


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


@pytest.mark.parametrize("workers", [1, 2])
def test_probability_of_the_chosen_label_lies_beside_each_mask(maps, tmp_path, workers):
    store = Store(tmp_path / "out")
    plain = make_masks(store.folder("all", "masks", {"kept": False}), maps)
    folder = store.folder("all", "masks", {"kept": True})
    kept = make_masks(folder, maps, keep_probability=True, workers=workers)
    names = ["a.png", "b c/d.png", "without tags.png"]
    assert sorted(files_below(plain)) == names
    assert sorted(files_below(kept)) == sorted(names + [f"{PROBABILITY}/{n}" for n in names])
    assert files_below(kept).items() >= files_below(plain).items()
    for sample in maps[0]:
        labels, probability = pseudo_mask(
            draw_photograph(int(sample.image.stem), 40, 60), maps[2][sample.id], CrfSettings()
        )
        path = kept / PROBABILITY / f"{sample.id}.png"
        with Image.open(path) as image:
            assert image.mode == "L" and image.size == (60, 40)
            np.testing.assert_array_equal(np.asarray(image), np.rint(255 * probability))
        np.testing.assert_array_equal(read_labels(kept / f"{sample.id}.png"), labels)
        pair = TrainingPair(sample.id, sample.image, kept / f"{sample.id}.png", path)
        assert check_pairs([pair], 3) == []
    assert (read_labels(path) == 255).all()  # of the image without tags

    # It belongs to the result: where it is damaged, the image is computed again.
    path.write_bytes(b"")
    folder = store.folder("all", "masks", {"kept": True})
    make_masks(folder, maps, keep_probability=True)
    assert folder.computed == 1 and (read_labels(path) == 255).all()


def test_unfiltered_masks_and_probabilities_are_kept_together(maps, tmp_path):
    folder = Store(tmp_path / "out").folder("all", "masks", {})
    kept = make_masks(folder, maps, keep_probability=True, confidence=0.9)
    for sample in maps[0]:
        name = f"{sample.id}.png"
        probability = read_labels(kept / PROBABILITY / name) / 255
        filtered, labels = read_labels(kept / name), read_labels(kept / UNFILTERED / name)
        ignored = filtered == 255
        assert (probability[ignored] < 0.9 + 1 / 255).all()
        assert (probability[~ignored] > 0.9 - 1 / 255).all()
        np.testing.assert_array_equal(filtered[~ignored], labels[~ignored])


def test_without_a_crf_there_is_no_probability(maps, tmp_path):
    folder = Store(tmp_path / "out").folder("all", "masks", {})
    with pytest.raises(UserError, match="masks.crf=null.*masks.keep_probability=false") as caught:
        make_masks(folder, maps, crf=None, keep_probability=True)
    assert "\n" not in str(caught.value)
    assert sorted(files_below(make_masks(folder, maps, crf=None))) == [
        "a.png",
        "b c/d.png",
        "without tags.png",
    ]


def configured(*overrides: str) -> dict:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        config = compose("config", ["dataset=demo", "clip=demo", *overrides])
    return {name: OmegaConf.to_container(config[name]) for name in ("masks", "compat")}


def test_kept_probabilities_are_in_the_key_only_where_there_are_any():
    for preset in ("crf", "crf_confident", "argmax"):
        plain = configured(f"masks={preset}")
        before = {
            name: value for name, value in plain["masks"].items() if name != "keep_probability"
        }
        expected = keys.masks_configuration({**plain, "masks": before}, {})
        assert keys.masks_configuration(plain, {}) == expected
        assert "keep_probability" not in expected
    crf, weighted = configured("masks=crf"), configured("masks=crf_weighted")
    assert keys.masks_configuration(weighted, {}) == {
        **keys.masks_configuration(crf, {}),
        "keep_probability": True,
    }
    assert weighted["masks"]["confidence"] == 0
